//! Who asks, and whether he may. Nothing is allowed unless granted, and
//! grants that nobody has confirmed for a day grant nothing.

use std::sync::Arc;
use std::time::Duration;

use stek_core::access::Role;
use stek_core::feed::FeedState;
use stek_core::name::KeysetName;
use stek_core::principal::Principals;
use stek_core::time::{Seconds, Timestamp};
use stek_http::{Problem, Proof, Waiting};

use crate::Shared;

/// How old tokens and grants may be.
pub(crate) const ACCESS_MAX_AGE: Seconds = Seconds::from_hours(24);

/// How soon to ask again while there is nothing to serve.
const RETRY: Duration = Duration::from_secs(2);

/// The proof that a request carries; judged again after every wait, for it may have been revoked
/// meanwhile.
pub(crate) struct Visitor {
    proof: Proof,
    waiting: Option<Waiting>,
}

/// What the proof was worth, and by what state, when it was judged last.
pub(crate) struct Judged {
    pub(crate) who: Principals,
    pub(crate) feed: Arc<FeedState>,
}

impl Visitor {
    /// Somebody who brings this proof, and has not asked more than the listener allows. Who can be
    /// told is known also while nothing is served, and keeps his connection for when it is.
    pub(crate) fn arrive(shared: &Shared, proof: Proof) -> Result<(Self, Judged), Problem> {
        let (feed, now) = (shared.feed.borrow().clone(), shared.fleet.now());
        let access = feed.as_ref().map(|feed| Arc::clone(&feed.access)).unwrap_or_default();
        let who = proof.principals(&access, now);
        if let Ok(who) = &who {
            proof.admit(who)?;
        }
        let feed = in_force(feed, now)?;
        Ok((Self { proof, waiting: None }, Judged { who: who?, feed }))
    }

    /// Counts as one who waits from now on, unless too many of the same principal do.
    pub(crate) fn stay(&mut self, shared: &Shared) -> Result<(), Problem> {
        if self.waiting.is_none() {
            let who = self.judge(shared)?.who;
            self.waiting = Some(self.proof.wait(&who)?);
        }
        Ok(())
    }

    /// Who it is, by what is published now.
    pub(crate) fn judge(&self, shared: &Shared) -> Result<Judged, Problem> {
        let now = shared.fleet.now();
        let feed = in_force(shared.feed.borrow().clone(), now)?;
        Ok(Judged { who: self.proof.principals(&feed.access, now)?, feed })
    }
}

/// What may be served by, if there is anything.
fn in_force(feed: Option<Arc<FeedState>>, now: Timestamp) -> Result<Arc<FeedState>, Problem> {
    let feed = feed.ok_or_else(|| Problem::unavailable("nothing is published here yet", RETRY))?;
    if now >= feed.access_read_at + ACCESS_MAX_AGE {
        let detail = "tokens and grants have not been confirmed for a day";
        return Err(Problem::unavailable(detail, RETRY));
    }
    Ok(feed)
}

impl Judged {
    /// Refuses whoever may not act as `role` on `keyset`, with the answer for a keyset that does
    /// not exist.
    pub(crate) fn must(&self, role: Role, keyset: &KeysetName) -> Result<(), Problem> {
        let may = self.feed.access.allows(&self.who, role, keyset);
        if may { Ok(()) } else { Err(Problem::not_found()) }
    }

    /// Refuses who has `role` on no keyset at all, in the same way.
    pub(crate) fn must_have(&self, role: Role) -> Result<(), Problem> {
        let has = self.feed.access.has_role(&self.who, role);
        if has { Ok(()) } else { Err(Problem::not_found()) }
    }
}
