//! How a request proves who asks: by a bearer token, or by the certificate of its connection. What
//! the one who asks may do is decided by others.
//!
//! A request with an `Authorization` header is judged by that alone, also on a connection with a
//! certificate: what is said for one request counts before what is said for all, the two never add
//! up, and a token that is refused does not fall back to the certificate. So a proxy that passes
//! headers on lends nobody its own identity.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::extract::FromRequestParts;
use http::header::AUTHORIZATION;
use http::request::Parts;
use http::{Extensions, HeaderMap};
use stek_core::access::{Access, TokenHash};
use stek_core::principal::Principals;
use stek_core::time::Timestamp;

use crate::quota::{Quotas, Waiting};
use crate::{Channel, ClientCertificate, Origin, Peer, Problem, bearer};

/// The proof that a request carries. Take it in a handler as an extractor: without one the answer
/// is 401. Judge it again after every wait, for it may have ended meanwhile.
#[derive(Debug)]
pub struct Proof {
    kind: Kind,
    standing: Option<Standing>,
}

/// How whoever is at the other end of a connection stands with us. Every request of a connection
/// carries it.
#[derive(Debug, Clone)]
pub struct Standing(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    quotas: Arc<Quotas>,
    has_proven: AtomicBool,
}

impl Standing {
    /// That of a connection on which nobody has proven anything yet.
    pub(crate) fn new(quotas: Arc<Quotas>) -> Self {
        Self(Arc::new(Shared { quotas, has_proven: AtomicBool::new(false) }))
    }

    /// Counts one request, the one with these `extensions`, of `who` has proven to be that in
    /// another way than by a [`Proof`]; see [`Proof::admit`].
    ///
    /// # Errors
    /// 429 if they ask too often.
    pub fn admit(extensions: &Extensions, who: &Principals) -> Result<(), Problem> {
        extensions.get::<Self>().map_or(Ok(()), |standing| standing.count(who))
    }

    fn count(&self, who: &Principals) -> Result<(), Problem> {
        self.set_proven();
        self.0.quotas.request(who.shown()).map_err(Problem::too_many_requests)
    }

    /// Whether somebody has proven who he is. A connection on which somebody is refused before is
    /// closed, so that strangers do not keep the places of others.
    pub(crate) fn has_proven(&self) -> bool {
        self.0.has_proven.load(Ordering::Relaxed)
    }

    fn set_proven(&self) {
        self.0.has_proven.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
enum Kind {
    /// What is known of the token; the secret itself is needed no longer.
    Token(TokenHash),
    Certificate(Arc<ClientCertificate>),
}

impl Proof {
    /// Who asks, by the tokens in `access` and the time.
    ///
    /// # Errors
    /// 401 for a token that is not known or has expired, and for a certificate that has.
    pub fn principals(&self, access: &Access, now: Timestamp) -> Result<Principals, Problem> {
        let principals = match &self.kind {
            Kind::Token(hash) => access.authenticate(hash, now).map(|(_, whose)| whose.clone()),
            // Valid through its last second (RFC 5280, section 4.1.2.5).
            Kind::Certificate(certificate) => {
                (now <= certificate.not_after).then(|| certificate.principals.clone())
            }
        };
        principals.ok_or_else(Problem::unauthenticated)
    }

    /// Counts one request of `who`, who has proven to be that, against the listener's limits; once
    /// for each request.
    ///
    /// # Errors
    /// 429 if they ask too often.
    pub fn admit(&self, who: &Principals) -> Result<(), Problem> {
        self.standing.as_ref().map_or(Ok(()), |standing| standing.count(who))
    }

    /// Counts one request of `who` that waits for a change, for as long as the guard is held.
    ///
    /// # Errors
    /// 429 if too many of them wait.
    pub fn wait(&self, who: &Principals) -> Result<Waiting, Problem> {
        match &self.standing {
            Some(standing) => {
                standing.0.quotas.wait(who.shown()).map_err(Problem::too_many_requests)
            }
            None => Ok(Waiting::uncounted()),
        }
    }

    /// The proof that a request with these `headers` from there carries.
    ///
    /// # Errors
    /// 401 if it carries none.
    pub fn of(headers: &HeaderMap, origin: Origin<'_>) -> Result<Self, Problem> {
        let kind = Self::find(headers, origin.peer).ok_or_else(Problem::unauthenticated)?;
        Ok(Self { kind, standing: origin.standing.cloned() })
    }

    fn find(headers: &HeaderMap, peer: Option<&Peer>) -> Option<Kind> {
        let mut values = headers.get_all(AUTHORIZATION).iter();
        if let Some(value) = values.next() {
            // Of several it would be unclear who asks.
            let secret = bearer::secret(value).filter(|_| values.next().is_none())?;
            return Some(Kind::Token(secret.hash()));
        }
        match &peer?.channel {
            Channel::Tls(Some(certificate)) => Some(Kind::Certificate(Arc::clone(certificate))),
            Channel::Tls(None) | Channel::Plain => None,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Proof {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        Self::of(&parts.headers, Origin::of(&parts.extensions))
    }
}

#[cfg(test)]
mod tests;
