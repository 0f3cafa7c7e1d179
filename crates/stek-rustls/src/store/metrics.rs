//! Counts what became of each session that was to be kept or looked up. Labels are fixed and
//! resolved at registration, as for tickets.

use std::fmt;
use std::sync::Arc;
#[cfg(feature = "redis")]
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use stek_core::name::KeysetName;
use stek_core::schedule::KeyState;
use stek_core::snapshot::{OpenMiss, Opened, SealMiss};

use super::backend::{LookUpError, PutError};
use crate::metrics::Registration;

/// Seconds, from a socket of the same machine to a deadline that somebody has set very long.
const LOOK_UP_BUCKETS: [f64; 11] =
    [0.000_1, 0.000_2, 0.000_5, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.25];

/// Counters over the sessions kept under one keyset, of all its scopes. Clones share them; they
/// leave the registry with the last clone.
#[derive(Clone)]
pub struct StoreMetrics(Arc<Series>);

#[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only I/O takes time and fails"))]
struct Series {
    put: [IntCounter; PutOutcome::ALL.len()],
    looked_up: [IntCounter; LookUpOutcome::ALL.len()],
    written: [IntCounter; WriteOutcome::ALL.len()],
    look_up_seconds: Histogram,
    breaker_open: IntGauge,
    _registration: Registration,
}

impl StoreMetrics {
    /// Registers `stek_sessions_put_total`, `stek_sessions_looked_up_total`,
    /// `stek_sessions_written_total`, `stek_session_look_up_seconds` and
    /// `stek_session_breaker_open`. The keyset is a label of each; every outcome shows from the
    /// start, at zero. The last three stay at zero with a backend that does no I/O.
    ///
    /// # Errors
    /// [`prometheus::Error`] if the registry has them for this keyset already.
    pub fn register(registry: &Registry, keyset: &KeysetName) -> Result<Self, prometheus::Error> {
        let opts =
            |name: &str, help: &str| Opts::new(name, help).const_label("keyset", keyset.as_str());
        let counters = |name, help| IntCounterVec::new(opts(name, help), &["outcome"]);
        let put = counters(
            "stek_sessions_put_total",
            "Sessions to be kept, by what became of them; all but accepted: no ticket was sent",
        )?;
        let looked_up = counters(
            "stek_sessions_looked_up_total",
            "Sessions asked for, by the state of the key that opened them or by why none did; \
             opened is not yet resumed",
        )?;
        let written = counters(
            "stek_sessions_written_total",
            "Accepted sessions, by whether the backend confirmed that it has them",
        )?;
        let look_up_seconds = Histogram::with_opts(
            HistogramOpts::from(opts(
                "stek_session_look_up_seconds",
                "Seconds for which a look-up held the thread of its handshake",
            ))
            .buckets(LOOK_UP_BUCKETS.to_vec()),
        )?;
        let breaker_open = IntGauge::with_opts(opts(
            "stek_session_breaker_open",
            "1 while the backend is not asked because it did not answer, else 0",
        ))?;
        let mut registration = Registration::new(registry);
        registration.add(&put)?;
        registration.add(&looked_up)?;
        registration.add(&written)?;
        registration.add(&look_up_seconds)?;
        registration.add(&breaker_open)?;
        Ok(Self(Arc::new(Series {
            put: PutOutcome::ALL.map(|outcome| put.with_label_values(&[outcome.as_str()])),
            looked_up: LookUpOutcome::ALL
                .map(|outcome| looked_up.with_label_values(&[outcome.as_str()])),
            written: WriteOutcome::ALL
                .map(|outcome| written.with_label_values(&[outcome.as_str()])),
            look_up_seconds,
            breaker_open,
            _registration: registration,
        })))
    }

    pub(crate) fn count_put(&self, outcome: PutOutcome) {
        self.0.put[outcome as usize].inc();
    }

    pub(crate) fn count_look_up(&self, outcome: LookUpOutcome) {
        self.0.looked_up[outcome as usize].inc();
    }

