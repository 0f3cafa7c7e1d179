//! The TLS identity of a listener: read from PEM files, exchanged while the server runs.
//!
//! TLS 1.3 only, over aws-lc-rs. The listener itself issues no session tickets and stores no
//! sessions: it must not depend on the keys that it serves.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

/// Where the TLS identity of a listener lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// PEM file with the certificate of the server first, then its intermediates.
    pub certificate_chain: PathBuf,
    /// PEM file with the private key: PKCS #8, PKCS #1 or SEC 1.
    pub private_key: PathBuf,
}

/// The TLS identity in force, and the files that it came from. Connections that exist keep the
/// identity with which they began.
pub struct TlsFiles {
    paths: TlsPaths,
    current: ArcSwap<ServerConfig>,
}

/// Why TLS files were not taken. Nothing in it repeats their content.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file cannot be read, or is not PEM.
    #[error("cannot read certificates from {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: pem::Error,
    },
    /// The certificate file is readable PEM without a certificate.
    #[error("no certificate in {path}")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The key file cannot be read, is not PEM, or has no private key.
    #[error("cannot read a private key from {path}")]
    PrivateKey {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: pem::Error,
    },
    /// Both files could be read, but are no identity: the key belongs to another certificate (one
    /// file was replaced and the other not yet), or its kind is not supported.
    #[error("certificate {certificate} and private key {key} cannot be used together")]
    Identity {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        key: PathBuf,
        /// What rustls said.
        source: rustls::Error,
    },
}

impl TlsFiles {
    /// Reads the files. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// Any [`TlsError`]. A certificate that has expired, or is not valid yet, is taken.
    pub fn load(paths: TlsPaths) -> Result<Self, TlsError> {
        let config = server_config(&paths)?;
        Ok(Self { paths, current: ArcSwap::new(config) })
    }

    /// Reads the same files again; connections from now on use what they hold. Blocks on the file
    /// system.
    ///
    /// # Errors
    ///
    /// Any [`TlsError`]; the identity in force then stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        self.current.store(server_config(&self.paths)?);
        Ok(())
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn server_config(paths: &TlsPaths) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = read_chain(&paths.certificate_chain)?;
    let key = PrivateKeyDer::from_pem_file(&paths.private_key)
        .map_err(|source| TlsError::PrivateKey { path: paths.private_key.clone(), source })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map(|builder| builder.with_no_client_auth())
        .and_then(|builder| builder.with_single_cert(chain, key))
        .map_err(|source| TlsError::Identity {
            certificate: paths.certificate_chain.clone(),
            key: paths.private_key.clone(),
            source,
        })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::Certificates { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Identity;

    #[test]
    fn files_that_do_not_parse_are_refused_by_cause() {
        let identity = Identity::new();
        let paths = identity.paths();

        std::fs::write(&paths.certificate_chain, "not pem").unwrap();
        let error = TlsFiles::load(paths.clone()).unwrap_err();
        assert!(matches!(error, TlsError::NoCertificate { .. }), "{error:?}");

        std::fs::write(&paths.certificate_chain, "-----BEGIN CERTIFICATE-----\n!\n").unwrap();
        let error = TlsFiles::load(paths.clone()).unwrap_err();
        assert!(matches!(error, TlsError::Certificates { .. }), "{error:?}");

        let identity = Identity::new();
        let paths = identity.paths();
        std::fs::remove_file(&paths.private_key).unwrap();
        let error = TlsFiles::load(paths).unwrap_err();
        assert!(matches!(error, TlsError::PrivateKey { .. }), "{error:?}");
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let identity = Identity::new();
        identity.write_key(&Identity::new());
        let error = TlsFiles::load(identity.paths()).unwrap_err();
        assert!(matches!(error, TlsError::Identity { .. }), "{error:?}");
    }

    #[test]
    fn reload_takes_new_files_and_keeps_the_old_ones_when_they_are_bad() {
        let identity = Identity::new();
        let files = TlsFiles::load(identity.paths()).unwrap();
        let first = files.current();

        let next = Identity::new();
        identity.write_key(&next);
        files.reload().unwrap_err();
        assert!(Arc::ptr_eq(&first, &files.current()));

        identity.write_certificate(&next);
        files.reload().unwrap();
        assert!(!Arc::ptr_eq(&first, &files.current()));
    }

    #[test]
    fn no_tickets_and_no_stored_sessions() {
        let config = TlsFiles::load(Identity::new().paths()).unwrap().current();
        assert_eq!(config.send_tls13_tickets, 0);
        assert!(!config.ticketer.enabled());
        assert!(!config.session_storage.can_cache());
        assert_eq!(config.max_early_data_size, 0);
    }

    #[test]
    fn debug_and_errors_hold_no_key() {
        let identity = Identity::new();
        let files = TlsFiles::load(identity.paths()).unwrap();
        let pem = std::fs::read_to_string(identity.paths().private_key).unwrap();
        let secret = pem.lines().nth(1).unwrap();
        assert!(!format!("{files:?}").contains(secret));
        identity.write_key(&Identity::new());
        assert!(!format!("{:?}", files.reload().unwrap_err()).contains(secret));
    }
}
