//! Tickets as look-up keys (RFC 8446, 4.6.1): the session stays with the servers, sealed under the
//! keys of the fleet before it leaves the process. Where it is kept is a [`SessionBackend`]'s
//! matter, which sessions may be kept and when they end that of the rules for tickets.

use std::sync::Arc;

use zeroize::Zeroizing;

pub(crate) mod backend;
#[cfg(feature = "redis")]
mod breaker;
mod memory;
#[cfg(feature = "redis")]
mod redis;

pub use backend::{LookUpError, PutError, SessionBackend, SessionKey, SharedBackend};
pub use memory::MemoryBackend;
#[cfg(feature = "redis")]
pub use redis::{RedisBackend, RedisConfig, RedisConfigError, RedisStartError};

use crate::connection::Connection;
use crate::metrics::{LookUpOutcome, PutOutcome};
use crate::sealer::{Opened, Sealer};

/// What rustls asks of a session storage, for a single connection.
///
/// What leaves the process is sealed together with its look-up key, so a backend can neither read a
/// session nor pass it off as another one. Each session resumes once, for the look-up takes it.
#[derive(Debug)]
pub(crate) struct ConnectionStore {
    connection: Connection,
    backend: Arc<dyn SessionBackend>,
}

impl ConnectionStore {
    pub(crate) fn new(sealer: Arc<Sealer>, backend: Arc<dyn SessionBackend>) -> Self {
        Self { connection: Connection::new(sealer), backend }
    }

    /// Seals the session and hands it to the backend. False, so that no ticket is sent, if such
    /// sessions may not be resumed, nothing seals, or the backend is known not to keep it.
    pub(crate) fn put(&self, key: &[u8], session: &[u8]) -> bool {
        let put = self.try_put(key, session);
        let outcome = put.as_ref().err().copied().unwrap_or(PutOutcome::Accepted);
        self.connection.sealer().metrics.count_put(outcome);
        put.is_ok()
    }

    /// Takes the session of a key that an attacker may have made up; `None` whatever the cause. A
    /// key that is not of 32 bytes costs no I/O.
    pub(crate) fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let taken = self.try_take(key);
        let outcome =
            taken.as_ref().map_or_else(|miss| *miss, |opened| LookUpOutcome::from(opened.outcome));
        self.connection.sealer().metrics.count_look_up(outcome);
        taken.ok().map(Opened::into_session)
    }

    /// Counts that a session was asked for that stays; there is none.
    pub(crate) fn refuse_reuse(&self) {
        self.connection.sealer().metrics.count_look_up(LookUpOutcome::NotAllowed);
    }

    fn try_put(&self, key: &[u8], session: &[u8]) -> Result<(), PutOutcome> {
        let key = SessionKey::parse(key).ok_or(PutOutcome::KeyLength)?;
        let sealed = self.connection.seal(key.as_bytes(), session)?;
        let lifetime = sealed.lifetime.to_std();
        if lifetime.is_zero() {
            // The active key ends within the clock skew.
            return Err(PutOutcome::NoActiveKey);
        }
        Ok(self.backend.put(&key, sealed.bytes, lifetime)?)
    }

    fn try_take(&self, key: &[u8]) -> Result<Opened, LookUpOutcome> {
        let key = SessionKey::parse(key).ok_or(LookUpOutcome::KeyLength)?;
        if self.connection.sealer().keys.tag().is_none() {
            return Err(LookUpOutcome::NoKeys);
        }
        // Each try is a question to the backend, so it is counted before that.
        if !self.connection.may_try_one_more() {
            return Err(LookUpOutcome::TooMany);
        }
        let value = self.backend.take(&key)?.ok_or(LookUpOutcome::Absent)?;
        let unbind = |mut payload: Zeroizing<Vec<u8>>| {
            if !payload.starts_with(key.as_bytes()) {
                return Err(LookUpOutcome::Swapped);
            }
            payload.drain(..SessionKey::LEN);
            Ok(payload)
        };
        self.connection.open(&value, || true, unbind)
    }
}
