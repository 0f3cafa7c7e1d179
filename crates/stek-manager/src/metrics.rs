//! The manager's metrics. Alert on what fails to happen, such as a coverage that runs out, not only
//! on errors.

pub(crate) mod unconfirmed;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use prometheus::{
    Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use stek_core::audit::{AuditAction, ChainLink};
use stek_core::feed::FeedState;
use stek_core::schedule::KeyState;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::Epoch;
use stek_store::ClusterState;

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

    pub(crate) const fn as_str(self) -> &'static str {
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
    pub(crate) unsound_access: IntGauge,
    pub(crate) unsound_keysets: IntGauge,
    pub(crate) audit: AuditGauges,
    pub(crate) keyset_failures: IntCounter,
    pub(crate) ratchet_failures: IntCounter,
    pub(crate) unpublishable: IntCounter,
    pub(crate) unwrap_failures: IntCounter,
    forced_activations: IntCounter,
    rescheduled: IntCounter,
    pub(crate) keys_proven_destroyed: IntCounter,
    passes: IntCounterVec,
    last_pass: IntGauge,
    next_due: IntGauge,
    ratchet_epoch: IntGauge,
    ratchet: RatchetGauges,
    clock_disagreement: Gauge,
    pub(crate) pass_seconds: Histogram,
    published: PublishedGauges,
    counted: Mutex<Option<Counted>>,
    head: Mutex<Option<(u64, ChainLink)>>,
    seen: Seen,
}

/// What was seen and is not exported, for the status page.
#[derive(Default)]
struct Seen {
    /// The most lines that the audit trail had.
    audit_lines: AtomicU64,
    /// When a key last activated though instances were known to lack it; 0 if none did.
    forced_at: AtomicU64,
    ratchet: Mutex<RatchetView>,
}

