//! How the servers of an acceptor resume: three modes, each of which fixes ticketer, session storage
//! and early data together, so that no other mix comes about.

use std::num::NonZeroU32;
use std::sync::Arc;

use rustls::ServerConfig;
use stek_core::derive::Use;

use crate::glue::rustls_0_23::resume_nothing;
use crate::sealer::Sealer;
use crate::store::{ConnectionStore, SessionBackend, SharedBackend};
use crate::tickets::ConnectionTickets;

/// How servers resume.
///
/// | mode | what clients keep | one ticket resumes | 0-RTT |
/// |---|---|---|---|
/// | `Tickets` | the sealed session | as often as it is offered | no |
/// | `Store` | a look-up key | once | no |
/// | `StoreWithEarlyData` | a look-up key | once in the whole fleet | [`per_connection_config`], [`per_connection_quic_config`] |
///
/// Who may resume, and for how long, is the same in all of them. In the modes with a store nothing
/// but TLS 1.3 resumes, and clients are told to forget a session after 24 h whatever is left of it:
/// rustls lets nobody say less. One that ends earlier is a look-up in vain and a full handshake.
///
/// [`per_connection_config`]: crate::Acceptor::per_connection_config
/// [`per_connection_quic_config`]: crate::Acceptor::per_connection_quic_config
///
/// A backend that is not shared does not go with early data:
///
/// ```compile_fail,E0277
/// # use std::{num::NonZero, sync::Arc};
/// # use stek_rustls::{MemoryBackend, Resumption};
/// let backend = Arc::new(MemoryBackend::new(NonZero::new(1024).unwrap()));
/// let max_early_data_size = NonZero::new(16_384).unwrap();
/// Resumption::StoreWithEarlyData { backend, max_early_data_size };
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Resumption {
    /// Sealed tickets. No I/O, no state, no 0-RTT.
    #[default]
    Tickets,
    /// Sessions in a backend, under look-up keys. For single-use tickets, or for sessions too long
    /// for a ticket.
    Store(Arc<dyn SessionBackend>),
    /// The same, and clients may send data with their first message (RFC 8446, 2.3).
    ///
    /// Data that was read early is not read so again from a replay, at any server of the fleet, for
    /// the session was taken (RFC 8446, 8.1); that rests on the promise of [`SharedBackend`]. **It
    /// may still be acted on twice** (RFC 8446, 8): a server that takes no session, because the
    /// attacker holds the first copy back or because the backend is busy, late or not there, refuses
    /// the data; the client sends it again after the handshake, and the copy may then be read early,
    /// once. Nor is early data forward secret. Let only idempotent requests in.
    ///
    /// It is taken on connections of [`per_connection_config`], from
    /// `ServerConnection::early_data`, and of [`per_connection_quic_config`]; `Acceptor::accept`
    /// refuses it. With a Redis of the fleet, on the clock of the machine:
    ///
    /// ```no_run
    /// # #[cfg(all(feature = "client", feature = "redis"))]
    /// # fn build(
    /// #     fleet: &stek_rustls::Fleet,
    /// #     keyset: &stek_rustls::KeysetName,
    /// #     chain: Vec<rustls::pki_types::CertificateDer<'static>>,
    /// #     key: rustls::pki_types::PrivateKeyDer<'static>,
    /// # ) -> Result<(), Box<dyn std::error::Error>> {
    /// use std::{num::NonZeroU32, sync::Arc};
    /// use stek_rustls::{RedisBackend, RedisConfig, Resumption, SystemClock};
    ///
    /// let redis = RedisConfig::try_new("unix:///run/redis.sock", keyset)?;
    /// let backend = RedisBackend::start(redis, Arc::new(SystemClock), fleet.metrics())?;
    /// let way = Resumption::StoreWithEarlyData {
    ///     backend: Arc::new(backend),
    ///     max_early_data_size: NonZeroU32::new(16_384).expect("not zero"),
    /// };
    /// let acceptor = fleet.server("shop").certificate(chain, key).resumption(way).build()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// [`per_connection_config`]: crate::Acceptor::per_connection_config
    /// [`per_connection_quic_config`]: crate::Acceptor::per_connection_quic_config
    StoreWithEarlyData {
        /// Where sessions are kept.
        backend: Arc<dyn SharedBackend>,
        /// The most bytes that a client may send early over TCP; 16,384 is usual.
        max_early_data_size: NonZeroU32,
    },
}

impl Resumption {
    /// What keys have to be derived for.
    pub(crate) fn usage(&self) -> Use {
        match self {
            Self::Tickets => Use::Ticket,
            Self::Store(_) | Self::StoreWithEarlyData { .. } => Use::Store,
        }
    }

    /// Leaves servers of `config` no way to resume but the one that [`Self::apply_to_connection`] adds,
    /// whatever was set there before.
    pub(crate) fn apply_to_server(&self, config: &mut ServerConfig) {
        resume_nothing(config);
        if let Self::StoreWithEarlyData { max_early_data_size, .. } = self {
            config.max_early_data_size = max_early_data_size.get();
        }
    }

    /// Adds what a single connection resumes by to its copy of that `config`.
    pub(crate) fn apply_to_connection(&self, config: &mut ServerConfig, sealer: Arc<Sealer>) {
        match self {
            Self::Tickets => config.ticketer = Arc::new(ConnectionTickets::new(sealer)),
            Self::Store(backend) => {
                let store = ConnectionStore::new(sealer, Arc::clone(backend));
                config.session_storage = Arc::new(store);
            }
            Self::StoreWithEarlyData { backend, .. } => {
                let backend = Arc::<dyn SharedBackend>::clone(backend);
                config.session_storage = Arc::new(ConnectionStore::new(sealer, backend));
            }
        }
    }
}
