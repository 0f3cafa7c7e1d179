//! The rendered bundles, one buffer for each keyset and revision, shared by all who fetch it and
//! erased when a key in it ends. Wakes those who wait for a keyset, and nobody else.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::body::Bytes;
use stek_core::bundle::Bundle;
use stek_core::feed::FeedState;
use stek_core::id::ContentTag;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use tokio::sync::watch;

use crate::Shared;

/// Longest time without a look at what has ended, should the clock be moved.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// A bundle ready to be sent.
#[derive(Clone)]
pub(crate) struct Rendered {
    pub(crate) tag: ContentTag,
    pub(crate) body: Bytes,
    /// The bundle it was made of; compared by identity.
    source: Arc<Bundle>,
    next_erasure: Option<Timestamp>,
}

/// A keyset that is not published, or not any more, is `None`.
type Slot = watch::Sender<Option<Arc<Rendered>>>;

#[derive(Default)]
pub(crate) struct Shelf {
    slots: RwLock<HashMap<KeysetName, Slot>>,
}

impl Shelf {
    /// The keyset's present and future content, if it is published.
    pub(crate) fn watch(&self, name: &KeysetName) -> Option<watch::Receiver<Option<Arc<Rendered>>>> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        slots.get(name).map(watch::Sender::subscribe)
    }

    /// Puts out what `feed` holds, without the keys that have ended by `now`.
    fn stock(&self, feed: &FeedState, now: Timestamp) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|name, slot| {
            let published = feed.keysets.contains_key(name);
            if !published {
                slot.send_replace(None);
            }
            published
        });
        for (name, bundle) in &feed.keysets {
            let slot = slots.entry(name.clone()).or_insert_with(|| watch::Sender::new(None));
            slot.send_if_modified(|rendered| {
                if rendered.as_ref().is_some_and(|old| old.serves(bundle, now)) {
                    return false;
                }
                // Erasing does not raise the revision, so nobody needs to be woken for it.
                let woken = rendered.as_ref().is_none_or(|old| old.tag != bundle.tag());
                *rendered = Some(Arc::new(Rendered::new(bundle, now)));
                woken
            });
        }
    }

    /// When the next key of a rendered bundle ends.
    fn next_erasure(&self) -> Option<Timestamp> {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        let ends = slots.values().filter_map(|slot| slot.borrow().as_ref()?.next_erasure);
        ends.min()
    }
}

impl Rendered {
    fn new(bundle: &Arc<Bundle>, now: Timestamp) -> Self {
        let live = bundle.erased_at(now);
        let body = Bytes::from_owner(stek_wire::bundle::encode_bundle(&live));
        let (tag, next_erasure) = (live.tag(), live.next_erasure());
        Self { tag, body, source: Arc::clone(bundle), next_erasure }
    }

    /// Whether this is what would be made of `bundle` at `now`.
    fn serves(&self, bundle: &Arc<Bundle>, now: Timestamp) -> bool {
        let same = Arc::ptr_eq(&self.source, bundle)
            || (self.tag == bundle.tag() && self.next_erasure == bundle.next_erasure());
        same && self.next_erasure.is_none_or(|end| now < end)
    }
}

/// Keeps the shelf as the feed has it until shutdown.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut feed = shared.feed.clone();
    loop {
        let state = feed.borrow_and_update().clone();
        if let Some(state) = state {
            let now = shared.fleet.now();
            shared.shelf.stock(&state, now);
            shared.metrics.observe(&state);
        }
        let rest = shared.shelf.next_erasure().map_or(LONGEST_REST, |end| {
            let left = shared.fleet.boot_at(end).saturating_sub(shared.fleet.clock().boot());
            left.min(LONGEST_REST)
        });
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            changed = feed.changed() => {
                if changed.is_err() {
                    // Nobody feeds us any more; what is there is served until it ends.
                    shared.fleet.clock().sleep(rest).await;
                }
            }
            () = shared.fleet.clock().sleep(rest) => {}
        }
    }
}

#[cfg(test)]
mod tests;
