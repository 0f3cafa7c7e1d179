//! What an operator says of the servers to ask. A [`ClientConfig`] that exists is sound: its files
//! were read, its addresses are allowed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use stek_core::name::InstanceName;
use stek_core::time::Seconds;
use stek_wire::feed::MAX_FEED_BYTES;

use crate::certificate::{CertificateError, CertificateFiles};
use crate::token::{TokenError, read_token};
use crate::upstream::Upstream;

/// The most upstreams.
pub const MAX_UPSTREAMS: usize = 16;
/// How long a server is asked to hold a poll when nothing is configured.
pub const DEFAULT_WAIT: Seconds = Seconds::new(55);
/// The longest that a server may be asked to hold a poll.
pub const WAIT_MAX: Seconds = Seconds::new(300);
/// How long a connection may take to be there, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How much longer than it was asked to wait a server may take to answer.
pub const ANSWER_MARGIN: Duration = Duration::from_secs(10);
/// The longest bundle that is taken when nothing is configured, in bytes.
pub const MAX_BUNDLE_BODY_BYTES: usize = 8 * 1024 * 1024;
/// What may be configured as the longest answer, in bytes, both ends included.
pub const MAX_BODY_LIMITS: (usize, usize) = (1024, MAX_FEED_BYTES);

/// Larger certificate files are not read.
const LONGEST_ROOTS_FILE: u64 = 4 * 1024 * 1024;

/// What was asked for; see [`ClientConfig::try_new`].
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// The servers to ask, 1 to 16, by preference: `https`, or `http` on a loopback host.
    pub upstreams: Vec<String>,
    /// PEM files with the certificates that a server's must chain to. Pinned: no others are
    /// trusted, those of the system neither. At least one if an upstream is `https`.
    pub roots: Vec<PathBuf>,
    /// The file with the bearer token, if a token says who asks. At least a token or a certificate
    /// if an upstream is `https`; with both, servers go by the token.
    pub token: Option<PathBuf>,
    /// The files of the client certificate, if one says who asks. Shown to `https` upstreams only.
    pub certificate: Option<CertificateFiles>,
    /// How long a server is asked to hold a poll until something changes, 0 s to 300 s; 0 s is
    /// plain polling, once per poll interval of the policy. 55 s if left out.
    pub wait: Option<Seconds>,
    /// The longest answer that is taken, 1 KiB to 128 MiB; if left out 8 MiB for a keyset and
    /// 128 MiB for the feed.
    pub max_body_bytes: Option<usize>,
    /// The name under which polls check in.
    pub instance: InstanceName,
}

impl ClientOptions {
    /// `instance` asks these servers, and nothing else is said: no authority is trusted and nothing
    /// says who asks, which is enough on loopback only.
    pub fn new<U: Into<String>>(
        upstreams: impl IntoIterator<Item = U>,
        instance: InstanceName,
    ) -> Self {
        Self {
            upstreams: upstreams.into_iter().map(Into::into).collect(),
            roots: Vec::new(),
            token: None,
            certificate: None,
            wait: None,
            max_body_bytes: None,
            instance,
        }
    }
}

