//! Sealing and opening: the whole call of a connection's ticketer as an acceptor makes it, those of
//! the ticketers of rustls and of the least one over the same AEAD, and the floor, the bare AEAD.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::Context;
use rustls::crypto::{aws_lc_rs, ring};
use rustls::server::ProducesTickets;
use stek_core::xaes::{NONCE_LEN, TAG_LEN};
use stek_rustls::PooledNonces;

use crate::floor::{Floor, LeastTicketer};
use crate::handshake::Pki;
use crate::measure::{Rounds, nanos_per_call};
use crate::report::{self, Report};
use crate::sessions::{Clients, session_of};

/// Bytes of a session without and with a client certificate chain of two, and with a long one.
pub(crate) const SIZES: [usize; 3] = [93, 853, 4096];
pub(crate) const THREADS: [usize; 2] = [1, 2];

/// Each contender begins as often as any other.
const ROUNDS_OF_PASS: usize = 2 * CONTENDERS;
/// So many that each thread draws on the kernel several times in each round.
const CALLS: u32 = 1000;

/// Gives what one thread seals and opens with: a connection of its own, or what all share.
type Connect = Box<dyn Fn() -> Arc<dyn ProducesTickets> + Sync>;

/// How many there are, with the floor.
const CONTENDERS: usize = 5;

/// What is measured against what: the ticketers and, which is none, the floor.
struct Contenders {
    ticketers: [(&'static str, Connect); CONTENDERS - 1],
    floor: Floor<PooledNonces>,
}

impl Contenders {
    fn new(pki: &Pki, clients: &Clients) -> anyhow::Result<Self> {
        let acceptor = pki.acceptor(Some(clients))?;
        let ours = move || Arc::clone(&acceptor.per_connection_config().ticketer);
        let ticketers: [(_, Connect); CONTENDERS - 1] = [
            (report::STEK, Box::new(ours)),
            (report::RING, shared(ring::Ticketer::new()?)),
            (report::AWS_LC, shared(aws_lc_rs::Ticketer::new()?)),
            (report::LEAST, shared(Arc::new(LeastTicketer(Floor::new(PooledNonces)?)))),
        ];
        Ok(Self { ticketers, floor: Floor::new(PooledNonces)? })
    }

    fn names(&self) -> [&'static str; CONTENDERS] {
        let [one, two, three, four] = self.ticketers.each_ref().map(|(name, _)| *name);
        [one, two, three, four, report::FLOOR]
    }

    /// What each took for a call of its `work`, one after another, beginning with another in each
    /// `round`.
    fn round<W: FnMut(), F: FnMut()>(
        &self,
        round: usize,
        threads: usize,
        work: impl Fn(usize, Arc<dyn ProducesTickets>) -> W + Sync,
        work_of_floor: impl Fn() -> F + Sync,
    ) -> [f64; CONTENDERS] {
        let mut took = [0.0; CONTENDERS];
        for at in (0..CONTENDERS).map(|turn| (round + turn) % CONTENDERS) {
            took[at] = match self.ticketers.get(at) {
                Some((_, connect)) => nanos_per_call(threads, CALLS, || work(at, connect())),
                None => nanos_per_call(threads, CALLS, &work_of_floor),
            };
        }
        took
    }
}

fn shared(ticketer: Arc<dyn ProducesTickets>) -> Connect {
    Box::new(move || Arc::clone(&ticketer))
}

/// `seal/…` and `open/…` of all sizes and numbers of threads.
pub(crate) struct Tickets {
    contenders: Contenders,
    cases: Vec<Case>,
}

struct Case {
    name: String,
    threads: usize,
    session: Vec<u8>,
    /// Of the ticketers, in their order.
    tickets: Vec<Vec<u8>>,
    /// The same session, as the floor has sealed it.
    sealed: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    tag: [u8; TAG_LEN],
    sealing: Rounds<CONTENDERS>,
    opening: Rounds<CONTENDERS>,
}

impl Tickets {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let (pki, clients) = (Pki::new()?, Clients::new()?);
        let contenders = Contenders::new(&pki, &clients)?;
        let mut cases = Vec::new();
        for size in SIZES {
            let session = session_of(size, &pki, &clients)?;
            for threads in THREADS {
                cases.push(Case::new(&contenders, &session, threads)?);
            }
        }
        Ok(Self { contenders, cases })
    }

    /// Measures some rounds of each case.
    pub(crate) fn pass(&mut self) {
        for case in &mut self.cases {
            for round in 0..ROUNDS_OF_PASS {
                case.seal(&self.contenders, round);
                case.open(&self.contenders, round);
            }
        }
    }

    /// Prints and keeps what was measured.
    pub(crate) fn report(&self, report: &mut Report) {
        for case in &self.cases {
            for (what, rounds) in [("seal", &case.sealing), ("open", &case.opening)] {
                report.add_rounds(what, &case.name, self.contenders.names(), rounds, "ns");
            }
        }
    }
}

/// The name of a case, as in `853B/1t`.
pub(crate) fn case(size: usize, threads: usize) -> String {
    format!("{size}B/{threads}t")
}

impl Case {
    fn new(all: &Contenders, session: &[u8], threads: usize) -> anyhow::Result<Self> {
        let tickets = all.ticketers.iter().map(|(name, connect)| {
            let ticketer = connect();
            let ticket = ticketer.encrypt(session).context(*name)?;
            anyhow::ensure!(ticketer.decrypt(&ticket).as_deref() == Some(session), *name);
            Ok(ticket)
        });
        let tickets = tickets.collect::<anyhow::Result<_>>()?;
        let mut sealed = session.to_vec();
        let (nonce, tag) = all.floor.seal(&mut sealed).context(report::FLOOR)?;
        let name = case(session.len(), threads);
        let (session, sealing, opening) = (session.to_vec(), Rounds::new(), Rounds::new());
        Ok(Self { name, threads, session, tickets, sealed, nonce, tag, sealing, opening })
    }

    fn seal(&mut self, all: &Contenders, round: usize) {
        let session = &self.session;
        let work = |_, ticketer: Arc<dyn ProducesTickets>| {
            move || assert!(black_box(ticketer.encrypt(session)).is_some())
        };
        let floor = || {
            let mut buffer = session.clone();
            move || assert!(black_box(all.floor.seal(&mut buffer)).is_some())
        };
        self.sealing.push(all.round(round, self.threads, work, floor));
    }

    fn open(&mut self, all: &Contenders, round: usize) {
        let Self { tickets, sealed, nonce, tag, .. } = &*self;
        let work = |at: usize, ticketer: Arc<dyn ProducesTickets>| {
            let ticket = &tickets[at];
            move || assert!(black_box(ticketer.decrypt(ticket)).is_some())
        };
        let floor = || {
            let mut plain = sealed.clone();
            move || assert!(black_box(all.floor.open(nonce, tag, sealed, &mut plain)).is_some())
        };
        self.opening.push(all.round(round, self.threads, work, floor));
    }
}
