//! The TLS identity of a listener, and whose certificates it takes of clients: read from PEM files,
//! exchanged while the server runs. When to look at the files is decided in [`reload`].
//!
//! TLS 1.3 only, over aws-lc-rs. The listener itself issues no session tickets and stores no
//! sessions: it must not depend on the keys that it serves.

pub(crate) mod reload;

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use stek_core::certificate::not_after;
use stek_core::time::Timestamp;
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Larger files are not read, in bytes; some thousand certificates.
const LONGEST_FILE: u64 = 4 * 1024 * 1024;

/// Where the TLS identity of a listener lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsPaths {
    /// PEM file with the certificate of the server first, then its intermediates.
    pub certificate_chain: PathBuf,
    /// PEM file with the private key: PKCS #8, PKCS #1 or SEC 1.
    pub private_key: PathBuf,
    /// PEM file with the authorities of client certificates, if clients may present some. One that
    /// comes without is let in and has proved nothing; one with a certificate of another authority
    /// is not let in.
    pub client_authorities: Option<PathBuf>,
}

/// The TLS identity in force, and the files that it came from. Connections that exist keep the
/// identity with which they began, unless an authority of clients is taken out: then those that
/// showed a certificate end.
pub struct TlsFiles {
    paths: TlsPaths,
    current: ArcSwap<Loaded>,
    /// How often an authority of clients was taken out.
    withdrawn: watch::Sender<u64>,
    hasher: RandomState,
    seen: Mutex<Seen>,
}

/// What the files held when they were last looked at, as hashes that mean nothing elsewhere.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// What was taken or refused last.
    judged: u64,
    /// What was found since, and not judged yet.
    found: Option<u64>,
}

struct Loaded {
    config: Arc<ServerConfig>,
    /// Whose certificates are taken of clients.
    authorities: HashSet<CertificateDer<'static>>,
    not_after: Option<Timestamp>,
}

/// What became of a look at the files.
#[derive(Debug)]
pub(crate) enum Look {
    /// They hold what they held, or something that may still be in the middle of being written.
    Same,
    /// Connections from now on use what they hold.
    Taken,
    /// They hold something new that cannot be used; the identity in force stays.
    Refused(TlsError),
}

/// Why TLS files were not taken. Nothing in it repeats their content.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate file cannot be read, or is not PEM.
    #[error("cannot read certificates from {path}")]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: pem::Error,
    },
    /// A certificate file is readable PEM without a certificate.
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
    /// A file is over 4 MiB.
    #[error("{path} has more than {LONGEST_FILE} bytes")]
    TooLong {
        /// The file.
        path: PathBuf,
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
    /// The authorities of clients hold a certificate that cannot be one of an authority.
    #[error("the authorities of clients in {path} cannot be used")]
    ClientAuthorities {
        /// The file.
        path: PathBuf,
        /// What rustls said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl TlsFiles {
    /// Reads the files. Blocks on the file system.
    ///
    /// # Errors
    ///
    /// Any [`TlsError`]. A certificate that has expired, or is not valid yet, is taken.
    pub fn load(paths: TlsPaths) -> Result<Self, TlsError> {
        let content = Content::read(&paths)?;
        let hasher = RandomState::new();
        let seen = Mutex::new(Seen { judged: content.hash(&hasher), found: None });
        let current = ArcSwap::from_pointee(content.load(&paths)?);
        Ok(Self { paths, current, withdrawn: watch::Sender::default(), hasher, seen })
    }

    /// Reads the same files again; connections from now on use what they hold. Blocks on the file
    /// system.
    ///
    /// # Errors
    ///
    /// Any [`TlsError`]; the identity in force then stays.
    pub fn reload(&self) -> Result<(), TlsError> {
        let content = Content::read(&self.paths);
        let judged = self.hash(&content);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { judged, found: None };
        self.exchange(content?.load(&self.paths)?);
        Ok(())
    }

    fn exchange(&self, loaded: Loaded) {
        let loaded = Arc::new(loaded);
        let before = self.current.swap(Arc::clone(&loaded));
        if !before.authorities.is_subset(&loaded.authorities) {
            self.withdrawn.send_modify(|times| *times += 1);
        }
    }

    /// The last second at which the certificate in force is valid, if that can be told.
    pub fn not_after(&self) -> Option<Timestamp> {
        self.current.load().not_after
    }

    /// Changes when an authority is taken out that was in force when this was called. Call it before
    /// [`current`](Self::current).
    pub(crate) fn withdrawn(&self) -> watch::Receiver<u64> {
        self.withdrawn.subscribe()
    }

    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().config)
    }

    /// Takes what the files hold if that is new and the look before found the same: whoever writes
    /// them one after the other, or slowly, is given the time between two looks. Blocks on the
    /// file system.
    pub(crate) fn look(&self) -> Look {
        let content = Content::read(&self.paths);
        let hash = self.hash(&content);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if hash == seen.judged || seen.found != Some(hash) {
            seen.found = (hash != seen.judged).then_some(hash);
            return Look::Same;
        }
        *seen = Seen { judged: hash, found: None };
        match content.and_then(|content| content.load(&self.paths)) {
            Ok(loaded) => {
                self.exchange(loaded);
                Look::Taken
            }
            Err(error) => Look::Refused(error),
        }
    }

    /// Files that cannot be read are as different from others as what they hold.
    fn hash(&self, content: &Result<Content, TlsError>) -> u64 {
        match content {
            Ok(content) => content.hash(&self.hasher),
            Err(error) => self.hasher.hash_one(format!("{error:?}")),
        }
    }
}

