//! Keys end at their `destroy_at`, also in the buffers that are served, and nobody is woken for it.

use std::sync::{Arc, Weak};

use http::StatusCode;
use stek_core::access::Role;
use stek_core::secret::KeyMaterial;
use stek_wire::bundle::decode_bundle;

use crate::fixture::{Ask, Replica, access, at, bundle, eventually, settle, state};

const GRANTS: [(u8, Role, &str); 1] = [(1, Role::Terminator, "main")];

/// How many keys are served, under which tag.
async fn keys(replica: &Replica) -> (usize, stek_core::id::ContentTag) {
    let answer = replica.ask(&Ask::keyset("main", 1)).await;
    assert_eq!(answer.status, StatusCode::OK);
    (decode_bundle(&answer.body).unwrap().keys().len(), answer.tag())
}

async fn becomes(replica: &Replica, expected: (usize, stek_core::id::ContentTag)) {
    for _ in 0..1000 {
        if keys(replica).await == expected {
            return;
        }
        settle().await;
    }
    assert_eq!(keys(replica).await, expected);
}

#[tokio::test]
async fn a_key_leaves_the_body_at_its_end_and_the_tag_stays() {
    let published = bundle("main", 5, 1);
    let tag = published.tag();
    let replica = Replica::with(state(std::slice::from_ref(&published), access(&GRANTS))).await;
    let waiting = Ask::keyset("main", 1).has(tag).waits(55);
    for (advance, left) in [(0, 2), (199, 2), (1, 1), (99, 1), (1, 0)] {
        let task = replica.wait(&waiting).await;
        replica.advance(advance.min(54));
        settle().await;
        assert!(!task.is_finished(), "erasing is no news");
        replica.abandon(task).await;
        replica.advance(advance.saturating_sub(54));
        becomes(&replica, (left, tag)).await;
    }
    // Who has it has it still, with fewer keys.
    let answer = replica.ask(&Ask::keyset("main", 1).has(tag)).await;
    assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn an_ended_key_is_held_by_nobody_here() {
    let published = bundle("main", 5, 1);
    let ended: Weak<KeyMaterial> = Arc::downgrade(&published.keys()[0].material);
    let tag = published.tag();
    let replica = Replica::with(state(std::slice::from_ref(&published), access(&GRANTS))).await;
    replica.advance(200);
    // The source erases, without a new revision: the feed was the last to hold the key.
    let erased = Arc::new(published.erased_at(at(200)));
    drop(published);
    replica.feed.send_replace(Some(Arc::new(state(&[erased], access(&GRANTS)))));
    eventually(|| ended.strong_count() == 0).await;
    becomes(&replica, (1, tag)).await;
}
