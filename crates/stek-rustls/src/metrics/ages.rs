//! How old the keys of a process are and how long they last, worked out when somebody asks: a
//! number that is only written when keys come stands still when they stop coming, which is when it
//! matters.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use stek_clock::FleetClock;
use stek_core::bundle::Bundle;
use stek_core::name::KeysetName;
use stek_core::schedule::KeyState;
use stek_core::time::{Seconds, Timestamp};

use super::Registration;

/// The states of keys that are held.
const STATES: [KeyState; 3] = [KeyState::Pending, KeyState::Active, KeyState::DecryptOnly];

/// Where the keys of the moment are to be had, if there are any.
pub(crate) type Newest = Arc<dyn Fn() -> Option<Arc<Bundle>> + Send + Sync>;

/// The series of the keys of one keyset; they leave the registry with it.
pub(crate) struct KeyMetrics(#[allow(dead_code, reason = "held for its end")] Registration);

impl KeyMetrics {
    /// Registers `stek_keys_held`, `stek_key_age_seconds`, `stek_key_retire_timestamp_seconds` and
    /// `stek_keys_remaining_seconds`.
    pub(crate) fn register(
        registry: &Registry,
        keyset: &KeysetName,
        newest: Newest,
        clock: Arc<FleetClock>,
    ) -> Result<Self, prometheus::Error> {
        let mut registration = Registration::new(registry, keyset);
        registration.add(Ages::new(keyset, newest, clock)?)?;
        Ok(Self(registration))
    }
}

impl std::fmt::Debug for KeyMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyMetrics").finish_non_exhaustive()
    }
}

/// Whoever collects sets the numbers first.
#[derive(Clone)]
struct Ages {
    held: IntGaugeVec,
    age: IntGauge,
    retire: IntGauge,
    remaining: IntGauge,
    newest: Newest,
    clock: Arc<FleetClock>,
}

impl Ages {
    fn new(
        keyset: &KeysetName,
        newest: Newest,
        clock: Arc<FleetClock>,
    ) -> Result<Self, prometheus::Error> {
        let opts =
            |name: &str, help: &str| Opts::new(name, help).const_label("keyset", keyset.as_str());
        let held = opts("stek_keys_held", "Keys held for tickets, by state");
        let age = opts(
            "stek_key_age_seconds",
            "Seconds for which the key that seals has done so, -1 if none seals",
        );
        let retire = opts(
            "stek_key_retire_timestamp_seconds",
            "When the key that seals stops doing so, as its policy set it; 0 if none seals",
        );
        let remaining = opts(
            "stek_keys_remaining_seconds",
            "Seconds until the last key held ends and nothing opens any more, 0 without keys",
        );
        let held = IntGaugeVec::new(held, &["state"])?;
        let [age, retire, remaining] = [age, retire, remaining].map(IntGauge::with_opts);
        let (age, retire, remaining) = (age?, retire?, remaining?);
        Ok(Self { held, age, retire, remaining, newest, clock })
    }

    fn observe(&self, bundle: Option<&Bundle>, now: Timestamp) {
        let keyset = bundle.map(Bundle::keyset);
        for state in STATES {
            let keys = keyset.into_iter().flat_map(|keyset| keyset.keys());
            let states = keys.map(|key| key.schedule.state(now));
            let count = states.filter(|of| *of == state).count();
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.held.with_label_values(&[state.as_str()]).set(count);
        }
        let active = keyset.and_then(|keyset| keyset.active(now));
        self.age.set(active.map_or(-1, |key| signed(now.since(key.schedule.activate_at()))));
        let retire = active.map(|key| key.schedule.retire_at().since(Timestamp::EPOCH));
        self.retire.set(retire.map_or(0, signed));
        let end = bundle.and_then(Bundle::last_end);
        self.remaining.set(end.map_or(0, |end| signed(end.since(now))));
    }
}

impl Collector for Ages {
    fn desc(&self) -> Vec<&Desc> {
        let gauges = [&self.age, &self.retire, &self.remaining];
        gauges.into_iter().flat_map(Collector::desc).chain(self.held.desc()).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.observe((self.newest)().as_deref(), self.clock.now());
        let gauges = [&self.age, &self.retire, &self.remaining];
        gauges.into_iter().flat_map(Collector::collect).chain(self.held.collect()).collect()
    }
}

fn signed(span: Seconds) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::fixture::{HOUR, advance, bundle, clock, planned_key};

    fn samples(registry: &Registry) -> Vec<(String, i64)> {
        let families = registry.gather();
        let samples = families.iter().flat_map(|family| {
            family.get_metric().iter().map(|metric| {
                let labels = metric.get_label().iter().filter(|label| label.name() == "state");
                let state: String = labels.map(|label| format!(" {}", label.value())).collect();
                // Exact: whole numbers far below 2⁵².
                #[allow(clippy::cast_possible_truncation, reason = "whole and small")]
                let value = metric.get_gauge().get_value() as i64;
                (format!("{}{state}", family.name()), value)
            })
        });
        samples.collect()
    }

    #[test]
    fn ages_go_on_though_no_keys_come() {
        let (registry, manual) = (Registry::new(), clock());
        let fleet = Arc::<stek_clock::ManualClock>::clone(&manual);
        let fleet = Arc::new(FleetClock::new(fleet));
        let held = Arc::new(Mutex::new(None));
        let newest: Newest = {
            let held = Arc::clone(&held);
            Arc::new(move || held.lock().unwrap().clone())
        };
        let web = KeysetName::try_new("web").unwrap();
        let metrics = KeyMetrics::register(&registry, &web, newest, fleet).unwrap();
        let value = |name: &str| {
            samples(&registry).into_iter().find(|(of, _)| of == name).map(|(_, value)| value)
        };
        assert_eq!(value("stek_key_age_seconds"), Some(-1));
        assert_eq!(value("stek_key_retire_timestamp_seconds"), Some(0));
        assert_eq!(value("stek_keys_held pending"), Some(0));
        let bundle = Arc::new(bundle(1, &[planned_key(0)]));
        let lasts = |bundle: &Bundle| signed(bundle.last_end().unwrap().since(Timestamp::EPOCH));
        *held.lock().unwrap() = Some(Arc::clone(&bundle));
        let (age, left) =
            (value("stek_key_age_seconds").unwrap(), value("stek_keys_remaining_seconds").unwrap());
        assert_eq!(value("stek_keys_held active"), Some(1));
        assert!(left > 0 && left <= lasts(&bundle));
        let retires = bundle.keys()[0].record.schedule.retire_at().since(Timestamp::EPOCH);
        assert_eq!(value("stek_key_retire_timestamp_seconds"), Some(signed(retires)));
        advance(&manual, 60);
        assert_eq!(value("stek_key_age_seconds"), Some(age + 60));
        assert_eq!(value("stek_keys_remaining_seconds"), Some(left - 60));
        advance(&manual, 24 * HOUR);
        assert_eq!(value("stek_key_age_seconds"), Some(-1));
        assert_eq!(value("stek_key_retire_timestamp_seconds"), Some(0));
        assert_eq!(value("stek_keys_remaining_seconds"), Some(0));
        assert_eq!(value("stek_keys_held active"), Some(0));
        drop(metrics);
        assert!(registry.gather().is_empty());
    }
}
