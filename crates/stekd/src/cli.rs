//! The command line as clap reads it. What a command does is in the module of its name.

mod grant;
pub mod help;
pub mod probe;
pub mod shell;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use stek_core::id::KeyId;
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::policy::ActivationQuorum;
use stek_core::time::Seconds;

pub use self::grant::{GrantArg, GrantArgs, GrantCommand};
use self::probe::ProbeArgs;
use self::shell::{CompletionsArgs, ManArgs};
use crate::logging::LogFormat;

/// Generates, rotates and distributes TLS session-ticket keys for a fleet.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// How log lines look; they go to standard error.
    #[arg(long, global = true, value_enum, default_value = "human", env = "STEKD_LOG_FORMAT")]
    #[arg(help_heading = SHARED)]
    pub log_format: LogFormat,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where help lists the options that commands have in common, behind those of each.
const SHARED: &str = "Common options";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a key-manager: rotates keys in the database and answers operators.
    Manager(WithConfig),
    /// Run a distribution replica: serves keys to terminators.
    Distribution(WithConfig),
    /// Run a sample TLS server that resumes with the keys of a fleet.
    Terminator(WithConfig),
    /// Run all roles in this process, on loopback, with an embedded database.
    Dev(DevArgs),
    /// Show a fleet at work for about 45 seconds: resumption across two servers and rotations.
    Demo(DemoArgs),
    /// Show a revocation: a hundred terminators drop the keys, and what a client sees of it.
    DemoRevoke,
    /// Bring the database's schema up to this program's.
    Migrate(WithConfig),
    /// Look at keysets and change them.
    Keyset(KeysetArgs),
    /// Read the audit trail and verify its chain.
    Audit(AuditArgs),
    /// Make, list and revoke bearer tokens.
    Token(TokenArgs),
    /// Let principals act in a role on keysets, list what is granted and take it away.
    Grant(GrantArgs),
    /// Look at the ratchet, change its seed, confirm the clock.
    Ratchet(RatchetArgs),
    /// Deal with a restored database.
    Db(DbArgs),
    /// Make a cluster secret.
    Secret(SecretArgs),
    /// Make certificates for trying things out: an authority that is forgotten at once, and one
    /// server certificate.
    DevCa(DevCaArgs),
    /// Ask a running role whether it is ready; for container health checks.
    Healthcheck(HealthcheckArgs),
    /// See where the tickets of TLS servers, of any make, resume, and for how long.
    Probe(ProbeArgs),
    /// Print a completion script for a shell.
    Completions(CompletionsArgs),
    /// Print the manual page, or write those of all commands.
    Man(ManArgs),
}

impl Command {
    /// What is logged unless the environment says otherwise: roles tell what they do, the
    /// demonstration and single commands only what goes wrong.
    pub fn log_level(&self) -> &'static str {
        match self {
            Self::Manager(_)
            | Self::Distribution(_)
            | Self::Terminator(_)
            | Self::Dev(_)
            | Self::Migrate(_) => "info",
            _ => "warn",
        }
    }
}

/// A role with its configuration.
#[derive(Debug, Args)]
pub struct WithConfig {
    /// Configuration file (TOML); see docs/CONFIG.md.
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
}

/// `stekd dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where database, ratchet, certificates and tokens are kept; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "stekd-dev")]
    pub dir: PathBuf,
    /// How long one key seals, such as 30s or 6h. Only for a new directory.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse, default_value = "6h")]
    pub rotation_period: Seconds,
    /// How long a ticket opens; the rotation period if left out. Only for a new directory.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub ticket_lifetime: Option<Seconds>,
    /// The five ports after this one are taken: manager, metrics, distribution, two TLS servers.
    /// 0 takes free ones.
    #[arg(long, value_name = "PORT", default_value_t = 8440)]
    pub port_base: u16,
}

/// `stekd demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How long to go on; at least one rotation period of 10 s and some more.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse, default_value = "45s")]
    pub duration: Seconds,
}

