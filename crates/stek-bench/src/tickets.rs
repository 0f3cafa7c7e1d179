//! Sealing and opening: the whole call of a connection's ticketer as an acceptor makes it, those of
//! the ticketers of rustls and of the least one over the same AEAD, and the floor, the bare AEAD.

use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::{aws_lc_rs, ring};
use rustls::server::ProducesTickets;
use stek_rustls::PooledNonces;

use crate::floor::{Floor, LeastTicketer};
use crate::handshake::Pki;
use crate::measure::{median, nanos_per_call};
use crate::report::{self, Report};
use crate::sessions::{Clients, session_of};

/// Bytes of a session without and with a client certificate chain of two, and with a long one.
pub(crate) const SIZES: [usize; 3] = [93, 853, 4096];
pub(crate) const THREADS: [usize; 2] = [1, 2];

const ROUNDS: usize = 201;
/// So many that each thread draws on the kernel several times in each round.
const CALLS: u32 = 1000;

/// Gives what one thread seals and opens with: a connection of its own, or what all share.
type Connect = Box<dyn Fn() -> Arc<dyn ProducesTickets> + Sync>;

/// What is measured against what: the ticketers and, which is none, the floor.
struct Contenders {
    ticketers: [(&'static str, Connect); 4],
    floor: Floor<PooledNonces>,
}

impl Contenders {
    fn new(pki: &Pki, clients: &Clients) -> anyhow::Result<Self> {
        let acceptor = pki.acceptor(Some(clients))?;
        let ours = move || Arc::clone(&acceptor.per_connection_config().ticketer);
        let ticketers: [(_, Connect); 4] = [
            (report::STEK, Box::new(ours)),
            (report::RING, shared(ring::Ticketer::new()?)),
            (report::AWS_LC, shared(aws_lc_rs::Ticketer::new()?)),
            (report::LEAST, shared(Arc::new(LeastTicketer(Floor::new(PooledNonces)?)))),
        ];
        Ok(Self { ticketers, floor: Floor::new(PooledNonces)? })
    }
}

fn shared(ticketer: Arc<dyn ProducesTickets>) -> Connect {
    Box::new(move || Arc::clone(&ticketer))
}

/// Prints and keeps `seal/…` and `open/…` of all sizes and numbers of threads.
pub(crate) fn measure(report: &mut Report) -> anyhow::Result<()> {
    let (pki, clients) = (Pki::new()?, Clients::new()?);
    let contenders = Contenders::new(&pki, &clients)?;
    for size in SIZES {
        let session = session_of(size, &pki, &clients)?;
        for threads in THREADS {
            let case = case(size, threads);
            seal(report, &contenders, &session, threads, &case)?;
            open(report, &contenders, &session, threads, &case)?;
        }
    }
    Ok(())
}

/// The name of a case, as in `853B/1t`.
pub(crate) fn case(size: usize, threads: usize) -> String {
    format!("{size}B/{threads}t")
}

fn seal(
    report: &mut Report,
    all: &Contenders,
    session: &[u8],
    threads: usize,
    case: &str,
) -> anyhow::Result<()> {
    for (name, connect) in &all.ticketers {
        anyhow::ensure!(connect().encrypt(session).is_some(), "{name} seals nothing");
    }
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        for ((_, connect), round) in all.ticketers.iter().zip(&mut rounds) {
            let work = || {
                let ticketer = connect();
                move || drop(std::hint::black_box(ticketer.encrypt(session)))
            };
            round.push(nanos_per_call(threads, CALLS, work));
        }
        let work = || {
            let mut buffer = session.to_vec();
            move || {
                std::hint::black_box(all.floor.seal(&mut buffer));
            }
        };
        rounds[4].push(nanos_per_call(threads, CALLS, work));
    }
    record(report, all, "seal", case, &rounds);
    Ok(())
}

fn open(
    report: &mut Report,
    all: &Contenders,
    session: &[u8],
    threads: usize,
    case: &str,
) -> anyhow::Result<()> {
    let tickets = all.ticketers.iter().map(|(name, connect)| {
        let ticketer = connect();
        let ticket = ticketer.encrypt(session).context(*name)?;
        anyhow::ensure!(ticketer.decrypt(&ticket).as_deref() == Some(session), *name);
        Ok(ticket)
    });
    let tickets: Vec<_> = tickets.collect::<anyhow::Result<_>>()?;
    let mut sealed = session.to_vec();
    let (nonce, tag) = all.floor.seal(&mut sealed).context(report::FLOOR)?;
    let mut rounds: [Vec<f64>; 5] = Default::default();
    for _ in 0..ROUNDS {
        for (((_, connect), ticket), round) in all.ticketers.iter().zip(&tickets).zip(&mut rounds) {
            let work = || {
                let ticketer = connect();
                move || drop(std::hint::black_box(ticketer.decrypt(ticket)))
            };
            round.push(nanos_per_call(threads, CALLS, work));
        }
        let work = || {
            let (mut plain, sealed, nonce, tag) = (sealed.clone(), &sealed, &nonce, &tag);
            move || {
                std::hint::black_box(all.floor.open(nonce, tag, sealed, &mut plain));
            }
        };
        rounds[4].push(nanos_per_call(threads, CALLS, work));
    }
    record(report, all, "open", case, &rounds);
    Ok(())
}

fn record(report: &mut Report, all: &Contenders, what: &str, case: &str, rounds: &[Vec<f64>; 5]) {
    let names = all.ticketers.iter().map(|(name, _)| *name).chain([report::FLOOR]);
    for (name, round) in names.zip(rounds) {
        report.add(what, case, name, median(round), "ns");
    }
}
