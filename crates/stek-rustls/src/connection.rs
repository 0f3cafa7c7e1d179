//! The tickets of one connection: which sessions may become tickets, which tickets may be tried,
//! and when a chain of resumptions ends. Knows no TLS library; keys and schedules are
//! [`Snapshot`](stek_core::snapshot::Snapshot)'s.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use stek_core::certificate::not_after;
use stek_core::policy::Policy;
use stek_core::scope::ClientAuth;
use stek_core::snapshot::{OpenMiss, Opened, SealMiss};
use stek_core::time::{Seconds, Timestamp};

use crate::keys::TicketKeys;
use crate::metrics::{OpenOutcome, SealOutcome, TicketMetrics};
use crate::nonce::NonceSource;
use crate::session::{ReadSession, Session, TlsVersion};
use crate::ticketer::may_be_ticket;

/// How many tickets are opened for one connection if nothing else is said. Clients offer one or
/// two; an attacker fits thousands into one ClientHello.
pub(crate) const DEFAULT_MAX_OPENS: u32 = 4;

/// Whether connections on which certificates of clients are asked may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResumeClientAuth {
    Never,
    UntilCertificateEnds,
}

/// Whether sessions of TLS 1.2 may be resumed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResumeTls12 {
    Never,
    /// At most for two rotation periods, for each renewal seals one master secret again.
    #[cfg_attr(not(feature = "tls12"), allow(dead_code, reason = "nobody can opt in"))]
    TwoRotations,
}

/// What a server allows; the same for all its connections.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rules {
    pub(crate) client_auth: ResumeClientAuth,
    pub(crate) tls12: ResumeTls12,
    pub(crate) max_opens: u32,
}

/// What all connections of a server share.
pub(crate) struct Server {
    pub(crate) keys: Arc<TicketKeys>,
    pub(crate) metrics: TicketMetrics,
    pub(crate) nonces: Arc<dyn NonceSource>,
    pub(crate) rules: Rules,
    pub(crate) read: ReadSession,
}

/// What one connection has to remember from the tickets offered to the tickets given. The calls of
/// one connection come one after another, though not on one thread.
pub(crate) struct Connection {
    server: Arc<Server>,
    /// Unix seconds of the oldest full handshake behind the tickets opened here, [`NONE_OPENED`]
    /// before the first.
    authenticated_at: AtomicU64,
    opens_left: AtomicU32,
    /// Seconds that the ticket sealed last will open; zero before the first.
    hint: AtomicU32,
}

const NONE_OPENED: u64 = u64::MAX;