/// How to reach distribution, checked.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    upstreams: Vec<Upstream>,
    roots: Arc<RootCertStore>,
    token: Option<PathBuf>,
    certificate: Option<CertificateFiles>,
    wait: Seconds,
    max_body_bytes: Option<usize>,
    instance: InstanceName,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is not among those allowed.
    #[error("{field} is {value}, allowed is {allowed}")]
    Value {
        /// The field of [`ClientOptions`].
        field: &'static str,
        /// What was asked, cut after 80 characters.
        value: String,
        /// What would have been accepted.
        allowed: &'static str,
    },
    /// A file of certificates cannot be read.
    #[error("roots file {} cannot be read", path.display())]
    UnreadableRoots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of certificates holds none, or something that is none.
    #[error(
        "roots file {} is not allowed: it must hold PEM certificates of at most 4 MiB, {problem}",
        path.display()
    )]
    NoRoots {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The token file gives no token.
    #[error("token gives no bearer token")]
    Token(#[from] TokenError),
    /// The certificate files give no certificate.
    #[error("certificate and private_key give no client certificate")]
    Certificate(#[from] CertificateError),
}

impl ConfigError {
    pub(crate) fn value(
        field: &'static str,
        value: impl fmt::Display,
        allowed: &'static str,
    ) -> Self {
        Self::Value { field, value: value.to_string().chars().take(80).collect(), allowed }
    }
}

impl ClientConfig {
    /// Checks what was asked and reads the files. Token and certificate are read to see that they
    /// are such, and again when they are first sent.
    ///
    /// # Errors
    /// [`ConfigError`] with the field, its value and what is allowed.
    pub fn try_new(asked: &ClientOptions) -> Result<Self, ConfigError> {
        let count = asked.upstreams.len();
        if !(1..=MAX_UPSTREAMS).contains(&count) {
            return Err(ConfigError::value(
                "upstreams",
                format!("a list of {count}"),
                "1 to 16 of them",
            ));
        }
        let upstreams: Vec<_> =
            asked.upstreams.iter().map(|text| Upstream::try_new(text)).collect::<Result<_, _>>()?;
        if asked.roots.is_empty() && upstreams.iter().any(Upstream::is_https) {
            let allowed = "at least one PEM file when an upstream is https";
            return Err(ConfigError::value("roots", "empty", allowed));
        }
        let proves = asked.token.is_some() || asked.certificate.is_some();
        if !proves && upstreams.iter().any(Upstream::is_https) {
            let allowed = "a token or a certificate, or both, when an upstream is https";
            return Err(ConfigError::value("token", "absent, and so is certificate", allowed));
        }
        let wait = asked.wait.unwrap_or(DEFAULT_WAIT);
        if wait > WAIT_MAX {
            return Err(ConfigError::value("wait", wait, "0s to 300s"));
        }
        let (min, max) = MAX_BODY_LIMITS;
        if let Some(bytes) = asked.max_body_bytes.filter(|bytes| !(min..=max).contains(bytes)) {
            return Err(ConfigError::value("max_body_bytes", bytes, "1024 to 134217728"));
        }
        if let Some(path) = &asked.token {
            read_token(path)?;
        }
        if let Some(files) = &asked.certificate {
            files.read()?;
        }
        Ok(Self {
            upstreams,
            roots: Arc::new(read_roots(&asked.roots)?),
            token: asked.token.clone(),
            certificate: asked.certificate.clone(),
            wait,
            max_body_bytes: asked.max_body_bytes,
            instance: asked.instance.clone(),
        })
    }

    /// The servers to ask, by preference.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// The certificates that a server's must chain to.
    pub fn roots(&self) -> &Arc<RootCertStore> {
        &self.roots
    }

    /// The file with the bearer token.
    pub fn token(&self) -> Option<&Path> {
        self.token.as_deref()
    }

    /// The files of the client certificate.
    pub fn certificate(&self) -> Option<&CertificateFiles> {
        self.certificate.as_ref()
    }

    /// How long a server is asked to hold a poll; zero for plain polling.
    pub fn wait(&self) -> Seconds {
        self.wait
    }

    /// The longest answer that is taken, unless the default applies.
    pub fn max_body_bytes(&self) -> Option<usize> {
        self.max_body_bytes
    }

    /// The name under which polls check in.
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }
}

fn read_roots(files: &[PathBuf]) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for path in files {
        let unreadable = |source| ConfigError::UnreadableRoots { path: path.clone(), source };
        let wrong = |problem| ConfigError::NoRoots { path: path.clone(), problem };
        let length = std::fs::metadata(path).map_err(unreadable)?.len();
        if length > LONGEST_ROOTS_FILE {
            return Err(wrong(format!("it has {length} bytes")));
        }
        let pem = std::fs::read(path).map_err(unreadable)?;
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
            roots.add(certificate).map_err(|error| wrong(error.to_string()))?;
        }
        if roots.len() == before {
            return Err(wrong("it holds none".to_owned()));
        }
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> ClientOptions {
        ClientOptions {
            upstreams: vec!["http://127.0.0.1:1".into()],
            roots: vec![],
            token: None,
            certificate: None,
            wait: None,
            max_body_bytes: None,
            instance: InstanceName::try_new("edge-7").unwrap(),
        }
    }

    fn error(asked: &ClientOptions) -> String {
        ClientConfig::try_new(asked).unwrap_err().to_string()
    }

    fn file(content: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    #[test]
    fn defaults() {
        let config = ClientConfig::try_new(&options()).unwrap();
        assert_eq!((config.wait(), config.max_body_bytes()), (Seconds::new(55), None));
        assert_eq!((config.roots().len(), config.token()), (0, None));
    }

    #[test]
    fn limits_are_named_with_the_value() {
        let asked = ClientOptions { upstreams: vec![], ..options() };
        assert_eq!(error(&asked), "upstreams is a list of 0, allowed is 1 to 16 of them");
        let asked = ClientOptions { upstreams: vec!["http://[::1]:1".into(); 17], ..options() };
        assert_eq!(error(&asked), "upstreams is a list of 17, allowed is 1 to 16 of them");
        let asked = ClientOptions { wait: Some(Seconds::new(301)), ..options() };
        assert_eq!(error(&asked), "wait is 301s, allowed is 0s to 300s");
        let asked = ClientOptions { max_body_bytes: Some(1023), ..options() };
        assert_eq!(error(&asked), "max_body_bytes is 1023, allowed is 1024 to 134217728");
        assert_eq!(MAX_BODY_LIMITS.1, 134_217_728);
    }

    #[test]
    fn https_needs_roots() {
        let asked = ClientOptions { upstreams: vec!["https://host".into()], ..options() };
        assert!(error(&asked).starts_with("roots is empty, allowed is"), "{}", error(&asked));
    }

    #[test]
    fn https_needs_a_token_or_a_certificate() {
        let key = rcgen::KeyPair::generate().unwrap();
        let made = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let (pem, key) = (file(&made.pem()), file(&key.serialize_pem()));
        let token = file(&format!("stek_{}", "0a".repeat(32)));
        let asked = ClientOptions {
            upstreams: vec!["https://host".into()],
            roots: vec![pem.path().into()],
            ..options()
        };
        let text = error(&asked);
        assert!(text.starts_with("token is absent, and so is certificate, allowed"), "{text}");
        let files =
            CertificateFiles { certificate: pem.path().into(), private_key: key.path().into() };
        ClientConfig::try_new(&ClientOptions { certificate: Some(files.clone()), ..asked.clone() })
            .unwrap();
        let with_token = ClientOptions { token: Some(token.path().into()), ..asked.clone() };
        ClientConfig::try_new(&with_token).unwrap();
        let files = CertificateFiles { private_key: "/nowhere/edge.key".into(), ..files };
        let asked = ClientOptions { certificate: Some(files), ..with_token };
        assert_eq!(error(&asked), "certificate and private_key give no client certificate");
    }

    #[test]
    fn roots_must_be_certificates() {
        let key = rcgen::KeyPair::generate().unwrap();
        let ca = rcgen::CertificateParams::default().self_signed(&key).unwrap();
        let good = file(&format!("{}{}", ca.pem(), ca.pem()));
        let asked = ClientOptions { roots: vec![good.path().into()], ..options() };
        assert_eq!(ClientConfig::try_new(&asked).unwrap().roots().len(), 2);
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for bad in ["", "nothing", &key.serialize_pem(), broken] {
            let bad = file(bad);
            let asked = ClientOptions { roots: vec![bad.path().into()], ..options() };
            let text = error(&asked);
            assert!(text.contains(bad.path().to_str().unwrap()), "{text}");
            assert!(text.contains("must hold PEM certificates"), "{text}");
        }
        let asked = ClientOptions { roots: vec!["/nowhere/ca.pem".into()], ..options() };
        assert_eq!(error(&asked), "roots file /nowhere/ca.pem cannot be read");
    }

    #[test]
    fn the_token_is_checked_and_never_shown() {
        let canary = "ca".repeat(32);
        let good = file(&format!("stek_{canary}\n"));
        let asked = ClientOptions { token: Some(good.path().into()), ..options() };
        let config = ClientConfig::try_new(&asked).unwrap();
        assert!(!format!("{config:?}").contains(&canary));
        let asked = ClientOptions { token: Some("/nowhere/token".into()), ..options() };
        assert_eq!(error(&asked), "token gives no bearer token");
    }
}
