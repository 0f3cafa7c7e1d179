//! Measures this project's ticketer beside those that rustls brings, in one run and interleaved, so
//! that a busy machine disturbs all alike; prints a line per measurement and a verdict per bar.
//! What may be concluded from it is said in the Makefile's help and nowhere enforced.

#![allow(clippy::print_stdout, reason = "it is a program that prints a table")]

mod fleet;
mod floor;
mod handshake;
mod hello;
mod measure;
mod report;
mod sessions;
mod tickets;

use std::path::Path;

use anyhow::Context;

use crate::report::Report;

fn main() -> anyhow::Result<()> {
    let mut report = Report::new();
    println!("# {}", build());
    tickets::measure(&mut report)?;
    handshake::measure(&mut report)?;
    hello::measure(&mut report)?;
    report.verdicts();
    let path = Path::new("target/bench/tickets.json");
    report.write(path, &build()).with_context(|| format!("writing {}", path.display()))
}

/// How this program was built, as far as it matters for what it measures.
fn build() -> String {
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    let flags = if flags.trim().is_empty() { "default".to_owned() } else { format!("{flags:?}") };
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let aes = if cfg!(target_feature = "aes") { "compiled in" } else { "found at run time" };
    format!("RUSTFLAGS {flags}, {profile} profile, AES instructions {aes}")
}
