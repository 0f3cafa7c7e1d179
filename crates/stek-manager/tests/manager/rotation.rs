//! Rotation by the clock, and what of it is published.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::Ordering;

use stek_core::id::KeyId;
use stek_core::schedule::KeyState;
use stek_core::wrapped::Epoch;
use stek_store::KeyStore;
use stek_wire::admin::PolicyDocument;

use crate::fixture::{FAST, Site, name};

#[tokio::test]
async fn a_new_keyset_is_published_with_an_active_and_a_pending_key() {
    let site = Site::new();
    let running = site.start().await;
    assert_eq!(running.unready(), Vec::<String>::new());
    let document = running
        .operations()
        .create(&name("main"), PolicyDocument::default(), "test")
        .await
        .unwrap();
    let feed = running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    let bundle = &feed.keysets[&name("main")];
    let now = site.now();
    let states: Vec<_> = bundle.keyset().keys().iter().map(|key| key.schedule.state(now)).collect();
    assert_eq!(states, [KeyState::Active, KeyState::Pending]);
    assert_eq!(bundle.tag().revision.as_u64(), document.revision);
    assert_eq!(bundle.tag().digest.to_string(), document.digest);
    assert_eq!(bundle.tag().digest, bundle.keyset().content_digest());
    assert_eq!(document, running.operations().show(&name("main")).await.unwrap());
    assert_eq!(running.gauge("stek_manager_unsealed_keysets"), 0.0);
    assert_eq!(running.gauge("stek_manager_least_coverage_seconds"), 43_200.0);
}

#[tokio::test]
async fn keys_rotate_by_the_clock_and_are_destroyed_on_time() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    let mut actives = HashSet::new();
    for _ in 0..200 {
        site.advance(&running, 5).await;
        let (now, published) = (site.now(), running.keyset("main"));
        let stored = site.store.inner.keyset(&name("main")).await.unwrap().unwrap();
        let ids = |keys: &[stek_core::keyset::KeyRecord]| {
            keys.iter().map(|key| key.id).collect::<BTreeSet<KeyId>>()
        };
        assert_eq!(ids(published.keys()), ids(stored.keyset.keys()));
        assert!(published.keys().iter().all(|key| key.schedule.opens(now)));
        assert!(published.next_pending(now).is_some());
        actives.insert(published.active(now).expect("something always seals").id);
    }
    // A thousand seconds of ten-second keys, and nothing left of those that ended.
    assert!((100..=101).contains(&actives.len()), "{}", actives.len());
    assert!(running.keyset("main").keys().len() <= 5);
    assert_eq!(running.counter("stek_manager_passes_total", None), running.passes("succeeded"));
    running.stop().await;
}

#[tokio::test]
async fn an_idle_pass_commits_and_publishes_nothing() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    site.advance(&running, 5).await;
    let (commits, passes) =
        (site.store.commits.load(Ordering::SeqCst), running.passes("succeeded"));
    let mut feed = running.feed.clone();
    feed.mark_unchanged();
    for _ in 0..20 {
        site.advance(&running, 5).await;
    }
    assert!(running.passes("succeeded") >= passes + 20);
    assert_eq!(site.store.commits.load(Ordering::SeqCst), commits);
    assert!(!feed.has_changed().unwrap());
    // Tokens and grants are read again after a while, so that their age says whether they hold.
    let read_at = running.published().access_read_at;
    for _ in 0..60 {
        site.advance(&running, 5).await;
    }
    assert!(running.published().access_read_at > read_at);
}

#[tokio::test]
async fn the_ratchet_turns_with_the_hours() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let running = site.start_with(custody.clone());
    running.create("main", PolicyDocument::default()).await;
    for _ in 0..30 {
        site.advance(&running, 3600).await;
        assert_eq!(custody.epoch(), Epoch::of(site.now()));
        let published = running.keyset("main");
        assert!(published.active(site.now()).is_some());
    }
    // A restart unwraps what is live, from the turned ratchet.
    let keys = running.keyset("main").keys().to_vec();
    running.stop().await;
    drop(custody);
    let running = site.start().await;
    assert_eq!(running.keyset("main").keys(), keys);
    assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 0);
}

#[tokio::test]
async fn tombstones_are_published_and_forgotten_with_those_of_the_database() {
    let site = Site::new();
    let running = site.start().await;
    running.create("gone", PolicyDocument::default()).await;
    let effect = running.operations().delete(&name("gone"), "test").await.unwrap();
    let feed = running.until(|feed| !feed.keysets.contains_key(&name("gone"))).await;
    assert_eq!(feed.tombstones[&name("gone")].as_u64(), effect.revision);
    for _ in 0..7 * 24 {
        site.advance(&running, 3600).await;
    }
    assert!(running.published().tombstones.contains_key(&name("gone")));
    site.advance(&running, 3600).await;
    site.advance(&running, 3600).await;
    assert!(running.published().tombstones.is_empty());
    assert_eq!(site.store.inner.purge(site.now()).await.unwrap(), 0);
}

#[tokio::test]
async fn hundreds_of_keysets_are_carried_out_in_bounded_passes() {
    let site = Site::new();
    let running = site.start().await;
    for number in 0..600 {
        running.operations().create(&name(&format!("k{number}")), FAST, "test").await.unwrap();
    }
    running.until(|feed| feed.keysets.len() == 600).await;
    let commits = site.store.commits.load(Ordering::SeqCst);
    for _ in 0..4 {
        site.advance(&running, 5).await;
    }
    let now = site.now();
    let feed = running.published();
    assert!(feed.keysets.values().all(|bundle| bundle.keyset().active(now).is_some()));
    // Batches, not one transaction for each keyset.
    assert!(site.store.commits.load(Ordering::SeqCst) - commits <= 4 * 4);
}
