//! How old the keys of a process are and how long they last, worked out when somebody asks: a
//! number that is only written when keys come stands still when they stop coming, which is when it
//! matters.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use stek_clock::FleetClock;
use stek_core::bundle::Bundle;
use stek_core::name::KeysetName;
use stek_core::schedule::KeyState;

use super::Registration;

/// The states of keys that are held.
const STATES: [KeyState; 3] = [KeyState::Pending, KeyState::Active, KeyState::DecryptOnly];

/// Where the keys of the moment are to be had, if there are any.
pub(crate) type Newest = Arc<dyn Fn() -> Option<Arc<Bundle>> + Send + Sync>;

/// The series of the keys of one keyset; they leave the registry with it.
pub(crate) struct KeyMetrics(#[allow(dead_code, reason = "held for its end")] Registration);

impl KeyMetrics {
    /// Registers `stek_keys_held`, `stek_key_age_seconds` and `stek_keys_remaining_seconds`.
    pub(crate) fn register(
        registry: &Registry,
        keyset: &KeysetName,
        newest: Newest,
        clock: Arc<FleetClock>,
    ) -> Result<Self, prometheus::Error> {
        let mut registration = Registration::new(registry);
        registration.add(&Ages::new(keyset, newest, clock)?)?;
        Ok(Self(registration))
    }
}

/// Whoever collects sets the numbers first.
#[derive(Clone)]
struct Ages {
    held: IntGaugeVec,
    age: IntGauge,
    remaining: IntGauge,
    newest: Newest,
    clock: Arc<FleetClock>,
}
