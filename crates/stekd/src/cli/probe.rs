//! The arguments of `stekd probe`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use stek_core::time::Seconds;

use crate::cli::Output;
use crate::probe::target::Target;

/// `stekd probe`.
#[derive(Debug, Args)]
pub struct ProbeArgs {
    /// The servers, such as 192.0.2.1:443; at most 16.
    #[arg(value_name = "HOST:PORT", required = true, num_args = 1..=16, value_parser = Target::parse)]
    pub servers: Vec<Target>,
    /// The name by which clients ask for them; needed if they are not all at one host.
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Certificate authorities that are trusted (PEM); those of the system if left out.
    #[arg(long, value_name = "FILE", conflicts_with = "dangerously_trust_anyone")]
    pub roots: Option<PathBuf>,
    /// Believe whoever answers, also somebody in between who has none of the servers' keys.
    #[arg(long)]
    pub dangerously_trust_anyone: bool,
    /// The client's certificate chain (PEM), for servers that ask for one.
    #[arg(long, value_name = "FILE", requires = "client_key")]
    pub client_certificate: Option<PathBuf>,
    /// The key of the client's certificate (PEM).
    #[arg(long, value_name = "FILE", requires = "client_certificate")]
    pub client_key: Option<PathBuf>,
    /// Which versions of TLS to try; with both, a server need only speak one.
    #[arg(long, value_enum, value_name = "VERSION", default_value = "both")]
    pub tls: Versions,
    /// How long one connection may take: 1s to 5m.
    #[arg(long, value_name = "SPAN", value_parser = time_out, default_value = "5s")]
    pub timeout: Seconds,
    /// Also offer tickets at these ages, such as 10m,1h,6h; at most 32 ages of up to 8d.
    #[arg(long, value_name = "SPAN", value_delimiter = ',', value_parser = age)]
    pub ages: Vec<Seconds>,
    /// Also offer tickets at ages around the end of their hint, to see when they really end. Takes
    /// up to one and a half times the hint.
    #[arg(long, conflicts_with = "ages")]
    pub watch_lifetime: bool,
    /// How to print what was found.
    #[arg(long, value_enum, default_value = "table")]
    pub output: Output,
}

/// Versions of TLS to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Versions {
    /// TLS 1.2 alone.
    #[value(name = "1.2")]
    V12,
    /// TLS 1.3 alone.
    #[value(name = "1.3")]
    V13,
    /// One after the other.
    Both,
}

fn time_out(text: &str) -> Result<Seconds, String> {
    within(text, Seconds::new(1), Seconds::from_minutes(5))
}

fn age(text: &str) -> Result<Seconds, String> {
    within(text, Seconds::ZERO, crate::probe::lifetime::MAX_AGE)
}

fn within(text: &str, least: Seconds, most: Seconds) -> Result<Seconds, String> {
    let span = Seconds::parse(text).map_err(|error| error.to_string())?;
    let allowed = (least..=most).contains(&span).then_some(span);
    allowed.ok_or_else(|| format!("{span} is not allowed, {least} to {most} is"))
}