/// How a command reaches the manager.
#[derive(Debug, Args)]
pub struct Reach {
    /// Profile with the manager's address, certificate authority and token file. Without it
    /// `stekd-dev/operator.toml`, as `stekd dev` writes it.
    #[arg(long, global = true, value_name = "FILE", env = "STEKD_PROFILE", help_heading = SHARED)]
    pub profile: Option<PathBuf>,
    /// How to print what comes back.
    #[arg(long, global = true, value_enum, default_value = "table", help_heading = SHARED)]
    pub output: Output,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// `stekd keyset …`.
#[derive(Debug, Args)]
pub struct KeysetArgs {
    /// How to reach the manager.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: KeysetCommand,
}

/// What can be done with keysets.
#[derive(Debug, Subcommand)]
pub enum KeysetCommand {
    /// Begin a keyset; its first key seals at once.
    Create {
        /// Its name: 1 to 63 of a-z, 0-9, '-', '.' and '_'.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
        /// Its policy.
        #[command(flatten)]
        policy: PolicyArgs,
    },
    /// List the keysets.
    List,
    /// Show one keyset and its keys.
    Show {
        /// Its name.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
    },
    /// Change its policy, from the next key on.
    Policy {
        /// Its name.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
        /// What to change.
        #[command(flatten)]
        policy: PolicyArgs,
        /// How to make the change.
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Rotate now: the pending key seals at once. No session is lost.
    Rotate {
        /// Its name.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
        /// How to make the change.
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Forbid the keys of a keyset at once: its sessions need a full handshake from then on. Live
    /// connections go on.
    Revoke {
        /// Its name.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
        /// Forbid this key alone. Whoever read a terminator's memory holds the pending keys too, so
        /// every key is forbidden if left out.
        #[arg(long, value_name = "ID", value_parser = KeyId::parse)]
        key: Option<KeyId>,
        /// Why; written into the audit trail. 1 to 256 bytes.
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// How to make the change.
        #[command(flatten)]
        how: ChangeArgs,
    },
    /// Show what the planner will do.
    Plan {
        /// Its name.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
        /// An RFC 3339 instant or a span from now, such as 12h; at most 31 days ahead.
        #[arg(long, value_name = "WHEN", default_value = "24h")]
        until: String,
    },
    /// Show who holds its keys, and who lags.
    Terminators(TerminatorsArgs),
    /// Delete a keyset and revoke its keys: its sessions need a full handshake from then on.
    Delete {
        /// Its name.
        #[arg(value_parser = KeysetName::try_new)]
        keyset: KeysetName,
        /// How to make the change.
        #[command(flatten)]
        how: ChangeArgs,
    },
}

impl KeysetCommand {
    /// The keyset that it is about, unless it is about all.
    pub fn keyset(&self) -> Option<&KeysetName> {
        match self {
            Self::List => None,
            Self::Terminators(TerminatorsArgs { keyset, .. })
            | Self::Create { keyset, .. }
            | Self::Show { keyset }
            | Self::Policy { keyset, .. }
            | Self::Rotate { keyset, .. }
            | Self::Revoke { keyset, .. }
            | Self::Plan { keyset, .. }
            | Self::Delete { keyset, .. } => Some(keyset),
        }
    }
}

/// `stekd keyset terminators`.
#[derive(Debug, Args)]
pub struct TerminatorsArgs {
    /// Its name.
    #[arg(value_parser = KeysetName::try_new)]
    pub keyset: KeysetName,
    /// The revision that is asked about; the newest if left out.
    #[arg(long, value_name = "N")]
    pub revision: Option<u64>,
    /// List all that poll this distribution replica instead; its address, such as
    /// `https://stek-1.example.org:8443`. With --revision, only those that hold less.
    #[arg(long, value_name = "URL")]
    pub distribution: Option<String>,
}

/// How a change of a keyset is made. Ends with status 75 if it was made and not every instance that
/// is seen has confirmed it in time.
#[derive(Debug, Clone, Copy, Args)]
pub struct ChangeArgs {
    /// Show what it costs and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    pub yes: bool,
    /// How long to wait for the instances to confirm; 0s does not.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse, default_value = "30s")]
    pub wait: Seconds,
}

/// A policy; what is left out takes its default, or stays as it is.
#[derive(Debug, Clone, Copy, Args)]
pub struct PolicyArgs {
    /// How long one key seals: 10s to 24h; 6h for a new keyset.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub rotation_period: Option<Seconds>,
    /// How long a ticket opens: 10s to 7d; 6h for a new keyset.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub ticket_lifetime: Option<Seconds>,
    /// How often a terminator asks, and the longest it backs off: 1s to 5m; a tenth of the rotation
    /// period for a new keyset, at most 60s.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub poll_interval: Option<Seconds>,
    /// How far apart clocks may be: 1s to 10m; a tenth of the rotation period for a new keyset, at
    /// most 60s.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub clock_skew: Option<Seconds>,
    /// How long before activation a key is published: at least 4 × poll interval + 2 × clock skew,
    /// at most 3 × rotation period; the rotation period for a new keyset.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub lead: Option<Seconds>,
    /// The longest that any chain of resumptions may last: the ticket lifetime to 7d; 24h for a new
    /// keyset, or the ticket lifetime if that is longer.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub session_lifetime: Option<Seconds>,
    /// Whom the activation of a key waits for: all instances that are known to lack it, as for a new
    /// keyset, or nobody.
    #[arg(long, value_name = "all|off", value_parser = activation_quorum)]
    pub activation_quorum: Option<ActivationQuorum>,
    /// How much later than planned a key may activate because instances lack it: poll interval +
    /// clock skew + 2s to the lead, which a new keyset has.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse)]
    pub activation_deadline: Option<Seconds>,
}

fn activation_quorum(text: &str) -> Result<ActivationQuorum, &'static str> {
    ActivationQuorum::parse(text).ok_or("all or off is allowed")
}

/// `stekd audit …`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    /// How to reach the manager.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: AuditCommand,
}

/// What can be done with the audit trail.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what was done, oldest first.
    List {
        /// Only what was done to this keyset.
        #[arg(long, value_name = "KEYSET", value_parser = KeysetName::try_new)]
        keyset: Option<KeysetName>,
        /// Only from then on: an RFC 3339 instant, or a span before now such as 12h.
        #[arg(long, value_name = "WHEN")]
        since: Option<String>,
        /// Use the database of this manager configuration instead of asking a manager.
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
    },
    /// Verify that nothing was changed, removed or put in between. Ends with status 2 if it was.
    Verify {
        /// A link that the chain must have, as a manager's log or metrics told it: without one,
        /// a trail that was cut at its end together with its head is not seen.
        #[arg(long, value_name = "HASH")]
        anchor: Option<String>,
        /// Use the database and cluster secret of this manager configuration instead of asking a
        /// manager.
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
    },
}