    #[cfg(feature = "redis")]
    pub(crate) fn count_written(&self, outcome: WriteOutcome, sessions: usize) {
        self.0.written[outcome as usize].inc_by(sessions as u64);
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

impl fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreMetrics").finish_non_exhaustive()
    }
}

/// An enum of outcomes with its label values; `ALL` in the order of the discriminants, by which
/// counters are found.
macro_rules! outcomes {
    ($(#[$doc:meta])* $name:ident { $($outcome:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum $name { $($outcome,)+ }

        impl $name {
            const ALL: [Self; [$($label),+].len()] = [$(Self::$outcome,)+];

            const fn as_str(self) -> &'static str {
                match self { $(Self::$outcome => $label,)+ }
            }
        }
    };
}

outcomes! {
    /// What became of a session that was to be kept.
    PutOutcome {
        Accepted = "accepted",
        NoActiveKey = "no-active-key",
        TooLong = "too-long",
        NoRandomness = "no-randomness",
        SessionTooOld = "session-too-old",
        KeyLength = "key-length",
        Unreadable = "unreadable",
        NotTls13 = "not-tls13",
        ClientCertificate = "client-certificate",
        NoConnection = "no-connection",
        QueueFull = "queue-full",
        BreakerOpen = "breaker-open",
    }
}

outcomes! {
    /// What became of a session that was asked for.
    LookUpOutcome {
        Active = "active",
        DecryptOnly = "decrypt-only",
        Pending = "pending",
        Absent = "absent",
        Malformed = "malformed",
        Unknown = "unknown",
        Expired = "expired",
        Revoked = "revoked",
        Forged = "forged",
        FromTheFuture = "from-the-future",
        SessionTooOld = "session-too-old",
        Swapped = "swapped",
        KeyLength = "key-length",
        NotTls13 = "not-tls13",
        NoConnection = "no-connection",
        NotTheFirst = "not-the-first",
        NoKeys = "no-keys",
        TimedOut = "timed-out",
        Unavailable = "unavailable",
        Busy = "busy",
        BreakerOpen = "breaker-open",
    }
}

outcomes! {
    /// What became of a session after it was accepted.
    WriteOutcome {
        Written = "written",
        Failed = "failed",
    }
}

impl From<SealMiss> for PutOutcome {
    fn from(miss: SealMiss) -> Self {
        match miss {
            SealMiss::NoActiveKey => Self::NoActiveKey,
            SealMiss::SessionTooOld => Self::SessionTooOld,
            SealMiss::TooLong(_) => Self::TooLong,
        }
    }
}

impl From<PutError> for PutOutcome {
    fn from(error: PutError) -> Self {
        match error {
            PutError::QueueFull => Self::QueueFull,
            PutError::BreakerOpen => Self::BreakerOpen,
        }
    }
}

impl From<&Opened> for LookUpOutcome {
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

impl From<OpenMiss> for LookUpOutcome {
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

impl From<LookUpError> for LookUpOutcome {
    fn from(error: LookUpError) -> Self {
        match error {
            LookUpError::TimedOut => Self::TimedOut,
            LookUpError::Unavailable => Self::Unavailable,
            LookUpError::Busy => Self::Busy,
            LookUpError::BreakerOpen => Self::BreakerOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_shows_from_the_start_and_leaves_with_the_last_clone() {
        let registry = Registry::new();
        let web = KeysetName::try_new("web").unwrap();
        let metrics = StoreMetrics::register(&registry, &web).unwrap();
        StoreMetrics::register(&registry, &web).unwrap_err();
        let samples: Vec<_> = registry
            .gather()
            .iter()
            .map(|family| (family.name().to_owned(), family.get_metric().len()))
            .collect();
        let expected = [
            ("stek_session_breaker_open", 1),
            ("stek_session_look_up_seconds", 1),
            ("stek_sessions_looked_up_total", LookUpOutcome::ALL.len()),
            ("stek_sessions_put_total", PutOutcome::ALL.len()),
            ("stek_sessions_written_total", WriteOutcome::ALL.len()),
        ];
        assert_eq!(samples, expected.map(|(name, count)| (name.to_owned(), count)));
        drop(metrics);
        assert!(registry.gather().is_empty());
    }
}
