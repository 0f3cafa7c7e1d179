//! A ticketer for rustls that seals and opens under the keys of the fleet and is shared by all
//! connections of a configuration, so that it knows nothing of any. What may become a ticket is
//! decided as for the tickets of connections.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;
use stek_core::scope::{ChainRule, ClientAuth, Scope};
use stek_core::time::Seconds;

use crate::glue::rustls_0_23::{self, resume_nothing};
use crate::keys::TicketKeys;
use crate::metrics::TicketMetrics;
use crate::nonce::{NonceSource, PooledNonces};
#[cfg(feature = "tls12")]
use crate::rules::ResumeTls12;
use crate::rules::Rules;
use crate::sealer::Sealer;
use crate::tickets::{counted_open, counted_seal};

/// Tickets under the keys of a fleet, without a bound on chains of resumption.
///
/// rustls shows a ticketer the bytes of a session and nothing of the connection. So this type
/// - cannot cap chains of renewal: each resumption brings a ticket that counts as new, and a client
///   that resumes often enough never makes a full handshake again. What bounds it is the lifetime
///   of each single ticket;
/// - cannot limit how many tickets one connection has decrypted. What bounds that is the longest
///   `ClientHello` that rustls reads, 64 KiB: some five hundred tickets that bear a name of ours, in
///   one handshake. Others cost one look-up by name;
/// - cannot see client authentication: a session begun without a client certificate resumes at a
///   server that demands one. **Do not use it on a server that verifies client certificates**;
///   rustls does not let anybody ask a `ServerConfig` whether it does. Sessions in which a client
///   has proved a certificate become no tickets.
///
/// TLS 1.2 sessions and whatever is not exactly a session of rustls 0.23 become no tickets either.
///
/// Its scope says [`ChainRule::Unbounded`], so that servers that do cap never open its tickets.
pub struct UnboundedTicketer {
    sealer: Sealer,
}

/// The scope promises something that an [`UnboundedTicketer`] cannot keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnfitScope {
    /// Its chain rule is [`ChainRule::Capped`].
    #[error("scope {label:?} caps chains of resumption, an unbounded ticketer cannot")]
    Capped {
        /// The label of the scope.
        label: String,
    },
    /// It is for servers that ask certificates of clients.
    #[error("scope {label:?} asks certificates of clients, an unbounded ticketer cannot see them")]
    AsksClients {
        /// The label of the scope.
        label: String,
    },
}

impl UnboundedTicketer {
    /// Seals and opens under `keys`, with nonces of the operating system.
    ///
    /// # Errors
    /// [`UnfitScope`] if the scope of `keys` caps chains or asks certificates of clients.
    pub fn try_new(keys: Arc<TicketKeys>, metrics: TicketMetrics) -> Result<Self, UnfitScope> {
        Self::try_with_nonces(keys, metrics, Arc::new(PooledNonces))
    }

    /// The same with nonces from elsewhere. A source that gives one nonce twice gives the sessions
    /// away that were sealed with it.
    ///
    /// # Errors
    /// As [`UnboundedTicketer::try_new`].
    pub fn try_with_nonces(
        keys: Arc<TicketKeys>,
        metrics: TicketMetrics,
        nonces: Arc<dyn NonceSource>,
    ) -> Result<Self, UnfitScope> {
        check_scope(keys.scope())?;
        let (rules, read) = (Rules::default(), rustls_0_23::read);
        Ok(Self { sealer: Sealer { keys, metrics, nonces, rules, read } })
    }

    /// Lets TLS 1.2 sessions resume too, **which seals one master secret again and again, without
    /// end**: who steals any one of the keys under which it was sealed reads all connections of the
    /// session, earlier and later ones, for TLS 1.2 resumption has no forward secrecy. Other than at
    /// [`ServerBuilder`](crate::ServerBuilder) no rotation ends that.
    #[cfg(feature = "tls12")]
    #[must_use]
    pub fn resume_tls12_resealing_one_master_secret_without_end(mut self) -> Self {
        self.sealer.rules.tls12 = ResumeTls12::TwoRotations;
        self
    }

    /// Makes this the only way in which servers of `config` resume: sets the ticketer, removes the
    /// session cache of the process and switches 0-RTT off.
    pub fn use_in(self: &Arc<Self>, config: &mut ServerConfig) {
        resume_nothing(config);
        config.ticketer = Arc::<Self>::clone(self);
    }
}

/// # Errors
/// [`UnfitScope`] if an unbounded ticketer cannot keep what `scope` promises.
pub(crate) fn check_scope(scope: &Scope) -> Result<(), UnfitScope> {
    let label = || scope.label().to_owned();
    if scope.chain() != ChainRule::Unbounded {
        return Err(UnfitScope::Capped { label: label() });
    }
    if scope.client_auth() != ClientAuth::None {
        return Err(UnfitScope::AsksClients { label: label() });
    }
    Ok(())
}

impl ProducesTickets for UnboundedTicketer {
    /// Always true, also without keys: rustls takes `false` for leave to fall back to the session
    /// cache of the process and to 0-RTT.
    fn enabled(&self) -> bool {
        true
    }

    /// Seconds for which a ticket sealed now will open, at most seven days. The call does not tell
    /// the version, so where TLS 1.2 resumes it is what a ticket of either has.
    ///
    /// Zero when nothing seals. Then rustls sends no ticket at all in TLS 1.3, for it asks only
    /// after [`encrypt`](ProducesTickets::encrypt) gave one, and in TLS 1.2 an empty ticket with a
    /// hint of zero. If the last key retires between the two calls, or if the active one ends
    /// within the clock skew, a real ticket goes out with zero: RFC 8446 (4.6.1) has clients discard
    /// it, others may take zero for no limit (RFC 5077, 3.3; so does the client of rustls). Either
    /// way it opens only while its key does.
    fn lifetime(&self) -> u32 {
        let now = self.sealer.keys.now();
        let snapshot = self.sealer.keys.load();
        let hint = snapshot.as_ref().map_or(Seconds::ZERO, |known| {
            known.lifetime_hint(now, now).min(self.sealer.rules.least_span(known.policy()))
        });
        // At most 604,800.
        u32::try_from(hint.as_secs()).unwrap_or(0)
    }

    /// A ticket under the active key; `None` when nothing seals, the session is too long or not one
    /// that may resume, or there is no randomness.
    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        counted_seal(&self.sealer.metrics, self.sealer.seal(&[], session, None))
    }

    /// The session in a ticket that an attacker may have made; `None` whatever the cause.
    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        counted_open(&self.sealer.metrics, self.sealer.open(ticket, || true, Ok))
    }
}

impl fmt::Debug for UnboundedTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnboundedTicketer").field("keys", &self.sealer.keys).finish_non_exhaustive()
    }
}
