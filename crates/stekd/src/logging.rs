//! Structured logs on standard error.

mod json;
mod request;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::commands::table::colours_wanted;
use crate::logging::json::Completed;
use crate::logging::request::NamesRequest;
use crate::traces::Traces;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Begins to log, and to trace if anybody wants `traces`. The environment variable `STEKD_LOG` holds
/// the filter of log lines, such as `info,stek_client=debug`; `otherwise` without it.
pub fn init(format: LogFormat, otherwise: &str, traces: &Traces) {
    let filter = EnvFilter::try_from_env("STEKD_LOG").unwrap_or_else(|_| EnvFilter::new(otherwise));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(colours_wanted(&std::io::stderr()))
        // Saying that nobody reads them any more would be a panic, for it goes where they go.
        .log_internal_errors(false);
    let lines = match format {
        LogFormat::Human => lines.map_fmt_fields(NamesRequest).boxed(),
        LogFormat::Json => lines.json().map_event_format(Completed).boxed(),
    };
    // A second call, as in tests, leaves the first in place.
    let _ = tracing_subscriber::registry()
        .with(traces.layer())
        .with(lines.with_filter(filter))
        .try_init();
}
