//! Counts what became of each ticket. Labels are fixed and resolved at registration, so that a
//! handshake only increments; which key was concerned is left to logs of the manager.

#[cfg(feature = "client")]
pub(crate) mod ages;

use std::fmt;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, Opts, Registry};
use stek_core::name::KeysetName;
use stek_core::schedule::KeyState;
use stek_core::snapshot::{OpenMiss, Opened, SealMiss};
use stek_core::time::Seconds;

/// Seconds, from a page that loads its parts to the seven days that a ticket may live.
const AGE_BUCKETS: [f64; 11] =
    [1.0, 10.0, 60.0, 300.0, 1_800.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0, 86_400.0, 604_800.0];

/// Counters over the tickets under one keyset, of all its scopes. Clones share them; they leave the
/// registry with the last clone.
#[derive(Clone)]
pub struct TicketMetrics(Arc<Series>);

struct Series {
    sealed: [IntCounter; SealOutcome::ALL.len()],
    opened: [IntCounter; OpenOutcome::ALL.len()],
    handshakes: [IntCounter; HandshakeOutcome::ALL.len()],
    age_at_open: Histogram,
    _registration: Registration,
}

impl TicketMetrics {
    /// Registers `stek_tickets_sealed_total`, `stek_tickets_opened_total`,
    /// `stek_ticket_age_at_open_seconds` and `stek_handshakes_total`. The keyset is a label of each,
    /// so that a process may use several; every outcome shows from the start, at zero.
    ///
    /// # Errors
    /// [`prometheus::Error`] if the registry has them for this keyset already.
    pub fn register(registry: &Registry, keyset: &KeysetName) -> Result<Self, prometheus::Error> {
        let opts =
            |name: &str, help: &str| Opts::new(name, help).const_label("keyset", keyset.as_str());
        let counters = |name, help| IntCounterVec::new(opts(name, help), &["outcome"]);
        let sealed = counters(
            "stek_tickets_sealed_total",
            "Tickets asked for, by what became of them; all but sealed: none was sent",
        )?;
        let opened = counters(
            "stek_tickets_opened_total",
            "Tickets offered, by the state of the key that opened them or by why none did; \
             opened is not yet resumed",
        )?;
        let handshakes =
            counters("stek_handshakes_total", "Handshakes of acceptors, by how they ended")?;
        let age_at_open = Histogram::with_opts(
            HistogramOpts::from(opts(
                "stek_ticket_age_at_open_seconds",
                "Seconds from the sealing of a ticket to its opening",
            ))
            .buckets(AGE_BUCKETS.to_vec()),
        )?;
        let mut registration = Registration::new(registry);
        registration.add(&sealed)?;
        registration.add(&opened)?;
        registration.add(&handshakes)?;
        registration.add(&age_at_open)?;
        Ok(Self(Arc::new(Series {
            sealed: SealOutcome::ALL.map(|outcome| sealed.with_label_values(&[outcome.as_str()])),
            opened: OpenOutcome::ALL.map(|outcome| opened.with_label_values(&[outcome.as_str()])),
            handshakes: HandshakeOutcome::ALL
                .map(|outcome| handshakes.with_label_values(&[outcome.as_str()])),
            age_at_open,
            _registration: registration,
        })))
    }

    pub(crate) fn count_sealed(&self, outcome: SealOutcome) {
        self.0.sealed[outcome as usize].inc();
    }

    pub(crate) fn count_opened(&self, outcome: OpenOutcome) {
        self.0.opened[outcome as usize].inc();
    }

    pub(crate) fn count_handshake(&self, outcome: HandshakeOutcome) {
        self.0.handshakes[outcome as usize].inc();
    }

    pub(crate) fn observe_age(&self, age: Seconds) {
        // Exact: ages are far below 2⁵².
        #[allow(clippy::cast_precision_loss, reason = "a week has 604,800 seconds")]
        self.0.age_at_open.observe(age.as_secs() as f64);
    }
}

impl fmt::Debug for TicketMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketMetrics").finish_non_exhaustive()
    }
}

/// What was added to a registry, and is taken out again on drop.
pub(crate) struct Registration {
    registry: Registry,
    collectors: Vec<Box<dyn Collector>>,
}

