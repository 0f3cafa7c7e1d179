//! Follows the feed of all keysets that one may distribute: what a distribution serves on.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_clock::{Clock, FleetClock};
use stek_core::bundle::Bundle;
use stek_core::feed::FeedState;
use stek_core::id::ContentTag;
use stek_core::time::{Seconds, Timestamp};
use stek_wire::DecodeError;
use stek_wire::feed::{FeedUpdate, MAX_FEED_BYTES, decode_feed};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Pace;
use crate::config::ClientConfig;
use crate::content::{Content, Rejected, Source};
use crate::follower::{Follower, StartError, Stopped};
use crate::status::Status;

/// Tokens and grants count for nothing after a day; a feed in which nothing changes does not say
/// that they were read again, so from this age on all of it is asked for.
const STALE_ACCESS: Seconds = Seconds::from_hours(6);

/// The database forgets deletions after a week, and no difference says so.
const DIFFERENCES_FOR: Duration = Duration::from_secs(24 * 3600);

/// Keeps the state of the feed current until it is dropped.
///
/// Asks for what changed since the revision it has, and for everything if that does not fit. An
/// upstream that is behind is waited for. Fleet time and pauses go by the strictest of the
/// policies in the feed.
pub struct FeedFollower(Follower<FeedState>);

impl FeedFollower {
    /// Starts to follow the feed on the current Tokio run time. Registers its metrics, which leave
    /// the registry with it.
    ///
    /// # Errors
    /// [`StartError`] by cause. That nobody can be reached is none.
    ///
    /// # Panics
    /// Outside a Tokio run time.
    pub fn start(
        config: &ClientConfig,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        Follower::start(config, Source::Feed, MAX_FEED_BYTES, clock, registry).map(Self)
    }

    /// The installed state, none before the first. Who keeps an [`Arc`] of it keeps its keys from
    /// being erased, so borrow anew at each change.
    pub fn states(&self) -> watch::Receiver<Option<Arc<FeedState>>> {
        self.0.subscribe()
    }

    /// Fleet time as the answers tell it; the machine's wall clock before the first.
    pub fn fleet(&self) -> Arc<FleetClock> {
        self.0.fleet()
    }

    /// Returns once a state is installed. Bound the wait, for that may be never.
    ///
    /// # Errors
    /// [`Stopped`] if the follower is cancelled before.
    pub async fn ready(&self) -> Result<Arc<FeedState>, Stopped> {
        self.0.ready().await
    }

    /// How it fares.
    pub fn status(&self) -> Status {
        self.0.status()
    }

    /// How it fares, for whoever outlives it.
    pub fn status_reader(&self) -> impl Fn() -> Status + Send + Sync + use<> {
        self.0.status_reader()
    }

    /// Stops the follower when it is cancelled. What is installed stays published, and is no
    /// longer erased.
    pub fn cancellation(&self) -> CancellationToken {
        self.0.cancellation()
    }

    /// Stops the follower and waits until its tasks have ended, which is at once.
    pub async fn shutdown(self) {
        self.0.shutdown().await;
    }
}

impl std::fmt::Debug for FeedFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FeedFollower").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Content for FeedState {
    type Offer = FeedUpdate;

    const DIFFERENCES_FOR: Option<Duration> = Some(DIFFERENCES_FOR);

    fn decode(body: &[u8]) -> Result<FeedUpdate, DecodeError> {
        decode_feed(body)
    }

    fn offer_tag(offer: &FeedUpdate) -> ContentTag {
        offer.tag()
    }

    fn join(
        offer: FeedUpdate,
        installed: Option<&Self>,
        _source: &Source,
    ) -> Result<Self, Rejected> {
        offer.apply(installed).map_err(Rejected::Feed)
    }

    fn tag(&self) -> ContentTag {
        self.tag()
    }

    fn pace(&self) -> Option<Pace> {
        self.keysets.values().map(|bundle| Pace::of(bundle.policy())).reduce(Pace::min)
    }

    fn key_count(&self) -> usize {
        self.keysets.values().map(|bundle| bundle.keys().len()).sum()
    }

    fn next_erasure(&self) -> Option<Timestamp> {
        self.keysets.values().filter_map(|bundle| bundle.next_erasure()).min()
    }

    fn last_end(&self) -> Option<Timestamp> {
        self.keysets.values().filter_map(|bundle| bundle.last_end()).max()
    }

    fn least_span(&self) -> Seconds {
        let spans = self.keysets.values().map(|bundle| bundle.least_span());
        spans.max().unwrap_or(Seconds::ZERO)
    }

    fn erased_at(&self, now: Timestamp) -> Self {
        let erased = |bundle: &Arc<Bundle>| {
            if bundle.next_erasure().is_some_and(|due| due <= now) {
                Arc::new(bundle.erased_at(now))
            } else {
                Arc::clone(bundle)
            }
        };
        let keysets =
            self.keysets.iter().map(|(name, bundle)| (name.clone(), erased(bundle))).collect();
        Self { keysets, ..self.clone() }
    }

    fn is_stale(&self, now: Timestamp) -> bool {
        now.since(self.access_read_at) > STALE_ACCESS
    }
}
