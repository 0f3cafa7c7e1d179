//! `stekd secret`: a new cluster secret in a file of its own.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::SystemRandom;

use crate::cli::SecretArgs;

/// Makes the file.
pub(crate) fn run(asked: &SecretArgs) -> Result<()> {
    let text = ClusterSecret::generate_text(&SystemRandom).map_err(anyhow::Error::new)?;
    write_private(&asked.file, &text)?;
    tracing::info!(file = %asked.file.display(), "cluster secret made; give every manager a copy");
    Ok(())
}

/// Writes `text` and a line feed to a new file that only its owner may read.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_is_private_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster-secret");
        run(&SecretArgs { file: file.clone() }).unwrap();
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(ClusterSecret::read(&file).is_ok());
        let before = std::fs::read(&file).unwrap();
        assert!(run(&SecretArgs { file: file.clone() }).is_err());
        assert_eq!(std::fs::read(&file).unwrap(), before);
    }
}
