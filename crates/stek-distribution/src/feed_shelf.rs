//! The feed as bytes: made off the threads that serve, a few at a time, and of the whole of it one
//! buffer for all who ask for that. What somebody may see of it is decided by others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use stek_core::feed::FeedState;
use stek_core::id::{ContentTag, Revision};
use stek_core::time::{Seconds, Timestamp};
use stek_http::Problem;
use stek_wire::feed::{AccessPart, encode_feed};
use tokio::sync::Semaphore;

use crate::Shared;

/// How many are made at once. It takes a processor and up to 128 MiB.
const MAX_RENDERING: usize = 2;
/// The longest that one waits for others to be made.
const LONGEST_TURN: Duration = Duration::from_secs(10);
/// How soon to ask again when that was not enough.
const RETRY: Duration = Duration::from_secs(2);
/// How much older than what is published the word may be, in a buffer that is there, that tokens
/// and grants were confirmed. Followers ask for the whole anew when theirs is six hours old.
const MAX_BEHIND: Seconds = Seconds::new(60);

/// The whole feed as it was at some instant. Keeps no key but those in the buffer.
#[derive(Clone)]
struct Whole {
    tag: ContentTag,
    access_read_at: Timestamp,
    next_erasure: Option<Timestamp>,
    body: Bytes,
}

/// How much of the feed somebody needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Extent {
    /// All of it, for one who may see everything.
    Everything,
    /// All that one may see who may not see everything.
    View,
    /// The difference to what was there at this revision.
    Since(Revision),
}

pub(crate) struct FeedShelf {
    rendering: Arc<Semaphore>,
    whole: Mutex<Option<Whole>>,
}

impl Default for FeedShelf {
    fn default() -> Self {
        Self { rendering: Arc::new(Semaphore::new(MAX_RENDERING)), whole: Mutex::default() }
    }
}

impl FeedShelf {
    /// That much of the feed as `view` has it.
    ///
    /// # Errors
    /// 503 if too many wait for theirs.
    pub(crate) async fn get(
        &self,
        shared: &Shared,
        view: Arc<FeedState>,
        extent: Extent,
    ) -> Result<Bytes, Problem> {
        if let Some(body) = self.held(&view, extent, shared.fleet.now()) {
            return Ok(body);
        }
        let turn = Arc::clone(&self.rendering).acquire_owned();
        let turn = tokio::select! {
            turn = turn => turn.map_err(|_| Problem::internal())?,
            () = shared.fleet.clock().sleep(LONGEST_TURN) => {
                return Err(Problem::unavailable("too many fetch the feed", RETRY));
            }
        };
        let now = shared.fleet.now();
        // Somebody else may have wanted the same meanwhile.
        if let Some(body) = self.held(&view, extent, now) {
            return Ok(body);
        }
        let rendering = tokio::task::spawn_blocking(move || {
            // Also if whoever asked has gone.
            let _turn = turn;
            render(&view, extent, now)
        });
        let made = rendering.await.map_err(|_| Problem::internal())?;
        let body = made.body.clone();
        if extent == Extent::Everything {
            *self.lock() = Some(made);
            // What was published meanwhile has been cleared for already.
            let published = shared.feed.borrow().clone();
            published.inspect(|state| self.clear(state, shared.fleet.now()));
        }
        Ok(body)
    }

    /// Gives up what is not what `state` is at `now`, so that its keys are erased.
    pub(crate) fn clear(&self, state: &FeedState, now: Timestamp) {
        let mut whole = self.lock();
        if whole.as_ref().is_some_and(|whole| !whole.fits(state, now)) {
            *whole = None;
        }
    }

    fn held(&self, view: &FeedState, extent: Extent, now: Timestamp) -> Option<Bytes> {
        let whole = self.lock();
        let whole = whole.as_ref().filter(|_| extent == Extent::Everything);
        whole.filter(|whole| whole.fits(view, now)).map(|whole| whole.body.clone())
    }

    #[cfg(test)]
    pub(crate) fn is_kept(&self) -> bool {
        self.lock().is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Whole>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Whole {
    /// Whether this is as good as what would be made of `state` at `now`.
    fn fits(&self, state: &FeedState, now: Timestamp) -> bool {
        self.tag == state.tag()
            && state.access_read_at.since(self.access_read_at) <= MAX_BEHIND
            && self.next_erasure.is_none_or(|end| now < end)
    }
}

fn render(view: &FeedState, extent: Extent, now: Timestamp) -> Whole {
    let mut live = view.clone();
    for bundle in live.keysets.values_mut() {
        if bundle.next_erasure().is_some_and(|end| end <= now) {
            *bundle = Arc::new(bundle.erased_at(now));
        }
    }
    let (base, access) = match extent {
        Extent::Everything | Extent::View => (None, AccessPart::Included),
        Extent::Since(base) => (Some(base), AccessPart::Omitted),
    };
    Whole {
        tag: live.tag(),
        access_read_at: live.access_read_at,
        next_erasure: live.keysets.values().filter_map(|bundle| bundle.next_erasure()).min(),
        body: Bytes::from_owner(encode_feed(base, &live, access)),
    }
}
