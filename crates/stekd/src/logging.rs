//! Structured logs on standard error.

use tracing_subscriber::EnvFilter;

use crate::commands::table::colours_wanted;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Begins to log. The environment variable `STEKD_LOG` holds the filter, such as
/// `info,stek_client=debug`; `otherwise` without it.
pub fn init(format: LogFormat, otherwise: &str) {
    let filter = EnvFilter::try_from_env("STEKD_LOG").unwrap_or_else(|_| EnvFilter::new(otherwise));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours_wanted(&std::io::stderr()));
    // A second call, as in tests, leaves the first in place.
    let _ = match format {
        LogFormat::Human => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
