//! Redis for tests in which one handshake follows the other at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stek_rustls::{LookUpError, PutError, RedisBackend, RedisConfig, SessionBackend, SessionKey};

use super::TestRedis;
use crate::fixture::{clock, keyset};
use crate::servers::Counters;
use crate::sessions::until;

/// Where the machine being busy must not look like Redis being slow.
const PATIENT: Duration = Duration::from_secs(10);

/// A backend in a real Redis that returns from `put` when the session is written.
#[derive(Debug)]
pub struct Awaited {
    backend: RedisBackend,
    counters: Counters,
    accepted: AtomicU64,
    _redis: Option<TestRedis>,
}

impl Awaited {
    pub fn start() -> Self {
        let (url, redis) = super::any().unwrap();
        let config = RedisConfig::try_new(&url, &keyset()).unwrap().with_deadline(PATIENT);
        let counters = Counters::new();
        let metrics = counters.metrics.clone();
        let backend = RedisBackend::start(config.unwrap(), clock(), metrics).unwrap();
        Self { backend, counters, accepted: AtomicU64::new(0), _redis: redis }
    }
}

impl SessionBackend for Awaited {
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError> {
        self.backend.put(key, value, lifetime)?;
        let accepted = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        until("the session is written", || self.counters.written("written") == accepted);
        Ok(())
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        self.backend.take(key)
    }
}

/// What keeps the sessions of a test.
pub fn backend() -> Arc<dyn SessionBackend> {
    Arc::new(Awaited::start())
}