impl ManagerMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        let counter = |name, help| add(registry, IntCounter::new(name, help)?);
        let disagreement = "How far the database's clock and ours lay apart when last read.";
        Ok(Self {
            forged_rows: gauge(
                "stek_manager_forged_rows",
                "Tokens and grants in the database whose seal does not hold.",
            )?,
            unsound_access: gauge(
                "stek_manager_unreadable_access_rows",
                "Tokens and grants in the database that cannot be read.",
            )?,
            unsound_keysets: gauge(
                "stek_manager_unreadable_keysets",
                "Keysets that are due and cannot be read from the database.",
            )?,
            audit: AuditGauges::register(registry)?,
            keyset_failures: counter(
                "stek_manager_keyset_failures_total",
                "Times a plan for a keyset could not be carried out.",
            )?,
            ratchet_failures: counter(
                "stek_manager_ratchet_failures_total",
                "Times the ratchet could not be advanced, or a state that ended not erased.",
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
            forced_activations: counter(
                "stek_manager_forced_activations_total",
                "Keys that activated though instances were known to lack them.",
            )?,
            rescheduled: counter(
                "stek_manager_rescheduled_keys_total",
                "Keys that the planner rescheduled, as when an activation is postponed.",
            )?,
            passes: passes(registry)?,
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
            pass_seconds: pass_seconds(registry)?,
            counted: Mutex::default(),
            head: Mutex::default(),
            seen: Seen::default(),
            published: PublishedGauges::register(registry)?,
        })
    }

    /// When a pass last succeeded.
    pub(crate) fn succeeded_at(&self) -> Option<Timestamp> {
        u64::try_from(self.last_pass.get()).ok().filter(|at| *at > 0).map(Timestamp::from_unix)
    }

    /// How far the clocks lay apart when last read.
    pub(crate) fn clocks_apart(&self) -> Duration {
        Duration::try_from_secs_f64(self.clock_disagreement.get()).unwrap_or_default()
    }

    /// Counts what the planner did that an operator may want to hear of.
    pub(crate) fn observe_event(&self, action: AuditAction, at: Timestamp) {
        match action {
            AuditAction::ActivationForced => {
                self.forced_activations.inc();
                self.seen.forced_at.store(at.as_unix(), Relaxed);
            }
            AuditAction::KeyRescheduled => self.rescheduled.inc(),
            _ => {}
        }
    }

    /// When a key last activated though instances were known to lack it.
    pub(crate) fn forced_at(&self) -> Option<Timestamp> {
        Some(self.seen.forced_at.load(Relaxed)).filter(|at| *at > 0).map(Timestamp::from_unix)
    }

    /// How many lines the audit trail had that it has no more.
    pub(crate) fn lost_audit_lines(&self) -> u64 {
        let lines = u64::try_from(self.audit.lines.get()).unwrap_or(0);
        self.seen.audit_lines.load(Relaxed).saturating_sub(lines)
    }

    /// Where the managers are with the ratchet, as of the last pass that could tell.
    pub(crate) fn ratchet(&self) -> RatchetView {
        *self.seen.ratchet.lock().unwrap_or_else(PoisonError::into_inner)
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

    pub(crate) fn observe_expiry(&self, first: Option<Timestamp>) {
        self.published.token_expiry.set(first.map_or(0, |at| signed(at.as_unix())));
    }

    /// Logs and exports the head of the audit chain, as an anchor that is kept outside the database.
    pub(crate) fn observe_audit(&self, cluster: &ClusterState) {
        let head = (cluster.audit_sequence, cluster.audit_head);
        let before = self.head.lock().unwrap_or_else(PoisonError::into_inner).replace(head);
        if before == Some(head) {
            return;
        }
        let (sequence, link) = (cluster.audit_sequence, cluster.audit_head.to_string());
        tracing::info!(sequence, link, "audit chain");
        self.audit.lines.set(signed(sequence));
        self.seen.audit_lines.fetch_max(sequence, Relaxed);
        self.audit.head.reset();
        self.audit.head.with_label_values(&[&link]).set(1);
    }

    pub(crate) fn observe_ratchet(&self, view: RatchetView) {
        let gauges = &self.ratchet;
        gauges.replicas.set(count(view.replicas));
        gauges.behind.set(signed(view.behind));
        gauges.unproven.set(count(view.unproven));
        gauges.changing.set(i64::from(view.changing_since.is_some()));
        gauges.previous_secret_needed.set(i64::from(view.previous_secret_needed));
        *self.seen.ratchet.lock().unwrap_or_else(PoisonError::into_inner) = view;
    }

    pub(crate) fn observe_due(&self, now: Timestamp, due: Option<Timestamp>) {
        self.last_pass.set(signed(now.as_unix()));
        self.next_due.set(due.map_or(0, |due| signed(due.as_unix())));
    }

    /// Counts what is published. As long as that is the same and no key turns from one state to the
    /// next, only the coverage is less.
    pub(crate) fn observe_feed(&self, feed: &Arc<FeedState>, now: Timestamp) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let same = counted.as_ref().is_some_and(|last| {
            last.feed.upgrade().is_some_and(|old| Arc::ptr_eq(&old, feed))
                && last.at <= now
                && now < last.next_turn
        });
        if !same {
            *counted = Some(self.count_feed(feed, now));
        }
        let until = counted.as_ref().map_or(now, |last| last.covered_until);
        self.published.coverage.set(signed(until.since(now).as_secs()));
    }

    fn count_feed(&self, feed: &Arc<FeedState>, now: Timestamp) -> Counted {
        let (mut keysets, mut unsealed, mut states) = (0, 0, [0; STATES.len()]);
        let (mut next_turn, mut covered_until) = (Timestamp::MAX, Timestamp::MAX);
        for keyset in feed.keysets.values().map(|bundle| bundle.keyset()) {
            keysets += 1;
            let coverage = keyset.covered_from(now);
            unsealed += usize::from(coverage == Seconds::ZERO);
            covered_until = covered_until.min(now + coverage);
            for key in keyset.keys() {
                let schedule = &key.schedule;
                let state = schedule.state(now);
                if let Some(place) = STATES.iter().position(|one| *one == state) {
                    states[place] += 1;
                }
                let turns = [schedule.activate_at(), schedule.retire_at(), schedule.destroy_at()];
                next_turn = turns.into_iter().filter(|at| *at > now).fold(next_turn, Ord::min);
            }
        }
        self.published.keysets.set(count(keysets));
        self.published.unsealed.set(count(unsealed));
        self.published.revision.set(signed(feed.revision.as_u64()));
        for (state, keys) in STATES.into_iter().zip(states) {
            self.published.keys.with_label_values(&[state.as_str()]).set(count(keys));
        }
        if keysets == 0 {
            covered_until = now;
        }
        Counted { feed: Arc::downgrade(feed), at: now, next_turn, covered_until }
    }
}

