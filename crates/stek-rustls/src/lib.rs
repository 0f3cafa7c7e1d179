//! Session tickets for rustls servers under the keys of a fleet: a session begun at one server
//! resumes at any other, and the keys rotate and are erased without any of them restarting.
//!
//! The last three lines of these make a server of the fleet:
//!
//! ```no_run
//! # #[cfg(feature = "client")]
//! # async fn adopt(
//! #     chain: Vec<rustls::pki_types::CertificateDer<'static>>,
//! #     key: rustls::pki_types::PrivateKeyDer<'static>,
//! #     tcp: tokio::net::TcpStream,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! use stek_rustls::{ClientConfig, ClientOptions, Fleet, InstanceName, KeysetName};
//!
//! let mut options = ClientOptions::new(["https://localhost:8443"], InstanceName::try_new("shop-1")?);
//! options.roots = vec!["tls/ca.pem".into()];
//! options.token = Some("edge-token".into());
//! let client = ClientConfig::try_new(&options)?;
//! let registry = stek_rustls::prometheus::Registry::new();
//!
//! let fleet = Fleet::connect(&client, KeysetName::try_new("web")?, &registry)?;
//! let acceptor = fleet.server("shop").certificate(chain, key).build()?;
//! let tls = acceptor.accept(tcp).await?;
//! # Ok(())
//! # }
//! ```
//!
//! The options say where distribution is, which authority to trust and where the token is. The crate
//! is on no registry: with a clone of its repository beside yours it is had by `cargo add --path
//! ../stekd/crates/stek-rustls`. Linux is what it builds for: fleet time goes on through a suspend by
//! `CLOCK_BOOTTIME`.
//!
//! Keep the `Fleet` while the server runs. `Fleet::ready` waits for the first keys, which is
//! optional: without keys every handshake is a full one. `connect` has put all metrics into the
//! registry that it was given.
//!
//! Who accepts connections in a loop of his own, or by QUIC, asks the acceptor for a configuration
//! for each: [`Acceptor::per_connection_config`], [`Acceptor::per_connection_quic_config`]. Who wants
//! single-use tickets or 0-RTT lets servers keep the sessions: [`ServerBuilder::resumption`].
//!
//! # What is safe
//!
//! - Nothing here ever opens a gate. Without keys, without randomness, with the poller dead:
//!   handshakes are full. No local key is invented, no session cache steps in, 0-RTT stays off.
//! - A ticket opens only in the scope in which it was sealed, until its lifetime, its key or the
//!   session lifetime ends, whichever is first; checked at each opening, whatever timers do.
//! - **A chain of resumptions ends.** Each renewal carries the instant of the full handshake, and
//!   no ticket opens once the session lifetime of the policy has passed since.
//! - **Who resumes has passed, when he last made a full handshake, every check that he would have
//!   had to pass here.** A [`ServerBuilder`] makes configuration and scope from one statement:
//!   whether clients are asked for certificates, by which authorities, and by which rule a verifier
//!   of one's own judges, is part of what keys are derived from. Servers that ask give no tickets
//!   at all unless told to, and then none that outlives the client's own certificate. Not part of
//!   it is how a check is computed: the signature algorithms of the `CryptoProvider` and the clock
//!   of the `TimeProvider`, which servers of one scope should have alike.
//! - TLS 1.2 sessions do not resume unless opted in, for each renewal seals one master secret again.
//! - A client of an acceptor has at most four of the tickets that it offers decrypted, if nothing
//!   else is said, or one looked up, however many it offers.
//! - All this holds for tickets and for sessions that servers keep, see [`Resumption`].
//! - A ticket that does not open is `None` to rustls, whatever the cause. The cause is counted:
//!   see [`TicketMetrics`].
//! - Only keys derived for a scope are kept for sealing and opening, and they are overwritten when
//!   they have ended.
//!
//! # What is not
//!
//! A resumed client is not verified again: that its certificate was revoked, or that an intermediate
//! or root above it has ended meanwhile, shows only after the session lifetime, unless the authority
//! is removed or the policy epoch raised. Of a chain only the client's own certificate is read, for
//! reading all of it at each ticket costs too much.
//!
//! A rule of a verifier of one's own is known by the name that it was given, and by nothing else.
//!
//! An [`UnboundedTicketer`], for those who have to keep a `ServerConfig` of their own and share it
//! by all connections, is shown the bytes of a session and nothing of its connection. It cannot cap
//! chains of renewal, it cannot count what one client has decrypted, and it cannot see whether
//! certificates are asked of clients. **Do not use it on a server that verifies client
//! certificates.** Its tickets and those of acceptors never open
//! each other, or the cap could be laundered away.
//!
//! All servers that share a scope must be ready to serve each other's clients: give servers that
//! are not the same site different labels.
//!
//! The crate leaves the memory of the process alone: turn core files off, and lock memory or do
//! without swap. What HTTP and TLS libraries have read of a bundle, encoded as base64, stays in their
//! buffers until they write over it, and in freed memory unless the allocator overwrites that.
//!
//! # Features
//!
//! - `client` (default): the poller, and with it `Fleet` and `Acceptor::accept`. Without it,
//!   whoever has [bundles](stek_core::bundle::Bundle) feeds [`TicketKeys`], has ended keys erased by
//!   a timer ([`TicketKeys::erase_ended`]), makes servers of them by [`ServerBuilder::with_keys`],
//!   and drives the handshakes.
//! - `tls12`: allows opting in to TLS 1.2 tickets.
//!
//!   TLS 1.2 itself is in rustls as soon as anybody in the program asks for it, which the HTTP
//!   client under `client` does. Then servers serve it, without resumption, unless they say
//!   otherwise by [`ServerBuilder::protocol_versions`].
//! - `redis`: `RedisBackend`, which keeps sessions in Redis or Valkey.

mod acceptor;
mod builder;
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
mod rules;
mod sealer;
mod session;
mod store;
mod ticketer;
mod tickets;

pub use prometheus;
#[cfg(feature = "client")]
pub use stek_client::{
    CertificateError, CertificateFiles, ClientConfig, ClientOptions, ConfigError, Failure,
    StartError, Status, Stopped, TokenError,
};
pub use stek_clock::{Clock, FleetClock, SystemClock};
pub use stek_core::bundle::Bundle;
pub use stek_core::derive::Use;
pub use stek_core::name::{InstanceName, KeysetName, NameError};
pub use stek_core::scope::{ChainRule, ClientAuth, ClientCa, Scope, ScopeError};
pub use stek_core::time::Seconds;

pub use acceptor::Acceptor;
pub use builder::{BuildError, ServerBuilder};
#[cfg(feature = "client")]
pub use fleet::{Fleet, FleetError};
pub use keys::TicketKeys;
pub use metrics::TicketMetrics;
pub use nonce::{NoRandomness, NonceSource, PooledNonces, SystemNonces};
pub use resumption::Resumption;
pub use rules::ResumeClientAuth;
pub use store::{LookUpError, MemoryBackend, PutError, SessionBackend, SessionKey, SharedBackend};
#[cfg(feature = "redis")]
pub use store::{RedisBackend, RedisConfig, RedisConfigError, RedisStartError};
pub use ticketer::{UnboundedTicketer, UnfitScope};

// The fixture names this crate as the integration tests do, which share it.
#[cfg(test)]
extern crate self as stek_rustls;
#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