/// `stekd token …`.
#[derive(Debug, Args)]
pub struct TokenArgs {
    /// How to reach the manager.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: TokenCommand,
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token and print it, once. The manager is sent only its hash.
    Create {
        /// Who its bearer will be; `token:NAME` is the principal.
        #[arg(value_parser = token_principal)]
        name: PrincipalName,
        /// What its bearer may do.
        #[arg(long, value_enum)]
        role: RoleArg,
        /// On which keyset, or '*' for all.
        #[arg(long, value_name = "KEYSET", default_value = "*")]
        keyset: String,
        /// For how long it is valid, at most 3650d.
        #[arg(long, value_name = "SPAN", value_parser = Seconds::parse, default_value = "365d")]
        valid_for: Seconds,
        /// Write it to this file, readable by its owner only, instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Use the database and cluster secret of this manager configuration instead of asking a
        /// manager: for the first operator.
        #[arg(long, value_name = "FILE")]
        offline: Option<PathBuf>,
    },
    /// List the tokens and what they may do.
    List,
    /// Revoke a token.
    Revoke {
        /// Its identity, as `list` shows it.
        id: String,
    },
}

fn token_principal(name: &str) -> Result<PrincipalName, stek_core::name::NameError> {
    PrincipalName::try_new(&format!("token:{name}"))
}

/// The roles as they are written on the command line.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// Fetch the keys of a keyset.
    Terminator,
    /// Follow the feed and serve it on.
    Distribution,
    /// Create, change, rotate and delete keysets; make tokens if it is so on all keysets.
    Operator,
    /// Read keysets, never keys.
    Auditor,
    /// Join the other managers: be given the ratchet's state. Needs '*'.
    Manager,
}

/// `stekd ratchet …`.
#[derive(Debug, Args)]
pub struct RatchetArgs {
    /// How to reach the manager.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: RatchetCommand,
}

/// What can be done with the ratchet.
#[derive(Debug, Subcommand)]
pub enum RatchetCommand {
    /// Show its seeds and the managers that hold it.
    Show,
    /// Exchange its seed: keys are re-wrapped, every manager erases the old one. No session is lost.
    Reseed {
        /// No state of the seed is left anywhere: give it up, with all keys. Every session needs a
        /// full handshake. Needs --config, and that manager stopped and without a state file.
        #[arg(long, requires = "config")]
        lost: bool,
        /// The configuration of the manager that begins anew.
        #[arg(long, value_name = "FILE", requires = "lost")]
        config: Option<PathBuf>,
    },
    /// Vouch for the clock after it jumped by more than a day: the ratchet goes on from there, and
    /// cannot be turned back.
    ConfirmClock,
}

/// `stekd db …`.
#[derive(Debug, Args)]
pub struct DbArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: DbCommand,
}

/// What can be done with the database.
#[derive(Debug, Subcommand)]
pub enum DbCommand {
    /// Accept a database that is behind what was published, as after a restore from a backup. The
    /// manager of this configuration must be stopped; the others go on by themselves.
    AcceptRestore(WithConfig),
}

/// `stekd secret`.
#[derive(Debug, Args)]
pub struct SecretArgs {
    /// The file to write it to; it must not exist.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `stekd dev-ca`.
#[derive(Debug, Args)]
pub struct DevCaArgs {
    /// Where to write ca.pem, server.pem and server.key; made if it is not there.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// A name of the server, or an IP address; may be given several times.
    #[arg(long = "name", value_name = "NAME", required = true, value_parser = server_name)]
    pub names: Vec<String>,
}

fn server_name(text: &str) -> Result<String, &'static str> {
    let known = rustls::pki_types::ServerName::try_from(text);
    known.map(|_| text.to_owned()).map_err(|_| "a DNS name or an IP address is allowed")
}

/// `stekd healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// The address of the metrics listener of the role.
    #[arg(value_name = "HOST:PORT", value_parser = host_and_port)]
    pub address: String,
    /// Ask again until it is ready, for at most so long.
    #[arg(long, value_name = "SPAN", value_parser = Seconds::parse, default_value = "0s")]
    pub wait: Seconds,
}

fn host_and_port(text: &str) -> Result<String, &'static str> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let port = parts.and_then(|(_, port)| port.parse::<u16>().ok());
    port.map(|_| text.to_owned()).ok_or("allowed is HOST:PORT, such as 127.0.0.1:9441")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
