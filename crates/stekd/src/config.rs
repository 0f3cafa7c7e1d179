//! Configuration files: what may stand in them, read strictly. One section to a type; secrets are
//! named by file and never stand in the configuration itself.

mod limits;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use stek_core::time::Seconds;

use crate::Refused;

pub use limits::LimitsSection;

/// `stekd manager`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManagerConfig {
    /// Where keysets are kept.
    pub database: DatabaseSection,
    /// The secrets under which keys are kept.
    pub custody: CustodySection,
    /// The other managers, if there are any.
    pub peers: Option<PeersSection>,
    /// Where operators and distribution replicas are answered.
    pub listen: ListenSection,
    /// Where metrics and health are shown.
    pub metrics: MetricsSection,
    /// How long the audit trail is kept.
    #[serde(default)]
    pub audit: AuditSection,
    /// Where spans go; read before the rest, as [`TracesConfig`].
    pub traces: Option<TracesSection>,
}

/// What `stekd migrate` reads of a manager's configuration. The rest is the manager's business and
/// may be left out, as by an owner of the tables who knows nothing of keys.
#[derive(Debug, Deserialize)]
pub struct DatabaseConfig {
    /// Whose schema is brought up to date.
    pub database: DatabaseSection,
}

/// `stekd distribution`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistributionConfig {
    /// Whom to follow.
    pub upstream: UpstreamSection,
    /// Where terminators, and further replicas, are answered.
    pub listen: ListenSection,
    /// Where metrics and health are shown.
    pub metrics: MetricsSection,
    /// Where spans go; read before the rest, as [`TracesConfig`].
    pub traces: Option<TracesSection>,
}

/// `stekd terminator`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TerminatorConfig {
    /// The keyset whose keys seal and open tickets.
    pub keyset: String,
    /// The name in answers and check-ins; the host's name if left out.
    pub instance: Option<String>,
    /// Where keys come from.
    pub upstream: UpstreamSection,
    /// Where TLS clients are answered.
    pub listen: TlsListenSection,
    /// Where metrics and health are shown.
    pub metrics: MetricsSection,
    /// Where spans go; read before the rest, as [`TracesConfig`].
    pub traces: Option<TracesSection>,
}

/// `[database]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSection {
    /// `postgres://user@host/name` without a password, or `sqlite:PATH`.
    pub url: Option<String>,
    /// A file that holds the URL, for one with a password.
    pub url_file: Option<PathBuf>,
}

/// `[custody]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CustodySection {
    /// The file with the cluster secret, the same for all managers; see `stekd secret`.
    pub cluster_secret_file: PathBuf,
    /// The cluster secret before that one, while it is exchanged.
    pub previous_cluster_secret_file: Option<PathBuf>,
    /// The ratchet's state, this manager's own; made at first start. Never back it up.
    pub state_file: PathBuf,
    /// How old the ratchet's seed becomes before another takes its place, 1 to 8760 hours; 168 if
    /// left out.
    pub reseed_hours: Option<u64>,
}

/// `[peers]`: who gives this manager the ratchet's state.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersSection {
    /// The other managers.
    pub urls: Vec<String>,
    /// The certificate authorities to trust, PEM; no others are.
    #[serde(default)]
    pub roots_files: Vec<PathBuf>,
    /// The file with a bearer token of the role `manager`; this, a certificate, or both.
    pub token_file: Option<PathBuf>,
    /// The client certificate and its intermediates, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub private_key_file: Option<PathBuf>,
}

/// `[audit]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditSection {
    /// How long a line of the audit trail is kept, in days: 1 to 36,500, or 0 for ever.
    pub retention_days: u64,
}

impl Default for AuditSection {
    fn default() -> Self {
        Self { retention_days: 400 }
    }
}

impl AuditSection {
    /// How long a line is kept; for ever if none.
    ///
    /// # Errors
    /// [`Refused`] with field, value and what is allowed.
    pub fn retention(&self) -> Result<Option<Seconds>, Refused> {
        match self.retention_days {
            0 => Ok(None),
            days @ 1..=36_500 => Ok(Some(Seconds::from_days(days))),
            days => Err(Refused(format!("audit.retention_days is {days}, allowed are 0 to 36500"))),
        }
    }
}

/// `[listen]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenSection {
    /// The address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate chain, PEM.
    pub certificate_file: Option<PathBuf>,
    /// The private key, PEM.
    pub private_key_file: Option<PathBuf>,
    /// The authorities of client certificates, PEM; without it no client presents one.
    pub client_ca_file: Option<PathBuf>,
    /// Lets plain HTTP be spoken off loopback: whoever is on the path reads keys and tokens.
    #[serde(default)]
    pub insecure_plain_http_anywhere: bool,
    /// What clients are granted.
    #[serde(default)]
    pub limits: LimitsSection,
}

/// `[listen]` of a terminator.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsListenSection {
    /// The address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// The certificate chain, PEM.
    pub certificate_file: PathBuf,
    /// The private key, PEM.
    pub private_key_file: PathBuf,
}

/// `[metrics]`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsSection {
    /// Where `/metrics`, `/healthz` and `/readyz` are answered over plain HTTP. Nothing secret is
    /// said there, and nothing can be changed.
    pub address: SocketAddr,
}

/// `[traces]`, the same for all roles.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TracesSection {
    /// The collector's address for OTLP over HTTP, to which `/v1/traces` is added.
    pub endpoint: String,
    /// The certificate authorities to trust, PEM; those of the system if left out.
    #[serde(default)]
    pub roots_files: Vec<PathBuf>,
}

