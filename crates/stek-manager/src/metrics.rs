//! The manager's metrics.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};
use stek_core::feed::FeedState;
use stek_core::planner;
use stek_core::schedule::KeyState;
use stek_core::time::Timestamp;

pub(crate) struct ManagerMetrics {
    pub(crate) passes: IntCounterVec,
    pub(crate) last_pass: IntGauge,
    pub(crate) next_due: IntGauge,
    pub(crate) ratchet_epoch: IntGauge,
    pub(crate) clock_disagreement: Gauge,
    pub(crate) unpublishable: IntCounter,
    pub(crate) unwrap_failures: IntCounter,
    pub(crate) keyset_failures: IntCounter,
    keys: IntGaugeVec,
    keysets: IntGauge,
    revision: IntGauge,
}

impl ManagerMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let gauge = |name, help| register(registry, IntGauge::new(name, help)?);
        let counter = |name, help| register(registry, IntCounter::new(name, help)?);
        Ok(Self {
            passes: register(
                registry,
                IntCounterVec::new(
                    Opts::new("stek_manager_passes_total", "Passes of the reconcile loop."),
                    &["outcome"],
                )?,
            )?,
            last_pass: gauge(
                "stek_manager_last_pass_timestamp_seconds",
                "When the last pass succeeded.",
            )?,
            next_due: gauge(
                "stek_manager_next_due_timestamp_seconds",
                "When the next keyset is due.",
            )?,
            ratchet_epoch: gauge("stek_manager_ratchet_epoch", "Epoch of the ratchet, in hours since 1970.")?,
            clock_disagreement: register(
                registry,
                Gauge::new(
                    "stek_manager_clock_disagreement_seconds",
                    "How far the database's clock and ours lie apart.",
                )?,
            )?,
            unpublishable: counter(
                "stek_manager_unpublishable_keysets_total",
                "Times a keyset could not be published.",
            )?,
            unwrap_failures: counter(
                "stek_manager_unwrap_failures_total",
                "Times a stored key could not be unwrapped.",
            )?,
            keyset_failures: counter(
                "stek_manager_keyset_failures_total",
                "Times a plan for a keyset could not be carried out.",
            )?,
            keys: register(
                registry,
                IntGaugeVec::new(Opts::new("stek_manager_keys", "Live keys by state."), &["state"])?,
            )?,
            keysets: gauge("stek_manager_keysets", "Keysets that are published.")?,
            revision: gauge("stek_manager_revision", "Newest published revision.")?,
        })
    }

    pub(crate) fn observe_feed(&self, feed: &FeedState, now: Timestamp) {
        self.keysets.set(i64::try_from(feed.keysets.len()).unwrap_or(i64::MAX));
        self.revision.set(i64::try_from(feed.revision.as_u64()).unwrap_or(i64::MAX));
        for state in [KeyState::Pending, KeyState::Active, KeyState::DecryptOnly] {
            let bundles = feed.keysets.values();
            let keys = bundles.flat_map(|bundle| planner::states(bundle.keyset(), now));
            let count = keys.filter(|key| *key == state).count();
            self.keys
                .with_label_values(&[state.as_str()])
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

fn register<C>(registry: &Registry, collector: C) -> Result<C, prometheus::Error>
where
    C: prometheus::core::Collector + Clone + 'static,
{
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