/// What was counted last, and how long it stays so.
struct Counted {
    feed: Weak<FeedState>,
    at: Timestamp,
    /// When the next key turns from one state to another.
    next_turn: Timestamp,
    /// Until when every keyset seals without a break.
    covered_until: Timestamp,
}

fn passes(registry: &Registry) -> Result<IntCounterVec, prometheus::Error> {
    let passes = Opts::new("stek_manager_passes_total", "Passes of the reconcile loop.");
    let passes = add(registry, IntCounterVec::new(passes, &["outcome"])?)?;
    for outcome in Outcome::ALL {
        // A counter that appears with its first failure hides that one from `rate`.
        passes.with_label_values(&[outcome.as_str()]);
    }
    Ok(passes)
}

fn pass_seconds(registry: &Registry) -> Result<Histogram, prometheus::Error> {
    let help = "How long passes of the reconcile loop took that succeeded.";
    let options = HistogramOpts::new("stek_manager_pass_duration_seconds", help);
    let buckets = vec![0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0];
    add(registry, Histogram::with_opts(options.buckets(buckets))?)
}

fn audit_head(registry: &Registry) -> Result<IntGaugeVec, prometheus::Error> {
    let help = "Head of the audit chain as of the last pass, as a label; always 1.";
    let options = Opts::new("stek_manager_audit_head_info", help);
    add(registry, IntGaugeVec::new(options, &["link"])?)
}

/// Where the managers are with the ratchet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RatchetView {
    pub(crate) replicas: usize,
    /// How many epochs the slowest is behind.
    pub(crate) behind: u64,
    /// How many were last seen with a seed that has ended.
    pub(crate) unproven: usize,
    /// Since when one seed takes another's place, if one does.
    pub(crate) changing_since: Option<Timestamp>,
    pub(crate) previous_secret_needed: bool,
}

struct PublishedGauges {
    keys: IntGaugeVec,
    keysets: IntGauge,
    unsealed: IntGauge,
    coverage: IntGauge,
    revision: IntGauge,
    token_expiry: IntGauge,
}

impl PublishedGauges {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        let keys = Opts::new("stek_manager_keys", "Live keys by state.");
        let keys = add(registry, IntGaugeVec::new(keys, &["state"])?)?;
        for state in STATES {
            keys.with_label_values(&[state.as_str()]);
        }
        Ok(Self {
            keys,
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
            token_expiry: gauge(
                "stek_manager_next_token_expiry_timestamp_seconds",
                "When the first of the tokens in force expires, 0 if there is none.",
            )?,
        })
    }
}

pub(crate) struct AuditGauges {
    lines: IntGauge,
    /// One series at a time, named by the newest link.
    head: IntGaugeVec,
    pub(crate) verified: IntGauge,
    pub(crate) broken: IntGauge,
}

impl AuditGauges {
    fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| add(registry, IntGauge::new(name, help)?);
        Ok(Self {
            lines: gauge("stek_manager_audit_lines", "Lines that the audit trail ever had.")?,
            head: audit_head(registry)?,
            verified: gauge(
                "stek_manager_audit_verified_lines",
                "Line up to which this manager has verified the audit trail in the present round.",
            )?,
            broken: gauge(
                "stek_manager_audit_broken",
                "1 while the audit trail does not hold, as far as this manager has verified it.",
            )?,
        })
    }
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

#[cfg(test)]
mod tests {
    use stek_core::id::{Incarnation, Revision};

    use super::*;

    /// As after a restore that has as many lines.
    #[test]
    fn another_head_is_exported_though_the_trail_is_as_long() {
        let registry = Registry::new();
        let metrics = ManagerMetrics::register(&registry).unwrap();
        let (incarnation, revision) = (Incarnation::from_bytes([7; 16]), Revision::new(1));
        for byte in [1, 2] {
            let audit_head = ChainLink::from_bytes([byte; 32]);
            let head = ClusterState {
                incarnation,
                revision,
                access_revision: revision,
                audit_sequence: 7,
                audit_head,
            };
            metrics.observe_audit(&head);
            let link = audit_head.to_string();
            assert_eq!(metrics.audit.head.with_label_values(&[&link]).get(), 1);
        }
    }
}
