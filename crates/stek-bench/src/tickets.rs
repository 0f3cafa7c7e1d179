//! Sealing and opening: the whole call of this project's ticketer, those of rustls, and the floor.

use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::{aws_lc_rs, ring};
use rustls::server::ProducesTickets;
use stek_rustls::PooledNonces;

use crate::floor::Floor;
use crate::measure::{median, nanos_per_call};
use crate::report::Report;
use crate::{fleet, report};

/// Bytes of a session without and with a client certificate chain of two, and with a long one.
pub(crate) const SIZES: [usize; 3] = [93, 853, 4096];
pub(crate) const THREADS: [usize; 2] = [1, 2];

const ROUNDS: usize = 201;
const CALLS: u32 = 100;

/// What is measured against what: the tickers and, without a name of its own, the floor.
struct Contenders {
    ticketers: [(&'static str, Arc<dyn ProducesTickets>); 3],
    floor: Floor<PooledNonces>,
}

impl Contenders {
    fn new() -> anyhow::Result<Self> {
        let ticketers: [(_, Arc<dyn ProducesTickets>); 3] = [
            (report::STEK, fleet::ticketer()?),
            (report::RING, ring::Ticketer::new()?),
            (report::AWS_LC, aws_lc_rs::Ticketer::new()?),
        ];
        for (name, ticketer) in &ticketers {
            fleet::check(&**ticketer).context(*name)?;
        }
        Ok(Self { ticketers, floor: Floor::new(PooledNonces)? })
    }
}

/// Prints and keeps `seal/…` and `open/…` of all sizes and numbers of threads.
pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let contenders = Contenders::new()?;
    for size in SIZES {
        for threads in THREADS {
            let case = case(size, threads);
            seal(report, &contenders, size, threads, &case);
            open(report, &contenders, size, threads, &case)?;
        }
    }
    Ok(())
}

/// The name of a case, as in `853B/1t`.
pub(crate) fn case(size: usize, threads: usize) -> String {
    format!("{size}B/{threads}t")
}

fn seal(report: &mut Report, all: &Contenders, size: usize, threads: usize, case: &str) {
    let session = vec![0x5a; size];
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, ticketer), round) in all.ticketers.iter().zip(&mut rounds) {
            let work = || || drop(std::hint::black_box(ticketer.encrypt(&session)));
            round.push(nanos_per_call(threads, CALLS, work));
        }
        let work = || {
            let mut buffer = session.clone();
            move || {
                std::hint::black_box(all.floor.seal(&mut buffer));
            }
        };
        rounds[3].push(nanos_per_call(threads, CALLS, work));
    }
    record(report, all, "seal", case, &rounds);
}

fn open(
    report: &mut Report,
    all: &Contenders,
    size: usize,
    threads: usize,
    case: &str,
) -> anyhow::Result<()> {
    let session = vec![0x5a; size];
    let tickets = all.ticketers.iter().map(|(name, ticketer)| {
        let ticket = ticketer.encrypt(&session).context(*name)?;
        anyhow::ensure!(ticketer.decrypt(&ticket).as_ref() == Some(&session), *name);
        Ok(ticket)
    });
    let tickets: Vec<_> = tickets.collect::<anyhow::Result<_>>()?;
    let mut sealed = session.clone();
    let (nonce, tag) = all.floor.seal(&mut sealed).context("floor")?;
    let mut rounds: [Vec<f64>; 4] = Default::default();
    for _ in 0..ROUNDS {
        for (((_, ticketer), ticket), round) in all.ticketers.iter().zip(&tickets).zip(&mut rounds)
        {
            let work = || || drop(std::hint::black_box(ticketer.decrypt(ticket)));
            round.push(nanos_per_call(threads, CALLS, work));
        }
        let work = || {
            let mut buffer = sealed.clone();
            let sealed = &sealed;
            move || {
                buffer.copy_from_slice(sealed);
                std::hint::black_box(all.floor.open(&nonce, &tag, &mut buffer));
            }
        };
        rounds[3].push(nanos_per_call(threads, CALLS, work));
    }
    record(report, all, "open", case, &rounds);
    Ok(())
}

fn record(report: &mut Report, all: &Contenders, what: &str, case: &str, rounds: &[Vec<f64>; 4]) {
    let names = all.ticketers.iter().map(|(name, _)| *name).chain([report::FLOOR]);
    for (name, round) in names.zip(rounds) {
        report.add(what, case, name, median(round), "ns");
    }
}