impl Connection {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        let opens_left = AtomicU32::new(server.rules.max_opens);
        let authenticated_at = AtomicU64::new(NONE_OPENED);
        Self { server, authenticated_at, opens_left, hint: AtomicU32::new(0) }
    }

    /// A ticket for `session`, if such sessions may be resumed and there is time left.
    pub(crate) fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.try_seal(session);
        let hint = sealed.as_ref().map_or(Seconds::ZERO, |(_, hint)| *hint);
        // At most 604,800.
        self.hint.store(u32::try_from(hint.as_secs()).unwrap_or(0), Ordering::Relaxed);
        let missed = sealed.as_ref().err().copied();
        self.server.metrics.count_sealed(missed.unwrap_or(SealOutcome::Sealed));
        sealed.ok().map(|(ticket, _)| ticket)
    }

    /// The session in a ticket that an attacker may have made; `None` whatever the cause.
    pub(crate) fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let metrics = &self.server.metrics;
        match self.try_open(ticket) {
            Ok((opened, age)) => {
                let authenticated_at = opened.stamp.authenticated_at.as_unix();
                self.authenticated_at.fetch_min(authenticated_at, Ordering::Relaxed);
                metrics.count_opened(OpenOutcome::from(&opened));
                metrics.observe_age(age);
                Some(opened.payload)
            }
            Err(outcome) => {
                metrics.count_opened(outcome);
                None
            }
        }
    }

    /// Seconds for which the ticket sealed last will open, zero if none was sealed.
    pub(crate) fn lifetime_hint(&self) -> u32 {
        self.hint.load(Ordering::Relaxed)
    }

    fn try_seal(&self, session: &[u8]) -> Result<(Vec<u8>, Seconds), SealOutcome> {
        let Server { keys, nonces, read, rules, .. } = &*self.server;
        let parsed = read(session).ok_or(SealOutcome::Unreadable)?;
        if !rules.allow(&parsed, keys.scope().client_auth()) {
            return Err(SealOutcome::NotAllowed);
        }
        let snapshot = keys.load();
        let snapshot = snapshot.as_ref().ok_or(SealOutcome::NoActiveKey)?;
        let now = keys.now();
        // A chain that a faster clock began counts as begun now.
        let opened = self.authenticated_at.load(Ordering::Relaxed);
        let authenticated_at = Timestamp::from_unix(opened).min(now);
        let end = session_end(&parsed, snapshot.policy(), authenticated_at)
            .ok_or(SealOutcome::Unreadable)?;
        if now >= end {
            return Err(SealMiss::SessionTooOld.into());
        }
        let nonce = nonces.draw().map_err(|_| SealOutcome::NoRandomness)?;
        let ticket = snapshot.seal(session, authenticated_at, &nonce, now)?.ticket;
        Ok((ticket, snapshot.lifetime_hint(authenticated_at, now).min(end.since(now))))
    }

    fn try_open(&self, ticket: &[u8]) -> Result<(Opened, Seconds), OpenOutcome> {
        let Server { keys, read, rules, .. } = &*self.server;
        if !may_be_ticket(ticket) {
            return Err(OpenMiss::Malformed.into());
        }
        let snapshot = keys.load();
        let snapshot = snapshot.as_ref().ok_or(OpenMiss::Unknown)?;
        let candidate = snapshot.find(ticket)?;
        if !self.may_open_one_more() {
            return Err(OpenOutcome::TooMany);
        }
        let now = keys.now();
        let opened = candidate.open(now)?;
        let session = read(&opened.payload).ok_or(OpenOutcome::NotAllowed)?;
        if !rules.allow(&session, keys.scope().client_auth()) {
            return Err(OpenOutcome::NotAllowed);
        }
        let end = session_end(&session, snapshot.policy(), opened.stamp.authenticated_at)
            .ok_or(OpenOutcome::NotAllowed)?;
        if now >= end {
            return Err(OpenMiss::SessionTooOld.into());
        }
        let age = now.since(opened.stamp.issued_at);
        Ok((opened, age))
    }

    fn may_open_one_more(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.opens_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

impl Rules {
    /// Whether `session` may be resumed at all by a server that demands `client_auth`. That a
    /// ticket was sealed elsewhere under the same scope does not make it so: that server may have
    /// other rules.
    fn allow(&self, session: &Session<'_>, client_auth: ClientAuth) -> bool {
        let proven = session.client_certificate.is_some();
        let fits = match client_auth {
            ClientAuth::None => !proven,
            ClientAuth::Optional => true,
            ClientAuth::Required => proven,
        };
        let version = match session.version {
            TlsVersion::Tls13 => true,
            TlsVersion::Tls12 => self.tls12 != ResumeTls12::Never,
        };
        let asked = client_auth != ClientAuth::None;
        fits && version && (!asked || self.client_auth != ResumeClientAuth::Never)
    }
}

/// The first instant at which nothing of a chain begun at `authenticated_at` resumes any more, or
/// `None` if the client's certificate does not tell its end.
fn session_end(
    session: &Session<'_>,
    policy: &Policy,
    authenticated_at: Timestamp,
) -> Option<Timestamp> {
    let span = match session.version {
        TlsVersion::Tls13 => policy.session_lifetime(),
        TlsVersion::Tls12 => policy.session_lifetime().min(policy.rotation_period().times(2)),
    };
    let end = authenticated_at + span;
    match session.client_certificate {
        // It is still valid in the second of its notAfter.
        Some(certificate) => Some(end.min(not_after(certificate)? + Seconds::new(1))),
        None => Some(end),
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("keys", &self.server.keys).finish_non_exhaustive()
    }
}