impl std::fmt::Debug for TlsFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsFiles").field("paths", &self.paths).finish_non_exhaustive()
    }
}

/// The bytes of the files, read before anything is made of them.
struct Content {
    chain: Zeroizing<Vec<u8>>,
    key: Zeroizing<Vec<u8>>,
    authorities: Option<Zeroizing<Vec<u8>>>,
}

impl Content {
    fn read(paths: &TlsPaths) -> Result<Self, TlsError> {
        let unreadable =
            |path: &PathBuf, source| TlsError::Certificates { path: path.clone(), source };
        let chain = &paths.certificate_chain;
        let key = |path: &PathBuf, source| TlsError::PrivateKey { path: path.clone(), source };
        let authorities = paths.client_authorities.as_ref();
        Ok(Self {
            chain: read(chain, unreadable)?,
            key: read(&paths.private_key, key)?,
            authorities: authorities.map(|path| read(path, unreadable)).transpose()?,
        })
    }

    fn hash(&self, hasher: &RandomState) -> u64 {
        hasher.hash_one((&*self.chain, &*self.key, self.authorities.as_deref()))
    }

    fn load(&self, paths: &TlsPaths) -> Result<Loaded, TlsError> {
        let chain = certificates(&self.chain, &paths.certificate_chain)?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|source| TlsError::PrivateKey { path: paths.private_key.clone(), source })?;
        let unfit = |source| TlsError::Identity {
            certificate: paths.certificate_chain.clone(),
            key: paths.private_key.clone(),
            source,
        };
        let not_after = not_after(&chain[0]);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(unfit)?;
        let mut taken = HashSet::new();
        let builder = match (&self.authorities, &paths.client_authorities) {
            (Some(pem), Some(path)) => {
                taken.extend(certificates(pem, path)?);
                let roots = Arc::new(authorities(&taken, path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|error| unfit_authorities(path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unfit)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Loaded { config: Arc::new(config), authorities: taken, not_after })
    }
}

fn read(
    path: &PathBuf,
    unreadable: impl Fn(&PathBuf, pem::Error) -> TlsError,
) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let failed = |error| unreadable(path, pem::Error::Io(error));
    let file = std::fs::File::open(path).map_err(failed)?;
    // What a reading vector leaves behind when it grows would not be erased.
    let length = file.metadata().map_err(failed)?.len().min(LONGEST_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LONGEST_FILE {
        return Err(TlsError::TooLong { path: path.clone() });
    }
    Ok(bytes)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| TlsError::Certificates { path: path.to_owned(), source })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(chain)
}

fn authorities(
    taken: &HashSet<CertificateDer<'static>>,
    path: &Path,
) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in taken {
        roots.add(certificate.clone()).map_err(|error| unfit_authorities(path, error))?;
    }
    Ok(roots)
}

fn unfit_authorities(
    path: &Path,
    error: impl std::error::Error + Send + Sync + 'static,
) -> TlsError {
    TlsError::ClientAuthorities { path: path.to_owned(), source: Box::new(error) }
}

#[cfg(test)]
mod tests;
