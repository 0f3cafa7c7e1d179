//! The metrics of a distribution replica. Refusals are counted with the other answers by status.

use std::collections::BTreeMap;
use std::sync::Arc;

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use stek_core::check_in::KeysetTally;
use stek_core::feed::FeedState;
use stek_core::name::KeysetName;

/// Answers of one endpoint to those who may have them.
pub(crate) struct Answers {
    pub(crate) changed: IntCounter,
    pub(crate) unchanged: IntCounter,
}

pub(crate) struct DistributionMetrics {
    pub(crate) bundles: Answers,
    pub(crate) feeds: Answers,
    pub(crate) reports: IntCounter,
    instances: IntGauge,
    lagging: IntGauge,
    waiting: IntGauge,
    keysets: IntGauge,
    revision: IntGauge,
}

impl DistributionMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            bundles: Answers::register(
                registry,
                "stek_distribution_bundles_total",
                "Bundles asked for, by outcome.",
            )?,
            feeds: Answers::register(
                registry,
                "stek_distribution_feeds_total",
                "Feeds asked for, by outcome.",
            )?,
            reports: add(
                registry,
                IntCounter::new(
                    "stek_distribution_reports_total",
                    "Reports of other replicas that were taken up.",
                )?,
            )?,
            instances: add(
                registry,
                IntGauge::new(
                    "stek_distribution_instances",
                    "Instances that poll here and count, over all keysets.",
                )?,
            )?,
            lagging: add(
                registry,
                IntGauge::new(
                    "stek_distribution_lagging_instances",
                    "Instances that hold less than the newest revision, over all keysets.",
                )?,
            )?,
            waiting: add(
                registry,
                IntGauge::new(
                    "stek_distribution_waiting_requests",
                    "Requests that wait for a change.",
                )?,
            )?,
            keysets: add(
                registry,
                IntGauge::new("stek_distribution_keysets", "Keysets that are served.")?,
            )?,
            revision: add(
                registry,
                IntGauge::new("stek_distribution_revision", "Newest revision that is served.")?,
            )?,
        })
    }

    /// Counts one who waits, for as long as the guard is held.
    pub(crate) fn wait(&self) -> Waiting {
        self.waiting.inc();
        Waiting(self.waiting.clone())
    }

    pub(crate) fn observe_instances(&self, keysets: &BTreeMap<KeysetName, Arc<KeysetTally>>) {
        let standings = keysets.values().map(|tally| tally.standing(tally.newest));
        let (mut instances, mut lagging) = (0, 0);
        for standing in standings {
            instances += standing.instances;
            lagging += standing.lagging();
        }
        let uncounted: u64 = keysets.values().map(|tally| u64::from(tally.uncounted)).sum();
        self.instances.set(i64::try_from(instances).unwrap_or(i64::MAX));
        self.lagging.set(i64::try_from(lagging + uncounted).unwrap_or(i64::MAX));
    }

    pub(crate) fn observe(&self, feed: &FeedState) {
        self.keysets.set(i64::try_from(feed.keysets.len()).unwrap_or(i64::MAX));
        self.revision.set(i64::try_from(feed.revision.as_u64()).unwrap_or(i64::MAX));
    }
}

impl Answers {
    fn register(registry: &Registry, name: &str, help: &str) -> Result<Self, prometheus::Error> {
        let answers = add(registry, IntCounterVec::new(Opts::new(name, help), &["outcome"])?)?;
        let with = |outcome| answers.with_label_values(&[outcome]);
        Ok(Self { changed: with("changed"), unchanged: with("unchanged") })
    }
}

/// One who waits; also one who goes away while waiting is counted out.
pub(crate) struct Waiting(IntGauge);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
