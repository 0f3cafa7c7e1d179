//! Servers that keep sessions, and what their counters say.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};
use stek_clock::{FleetClock, ManualClock};
use stek_core::bundle::Bundle;
use stek_core::scope::{ChainRule, Scope};
use stek_rustls::{
    MemoryBackend, Resumer, Resumption, ResumptionStore, SessionBackend, SharedBackend,
    StoreMetrics, TicketKeys,
};
use tokio::time::Instant;

use crate::fixture::{Pki, keyset};

/// The most bytes of early data that servers here take.
pub const EARLY: NonZeroU32 = NonZeroU32::new(16_384).unwrap();

pub fn capped(label: &str) -> Scope {
    Scope::try_new(label, ChainRule::Capped).unwrap()
}

/// A server with its own keys and counters.
pub struct Server {
    pub keys: Arc<TicketKeys>,
    pub store: Arc<ResumptionStore>,
    pub counters: Counters,
    resumer: Resumer,
}

impl Server {
    /// A server of `mode` in `scope`, without keys. The metrics are those of its backend.
    pub fn new(
        clock: &Arc<ManualClock>,
        scope: Scope,
        mode: &Resumption,
        counters: Counters,
    ) -> Self {
        let fleet = Arc::new(FleetClock::new(Arc::<ManualClock>::clone(clock)));
        let keys = Arc::new(TicketKeys::for_store(scope, fleet));
        let resumer = mode
            .prepare(
                || -> Result<_, stek_rustls::UnfitKeys> { unreachable!("not a mode with tickets") },
                |backend| {
                    let metrics = counters.metrics.clone();
                    ResumptionStore::try_new(Arc::clone(&keys), backend, metrics).map(Arc::new)
                },
            )
            .unwrap();
        let store = Arc::clone(resumer.store().unwrap());
        Self { keys, store, counters, resumer }
    }

    /// A server that keeps sessions in `backend`, with the keys of `bundle`.
    pub fn with(
        clock: &Arc<ManualClock>,
        scope: Scope,
        bundle: &Bundle,
        backend: Arc<dyn SessionBackend>,
    ) -> Self {
        let server = Self::new(clock, scope, &Resumption::Store(backend), Counters::new());
        server.keys.install(bundle);
        server
    }

    /// The same, with early data.
    pub fn early(
        clock: &Arc<ManualClock>,
        scope: Scope,
        bundle: &Bundle,
        backend: Arc<dyn SharedBackend>,
        counters: Counters,
    ) -> Self {
        let mode = Resumption::StoreWithEarlyData { backend, max_early_data_size: EARLY };
        let server = Self::new(clock, scope, &mode, counters);
        server.keys.install(bundle);
        server
    }

    /// For all connections.
    pub fn config(&self, pki: &Pki) -> Arc<ServerConfig> {
        let mut config = pki.server();
        self.resumer.apply(&mut config);
        Arc::new(config)
    }

    /// For one connection.
    pub fn connection(&self, pki: &Pki) -> Arc<ServerConfig> {
        let mut config = pki.server();
        self.resumer.apply_to_connection(&mut config);
        Arc::new(config)
    }
}

/// The metrics of one server and what they count.
pub struct Counters {
    pub registry: Registry,
    pub metrics: StoreMetrics,
}

impl Counters {
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = StoreMetrics::register(&registry, &keyset()).unwrap();
        Self { registry, metrics }
    }

    pub fn put(&self, outcome: &str) -> u64 {
        self.of("put", outcome)
    }

    pub fn looked_up(&self, outcome: &str) -> u64 {
        self.of("looked_up", outcome)
    }

    pub fn written(&self, outcome: &str) -> u64 {
        self.of("written", outcome)
    }

    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
    fn of(&self, which: &str, outcome: &str) -> u64 {
        let families = self.registry.gather();
        let name = format!("stek_sessions_{which}_total");
        let family = families.iter().find(|family| family.name() == name).unwrap();
        let labelled = |metric: &&prometheus::proto::Metric| {
            let mut labels = metric.get_label().iter();
            labels.any(|label| (label.name(), label.value()) == ("outcome", outcome))
        };
        family.get_metric().iter().find(labelled).unwrap().get_counter().get_value() as u64
    }
}

pub fn memory() -> Arc<MemoryBackend> {
    Arc::new(MemoryBackend::new(1024.try_into().unwrap()))
}

/// Waits for `condition`, without sleeping, at most 10 s.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "not within 10 s: {what}");
        std::thread::yield_now();
    }
}

/// The same client, ready to send early data.
pub fn eager(client: &Arc<ClientConfig>) -> Arc<ClientConfig> {
    let mut client = ClientConfig::clone(client);
    client.enable_early_data = true;
    Arc::new(client)
}

/// The first flight of a client that sends `data` early: what an attacker on the path records.
/// `None` if its ticket does not allow that.
pub fn early_flight(client: &Arc<ClientConfig>, data: &[u8]) -> Option<Vec<u8>> {
    let name = ServerName::try_from("localhost").unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    client.early_data()?.write_all(data).unwrap();
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    Some(flight)
}

/// The early data that a server accepts from this flight.
pub fn accepted_early(server: &Arc<ServerConfig>, flight: &[u8]) -> Option<Vec<u8>> {
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    let mut rest = flight;
    while !rest.is_empty() {
        server.read_tls(&mut rest).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut data = Vec::new();
    server.early_data()?.read_to_end(&mut data).unwrap();
    Some(data)
}
