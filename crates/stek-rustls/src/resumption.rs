//! How servers of a configuration resume: three modes, each of which fixes ticketer, session
//! storage and early data together, so that no other mix comes about.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;

use crate::glue::rustls_0_23;
use crate::store::{ResumptionStore, SessionBackend, SharedBackend};

/// How servers resume.
///
/// | mode | what clients keep | one ticket resumes | 0-RTT |
/// |---|---|---|---|
/// | `Tickets` | the sealed session | as often as it is offered | no |
/// | `Store` | a look-up key | once | no |
/// | `StoreWithEarlyData` | a look-up key | once in the whole fleet | yes |
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
pub enum Resumption {
    /// Sealed tickets. No I/O, no state, no 0-RTT.
    #[default]
    Tickets,
    /// Sessions in a backend, under look-up keys. For single-use tickets, or for sessions too long
    /// for a ticket.
    Store(Arc<dyn SessionBackend>),
    /// The same, and clients may send data with their first message (RFC 8446, 2.3).
    ///
    /// Who replays that message to any server of the fleet does not get the data read again, for
    /// the session was taken (RFC 8446, 8.1); that rests on the promise of [`SharedBackend`]. Early
    /// data is still not forward secret, and an attacker may hold the first copy back. Let only
    /// idempotent requests in.
    StoreWithEarlyData {
        /// Where sessions are kept.
        backend: Arc<dyn SharedBackend>,
        /// The most bytes that a client may send early; 16,384 is usual.
        max_early_data_size: NonZeroU32,
    },
}

impl Resumption {
    /// Makes what this mode needs, and nothing else: `tickets` is asked for the ticketer in
    /// `Tickets`, `store` for the store over a backend in the other two.
    ///
    /// # Errors
    /// Those of `tickets` and `store`.
    pub fn prepare<E>(
        &self,
        tickets: impl FnOnce() -> Result<Arc<dyn ProducesTickets>, E>,
        store: impl FnOnce(Arc<dyn SessionBackend>) -> Result<Arc<ResumptionStore>, E>,
    ) -> Result<Resumer, E> {
        Ok(Resumer(match self {
            Self::Tickets => Means::Tickets(tickets()?),
            Self::Store(backend) => {
                Means::Store { store: store(Arc::clone(backend))?, max_early_data_size: 0 }
            }
            Self::StoreWithEarlyData { backend, max_early_data_size } => Means::Store {
                store: store(Arc::<dyn SharedBackend>::clone(backend))?,
                max_early_data_size: max_early_data_size.get(),
            },
        }))
    }
}

/// A mode together with the ticketer or store that it uses; made by [`Resumption::prepare`].
#[derive(Clone)]
pub struct Resumer(Means);

#[derive(Clone)]
enum Means {
    Tickets(Arc<dyn ProducesTickets>),
    Store { store: Arc<ResumptionStore>, max_early_data_size: u32 },
}

impl Resumer {
    /// Makes this the only way in which servers of `config` resume. Ticketer, session storage and
    /// early data are set, whatever was there before.
    pub fn apply(&self, config: &mut ServerConfig) {
        match &self.0 {
            Means::Tickets(ticketer) => {
                rustls_0_23::use_tickets_only(config, Arc::clone(ticketer));
            }
            Means::Store { store, max_early_data_size } => {
                config.ticketer = Arc::new(NoTickets);
                config.session_storage = Arc::<ResumptionStore>::clone(store);
                config.max_early_data_size = *max_early_data_size;
            }
        }
    }

    /// The same for a copy of the configuration that serves a single connection: in the modes with
    /// a store it gets a store of its own, see [`ResumptionStore::for_connection`].
    pub fn apply_to_connection(&self, config: &mut ServerConfig) {
        self.apply(config);
        if let Means::Store { store, .. } = &self.0 {
            config.session_storage = Arc::new(store.for_connection());
        }
    }

    /// The store, in the modes that have one.
    pub fn store(&self) -> Option<&Arc<ResumptionStore>> {
        match &self.0 {
            Means::Tickets(_) => None,
            Means::Store { store, .. } => Some(store),
        }
    }
}

impl fmt::Debug for Resumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match &self.0 {
            Means::Tickets(_) => "Tickets",
            Means::Store { max_early_data_size: 0, .. } => "Store",
            Means::Store { .. } => "StoreWithEarlyData",
        };
        f.debug_tuple("Resumer").field(&mode).finish()
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
