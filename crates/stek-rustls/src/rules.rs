//! Which sessions a server lets resume, and when a chain of resumptions ends; the same for tickets
//! and for stored sessions. Knows no TLS library and no key.

use stek_core::derive::Use;
use stek_core::policy::Policy;
use stek_core::scope::ClientAuth;
use stek_core::time::{Seconds, Timestamp};

use crate::session::{Session, TlsVersion};
use stek_core::certificate::not_after;

/// How many offered tickets are decrypted for one connection if nothing else is said. Clients offer
/// one or two; an attacker fits thousands into one ClientHello.
const DEFAULT_MAX_TRIES: u32 = 4;

/// How many stored sessions are looked up for one connection, whatever is said. The handshake waits
/// for each look-up until its deadline, and a ClientHello must not multiply that.
const LOOK_UPS: u32 = 1;

/// Whether connections on which certificates of clients are asked may be resumed. For
/// [`Acceptor::with_unchecked_client_auth`](crate::Acceptor::with_unchecked_client_auth); a
/// [`ServerBuilder`](crate::ServerBuilder) has a method for it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResumeClientAuth {
    /// Each of their handshakes is a full one.
    #[default]
    Never,
    /// Until the session lifetime is over or the client's own certificate ends, and **without
    /// verifying it again**: see
    /// [`resume_client_auth_without_verifying_again`](crate::ServerBuilder::resume_client_auth_without_verifying_again).
    WithoutVerifyingAgain,
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
    /// Of tickets.
    pub(crate) max_tries: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            client_auth: ResumeClientAuth::Never,
            tls12: ResumeTls12::Never,
            max_tries: DEFAULT_MAX_TRIES,
        }
    }
}

impl Rules {
    /// How much of what one client offers is tried, for tickets or for stored sessions.
    pub(crate) fn tries(&self, usage: Use) -> u32 {
        match usage {
            Use::Ticket => self.max_tries,
            Use::Store => LOOK_UPS,
        }
    }

    /// Whether `session` may be resumed at all by a server that demands `client_auth`. That it was
    /// sealed elsewhere under the same scope does not make it so: that server may have other rules.
    pub(crate) fn allow(&self, session: &Session<'_>, client_auth: ClientAuth) -> bool {
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

    /// How long at least a chain lasts, whichever version of those allowed it is of.
    pub(crate) fn least_span(&self, policy: &Policy) -> Seconds {
        match self.tls12 {
            ResumeTls12::Never => span(TlsVersion::Tls13, policy),
            ResumeTls12::TwoRotations => span(TlsVersion::Tls12, policy),
        }
    }
}

/// How long after its full handshake a chain ends.
fn span(version: TlsVersion, policy: &Policy) -> Seconds {
    match version {
        TlsVersion::Tls13 => policy.session_lifetime(),
        TlsVersion::Tls12 => policy.session_lifetime().min(policy.rotation_period().times(2)),
    }
}

/// The first instant at which nothing of a chain begun at `authenticated_at` resumes any more, or
/// `None` if the client's certificate does not tell its end.
pub(crate) fn session_end(
    session: &Session<'_>,
    policy: &Policy,
    authenticated_at: Timestamp,
) -> Option<Timestamp> {
    let end = authenticated_at + span(session.version, policy);
    match session.client_certificate {
        // It is still valid in the second of its notAfter.
        Some(certificate) => Some(end.min(not_after(certificate)? + Seconds::new(1))),
        None => Some(end),
    }
}
