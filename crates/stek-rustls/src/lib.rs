//! Session tickets for rustls servers under the keys of a fleet: a session begun at one server
//! resumes at any other, and the keys rotate and are erased without any of them restarting.
//!
//! Three lines make a server use them:
//!
//! ```no_run
//! # #[cfg(feature = "client")]
//! # async fn adopt(
//! #     client: &stek_client::ClientConfig,
//! #     registry: &prometheus::Registry,
//! #     mut server: rustls::ServerConfig,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! # use stek_core::{name::KeysetName, scope::{ChainRule, Scope}};
//! let fleet = stek_rustls::Fleet::connect(client, KeysetName::try_new("web")?, registry)?;
//! fleet.ready().await?;
//! fleet.use_unbounded_tickets(&mut server, &Scope::try_new("web", ChainRule::Unbounded)?)?;
//! # Ok(())
//! # }
//! ```
//!
//! Keep the `Fleet` while the server runs. Waiting for it is optional: without keys every
//! handshake is a full one.
//!
//! # What is safe
//!
//! - Nothing here ever opens a gate. Without keys, without randomness, with the poller dead:
//!   handshakes are full. No local key is invented, no session cache steps in, 0-RTT stays off.
//! - A ticket opens only in the scope in which it was sealed, until its lifetime, its key or the
//!   session lifetime ends, whichever is first; checked at each opening, whatever timers do.
//! - A ticket that does not open is `None` to rustls, whatever the cause. The cause is counted:
//!   see [`TicketMetrics`].
//! - Only keys derived for a scope are kept for sealing and opening, and they are overwritten when
//!   they have ended.
//!
//! # What is not
//!
//! An [`UnboundedTicketer`] is shown the bytes of a session and nothing of its connection. It
//! cannot cap chains of renewal, it cannot see client authentication, and it cannot tell TLS
//! versions apart. **Do not use it on a server that verifies client certificates**, and prefer TLS
//! 1.3 alone. A scope that promises more is refused, but nothing can ask a finished `ServerConfig`
//! whether it verifies clients. All servers that share a scope must be ready to serve each other's
//! clients: give servers that are not the same site different labels.
//!
//! # Features
//!
//! `client` (default) brings the poller and with it `Fleet`. Without it, whoever has
//! [bundles](stek_core::bundle::Bundle) feeds [`TicketKeys`], and makes ticketers of them.

mod acceptor;
mod builder;
mod certificate;
mod connection;
#[cfg(feature = "client")]
mod fleet;
mod glue;
#[cfg(feature = "client")]
mod installer;
mod keys;
mod metrics;
mod nonce;
mod resumption;
mod session;
mod store;
mod ticketer;

pub use acceptor::Acceptor;
pub use builder::{BuildError, ServerBuilder};
#[cfg(feature = "client")]
pub use fleet::{Fleet, FleetError};
pub use keys::TicketKeys;
pub use metrics::TicketMetrics;
pub use nonce::{NoRandomness, NonceSource, PooledNonces, SystemNonces};
pub use resumption::{Resumer, Resumption};
pub use store::{
    ConnectionStore, LookUpError, MemoryBackend, PutError, ResumptionStore, SessionBackend,
    SessionKey, SharedBackend, StoreMetrics, UnfitKeys,
};
#[cfg(feature = "redis")]
pub use store::{RedisBackend, RedisConfig, RedisConfigError, RedisStartError};
pub use ticketer::{UnboundedTicketer, UnfitScope};

// The fixture names this crate as the integration tests do, which share it.
#[cfg(test)]
extern crate self as stek_rustls;
#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