impl Registration {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self { registry: registry.clone(), collectors: Vec::new() }
    }

    pub(crate) fn add<C: Collector + Clone + 'static>(
        &mut self,
        series: &C,
    ) -> Result<(), prometheus::Error> {
        self.registry.register(Box::new(series.clone()))?;
        self.collectors.push(Box::new(series.clone()));
        Ok(())
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

/// What became of a ticket that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SealOutcome {
    Sealed,
    NoActiveKey,
    TooLong,
    NoRandomness,
    SessionTooOld,
    /// The glue does not know this encoding, or the client's certificate.
    Unreadable,
    /// The server gives no tickets for such sessions.
    NotAllowed,
}

impl SealOutcome {
    /// In the order of the discriminants, by which counters are found.
    const ALL: [Self; 7] = [
        Self::Sealed,
        Self::NoActiveKey,
        Self::TooLong,
        Self::NoRandomness,
        Self::SessionTooOld,
        Self::Unreadable,
        Self::NotAllowed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Sealed => "sealed",
            Self::NoActiveKey => "no-active-key",
            Self::TooLong => "too-long",
            Self::NoRandomness => "no-randomness",
            Self::SessionTooOld => "session-too-old",
            Self::Unreadable => "unreadable",
            Self::NotAllowed => "not-allowed",
        }
    }
}

impl From<SealMiss> for SealOutcome {
    fn from(miss: SealMiss) -> Self {
        match miss {
            SealMiss::NoActiveKey => Self::NoActiveKey,
            SealMiss::SessionTooOld => Self::SessionTooOld,
            SealMiss::TooLong(_) => Self::TooLong,
        }
    }
}

/// What became of a ticket that was offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenOutcome {
    Active,
    DecryptOnly,
    Pending,
    Malformed,
    Unknown,
    Expired,
    Revoked,
    Forged,
    FromTheFuture,
    SessionTooOld,
    /// The connection has had as many tickets opened as it may.
    TooMany,
    /// The server resumes no such sessions.
    NotAllowed,
}

impl OpenOutcome {
    /// In the order of the discriminants, by which counters are found.
    const ALL: [Self; 12] = [
        Self::Active,
        Self::DecryptOnly,
        Self::Pending,
        Self::Malformed,
        Self::Unknown,
        Self::Expired,
        Self::Revoked,
        Self::Forged,
        Self::FromTheFuture,
        Self::SessionTooOld,
        Self::TooMany,
        Self::NotAllowed,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Pending => "pending",
            Self::Malformed => "malformed",
            Self::Unknown => "unknown",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Forged => "forged",
            Self::FromTheFuture => "from-the-future",
            Self::SessionTooOld => "session-too-old",
            Self::TooMany => "too-many",
            Self::NotAllowed => "not-allowed",
        }
    }
}

impl From<&Opened> for OpenOutcome {
    fn from(opened: &Opened) -> Self {
        match opened.state {
            KeyState::Active => Self::Active,
            KeyState::DecryptOnly => Self::DecryptOnly,
            KeyState::Pending => Self::Pending,
            // Such a key opens nothing.
            KeyState::Destroyed => Self::Expired,
        }
    }
}

impl From<OpenMiss> for OpenOutcome {
    fn from(miss: OpenMiss) -> Self {
        match miss {
            OpenMiss::Malformed => Self::Malformed,
            OpenMiss::Unknown => Self::Unknown,
            OpenMiss::Expired => Self::Expired,
            OpenMiss::Revoked => Self::Revoked,
            OpenMiss::Forged => Self::Forged,
            OpenMiss::FromTheFuture => Self::FromTheFuture,
            OpenMiss::SessionTooOld => Self::SessionTooOld,
        }
    }
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HandshakeOutcome {
    Full,
    Resumed,
    Failed,
}

impl HandshakeOutcome {
    /// In the order of the discriminants, by which counters are found.
    const ALL: [Self; 3] = [Self::Full, Self::Resumed, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Resumed => "resumed",
            Self::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_discriminant() {
        for (position, outcome) in SealOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, position);
        }
        for (position, outcome) in OpenOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, position);
        }
        for (position, outcome) in HandshakeOutcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, position);
        }
    }

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
        assert_eq!(registry.gather().len(), 4);
        drop(clone);
        assert!(registry.gather().is_empty());
        register(&registry, "web").unwrap();
    }
}
