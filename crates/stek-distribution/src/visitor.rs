//! Who asks, proven by a bearer token, and whether he may. Nothing is allowed unless granted, and
//! grants that nobody has confirmed for a day grant nothing.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use stek_core::access::{Role, TokenSecret};
use stek_core::feed::FeedState;
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::time::Seconds;
use stek_http::{Problem, bearer};

use crate::Shared;

/// How old tokens and grants may be.
pub(crate) const ACCESS_MAX_AGE: Seconds = Seconds::from_hours(24);

/// How soon to ask again while there is nothing to serve.
const RETRY: Duration = Duration::from_secs(2);

/// The proof that a request carries; judged again after every wait, for it may have been revoked
/// meanwhile.
pub(crate) struct Visitor {
    secret: TokenSecret,
}

impl Visitor {
    /// The proof in `headers`.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Result<Self, Problem> {
        let token = bearer::from_headers(headers).ok().flatten();
        let secret = token.and_then(|token| TokenSecret::parse(token.expose_secret()));
        secret.map(|secret| Self { secret }).ok_or_else(Problem::unauthenticated)
    }

    /// The principal, by what is published now.
    pub(crate) fn principal(
        &self,
        shared: &Shared,
    ) -> Result<(PrincipalName, Arc<FeedState>), Problem> {
        let Some(feed) = shared.feed.borrow().clone() else {
            return Err(Problem::unavailable("nothing is published here yet", RETRY));
        };
        let now = shared.fleet.now();
        if now >= feed.access_read_at + ACCESS_MAX_AGE {
            let detail = "tokens and grants have not been confirmed for a day";
            return Err(Problem::unavailable(detail, RETRY));
        }
        let principal = feed.access.authenticate(&self.secret, now);
        let principal = principal.ok_or_else(Problem::unauthenticated)?.clone();
        Ok((principal, feed))
    }

    /// Refuses whoever may not act as `role` on `keyset`, with the answer for a keyset that does
    /// not exist.
    pub(crate) fn must(
        &self,
        shared: &Shared,
        role: Role,
        keyset: &KeysetName,
    ) -> Result<(), Problem> {
        let (principal, feed) = self.principal(shared)?;
        if feed.access.allows(&principal, role, keyset) {
            Ok(())
        } else {
            Err(Problem::not_found())
        }
    }
}
