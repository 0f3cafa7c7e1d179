//! The rendered bundles, one buffer for each keyset and revision, shared by all who fetch it and
//! erased when a key in it ends. Wakes those who wait for a keyset, and nobody else.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Bytes;
use http::HeaderValue;
use stek_core::bundle::Bundle;
use stek_core::feed::FeedState;
use stek_core::id::{ContentTag, KeyId};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use tokio::sync::watch;

use crate::{Feed, Shared, api};

/// Longest time without a look at what has ended, should the clock be moved.
const LONGEST_REST: Duration = Duration::from_secs(60);
/// How long after a panic the shelf is stocked again.
const PANIC_REST: Duration = Duration::from_secs(1);

/// A bundle ready to be sent. Keeps no key but those in the buffer, so that erasing it erases them.
pub(crate) struct Rendered {
    pub(crate) tag: ContentTag,
    /// The same as it is sent.
    pub(crate) etag: HeaderValue,
    pub(crate) body: Bytes,
    /// The keys in it.
    keys: Vec<KeyId>,
    next_erasure: Option<Timestamp>,
}

/// A keyset that is not published, or whose deletion is forgotten, is `None`.
pub(crate) type Content = Option<Arc<Rendered>>;

#[derive(Default)]
pub(crate) struct Shelf {
    slots: RwLock<HashMap<KeysetName, watch::Sender<Content>>>,
}

impl Shelf {
    /// The keyset's present and future content, if it is on the shelf.
    pub(crate) fn watch(&self, name: &KeysetName) -> Option<watch::Receiver<Content>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(name).map(watch::Sender::subscribe)
    }

    /// Puts out what `feed` holds, without the keys that have ended by `now`. Of a deleted keyset
    /// that is a bundle without keys, so that its terminators drop theirs.
    fn stock(&self, feed: &FeedState, now: Timestamp) {
        self.clear(feed);
        for bundle in feed.keysets.values() {
            self.put_out(bundle, now);
        }
        let gone = feed.tombstones.iter().filter(|(name, _)| !feed.keysets.contains_key(*name));
        for (name, revision) in gone {
            self.put_out(&Bundle::tombstone(feed.incarnation, name.clone(), *revision), now);
        }
    }

    fn put_out(&self, bundle: &Bundle, now: Timestamp) {
        let slot = self.slot(bundle.name());
        if slot.borrow().as_ref().is_some_and(|held| held.serves(bundle, now)) {
            return;
        }
        let rendered = Arc::new(Rendered::new(bundle, now));
        slot.send_if_modified(|held| {
            // Erasing does not raise the revision, so nobody needs to be woken for it.
            let woken = held.as_ref().is_none_or(|held| held.tag != rendered.tag);
            *held = Some(rendered);
            woken
        });
    }

    /// Takes away what `feed` does not know.
    fn clear(&self, feed: &FeedState) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|name, slot| {
            let known = feed.keysets.contains_key(name) || feed.tombstones.contains_key(name);
            if !known {
                slot.send_replace(None);
            }
            known
        });
    }

    fn slot(&self, name: &KeysetName) -> watch::Sender<Content> {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.entry(name.clone()).or_insert_with(|| watch::Sender::new(None)).clone()
    }

    /// When the next key of a rendered bundle ends.
    fn next_erasure(&self) -> Option<Timestamp> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let ends = slots.values().filter_map(|slot| slot.borrow().as_ref()?.next_erasure);
        ends.min()
    }
}

impl Rendered {
    pub(crate) fn new(bundle: &Bundle, now: Timestamp) -> Self {
        let live = bundle.erased_at(now);
        let body = Bytes::from_owner(stek_wire::bundle::encode_bundle(&live));
        let keys = live.keys().iter().map(|key| key.record.id).collect();
        let (tag, next_erasure) = (live.tag(), live.next_erasure());
        Self { tag, etag: api::etag(tag), body, keys, next_erasure }
    }

    /// Whether this is what would be made of `bundle` at `now`.
    fn serves(&self, bundle: &Bundle, now: Timestamp) -> bool {
        let keys = bundle.keys().iter().map(|key| &key.record);
        let live = keys.filter(|record| record.schedule.opens(now)).map(|record| &record.id);
        self.tag == bundle.tag() && live.eq(&self.keys)
    }
}

/// Keeps the shelf as the feed has it until shutdown.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut feed = shared.feed.clone();
    loop {
        let rest = restock(&shared, &mut feed).await;
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = changed(&mut feed) => {}
            () = shared.fleet.clock().sleep(rest) => {}
        }
    }
}

/// Returns when there is something new. If nobody feeds us any more, never: what is there is served
/// until it ends.
pub(crate) async fn changed<T>(content: &mut watch::Receiver<T>) {
    if content.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Stocks the shelf, off the threads that serve; returns how long nothing will end.
async fn restock(shared: &Arc<Shared>, feed: &mut Feed) -> Duration {
    let Some(state) = feed.borrow_and_update().clone() else { return LONGEST_REST };
    let boot = shared.fleet.clock().boot();
    shared.horizon.observe(state.incarnation, state.revision, boot);
    let stocking = Arc::clone(shared);
    let task = tokio::task::spawn_blocking(move || {
        let now = stocking.fleet.now();
        stocking.shelf.stock(&state, now);
        stocking.feeds.clear(&state, now);
        stocking.metrics.observe(&state);
    });
    if task.await.is_err() {
        // The panic itself is logged where it happened.
        tracing::error!("the shelf was not stocked; what was served stays");
        return PANIC_REST;
    }
    shared.shelf.next_erasure().map_or(LONGEST_REST, |end| {
        let left = shared.fleet.boot_at(end).saturating_sub(shared.fleet.clock().boot());
        left.min(LONGEST_REST)
    })
}

#[cfg(test)]
mod tests;
