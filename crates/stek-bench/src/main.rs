//! Measures this project beside what it competes with, contenders interleaved in one run; prints a
//! line per measurement and a verdict per bar. A bar that is missed fails nothing: machines differ.

#![allow(clippy::print_stdout, reason = "it is a program that prints a table")]

mod distribution;
mod fleet;
mod floor;
mod handshake;
mod hello;
mod measure;
mod report;
mod sessions;
mod tickets;

use std::path::Path;

use anyhow::{Context, bail};

use crate::handshake::Handshakes;
use crate::hello::Hellos;
use crate::report::Report;
use crate::tickets::Tickets;

const PASSES: usize = 70;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [first, rest @ ..] = arguments.as_slice()
        && first == distribution::bare::SERVE
    {
        return distribution::bare::serve(rest);
    }
    let what = arguments.into_iter().next().unwrap_or_default();
    let mut report = Report::new();
    println!("# {}", build());
    match what.as_str() {
        "tickets" => measure_tickets(&mut report)?,
        "distribution" => distribution::measure(&mut report)?,
        _ => bail!("what to measure is {what:?}, allowed is tickets or distribution"),
    }
    let path = format!("target/bench/{what}.json");
    report.write(Path::new(&path), &build()).with_context(|| format!("writing {path}"))
}

/// All that concerns tickets, in many passes over the cases: a neighbour who is busy for some seconds
/// disturbs a few rounds of each and not all of one.
fn measure_tickets(report: &mut Report) -> anyhow::Result<()> {
    let (mut tickets, mut handshakes, mut hellos) =
        (Tickets::new()?, Handshakes::new()?, Hellos::new()?);
    println!("# {PASSES} passes, some two minutes");
    for _ in 0..PASSES {
        tickets.pass();
        handshakes.pass()?;
        hellos.pass()?;
    }
    tickets.report(report);
    handshakes.report(report);
    hellos.report(report);
    report.verdicts();
    Ok(())
}

/// How this program was built, as far as it matters for what it measures.
fn build() -> String {
    // As cargo had them when it built this, from whatever source; separated by 0x1f.
    let flags = env!("STEK_BENCH_RUSTFLAGS").replace('\u{1f}', " ");
    let flags = if flags.is_empty() { "default".to_owned() } else { format!("{flags:?}") };
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    let aes = if cfg!(target_feature = "aes") { "compiled in" } else { "found at run time" };
    format!("RUSTFLAGS {flags}, {profile} profile, AES instructions {aes}")
}
