//! rustls 0.23: reads its session values and answers its calls for tickets and for stored sessions.

mod payload;

use std::num::NonZeroU32;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};
use zeroize::Zeroizing;

use crate::store::ConnectionStore;
use crate::tickets::ConnectionTickets;

pub(crate) use payload::read;

/// Makes `ticketer` the only way in which servers of `config` resume: removes the session cache of
/// the process and switches 0-RTT off.
pub(crate) fn use_tickets_only(config: &mut ServerConfig, ticketer: Arc<dyn ProducesTickets>) {
    config.ticketer = ticketer;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
}

/// Makes `store` the only way in which servers of `config` resume, and allows early data or not.
pub(crate) fn use_store_only(
    config: &mut ServerConfig,
    store: Arc<dyn StoresServerSessions>,
    max_early_data_size: Option<NonZeroU32>,
) {
    config.ticketer = Arc::new(NoTickets);
    config.session_storage = store;
    config.max_early_data_size = max_early_data_size.map_or(0, NonZeroU32::get);
}

impl ProducesTickets for ConnectionTickets {
    /// Always true, also without keys: rustls takes `false` for leave to fall back to the session
    /// cache of the process and to 0-RTT.
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds for which the ticket sealed last will open. rustls asks right after each
    /// [`encrypt`](ProducesTickets::encrypt).
    fn lifetime(&self) -> u32 {
        self.lifetime_hint()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.seal(session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.open(ticket)
    }
}

impl StoresServerSessions for ConnectionStore {
    fn put(&self, key: Vec<u8>, session: Vec<u8>) -> bool {
        self.put(&key, &Zeroizing::new(session))
    }

    /// Always `None`: only TLS 1.2 asks so, for a session that stays and may be resumed many times
    /// under one master secret.
    fn get(&self, _key: &[u8]) -> Option<Vec<u8>> {
        self.refuse_reuse();
        None
    }

    fn take(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.take(key)
    }

    /// Always true: rustls asks only for TLS 1.2, and whether it names a session there tells a
    /// client nothing that it could not find out.
    fn can_cache(&self) -> bool {
        true
    }
}

/// A ticketer that says so if asked: rustls then uses the session storage. That of rustls itself
/// can only be had with a new `ServerConfig`.
#[derive(Debug)]
struct NoTickets;

impl ProducesTickets for NoTickets {
    fn enabled(&self) -> bool {
        false
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _session: &[u8]) -> Option<Vec<u8>> {
        None
    }

    /// TLS 1.2 servers ask although it is not enabled.
    fn decrypt(&self, _ticket: &[u8]) -> Option<Vec<u8>> {
        None
    }
}
