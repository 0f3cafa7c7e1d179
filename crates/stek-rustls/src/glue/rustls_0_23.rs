//! rustls 0.23: reads its session values and answers its calls for tickets and for stored sessions.

mod payload;

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets, StoresServerSessions};
use zeroize::Zeroizing;

use crate::store::ConnectionStore;
use crate::tickets::ConnectionTickets;

pub(crate) use payload::read;

/// Takes over what `hook` sets of that which decides neither who is let in nor what resumes.
///
/// It works on a copy: what it is given is its to exchange as a whole, with the verifier of clients
/// that rustls keeps private.
pub(crate) fn adjust(config: &mut ServerConfig, hook: impl FnOnce(&mut ServerConfig)) {
    let mut set = config.clone();
    hook(&mut set);
    config.ignore_client_order = set.ignore_client_order;
    config.max_fragment_size = set.max_fragment_size;
    config.key_log = set.key_log;
    config.enable_secret_extraction = set.enable_secret_extraction;
    config.send_half_rtt_data = set.send_half_rtt_data;
    config.send_tls13_tickets = set.send_tls13_tickets;
    config.max_tls13_tickets = set.max_tls13_tickets;
    config.cert_compressors = set.cert_compressors;
    config.cert_compression_cache = set.cert_compression_cache;
    config.cert_decompressors = set.cert_decompressors;
    #[cfg(feature = "tls12")]
    {
        config.require_ems = set.require_ems;
    }
}

/// Leaves servers of `config` no way to resume: takes the session cache of the process away and
/// switches 0-RTT off.
pub(crate) fn resume_nothing(config: &mut ServerConfig) {
    config.ticketer = Arc::new(NoTickets);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
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
