//! Tickets as look-up keys (RFC 8446, 4.6.1): the session stays with the servers, sealed under the
//! keys of the fleet before it leaves the process. Decides what is kept and what resumes; where it
//! is kept is a [`SessionBackend`]'s matter, and when a key opens is
//! [`Snapshot`](stek_core::snapshot::Snapshot)'s.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use rustls::server::StoresServerSessions;
use stek_core::derive::Use;
use stek_core::scope::{ChainRule, ClientAuth};
use stek_core::snapshot::Opened;
use stek_core::time::Timestamp;

pub(crate) mod backend;
#[cfg(feature = "redis")]
mod breaker;
mod memory;
mod metrics;
#[cfg(feature = "redis")]
mod redis;

pub use backend::{LookUpError, PutError, SessionBackend, SessionKey, SharedBackend};
pub use memory::MemoryBackend;
pub use metrics::StoreMetrics;
#[cfg(feature = "redis")]
pub use redis::{RedisBackend, RedisConfig, RedisConfigError, RedisStartError};

use crate::glue::rustls_0_23;
use crate::keys::TicketKeys;
use crate::nonce::{NonceSource, SystemNonces};
use crate::session::TlsVersion;
use metrics::{LookUpOutcome, PutOutcome};

/// TLS 1.3 sessions of servers that share keys, scope and backend.
///
/// What leaves the process is sealed under the active key together with its look-up key, so a
/// backend can neither read a session nor pass it off as another one. Each session resumes once:
/// it is taken from the backend by the look-up.
///
/// rustls calls on the thread of the handshake and waits. A backend with I/O bounds that by a
/// deadline, see [`RedisBackend`](crate::RedisBackend).
///
/// Used as it is, this type knows nothing of connections. So it
/// - keeps nothing in a scope of [`ChainRule::Capped`], for it could not tell when the chain of
///   resumptions began; there, and wherever possible, give each connection its own
///   [`ResumptionStore::for_connection`];
/// - cannot limit look-ups by connection: rustls asks for one identity after another until one
///   opens, and a ClientHello of 64 KiB has room for some 1,700 of 32 bytes. The backend's limits
///   on time and on look-ups at once hold all the same, its breaker does not open by misses.
///
/// Not kept at all: sessions of TLS 1.2, which clients may resume many times under one master
/// secret, and sessions in scopes that ask certificates of clients, whose end this type cannot see.
/// rustls tells clients to forget a session after 24 h whatever is said here; one that ends
/// earlier is a look-up in vain and a full handshake.
pub struct ResumptionStore {
    keys: Arc<TicketKeys>,
    backend: Arc<dyn SessionBackend>,
    metrics: StoreMetrics,
    nonces: Arc<dyn NonceSource>,
}

/// These keys are not for a [`ResumptionStore`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnfitKeys {
    /// They are derived for tickets.
    #[error("keys of scope {label:?} are derived for tickets, not for stored sessions")]
    ForTickets {
        /// The label of the scope.
        label: String,
    },
    /// Their scope is for servers that ask certificates of clients.
    #[error("scope {label:?} asks certificates of clients, a store cannot see when they end")]
    AsksClients {
        /// The label of the scope.
        label: String,
    },
}

impl ResumptionStore {
    /// Seals and opens under `keys`, which [`TicketKeys::for_store`] makes, and keeps in `backend`.
    ///
    /// # Errors
    /// [`UnfitKeys`] if they are for tickets, or their scope asks certificates of clients.
    pub fn try_new(
        keys: Arc<TicketKeys>,
        backend: Arc<dyn SessionBackend>,
        metrics: StoreMetrics,
    ) -> Result<Self, UnfitKeys> {
        Self::try_with_nonces(keys, backend, metrics, Arc::new(SystemNonces))
    }

    /// The same with nonces from elsewhere. A source that gives one nonce twice gives the sessions
    /// away that were sealed with it.
    ///
    /// # Errors
    /// As [`ResumptionStore::try_new`].
    pub fn try_with_nonces(
        keys: Arc<TicketKeys>,
        backend: Arc<dyn SessionBackend>,
        metrics: StoreMetrics,
        nonces: Arc<dyn NonceSource>,
    ) -> Result<Self, UnfitKeys> {
        let label = || keys.scope().label().to_owned();
        if keys.usage() != Use::Store {
            return Err(UnfitKeys::ForTickets { label: label() });
        }
        if keys.scope().client_auth() != ClientAuth::None {
            return Err(UnfitKeys::AsksClients { label: label() });
        }
        Ok(Self { keys, backend, metrics, nonces })
    }

    /// The store as one connection sees it: one look-up, and its chain of resumptions goes on
    /// where the session that it resumed left off.
    pub fn for_connection(self: &Arc<Self>) -> ConnectionStore {
        ConnectionStore {
            store: Arc::clone(self),
            asked: AtomicBool::new(false),
            authenticated_at: OnceLock::new(),
        }
    }

    fn counted_put(&self, put: Result<(), PutOutcome>) -> bool {
        self.metrics.count_put(put.err().unwrap_or(PutOutcome::Accepted));
        put.is_ok()
    }

    fn counted_take(&self, taken: Result<Opened, LookUpOutcome>) -> Option<Opened> {
        self.metrics.count_look_up(taken.as_ref().map_or_else(|miss| *miss, LookUpOutcome::from));
        taken.ok()
    }

