//! The client certificate in its files. Looked at before each request, so that a renewed one works
//! without a restart; who accepts it is the server's affair.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::transport::chain;

/// Larger files are not read, in bytes: far more than any chain of certificates has.
const LONGEST_FILE: u64 = 1024 * 1024;

/// Where a client certificate lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// PEM file with the certificate first, then its intermediates.
    pub certificate: PathBuf,
    /// PEM file with the private key: PKCS #8, PKCS #1 or SEC 1.
    pub private_key: PathBuf,
}

/// Files from which no client certificate can be had. Says nothing of what is in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// One cannot be read.
    #[error("{} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// One holds something else, or over 1 MiB.
    #[error("{} is not allowed: it must hold {allowed} as PEM, of at most 1 MiB", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it must hold.
        allowed: &'static str,
    },
    /// They do not belong together: one was replaced and the other not yet.
    #[error("{} and {} are not of one certificate", certificate.display(), private_key.display())]
    Unfit {
        /// The certificate file.
        certificate: PathBuf,
        /// The key file.
        private_key: PathBuf,
        /// What rustls said.
        #[source]
        source: rustls::Error,
    },
}

impl CertificateFiles {
    /// Reads both.
    ///
    /// # Errors
    /// [`CertificateError`] by cause.
    pub(crate) fn read(&self) -> Result<Arc<CertifiedKey>, CertificateError> {
        self.certified(&self.content()?)
    }

    fn content(&self) -> Result<[Zeroizing<Vec<u8>>; 2], CertificateError> {
        Ok([
            read_file(&self.certificate, "certificates")?,
            read_file(&self.private_key, "a private key")?,
        ])
    }

    fn certified(
        &self,
        [certificate, key]: &[Zeroizing<Vec<u8>>; 2],
    ) -> Result<Arc<CertifiedKey>, CertificateError> {
        let malformed = |path: &PathBuf, allowed| {
            let path = path.clone();
            CertificateError::Malformed { path, allowed }
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| malformed(&self.certificate, "certificates"))?;
        if chain.is_empty() {
            return Err(malformed(&self.certificate, "certificates"));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| malformed(&self.private_key, "a private key"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider);
        certified.map(Arc::new).map_err(|source| CertificateError::Unfit {
            certificate: self.certificate.clone(),
            private_key: self.private_key.clone(),
            source,
        })
    }
}

fn read_file(path: &Path, allowed: &'static str) -> Result<Zeroizing<Vec<u8>>, CertificateError> {
    let unreadable = |source| CertificateError::Unreadable { path: path.to_owned(), source };
    let file = File::open(path).map_err(unreadable)?;
    // What a vector leaves behind when it grows would not be erased.
    let length = file.metadata().map_err(unreadable)?.len().min(LONGEST_FILE);
    let mut bytes = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or(0) + 1));
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > LONGEST_FILE {
        return Err(CertificateError::Malformed { path: path.to_owned(), allowed });
    }
    Ok(bytes)
}

/// The files as they change.
#[derive(Debug, Clone)]
pub(crate) struct Changing {
    files: CertificateFiles,
    hasher: RandomState,
    /// What was found last, taken or not, as a hash that means nothing elsewhere.
    judged: Option<u64>,
}

impl Changing {
    pub(crate) fn new(files: CertificateFiles) -> Self {
        Self { files, hasher: RandomState::new(), judged: None }
    }

    /// What the files hold if that is new and a certificate. What is not, is logged once. Blocks on
    /// the file system.
    pub(crate) fn look(&mut self) -> Option<Arc<CertifiedKey>> {
        let content = self.files.content();
        let hash = match &content {
            Ok([certificate, key]) => self.hasher.hash_one((&**certificate, &**key)),
            Err(error) => self.hasher.hash_one(chain(error)),
        };
        if self.judged.replace(hash) == Some(hash) {
            return None;
        }
        match content.and_then(|content| self.files.certified(&content)) {
            Ok(certified) => Some(certified),
            Err(error) => {
                tracing::warn!(error = %chain(&error), "client certificate not read again");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertifiedKey as Made, KeyPair, generate_simple_self_signed};

    fn made() -> Made<KeyPair> {
        generate_simple_self_signed(["edge.example".to_owned()]).unwrap()
    }

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn new(made: &Made<KeyPair>) -> Self {
            let folder = Self(tempfile::tempdir().unwrap());
            folder.write(&made.cert.pem(), &made.signing_key.serialize_pem());
            folder
        }

        fn files(&self) -> CertificateFiles {
            let path = |name| self.0.path().join(name);
            CertificateFiles { certificate: path("edge.pem"), private_key: path("edge.key") }
        }

        fn write(&self, certificate: &str, key: &str) {
            std::fs::write(self.files().certificate, certificate).unwrap();
            std::fs::write(self.files().private_key, key).unwrap();
        }
    }

    #[test]
    fn a_pair_is_taken_when_it_is_new_and_whole() {
        let (first, second) = (made(), made());
        let folder = Folder::new(&first);
        let mut changing = Changing::new(folder.files());
        let mut leaf = || changing.look().map(|certified| certified.cert[0].clone());
        assert_eq!(leaf().as_ref(), Some(first.cert.der()));
        assert_eq!(leaf(), None);
        folder.write(&second.cert.pem(), &first.signing_key.serialize_pem());
        assert_eq!(leaf(), None, "half of a pair");
        folder.write(&second.cert.pem(), &second.signing_key.serialize_pem());
        assert_eq!(leaf().as_ref(), Some(second.cert.der()));
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        let (one, other) = (made(), made());
        let folder = Folder::new(&one);
        folder.write(&one.cert.pem(), &other.signing_key.serialize_pem());
        let error = folder.files().read().unwrap_err();
        assert!(matches!(error, CertificateError::Unfit { .. }), "{error:?}");
        let key = other.signing_key.serialize_pem();
        let secret = key.lines().nth(1).unwrap();
        for (certificate, key, named) in [
            ("", &*key, "edge.pem"),
            (&*key, &*key, "edge.pem"),
            (&*one.cert.pem(), "", "edge.key"),
        ] {
            folder.write(certificate, key);
            let error = folder.files().read().unwrap_err();
            assert!(error.to_string().contains(named), "{error}");
            assert!(!format!("{error} {error:?}").contains(secret));
        }
        std::fs::remove_file(folder.files().certificate).unwrap();
        let error = folder.files().read().unwrap_err();
        assert!(matches!(error, CertificateError::Unreadable { .. }), "{error:?}");
    }
}
