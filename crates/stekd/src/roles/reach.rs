//! Whom a section of a configuration asks, and who asks. The rules are those of the poller; what is
//! not allowed is named as the section names it.

use std::path::{Path, PathBuf};

use stek_client::{CertificateFiles, ClientConfig, ClientOptions, ConfigError};
use stek_core::name::InstanceName;
use stek_core::time::Seconds;

use crate::Refused;
use crate::config::{PeersSection, Profile, UpstreamSection};

/// What such sections have in common.
pub(crate) struct Reach<'a> {
    /// What stands before a key in messages.
    section: String,
    /// The key of the servers.
    servers: &'static str,
    urls: Vec<String>,
    roots_files: &'a [PathBuf],
    token_file: &'a Option<PathBuf>,
    certificate_file: &'a Option<PathBuf>,
    private_key_file: &'a Option<PathBuf>,
    wait: Option<Seconds>,
}

impl<'a> Reach<'a> {
    /// What `[upstream]` says.
    pub(crate) fn upstream(section: &'a UpstreamSection) -> Self {
        Self {
            section: "upstream.".into(),
            servers: "urls",
            urls: section.urls.clone(),
            roots_files: &section.roots_files,
            token_file: &section.token_file,
            certificate_file: &section.certificate_file,
            private_key_file: &section.private_key_file,
            wait: section.wait_seconds.map(Seconds::new),
        }
    }

    /// What `[peers]` says.
    pub(crate) fn peers(section: &'a PeersSection) -> Self {
        Self {
            section: "peers.".into(),
            servers: "urls",
            urls: section.urls.clone(),
            roots_files: &section.roots_files,
            token_file: &section.token_file,
            certificate_file: &section.certificate_file,
            private_key_file: &section.private_key_file,
            wait: Some(Seconds::ZERO),
        }
    }

    /// What the profile in `path` says.
    pub(crate) fn profile(profile: &'a Profile, path: &Path) -> Self {
        Self {
            section: format!("profile {}: ", path.display()),
            servers: "server",
            urls: vec![profile.server.clone()],
            roots_files: &profile.roots_files,
            token_file: &profile.token_file,
            certificate_file: &profile.certificate_file,
            private_key_file: &profile.private_key_file,
            wait: Some(Seconds::ZERO),
        }
    }

    /// The client's configuration, checking in as `instance`.
    ///
    /// # Errors
    /// With key, value and what is allowed.
    pub(crate) fn check(self, instance: InstanceName) -> Result<ClientConfig, Refused> {
        let certificate = match (self.certificate_file.clone(), self.private_key_file.clone()) {
            (Some(certificate), Some(private_key)) => {
                Some(CertificateFiles { certificate, private_key })
            }
            (None, None) if self.token_file.is_some() => None,
            (None, None) => {
                let need = "token_file is absent, and so are certificate_file and \
                            private_key_file: the first or the other two are needed, or all three";
                return Err(Refused(format!("{}{need}", self.section)));
            }
            _ => {
                let need = "certificate_file and private_key_file go together";
                return Err(Refused(format!("{}{need}", self.section)));
            }
        };
        let options = ClientOptions {
            upstreams: self.urls.clone(),
            roots: self.roots_files.to_vec(),
            token: self.token_file.clone(),
            certificate,
            wait: self.wait,
            max_body_bytes: None,
            instance,
        };
        ClientConfig::try_new(&options).map_err(|error| self.refused(error))
    }

    /// The same in the words of the section.
    fn refused(&self, error: ConfigError) -> Refused {
        let key = match &error {
            ConfigError::Value { field: "upstreams", .. } => self.servers,
            ConfigError::Value { field: "wait", .. } => "wait_seconds",
            ConfigError::Value { field: "token", .. } | ConfigError::Token(_) => "token_file",
            ConfigError::Certificate(_) => "certificate_file",
            _ => "roots_files",
        };
        let section = &self.section;
        Refused(match error {
            ConfigError::Value { value, allowed, .. } => {
                format!("{section}{key} is {value}, allowed is {allowed}")
            }
            // What the poller says around these two, key and section say.
            ConfigError::Token(cause) => {
                format!("{section}{key}: {:#}", anyhow::Error::new(cause))
            }
            ConfigError::Certificate(cause) => {
                format!("{section}{key}: {:#}", anyhow::Error::new(cause))
            }
            other => format!("{section}{key}: {:#}", anyhow::Error::new(other)),
        })
    }
}
