//! The directory of `stekd dev`: which file is where, and making those that are not there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::SystemRandom;
use stek_manager::EngineParts;

use crate::commands::secret::write_private;
use crate::config::{
    CustodySection, DatabaseSection, LimitsSection, ListenSection, UpstreamSection,
};
use crate::dev::certificates;
use crate::roles::database;
use crate::roles::manager::assemble;

/// A development directory.
pub struct Site {
    dir: PathBuf,
}

impl Site {
    /// Opens `dir`, making it, its certificates and its cluster secret if they are not there.
    ///
    /// # Errors
    /// A file that cannot be read or made.
    pub fn open_or_create(dir: &Path) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("directory {}", dir.display()))?;
        let site = Self { dir };
        if !site.cluster_secret().exists() {
            let text = ClusterSecret::generate_text(&SystemRandom).map_err(anyhow::Error::new)?;
            write_private(&site.cluster_secret(), &text)?;
        }
        if !site.private_key().exists() {
            let made = certificates::make(&["localhost".into(), "127.0.0.1".into()])?;
            std::fs::write(site.authority(), made.authority)?;
            std::fs::write(site.certificate(), made.certificate)?;
            write_private(&site.private_key(), &made.private_key)?;
        }
        Ok(site)
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The authority that clients trust.
    pub fn authority(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The certificate of all listeners.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join("server.pem")
    }

    /// Its key.
    pub fn private_key(&self) -> PathBuf {
        self.dir.join("server.key")
    }

    /// The profile with which commands reach the manager.
    pub fn profile(&self) -> PathBuf {
        self.dir.join("operator.toml")
    }

    /// The file of the token with this name.
    pub(crate) fn token(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}-token"))
    }

    fn cluster_secret(&self) -> PathBuf {
        self.dir.join("cluster-secret")
    }

    /// A manager's parts on the embedded database, which is made if it is not there.
    pub(crate) async fn assemble(&self) -> Result<EngineParts> {
        database::migrate(&self.database()).await?;
        assemble(&self.database(), &self.custody(), None).await
    }

    fn database(&self) -> DatabaseSection {
        let url = format!("sqlite:{}", self.dir.join("stekd.db").display());
        DatabaseSection { url: Some(url), url_file: None }
    }

    /// Where its secrets are.
    pub fn custody(&self) -> CustodySection {
        CustodySection {
            cluster_secret_file: self.cluster_secret(),
            previous_cluster_secret_file: None,
            reseed_hours: None,
            state_file: self.dir.join("ratchet"),
        }
    }

    pub(crate) fn listen(&self, address: std::net::SocketAddr) -> ListenSection {
        ListenSection {
            address,
            certificate_file: Some(self.certificate()),
            private_key_file: Some(self.private_key()),
            client_ca_file: None,
            insecure_plain_http_anywhere: false,
            limits: LimitsSection::default(),
        }
    }

    /// How a terminator reaches distribution at `port`.
    pub(crate) fn upstream(&self, port: u16) -> UpstreamSection {
        UpstreamSection {
            urls: vec![format!("https://localhost:{port}")],
            roots_files: vec![self.authority()],
            token_file: Some(self.token("terminator")),
            certificate_file: None,
            private_key_file: None,
            wait_seconds: None,
        }
    }
}
