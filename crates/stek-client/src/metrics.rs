//! What a follower counts. All series carry the keyset as a label, so that one process can follow
//! several; for the feed it is empty, which Prometheus takes for no label at all.

use prometheus::core::Collector;
use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, Opts, Registry};
use stek_core::id::Revision;
use stek_core::time::{Seconds, Timestamp};

use crate::content::{Rejected, Source};

/// How a poll can end.
///
/// `changed`, `not-modified`: a success. `refused`, `busy`: what the server said. `unreachable`: no
/// answer. `invalid`, `rejected`: an answer or content that is not accepted. `unfit`: a difference
/// to another state; `behind`: an upstream that has not got as far.
pub(crate) const OUTCOMES: [&str; 9] = [
    "changed",
    "not-modified",
    "refused",
    "busy",
    "unreachable",
    "invalid",
    "rejected",
    "unfit",
    "behind",
];

/// The series of one follower; they leave the registry with it.
pub(crate) struct Metrics {
    polls: IntCounterVec,
    last_success: IntGauge,
    database_read: IntGauge,
    refused_bundles: IntCounterVec,
    installed_revision: IntGauge,
    step_refusals: IntCounter,
    last_key_end: IntGauge,
    least_span: IntGauge,
    clock_offset: Gauge,
    stalls: IntCounter,
    _registration: Registration,
}

impl Metrics {
    /// Registers the series of whoever follows `source`.
    ///
    /// # Errors
    /// If the registry has them already.
    pub(crate) fn register(
        registry: &Registry,
        source: &Source,
    ) -> Result<Self, prometheus::Error> {
        let opts =
            |name: &str, help: &str| Opts::new(name, help).const_label("keyset", source.keyset());
        let gauge = |name, help| IntGauge::with_opts(opts(name, help));
        let counters = |name, help, label| IntCounterVec::new(opts(name, help), &[label]);
        let mut registration = Registration { registry: registry.clone(), collectors: vec![] };
        let metrics = Self {
            polls: registration.add(counters(
                "stek_client_polls_total",
                "Polls by outcome.",
                "outcome",
            )?)?,
            last_success: registration.add(gauge(
                "stek_client_last_success_timestamp_seconds",
                "Fleet time of the last poll that confirmed or renewed what is installed.",
            )?)?,
            database_read: registration.add(gauge(
                "stek_client_database_read_timestamp_seconds",
                "Fleet time at which the database was last read, as upstreams say; 0 if unknown.",
            )?)?,
            refused_bundles: registration.add(counters(
                "stek_client_refused_bundles_total",
                "Content that came and was not installed, by cause.",
                "cause",
            )?)?,
            installed_revision: registration
                .add(gauge("stek_client_installed_revision", "Revision installed.")?)?,
            step_refusals: registration.add(IntCounter::with_opts(opts(
                "stek_client_fleet_time_step_refusals_total",
                "Readings of fleet time that were not followed because they stepped.",
            ))?)?,
            last_key_end: registration.add(gauge(
                "stek_client_last_key_end_timestamp_seconds",
                "When the last key held ends; after it nothing opens. 0 without keys.",
            )?)?,
            least_span: registration.add(gauge(
                "stek_client_least_key_span_seconds",
                "How long keys last at the least while new ones come, by the policy of the last.",
            )?)?,
            clock_offset: registration.add(Gauge::with_opts(opts(
                "stek_client_clock_offset_seconds",
                "How far the machine's wall clock is ahead of fleet time; nothing goes by it.",
            ))?)?,
            stalls: registration.add(IntCounter::with_opts(opts(
                "stek_client_stalls_total",
                "Times the follower stood still for longer than the clock skew, as in a suspend.",
            ))?)?,
            _registration: registration,
        };
        for outcome in OUTCOMES {
            metrics.polls.with_label_values(&[outcome]);
        }
        for cause in Rejected::CAUSES {
            metrics.refused_bundles.with_label_values(&[cause]);
        }
        Ok(metrics)
    }

    pub(crate) fn count_poll(&self, outcome: &'static str) {
        self.polls.with_label_values(&[outcome]).inc();
    }

    pub(crate) fn set_last_success(&self, at: Timestamp) {
        self.last_success.set(gauge_value(at.as_unix()));
    }

    pub(crate) fn set_database_read(&self, at: Option<Timestamp>) {
        self.database_read.set(at.map_or(0, |at| gauge_value(at.as_unix())));
    }

    pub(crate) fn count_refused(&self, rejected: &Rejected) {
        self.refused_bundles.with_label_values(&[rejected.cause()]).inc();
    }

    pub(crate) fn set_installed_revision(&self, revision: Revision) {
        self.installed_revision.set(gauge_value(revision.as_u64()));
    }

    pub(crate) fn count_step_refusal(&self) {
        self.step_refusals.inc();
    }

    pub(crate) fn set_clock_offset(&self, millis: i64) {
        // Exact: offsets of 2⁵² ms and more are of clocks that are beyond telling how wrong.
        #[allow(clippy::cast_precision_loss, reason = "exact for 140,000 years")]
        self.clock_offset.set(millis as f64 / 1000.0);
    }

    pub(crate) fn count_stall(&self) {
        self.stalls.inc();
    }

    pub(crate) fn set_last_key_end(&self, at: Option<Timestamp>) {
        self.last_key_end.set(at.map_or(0, |at| gauge_value(at.as_unix())));
    }

    pub(crate) fn set_least_span(&self, span: Seconds) {
        self.least_span.set(gauge_value(span.as_secs()));
    }
}

fn gauge_value(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// What was added to a registry, and is taken out again on drop.
struct Registration {
    registry: Registry,
    collectors: Vec<Box<dyn Collector>>,
}

impl Registration {
    fn add<C: Collector + Clone + 'static>(
        &mut self,
        collector: C,
    ) -> Result<C, prometheus::Error> {
        self.registry.register(Box::new(collector.clone()))?;
        self.collectors.push(Box::new(collector.clone()));
        Ok(collector)
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
    use stek_core::name::KeysetName;

    use super::*;

    #[test]
    fn several_keysets_and_the_feed_share_a_registry_and_leave_it() {
        let registry = Registry::new();
        let keyset = |name| Source::Keyset(KeysetName::try_new(name).unwrap());
        let main = Metrics::register(&registry, &keyset("main")).unwrap();
        let feed = Metrics::register(&registry, &Source::Feed).unwrap();
        assert!(Metrics::register(&registry, &keyset("main")).is_err());
        let other = Metrics::register(&registry, &keyset("other")).unwrap();
        let families = registry.gather();
        assert_eq!(families.len(), 10);
        assert!(families.iter().all(|family| family.name().starts_with("stek_client_")));
        assert!(families.iter().all(|family| family.get_metric().len() % 3 == 0));
        drop((main, feed, other));
        assert!(registry.gather().is_empty());
        assert!(Metrics::register(&registry, &keyset("main")).is_ok());
    }

    #[test]
    fn every_outcome_and_cause_is_there_from_the_start() {
        let registry = Registry::new();
        let _metrics = Metrics::register(&registry, &Source::Feed).unwrap();
        let count = |name: &str| {
            let families = registry.gather();
            families.iter().find(|family| family.name() == name).unwrap().get_metric().len()
        };
        assert_eq!(count("stek_client_polls_total"), OUTCOMES.len());
        assert_eq!(count("stek_client_refused_bundles_total"), Rejected::CAUSES.len());
    }
}
