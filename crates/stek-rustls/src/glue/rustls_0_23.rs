//! rustls 0.23: reads its session values and answers its calls for tickets.

mod payload;

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets};

use crate::connection::Connection;

pub(crate) use payload::read;

/// Makes `ticketer` the only way in which servers of `config` resume: removes the session cache of
/// the process and switches 0-RTT off.
pub(crate) fn use_tickets_only(config: &mut ServerConfig, ticketer: Arc<dyn ProducesTickets>) {
    config.ticketer = ticketer;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
}

/// The tickets of one connection, as rustls asks for them.
pub(crate) struct ConnectionTicketer(pub(crate) Connection);

impl ProducesTickets for ConnectionTicketer {
    /// Always true, also without keys: rustls takes `false` for leave to fall back to the session
    /// cache of the process and to 0-RTT.
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds for which the ticket sealed last will open. rustls asks right after each
    /// [`encrypt`](ProducesTickets::encrypt).
    fn lifetime(&self) -> u32 {
        self.0.lifetime_hint()
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.0.seal(session)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.0.open(ticket)
    }
}

impl fmt::Debug for ConnectionTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ConnectionTicketer").field(&self.0).finish()
    }
}
