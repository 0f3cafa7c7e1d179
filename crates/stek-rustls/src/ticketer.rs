//! A ticketer for rustls that seals and opens under the keys of the fleet. Decides nothing of keys
//! and time, which is [`Snapshot`](stek_core::snapshot::Snapshot)'s; counts what became of each
//! ticket.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::ProducesTickets;
use stek_core::scope::{ChainRule, ClientAuth, Scope};
use stek_core::snapshot::{OpenMiss, Opened};
use stek_core::ticket::{MAX_TICKET_LEN, MIN_TICKET_LEN};
use stek_core::time::{Seconds, Timestamp};

use crate::glue::rustls_0_23::use_tickets_only;
use crate::keys::TicketKeys;
use crate::metrics::{OpenOutcome, SealOutcome, TicketMetrics};
use crate::nonce::{NonceSource, PooledNonces};

/// Tickets under the keys of a fleet, without a bound on chains of resumption.
///
/// rustls shows a ticketer the bytes of a session and nothing of the connection. So this type
/// - cannot cap chains of renewal: each resumption brings a ticket that counts as new, and a client
///   that resumes often enough never makes a full handshake again. What bounds it is the lifetime
///   of each single ticket;
/// - cannot see client authentication: a session begun under one set of client CAs, or under none,
///   resumes under another, also after the certificate has expired. **Do not use it on a server
///   that verifies client certificates**; rustls does not let anybody ask a `ServerConfig` whether
///   it does;
/// - cannot tell TLS versions apart: with TLS 1.2 each renewal seals the same master secret again,
///   which so outlives every key under which it was sealed. Build the `ServerConfig` for TLS 1.3
///   only, unless that is acceptable.
///
/// Its scope says [`ChainRule::Unbounded`], so that servers that do cap never open its tickets.
pub struct UnboundedTicketer {
    keys: Arc<TicketKeys>,
    metrics: TicketMetrics,
    nonces: Arc<dyn NonceSource>,
}

/// The scope promises something that an [`UnboundedTicketer`] cannot keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
        Ok(Self { keys, metrics, nonces })
    }

    /// Makes this the only way in which servers of `config` resume: sets the ticketer, removes the
    /// session cache of the process and switches 0-RTT off.
    pub fn use_in(self: &Arc<Self>, config: &mut ServerConfig) {
        use_tickets_only(config, Arc::<Self>::clone(self));
    }

    fn seal(&self, session: &[u8]) -> Result<Vec<u8>, SealOutcome> {
        let snapshot = self.keys.load();
        let snapshot = snapshot.as_ref().ok_or(SealOutcome::NoActiveKey)?;
        let nonce = self.nonces.draw().map_err(|_| SealOutcome::NoRandomness)?;
        let now = self.keys.now();
        Ok(snapshot.seal(session, now, &nonce, now)?.ticket)
    }

    /// What `ticket` holds, and the time at which it was opened.
    fn open(&self, ticket: &[u8]) -> Result<(Opened, Timestamp), OpenMiss> {
        // Clock and keys come after what can be told without them, for a hello may offer thousands.
        if !may_be_ticket(ticket) {
            return Err(OpenMiss::Malformed);
        }
        let snapshot = self.keys.load();
        let candidate = snapshot.as_ref().ok_or(OpenMiss::Unknown)?.find(ticket)?;
        let now = self.keys.now();
        Ok((candidate.open(now)?, now))
    }
}

/// Whether `ticket` has a length that a ticket can have. The limits are those of the format: one
/// learned from the tickets sealed here would refuse those of the fleet until this node has sealed
/// as long a one.
pub(crate) fn may_be_ticket(ticket: &[u8]) -> bool {
    (MIN_TICKET_LEN..=MAX_TICKET_LEN).contains(&ticket.len())
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

    /// Seconds for which a ticket sealed now will open, at most seven days.
    ///
    /// Zero when nothing seals. Then rustls sends no ticket at all in TLS 1.3, for it asks only
    /// after [`encrypt`](ProducesTickets::encrypt) gave one, and in TLS 1.2 an empty ticket with a
    /// hint of zero. If the last key retires between the two calls, or if the active one ends
    /// within the clock skew, a real ticket goes out with zero: RFC 8446 (4.6.1) has clients discard
    /// it, others may take zero for no limit (RFC 5077, 3.3; so does the client of rustls). Either
    /// way it opens only while its key does.
    fn lifetime(&self) -> u32 {
        let now = self.keys.now();
        let snapshot = self.keys.load();
        let hint = snapshot.as_ref().map_or(Seconds::ZERO, |known| known.lifetime_hint(now, now));
        // At most 604,800.
        u32::try_from(hint.as_secs()).unwrap_or(0)
    }

    /// A ticket under the active key; `None` when nothing seals, the session is too long, or there
    /// is no randomness.
    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.seal(session);
        let missed = sealed.as_ref().err().copied();
        self.metrics.count_sealed(missed.unwrap_or(SealOutcome::Sealed));
        sealed.ok()
    }

    /// The session in a ticket that an attacker may have made; `None` whatever the cause.
    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        match self.open(ticket) {
            Ok((opened, now)) => {
                self.metrics.count_opened(OpenOutcome::from(&opened));
                self.metrics.observe_age(now.since(opened.stamp.issued_at));
                Some(opened.payload)
            }
            Err(miss) => {
                self.metrics.count_opened(OpenOutcome::from(miss));
                None
            }
        }
    }
}

impl fmt::Debug for UnboundedTicketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnboundedTicketer").field("keys", &self.keys).finish_non_exhaustive()
    }
}
