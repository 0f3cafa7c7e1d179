//! Installs the server programs on Debian and Ubuntu.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

/// Read by postgresql-common when the server package is configured.
const CREATE_NO_CLUSTER: &str = "/etc/postgresql-common/createcluster.d/stek-testpg.conf";

/// The invocations, in order. Waits for another installation rather than failing.
const INVOCATIONS: [&[&str]; 2] = [
    &["-o", "DPkg::Lock::Timeout=300", "update"],
    &["-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", "postgresql"],
];

/// Installs the package `postgresql`, without the system cluster that it usually creates.
///
/// # Errors
///
/// `apt-get` fails; it has said why on standard error.
pub(crate) fn install_postgresql() -> anyhow::Result<()> {
    let _no_cluster = Setting::write(Path::new(CREATE_NO_CLUSTER), "create_main_cluster = false\n");
    for arguments in INVOCATIONS {
        let status = Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null())
            // Standard output may belong to a program under `with-postgres`.
            .stdout(std::io::stderr())
            .status()
            .context("cannot run apt-get")?;
        ensure!(status.success(), "`apt-get {}` failed: {status}", arguments.join(" "));
    }
    Ok(())
}

/// A file that lies there while the value lives. Best effort: it only saves a needless cluster.
struct Setting<'a> {
    file: &'a Path,
}

impl<'a> Setting<'a> {
    fn write(file: &'a Path, text: &str) -> std::io::Result<Self> {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        std::fs::write(file, text)?;
        Ok(Self { file })
    }
}

impl Drop for Setting<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_goes_with_the_value() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("a/b.conf");
        let setting = Setting::write(&file, "create_main_cluster = false\n").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "create_main_cluster = false\n");
        drop(setting);
        assert!(!file.exists());
    }
}
