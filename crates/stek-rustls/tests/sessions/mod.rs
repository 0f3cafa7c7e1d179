//! Ways of keeping sessions, and clients that send early data.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::io::{Read, Write};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConnection};
use stek_rustls::{
    LookUpError, MemoryBackend, PutError, Resumption, SessionBackend, SessionKey, SharedBackend,
};
use tokio::time::Instant;

use crate::servers::{NAME, Server};

/// The most bytes of early data that servers here take.
pub const EARLY: NonZeroU32 = NonZeroU32::new(16_384).unwrap();

pub fn memory() -> Arc<MemoryBackend> {
    Arc::new(MemoryBackend::new(1024.try_into().unwrap()))
}

/// Memory that all servers of a test share: one process is the whole fleet.
#[derive(Debug)]
pub struct OneProcess(pub Arc<MemoryBackend>);

impl SessionBackend for OneProcess {
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError> {
        self.0.put(key, value, lifetime)
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        self.0.take(key)
    }
}

impl SharedBackend for OneProcess {}

pub fn early(backend: Arc<dyn SharedBackend>) -> Resumption {
    Resumption::StoreWithEarlyData { backend, max_early_data_size: EARLY }
}

/// Waits for `condition`, without sleeping, at most a minute.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "not within a minute: {what}");
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
    let name = ServerName::try_from(NAME).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    client.early_data()?.write_all(data).unwrap();
    let mut flight = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut flight).unwrap();
    }
    Some(flight)
}

/// The early data that a server accepts from this flight.
pub fn accepted_early(server: &Server, flight: &[u8]) -> Option<Vec<u8>> {
    let mut server = ServerConnection::new(server.acceptor.per_connection_config()).unwrap();
    let mut rest = flight;
    while !rest.is_empty() {
        server.read_tls(&mut rest).unwrap();
        server.process_new_packets().unwrap();
    }
    let mut data = Vec::new();
    server.early_data()?.read_to_end(&mut data).unwrap();
    Some(data)
}
