//! `stekd dev-ca`: certificates for trying things out, where no authority is at hand.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use anyhow::{Context, Result};

use crate::Refused;
use crate::cli::DevCaArgs;
use crate::commands::secret::write_private;
use crate::dev::certificates;

/// The authority's certificate, the server's, and the server's key, as `stekd dev` names them.
const FILES: [&str; 3] = ["ca.pem", "server.pem", "server.key"];

/// Makes the files. None of them may be there, for they belong together.
pub(crate) fn run(asked: &DevCaArgs) -> Result<()> {
    let dir = &asked.dir;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    let [authority, certificate, key] = FILES.map(|name| dir.join(name));
    if let Some(there) = [&authority, &certificate, &key].into_iter().find(|file| file.exists()) {
        return Err(Refused(format!("{} exists already", there.display())).into());
    }
    let made = certificates::make(&asked.names)?;
    write_private(&key, &made.private_key)?;
    write_public(&certificate, &made.certificate)?;
    write_public(&authority, &made.authority)?;
    tracing::info!(dir = %dir.display(), names = ?asked.names, "development certificates made");
    Ok(())
}

fn write_public(path: &Path, text: &str) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::sync::Arc;

    use clap::Parser;
    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;
    use crate::cli::{Cli, Command};

    /// 2026-09-21T14:13:20Z.
    const NOW: UnixTime = UnixTime::since_unix_epoch(std::time::Duration::from_secs(1_790_000_000));

    fn parse(names: &[&str]) -> Result<DevCaArgs, clap::Error> {
        let options = names.iter().flat_map(|name| ["--name", name]);
        match Cli::try_parse_from(["stekd", "dev-ca", "unused"].into_iter().chain(options))?.command
        {
            Command::DevCa(asked) => Ok(asked),
            other => panic!("{other:?}"),
        }
    }

    fn accepts(dir: &Path, name: &str) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(dir.join("ca.pem")).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let certificate = CertificateDer::from_pem_file(dir.join("server.pem")).unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.build().unwrap().verify_server_cert(&certificate, &[], &name, &[], NOW).is_ok()
    }

    #[test]
    fn the_certificate_is_good_for_its_names_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("tls");
        let names = ["manager", "stekd.example", "192.0.2.7", "::1"];
        run(&DevCaArgs { dir: dir.clone(), ..parse(&names).unwrap() }).unwrap();
        for name in names {
            assert!(accepts(&dir, name), "{name}");
        }
        for name in ["distribution", "localhost", "192.0.2.8", "www.stekd.example"] {
            assert!(!accepts(&dir, name), "{name}");
        }
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("server.key"))), (0o700, 0o600));
        crate::roles::terminator::Identity::read(&dir.join("server.pem"), &dir.join("server.key"))
            .unwrap();
    }

    #[test]
    fn nothing_is_overwritten() {
        for there in FILES {
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(there), "mine").unwrap();
            let dir = folder.path().to_owned();
            let error = run(&DevCaArgs { dir, ..parse(&["manager"]).unwrap() }).unwrap_err();
            assert_eq!(crate::exit_code(&error), 64);
            assert!(error.to_string().contains(there), "{error}");
            assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
            assert_eq!(std::fs::read(folder.path().join(there)).unwrap(), b"mine");
        }
    }

    #[test]
    fn names_that_no_server_has_are_refused() {
        for bad in ["", "a b", "https://manager", "manager:8441", "ä.example", "-"] {
            let error = parse(&[bad]).unwrap_err().to_string();
            assert!(error.contains("a DNS name or an IP address"), "{bad}: {error}");
        }
        assert!(parse(&[]).is_err());
    }
}