/// What of any role's configuration says where spans go: that is needed before anything is logged.
#[derive(Debug, Deserialize)]
pub struct TracesConfig {
    /// Where they go.
    pub traces: Option<TracesSection>,
}

/// `[upstream]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamSection {
    /// Whom to ask, by preference.
    pub urls: Vec<String>,
    /// The certificate authorities to trust, PEM; no others are.
    #[serde(default)]
    pub roots_files: Vec<PathBuf>,
    /// The file with the bearer token; this, a certificate, or both.
    pub token_file: Option<PathBuf>,
    /// The client certificate and its intermediates, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub private_key_file: Option<PathBuf>,
    /// How long to wait for a change in one request, 0 to 300 seconds; 55 if left out.
    pub wait_seconds: Option<u64>,
}

/// How a command reaches the manager: the file named by `--profile`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The manager's address, `https://…`, or `http://…` on loopback.
    pub server: String,
    /// The certificate authorities to trust, PEM.
    #[serde(default)]
    pub roots_files: Vec<PathBuf>,
    /// The file with the bearer token; this, a certificate, or both.
    pub token_file: Option<PathBuf>,
    /// The client certificate and its intermediates, PEM.
    pub certificate_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub private_key_file: Option<PathBuf>,
}

/// Reads a configuration file. Relative paths in it are relative to its folder.
///
/// # Errors
/// [`Refused`] with file, line and field.
pub fn read<C: DeserializeOwned + Anchored>(path: &Path) -> Result<C> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Refused(error.to_string()))
        .with_context(|| format!("configuration {}", path.display()))?;
    let mut config: C = toml::from_str(&text)
        .map_err(|error| Refused(error.to_string().trim_end().to_owned()))
        .with_context(|| format!("configuration {}", path.display()))?;
    config.anchor(path.parent().unwrap_or(Path::new("")));
    Ok(config)
}

/// A configuration whose relative paths belong to a folder.
pub trait Anchored {
    /// Makes relative paths relative to `folder`.
    fn anchor(&mut self, folder: &Path);
}

fn anchor_path(path: &mut PathBuf, folder: &Path) {
    *path = folder.join(&*path);
}

impl Anchored for DatabaseSection {
    fn anchor(&mut self, folder: &Path) {
        self.url_file.iter_mut().for_each(|path| anchor_path(path, folder));
        if let Some(path) = self.url.as_deref().and_then(|url| url.strip_prefix("sqlite:")) {
            self.url = Some(format!("sqlite:{}", folder.join(path).display()));
        }
    }
}

impl Anchored for DatabaseConfig {
    fn anchor(&mut self, folder: &Path) {
        self.database.anchor(folder);
    }
}

impl Anchored for ManagerConfig {
    fn anchor(&mut self, folder: &Path) {
        self.database.anchor(folder);
        anchor_path(&mut self.custody.cluster_secret_file, folder);
        let previous = &mut self.custody.previous_cluster_secret_file;
        previous.iter_mut().for_each(|path| anchor_path(path, folder));
        if let Some(peers) = &mut self.peers {
            peers.roots_files.iter_mut().for_each(|path| anchor_path(path, folder));
            let files =
                [&mut peers.token_file, &mut peers.certificate_file, &mut peers.private_key_file];
            for file in files.into_iter().flatten() {
                anchor_path(file, folder);
            }
        }
        anchor_path(&mut self.custody.state_file, folder);
        self.listen.anchor(folder);
    }
}

impl Anchored for DistributionConfig {
    fn anchor(&mut self, folder: &Path) {
        self.upstream.anchor(folder);
        self.listen.anchor(folder);
    }
}

impl Anchored for TerminatorConfig {
    fn anchor(&mut self, folder: &Path) {
        self.upstream.anchor(folder);
        self.listen.anchor(folder);
    }
}

impl Anchored for ListenSection {
    fn anchor(&mut self, folder: &Path) {
        self.certificate_file.iter_mut().for_each(|path| anchor_path(path, folder));
        self.private_key_file.iter_mut().for_each(|path| anchor_path(path, folder));
        self.client_ca_file.iter_mut().for_each(|path| anchor_path(path, folder));
    }
}

impl Anchored for TlsListenSection {
    fn anchor(&mut self, folder: &Path) {
        anchor_path(&mut self.certificate_file, folder);
        anchor_path(&mut self.private_key_file, folder);
    }
}

impl Anchored for UpstreamSection {
    fn anchor(&mut self, folder: &Path) {
        self.roots_files.iter_mut().for_each(|path| anchor_path(path, folder));
        let proofs = [&mut self.token_file, &mut self.certificate_file, &mut self.private_key_file];
        proofs.into_iter().flatten().for_each(|path| anchor_path(path, folder));
    }
}

impl Anchored for TracesConfig {
    fn anchor(&mut self, folder: &Path) {
        let files = self.traces.iter_mut().flat_map(|traces| &mut traces.roots_files);
        files.for_each(|path| anchor_path(path, folder));
    }
}

impl Anchored for Profile {
    fn anchor(&mut self, folder: &Path) {
        self.roots_files.iter_mut().for_each(|path| anchor_path(path, folder));
        let proofs = [&mut self.token_file, &mut self.certificate_file, &mut self.private_key_file];
        proofs.into_iter().flatten().for_each(|path| anchor_path(path, folder));
    }
}

#[cfg(test)]
mod tests;
