//! The manager's metrics. Alert on what fails to happen, such as a coverage that runs out, not only
//! on errors.

use std::time::Duration;

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use stek_core::feed::FeedState;
use stek_core::planner;
use stek_core::schedule::KeyState;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::Epoch;

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Clock,
    Store,
    Behind,
    Ratchet,
    Failed,
    Panicked,
    TimedOut,
}

impl Outcome {
    const ALL: [Self; 8] = [
        Self::Succeeded,
        Self::Clock,
        Self::Store,
        Self::Behind,
        Self::Ratchet,
        Self::Failed,
        Self::Panicked,
        Self::TimedOut,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Clock => "clock",
            Self::Store => "store",
            Self::Behind => "behind",
            Self::Ratchet => "ratchet",
            Self::Failed => "failed",
            Self::Panicked => "panicked",
            Self::TimedOut => "timed-out",
        }
    }
}

const STATES: [KeyState; 3] = [KeyState::Pending, KeyState::Active, KeyState::DecryptOnly];

pub(crate) struct ManagerMetrics {
    pub(crate) forged_rows: IntGauge,
    pub(crate) keyset_failures: IntCounter,
    pub(crate) ratchet_failures: IntCounter,
    pub(crate) unpublishable: IntCounter,
    pub(crate) unwrap_failures: IntCounter,
    pub(crate) keys_proven_destroyed: IntCounter,
    passes: IntCounterVec,
    last_pass: IntGauge,
    next_due: IntGauge,
    ratchet_epoch: IntGauge,
    ratchet: RatchetGauges,
    clock_disagreement: Gauge,
    keys: IntGaugeVec,
    keysets: IntGauge,
    unsealed: IntGauge,
    coverage: IntGauge,
    revision: IntGauge,
}

