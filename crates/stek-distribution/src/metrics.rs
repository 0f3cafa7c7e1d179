//! The metrics of a distribution replica.

use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGauge, Opts, Registry};
use stek_core::feed::FeedState;

pub(crate) struct DistributionMetrics {
    pub(crate) bundles: IntCounterVec,
    pub(crate) feeds: IntCounterVec,
    pub(crate) waiting: IntGauge,
    keysets: IntGauge,
    revision: IntGauge,
}

impl DistributionMetrics {
    pub(crate) fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counter = |name, help| IntCounterVec::new(Opts::new(name, help), &["outcome"]);
        Ok(Self {
            bundles: add(
                registry,
                counter("stek_distribution_bundles_total", "Bundles asked for, by outcome.")?,
            )?,
            feeds: add(
                registry,
                counter("stek_distribution_feeds_total", "Feeds asked for, by outcome.")?,
            )?,
            waiting: add(
                registry,
                IntGauge::new("stek_distribution_waiting", "Requests that wait for a change.")?,
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

    pub(crate) fn observe(&self, feed: &FeedState) {
        self.keysets.set(i64::try_from(feed.keysets.len()).unwrap_or(i64::MAX));
        self.revision.set(i64::try_from(feed.revision.as_u64()).unwrap_or(i64::MAX));
    }
}

fn add<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}
