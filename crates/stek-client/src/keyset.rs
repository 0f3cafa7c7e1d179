//! Follows one keyset: what a terminator installs.

use std::sync::Arc;

use prometheus::Registry;
use stek_clock::{Clock, FleetClock};
use stek_core::bundle::{Bundle, Refusal, check_replacement};
use stek_core::id::ContentTag;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};
use stek_wire::DecodeError;
use stek_wire::bundle::decode_bundle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::Pace;
use crate::config::{ClientConfig, MAX_BUNDLE_BODY_BYTES};
use crate::content::{Content, Rejected, Source};
use crate::follower::{Follower, StartError, Stopped};
use crate::status::Status;

/// Keeps the bundle of one keyset current until it is dropped.
///
/// Publishes a bundle when a better one came and when one of its keys is erased. A bundle that is
/// refused, or nobody to be reached, changes nothing; after the last `destroy_at` the bundle that
/// is left has no keys.
pub struct KeysetFollower(Follower<Bundle>);

impl KeysetFollower {
    /// Starts to follow `keyset` on the current Tokio run time. Registers its metrics, which carry
    /// the keyset as a label and leave the registry with it.
    ///
    /// # Errors
    /// [`StartError`] by cause. That nobody can be reached is none.
    ///
    /// # Panics
    /// Outside a Tokio run time.
    pub fn start(
        config: &ClientConfig,
        keyset: KeysetName,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let source = Source::Keyset(keyset);
        Follower::start(config, source, MAX_BUNDLE_BODY_BYTES, clock, registry).map(Self)
    }

    /// The installed bundle, none before the first. Who keeps an [`Arc`] of it keeps its keys from
    /// being erased, so borrow anew at each change.
    pub fn bundles(&self) -> watch::Receiver<Option<Arc<Bundle>>> {
        self.0.subscribe()
    }

    /// Fleet time as the answers tell it; the machine's wall clock before the first.
    pub fn fleet(&self) -> Arc<FleetClock> {
        self.0.fleet()
    }

    /// Returns once a bundle is installed. Bound the wait, for that may be never.
    ///
    /// # Errors
    /// [`Stopped`] if the follower is cancelled before.
    pub async fn ready(&self) -> Result<Arc<Bundle>, Stopped> {
        self.0.ready().await
    }

    /// How it fares.
    pub fn status(&self) -> Status {
        self.0.status()
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

impl std::fmt::Debug for KeysetFollower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeysetFollower").field("status", &self.status()).finish_non_exhaustive()
    }
}

impl Content for Bundle {
    type Offer = Self;

    fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        decode_bundle(body)
    }

    fn offer_tag(offer: &Self) -> ContentTag {
        offer.tag()
    }

    fn join(offer: Self, installed: Option<&Self>, source: &Source) -> Result<Self, Rejected> {
        match source {
            Source::Keyset(followed) if followed != offer.name() => {
                let (installed, offered) = (followed.clone(), offer.name().clone());
                return Err(Rejected::Bundle(Refusal::OtherKeyset { installed, offered }));
            }
            Source::Keyset(_) | Source::Feed => {}
        }
        if let Some(installed) = installed {
            check_replacement(installed, &offer).map_err(Rejected::Bundle)?;
        }
        Ok(offer)
    }

    fn tag(&self) -> ContentTag {
        self.tag()
    }

    fn pace(&self) -> Option<Pace> {
        Some(Pace::of(self.policy()))
    }

    fn key_count(&self) -> usize {
        self.keys().len()
    }

    fn next_erasure(&self) -> Option<Timestamp> {
        self.next_erasure()
    }

    fn last_end(&self) -> Option<Timestamp> {
        self.last_end()
    }

    fn least_span(&self) -> Seconds {
        self.least_span()
    }

    fn erased_at(&self, now: Timestamp) -> Self {
        self.erased_at(now)
    }
}
