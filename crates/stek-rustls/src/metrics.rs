//! Counts what became of each ticket, stored session and handshake. Labels are fixed and resolved at
//! registration, so that a handshake only increments; which key was concerned is left to logs of
//! the manager.

#[cfg(feature = "client")]
pub(crate) mod ages;

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "redis")]
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntGauge, Opts, Registry};
use stek_core::name::KeysetName;
use stek_core::time::Seconds;

mod age_at_open;
mod counts;
mod outcomes;
mod per_thread;

use age_at_open::AgeAtOpen;
use counts::Counts;
pub(crate) use outcomes::{
    HandshakeOutcome, LookUpOutcome, OpenOutcome, PutOutcome, SealOutcome, WriteOutcome,
};

/// Seconds, from a socket of the same machine to a deadline that somebody has set very long.
const LOOK_UP_BUCKETS: [f64; 11] =
    [0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.25];

/// Counters over the tickets and the stored sessions under one keyset, of all its scopes, and over
/// the handshakes of acceptors. Clones share them; they leave the registry with the last clone.
#[derive(Clone)]
pub struct TicketMetrics(Arc<Series>);

#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only I/O takes time and fails"))]
struct Series {
    sealed: Counts<{ SealOutcome::ALL.len() }>,
    opened: Counts<{ OpenOutcome::ALL.len() }>,
    put: Counts<{ PutOutcome::ALL.len() }>,
    looked_up: Counts<{ LookUpOutcome::ALL.len() }>,
    written: Counts<{ WriteOutcome::ALL.len() }>,
    handshakes: Counts<{ HandshakeOutcome::ALL.len() }>,
    age_at_open: AgeAtOpen,
    look_up_seconds: Histogram,
    breaker_open: IntGauge,
    _registration: Registration,
}

impl TicketMetrics {
    /// Registers
    /// - `stek_tickets_sealed_total`, `stek_tickets_opened_total` and
    ///   `stek_ticket_age_at_open_seconds`;
    /// - `stek_sessions_put_total`, `stek_sessions_looked_up_total`,
    ///   `stek_sessions_written_total`, `stek_session_look_up_seconds` and
    ///   `stek_session_breaker_open` for sessions that servers keep;
    /// - `stek_handshakes_total`.
    ///
    /// The keyset is a label of each, so that a process may use several; every outcome shows from
    /// the start, at zero.
    ///
    /// # Errors
    /// [`prometheus::Error`] if the registry has them for this keyset already.
    pub fn register(registry: &Registry, keyset: &KeysetName) -> Result<Self, prometheus::Error> {
        let mut add = Registration::new(registry, keyset);
        Ok(Self(Arc::new(Series {
            sealed: add.counters(
                "stek_tickets_sealed_total",
                "Tickets asked for, by what became of them; all but sealed: none was sent",
                SealOutcome::ALL.map(SealOutcome::as_str),
            )?,
            opened: add.counters(
                "stek_tickets_opened_total",
                "Tickets offered, by the state of the key that opened them or by why none did; \
                 opened is not yet resumed",
                OpenOutcome::ALL.map(OpenOutcome::as_str),
            )?,
            put: add.counters(
                "stek_sessions_put_total",
                "Sessions to be kept, by what became of them; all but accepted: no ticket was sent",
                PutOutcome::ALL.map(PutOutcome::as_str),
            )?,
            looked_up: add.counters(
                "stek_sessions_looked_up_total",
                "Sessions asked for, by the state of the key that opened them or by why none did; \
                 opened is not yet resumed",
                LookUpOutcome::ALL.map(LookUpOutcome::as_str),
            )?,
            written: add.counters(
                "stek_sessions_written_total",
                "Accepted sessions, by whether the backend confirmed that it has them",
                WriteOutcome::ALL.map(WriteOutcome::as_str),
            )?,
            handshakes: add.counters(
                "stek_handshakes_total",
                "Handshakes of acceptors, by how they ended",
                HandshakeOutcome::ALL.map(HandshakeOutcome::as_str),
            )?,
            age_at_open: add.ages(
                "stek_ticket_age_at_open_seconds",
                "Seconds from the sealing of a ticket to its opening",
            )?,
            look_up_seconds: add.histogram(
                "stek_session_look_up_seconds",
                "Seconds for which a look-up held the thread of its handshake",
                &LOOK_UP_BUCKETS,
            )?,
            breaker_open: add.gauge(
                "stek_session_breaker_open",
                "1 while the backend is not asked because it did not answer, else 0",
            )?,
            _registration: add,
        })))
    }