impl ManagerMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        let counter = |name, help| add(registry, IntCounter::new(name, help)?);
        let passes = Opts::new("stek_manager_passes_total", "Passes of the reconcile loop.");
        let passes = add(registry, IntCounterVec::new(passes, &["outcome"])?)?;
        for outcome in Outcome::ALL {
            // A counter that appears with its first failure hides that one from `rate`.
            passes.with_label_values(&[outcome.as_str()]);
        }
        let disagreement = "How far the database's clock and ours lay apart when last read.";
        let keys = Opts::new("stek_manager_keys", "Live keys by state.");
        Ok(Self {
            forged_rows: gauge(
                "stek_manager_forged_rows",
                "Tokens and grants in the database whose seal does not hold.",
            )?,
            keyset_failures: counter(
                "stek_manager_keyset_failures_total",
                "Times a plan for a keyset could not be carried out.",
            )?,
            ratchet_failures: counter(
                "stek_manager_ratchet_failures_total",
                "Times the ratchet could not be advanced.",
            )?,
            unpublishable: counter(
                "stek_manager_unpublishable_keysets_total",
                "Times a keyset could not be published.",
            )?,
            unwrap_failures: counter(
                "stek_manager_unwrap_failures_total",
                "Times a stored key could not be unwrapped.",
            )?,
            keys_proven_destroyed: counter(
                "stek_manager_keys_proven_destroyed_total",
                "Ended keys that no known manager can unwrap any more, noted by this one.",
            )?,
            passes,
            last_pass: gauge(
                "stek_manager_last_pass_timestamp_seconds",
                "When the last pass succeeded.",
            )?,
            next_due: gauge(
                "stek_manager_next_due_timestamp_seconds",
                "When the next keyset is due, 0 if there is none.",
            )?,
            ratchet_epoch: gauge(
                "stek_manager_ratchet_epoch",
                "Epoch of the ratchet, in hours since 1970.",
            )?,
            ratchet: RatchetGauges::register(registry)?,
            clock_disagreement: add(
                registry,
                Gauge::new("stek_manager_clock_disagreement_seconds", disagreement)?,
            )?,
            keys: add(registry, IntGaugeVec::new(keys, &["state"])?)?,
            keysets: gauge("stek_manager_keysets", "Keysets that are published.")?,
            unsealed: gauge(
                "stek_manager_unsealed_keysets",
                "Published keysets of which no key seals now.",
            )?,
            coverage: gauge(
                "stek_manager_least_coverage_seconds",
                "Shortest time from now in which published keys of a keyset seal without a break.",
            )?,
            revision: gauge("stek_manager_revision", "Newest published revision.")?,
        })
    }

    pub(crate) fn passes(&self, outcome: Outcome) -> IntCounter {
        self.passes.with_label_values(&[outcome.as_str()])
    }

    pub(crate) fn observe_clocks(&self, apart_millis: u64) {
        self.clock_disagreement.set(Duration::from_millis(apart_millis).as_secs_f64());
    }

    pub(crate) fn observe_epoch(&self, epoch: Epoch) {
        self.ratchet_epoch.set(signed(epoch.as_u64()));
    }

    pub(crate) fn observe_ratchet(&self, view: RatchetView) {
        let gauges = &self.ratchet;
        gauges.replicas.set(count(view.replicas));
        gauges.behind.set(signed(view.behind));
        gauges.unproven.set(count(view.unproven));
        gauges.changing.set(i64::from(view.changing));
        gauges.previous_secret_needed.set(i64::from(view.previous_secret_needed));
    }

    pub(crate) fn observe_due(&self, now: Timestamp, due: Option<Timestamp>) {
        self.last_pass.set(signed(now.as_unix()));
        self.next_due.set(due.map_or(0, |due| signed(due.as_unix())));
    }

    pub(crate) fn observe_feed(&self, feed: &FeedState, now: Timestamp) {
        let keysets = || feed.keysets.values().map(|bundle| bundle.keyset());
        self.keysets.set(count(keysets().count()));
        self.revision.set(signed(feed.revision.as_u64()));
        for state in STATES {
            let keys = keysets().flat_map(|keyset| planner::states(keyset, now));
            let label = self.keys.with_label_values(&[state.as_str()]);
            label.set(count(keys.filter(|key| *key == state).count()));
        }
        self.unsealed.set(count(keysets().filter(|keyset| keyset.active(now).is_none()).count()));
        let coverage = keysets().map(|keyset| keyset.covered_from(now)).min();
        self.coverage.set(signed(coverage.unwrap_or(Seconds::ZERO).as_secs()));
    }
}

/// Where the managers are with the ratchet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RatchetView {
    pub(crate) replicas: usize,
    /// How many epochs the slowest is behind.
    pub(crate) behind: u64,
    /// How many were last seen with a seed that has ended.
    pub(crate) unproven: usize,
    /// Whether seeds are changing.
    pub(crate) changing: bool,
    pub(crate) previous_secret_needed: bool,
}

struct RatchetGauges {
    replicas: IntGauge,
    behind: IntGauge,
    unproven: IntGauge,
    changing: IntGauge,
    previous_secret_needed: IntGauge,
}

impl RatchetGauges {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        Ok(Self {
            replicas: gauge(
                "stek_manager_ratchet_replicas",
                "Managers that hold a state of the ratchet.",
            )?,
            behind: gauge(
                "stek_manager_ratchet_behind_epochs",
                "How many hours the slowest manager's ratchet is behind.",
            )?,
            unproven: gauge(
                "stek_manager_ratchet_unproven_replicas",
                "Managers that have not said that they erased a seed that has ended.",
            )?,
            changing: gauge("stek_manager_reseeding", "1 while one seed takes another's place.")?,
            previous_secret_needed: gauge(
                "stek_manager_previous_cluster_secret_needed",
                "1 while the previous cluster secret must stay configured.",
            )?,
        })
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn add<C>(registry: &Registry, collector: C) -> Result<C, prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