    /// Keeps a session whose chain began at `authenticated_at`, or begins now.
    fn try_put(
        &self,
        key: &[u8],
        session: &[u8],
        authenticated_at: Option<Timestamp>,
    ) -> Result<(), PutOutcome> {
        let key = SessionKey::parse(key).ok_or(PutOutcome::KeyLength)?;
        check(session)?;
        let bound = [key.as_bytes(), session].concat();
        let (value, lifetime) = {
            let snapshot = self.keys.load();
            let snapshot = snapshot.as_ref().ok_or(PutOutcome::NoActiveKey)?;
            let nonce = self.nonces.draw().map_err(|_| PutOutcome::NoRandomness)?;
            let now = self.keys.now();
            let authenticated_at = authenticated_at.unwrap_or(now);
            let sealed = snapshot.seal(&bound, authenticated_at, &nonce, now)?;
            (sealed.ticket, snapshot.lifetime_hint(authenticated_at, now).to_std())
        };
        if lifetime.is_zero() {
            // The active key ends within the clock skew.
            return Err(PutOutcome::NoActiveKey);
        }
        Ok(self.backend.put(&key, value, lifetime)?)
    }

    fn try_take(&self, key: &SessionKey) -> Result<Opened, LookUpOutcome> {
        if self.keys.tag().is_none() {
            return Err(LookUpOutcome::NoKeys);
        }
        let value = self.backend.take(key)?.ok_or(LookUpOutcome::Absent)?;
        let snapshot = self.keys.load();
        let snapshot = snapshot.as_ref().ok_or(LookUpOutcome::NoKeys)?;
        let mut opened = snapshot.open(&value, self.keys.now())?;
        if !opened.payload.starts_with(key.as_bytes()) {
            return Err(LookUpOutcome::Swapped);
        }
        opened.payload.drain(..SessionKey::LEN);
        Ok(opened)
    }

    fn is_capped(&self) -> bool {
        self.keys.scope().chain() == ChainRule::Capped
    }
}

impl StoresServerSessions for ResumptionStore {
    /// Seals the session and hands it to the backend. False, so that no ticket is sent, if nothing
    /// seals, the backend is known not to keep it, it is of TLS 1.2, or the scope caps chains.
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let put = if self.is_capped() {
            Err(PutOutcome::NoConnection)
        } else {
            self.try_put(&key, &session, None)
        };
        self.counted_put(put)
    }

    /// Always `None`: only TLS 1.2 asks so, for a session that stays.
    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        self.metrics.count_look_up(LookUpOutcome::NotTls13);
        None
    }

    /// Takes the session of a key that an attacker may have made up; `None` whatever the cause. A
    /// key that is not of 32 bytes costs no I/O.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let taken = match SessionKey::parse(key) {
            None => Err(LookUpOutcome::KeyLength),
            Some(_) if self.is_capped() => Err(LookUpOutcome::NoConnection),
            Some(key) => self.try_take(&key),
        };
        Some(self.counted_take(taken)?.payload)
    }

    /// Always true: rustls asks only for TLS 1.2, and whether it names a session there tells a
    /// client nothing that it could not find out.
    fn can_cache(&self) -> bool {
        true
    }
}

/// A [`ResumptionStore`] for a single connection, to be set in a copy of its `ServerConfig`.
///
/// It makes one look-up at most, of the first key with the right length that is offered: clients
/// offer one. Sessions that it keeps continue the chain of the one that it resumed, so the session
/// lifetime ends them all together.
pub struct ConnectionStore {
    store: Arc<ResumptionStore>,
    asked: AtomicBool,
    /// Of the session that opened; whether it was resumed too is up to rustls.
    authenticated_at: OnceLock<Timestamp>,
}

impl StoresServerSessions for ConnectionStore {
    /// As [`ResumptionStore`]'s, in scopes of either chain rule.
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        let begun = self.authenticated_at.get().copied();
        self.store.counted_put(self.store.try_put(&key, &session, begun))
    }

    /// Always `None`: only TLS 1.2 asks so, for a session that stays.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.store.get(key)
    }

    /// As [`ResumptionStore`]'s, once.
    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        let taken = match SessionKey::parse(key) {
            None => Err(LookUpOutcome::KeyLength),
            Some(_) if self.asked.swap(true, Ordering::Relaxed) => Err(LookUpOutcome::NotTheFirst),
            Some(key) => self.store.try_take(&key),
        };
        let opened = self.store.counted_take(taken)?;
        // One look-up at most, so this is the first value.
        let _ = self.authenticated_at.set(opened.stamp.authenticated_at);
        Some(opened.payload)
    }

    /// Always true, as [`ResumptionStore`]'s.
    fn can_cache(&self) -> bool {
        true
    }
}

/// # Errors
/// [`PutOutcome`] if `session` is not one to keep. One with a client's certificate gets here when a
/// server asks certificates of clients, against what its scope says.
fn check(session: &[u8]) -> Result<(), PutOutcome> {
    let session = rustls_0_23::read(session).ok_or(PutOutcome::Unreadable)?;
    match (session.version, session.client_certificate) {
        (TlsVersion::Tls12, _) => Err(PutOutcome::NotTls13),
        (TlsVersion::Tls13, Some(_)) => Err(PutOutcome::ClientCertificate),
        (TlsVersion::Tls13, None) => Ok(()),
    }
}

impl fmt::Debug for ResumptionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResumptionStore")
            .field("keys", &self.keys)
            .field("backend", &self.backend)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for ConnectionStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionStore").field("store", &self.store).finish_non_exhaustive()
    }
}