    pub(crate) fn count_sealed(&self, outcome: SealOutcome) {
        self.0.sealed.add(outcome as usize, 1);
    }

    pub(crate) fn count_opened(&self, outcome: OpenOutcome) {
        self.0.opened.add(outcome as usize, 1);
    }

    pub(crate) fn count_put(&self, outcome: PutOutcome) {
        self.0.put.add(outcome as usize, 1);
    }

    pub(crate) fn count_look_up(&self, outcome: LookUpOutcome) {
        self.0.looked_up.add(outcome as usize, 1);
    }

    pub(crate) fn count_handshake(&self, outcome: HandshakeOutcome) {
        self.0.handshakes.add(outcome as usize, 1);
    }

    pub(crate) fn observe_age(&self, age: Seconds) {
        self.0.age_at_open.observe(age);
    }

    #[cfg(feature = "redis")]
    pub(crate) fn count_written(&self, outcome: WriteOutcome, sessions: usize) {
        self.0.written.add(outcome as usize, sessions as u64);
    }

    #[cfg(feature = "redis")]
    pub(crate) fn observe_look_up(&self, held: Duration) {
        self.0.look_up_seconds.observe(held.as_secs_f64());
    }

    #[cfg(feature = "redis")]
    pub(crate) fn show_breaker(&self, open: bool) {
        self.0.breaker_open.set(i64::from(open));
    }
}

impl fmt::Debug for TicketMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketMetrics").finish_non_exhaustive()
    }
}

/// What was added to a registry for one keyset, and is taken out again on drop.
struct Registration {
    registry: Registry,
    keyset: String,
    collectors: Vec<Box<dyn Collector>>,
}

impl Registration {
    fn new(registry: &Registry, keyset: &KeysetName) -> Self {
        let keyset = keyset.as_str().to_owned();
        Self { registry: registry.clone(), keyset, collectors: Vec::new() }
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        outcomes: [&'static str; N],
    ) -> Result<Counts<N>, prometheus::Error> {
        self.add(Counts::new(self.opts(name, help), outcomes)?)
    }

    fn ages(&mut self, name: &str, help: &str) -> Result<AgeAtOpen, prometheus::Error> {
        self.add(AgeAtOpen::new(self.opts(name, help))?)
    }

    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        buckets: &[f64],
    ) -> Result<Histogram, prometheus::Error> {
        let opts = HistogramOpts::from(self.opts(name, help)).buckets(buckets.to_vec());
        self.add(Histogram::with_opts(opts)?)
    }

    fn gauge(&mut self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.add(IntGauge::with_opts(self.opts(name, help))?)
    }

    fn opts(&self, name: &str, help: &str) -> Opts {
        Opts::new(name, help).const_label("keyset", &self.keyset)
    }

    fn add<C: Collector + Clone + 'static>(&mut self, series: C) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(series.clone()))?;
        self.collectors.push(Box::new(series.clone()));
        Ok(series)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        for collector in self.collectors.drain(..) {
            // It was added above, so it is there.
            let _ = self.registry.unregister(collector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(registry: &Registry, keyset: &str) -> Result<TicketMetrics, prometheus::Error> {
        TicketMetrics::register(registry, &KeysetName::try_new(keyset).unwrap())
    }

    #[test]
    fn every_outcome_shows_from_the_start() {
        let registry = Registry::new();
        let _metrics = register(&registry, "web").unwrap();
        let samples: Vec<_> = registry
            .gather()
            .iter()
            .map(|family| (family.name().to_owned(), family.get_metric().len()))
            .collect();
        let expected = [
            ("stek_handshakes_total", 3),
            ("stek_session_breaker_open", 1),
            ("stek_session_look_up_seconds", 1),
            ("stek_sessions_looked_up_total", 20),
            ("stek_sessions_put_total", 10),
            ("stek_sessions_written_total", 2),
            ("stek_ticket_age_at_open_seconds", 1),
            ("stek_tickets_opened_total", 12),
            ("stek_tickets_sealed_total", 7),
        ];
        assert_eq!(samples, expected.map(|(name, count)| (name.to_owned(), count)));
    }

    #[test]
    fn keysets_share_a_registry_and_leave_it() {
        let registry = Registry::new();
        let (web, shop) =
            (register(&registry, "web").unwrap(), register(&registry, "shop").unwrap());
        register(&registry, "web").unwrap_err();
        let clone = web.clone();
        drop((web, shop));
        assert_eq!(registry.gather().len(), 9);
        drop(clone);
        assert!(registry.gather().is_empty());
        register(&registry, "web").unwrap();
    }
}
