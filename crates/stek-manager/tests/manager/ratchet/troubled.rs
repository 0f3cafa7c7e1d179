//! Changes of seeds that meet an exchange of the cluster secret, a restart or a manager that is cut
//! off: no key is lost, and what others decide goes out.

use std::sync::Arc;

use stek_core::access::Role;
use stek_core::id::Revision;
use stek_core::planner::Selection;
use stek_core::wrapped::{Epoch, SeedId};
use stek_custody::cluster_secret::{ClusterSecret, Generation};
use stek_custody::custody::Custody;
use stek_custody::random::SystemRandom;
use stek_manager::{BootstrapError, accept_restore};
use stek_store::{KeyStore, SeedPhase};
use stek_wire::admin::PolicyDocument;

use super::{Directory, join, managers, seeds, start, until_moved_on};
use crate::fixture::{FAST, Running, Site, name};
use crate::store::Fault;

#[tokio::test]
async fn the_cluster_secret_is_exchanged_while_managers_run() {
    let mut site = Site::new();
    let (peers, mut all) = managers(&site, &["one", "two"]).await;
    all[0].1.create("main", PolicyDocument::default()).await;
    all[0].1.token("token:edge", &[(Role::Terminator, "main")]).await;
    let (old, keyset) = (all[0].0.seed_id(), all[0].1.keyset("main"));
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    let before = Arc::clone(&site.cluster);
    // ClusterSecret has no copy; the test keeps the text of the first.
    let previous = || ClusterSecret::parse(site.text.as_str()).unwrap();
    let both = || Arc::new(ClusterSecret::parse(&text).unwrap().with_previous(previous()));
    // One manager has it; the other, which has not, is waited for while it lives.
    let secrets = [both(), both()];
    for (index, secret) in secrets.into_iter().enumerate() {
        let (custody, running) = all.remove(0);
        running.stop().await;
        drop(custody);
        peers.clear();
        peers.list(&all[0].1).await;
        site.cluster = secret;
        let file = ["one", "two"][index];
        let custody = join(&site, file, &peers).await.unwrap();
        let running = start(&site, &custody, &peers);
        running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
        peers.list(&running).await;
        all.push((custody, running));
        if index == 0 {
            for _ in 0..200 {
                site.tick(&all[0].1).await;
                site.tick(&all[1].1).await;
            }
            assert!(seeds(&site).await.contains(&(old, SeedPhase::Live)), "two lacks the secret");
            assert_eq!(all[0].1.keyset("main"), keyset);
        }
    }
    until_moved_on(&site, old, &all).await;
    for (_, running) in &all {
        let done = || running.gauge("stek_manager_previous_cluster_secret_needed") == 0.0;
        site.tick_until(running, done).await;
        assert_eq!(running.gauge("stek_manager_forged_rows"), 0.0);
        assert_eq!(running.keyset("main"), keyset);
    }
    for (custody, running) in all {
        running.stop().await;
        drop(custody);
    }
    // The previous one is gone from the configuration, and of no use to anybody.
    peers.clear();
    site.cluster = Arc::new(ClusterSecret::parse(&text).unwrap());
    let custody = join(&site, "one", &peers).await.unwrap();
    let running = site.start_with(custody);
    let feed = running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    assert_eq!(feed.keysets[&name("main")].keyset(), &keyset);
    assert_eq!(running.gauge("stek_manager_forged_rows"), 0.0);
    assert!(feed.access.tokens().iter().any(|token| token.principal.as_str() == "token:edge"));
    site.cluster = before;
    let refused = join(&site, "two", &peers).await.unwrap_err();
    assert!(matches!(refused, BootstrapError::Mismatch(_)), "{refused}");
}

#[tokio::test]
async fn a_state_of_an_offer_that_came_to_nothing_is_no_hindrance_to_a_start() {
    let site = Site::new();
    let (peers, mut all) = managers(&site, &["one", "two"]).await;
    let (leader, running) = all.remove(0);
    let old = leader.seed_id();
    running.stop().await;
    let alone = start(&site, &leader, &Directory::default());
    alone.until(|_| true).await;
    alone.operations().reseed("test").await.unwrap();
    alone.stop().await;
    assert!(leader.next_seed().is_some());
    drop(leader);
    peers.clear();
    // The others take the offer back, and change seeds without it.
    let other = &all[0].1;
    site.tick_until(other, || other.gauge("stek_manager_reseeding") == 1.0).await;
    site.tick_until(other, || other.gauge("stek_manager_reseeding") == 0.0).await;
    other.operations().reseed("test").await.unwrap();
    site.tick_until(other, || all[0].0.seed_id() != old && all[0].0.next_seed().is_none()).await;
    peers.list(other).await;
    let back = join(&site, "one", &peers).await.unwrap();
    all.push((Arc::clone(&back), start(&site, &back, &peers)));
    until_moved_on(&site, old, &all).await;
}

/// A manager that started anew while keys move from a seed of the previous cluster secret to one of
/// the next, or joined then, and is the one to re-wrap them.
async fn finish_an_exchange_of_the_cluster_secret(who: &str) {
    let mut site = Site::new();
    let (peers, mut all) = managers(&site, &["one"]).await;
    all[0].1.create("main", PolicyDocument::default()).await;
    let (old, keyset) = (all[0].0.seed_id(), all[0].1.keyset("main"));
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    let previous = ClusterSecret::parse(site.text.as_str()).unwrap();
    site.cluster = Arc::new(ClusterSecret::parse(&text).unwrap().with_previous(previous));
    site.store.fail("rewrap", Fault::Unreachable, u64::MAX);
    // Twice: to bring the new secret, and in the middle of the change.
    for _ in 0..2 {
        peers.clear();
        let (custody, running) = all.remove(0);
        running.stop().await;
        drop(custody);
        let custody = join(&site, "one", &peers).await.unwrap();
        let running = start(&site, &custody, &peers);
        for _ in 0..10 {
            site.tick(&running).await;
        }
        peers.list(&running).await;
        all.push((custody, running));
        assert!(seeds(&site).await.contains(&(old, SeedPhase::Retiring)));
    }
    if who == "two" {
        let custody = join(&site, "two", &peers).await.unwrap();
        let running = start(&site, &custody, &peers);
        site.tick_until(&running, || custody.holds(old)).await;
        // Its states are still to be had; it does nothing itself.
        all.remove(0).1.stop().await;
        all.push((custody, running));
    }
    site.store.heal();
    let (custody, running) = &all[0];
    site.tick_until(running, || custody.seed_id() != old && custody.next_seed().is_none()).await;
    running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    assert_eq!(running.keyset("main"), keyset);
    assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 0);
}

#[tokio::test]
async fn no_key_is_lost_to_a_start_in_the_middle_of_an_exchange_of_the_cluster_secret() {
    finish_an_exchange_of_the_cluster_secret("one").await;
}

#[tokio::test]
async fn no_key_is_lost_to_whoever_joins_in_the_middle_of_an_exchange_of_the_cluster_secret() {
    finish_an_exchange_of_the_cluster_secret("two").await;
}

/// The state that was left in `file`, in front of a database that is behind what it published.
async fn after_a_restore(site: &Site, file: &str) -> Custody {
    let custody = Custody::open(&site.path(file), Arc::clone(&site.cluster)).unwrap();
    let behind = site.store.cluster().await.unwrap();
    let published = Revision::new(behind.revision.as_u64() + 1000);
    custody.raise_high_water(behind.incarnation, published).unwrap();
    custody
}

async fn accept(site: &Site, custody: &Custody) {
    let (store, clock) = (site.store.as_ref(), site.clock.as_ref());
    accept_restore(store, &site.cluster, custody, &SystemRandom, clock).await.unwrap();
}

/// Keys lie under a seed of the previous cluster secret and one of the next, and both are held.
#[tokio::test]
async fn a_restore_is_accepted_in_the_middle_of_an_exchange_of_the_cluster_secret() {
    let mut site = Site::new();
    let (peers, mut all) = managers(&site, &["one"]).await;
    all[0].1.create("main", PolicyDocument::default()).await;
    let (old, keyset) = (all[0].0.seed_id(), all[0].1.keyset("main"));
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    let previous = || ClusterSecret::parse(site.text.as_str()).unwrap();
    let both = || Arc::new(ClusterSecret::parse(&text).unwrap().with_previous(previous()));
    let (first, second) = (both(), both());
    site.cluster = first;
    peers.clear();
    let (custody, running) = all.remove(0);
    running.stop().await;
    drop(custody);
    site.store.fail("rewrap", Fault::Unreachable, u64::MAX);
    let custody = join(&site, "one", &peers).await.unwrap();
    let running = start(&site, &custody, &peers);
    site.tick_until(&running, || custody.next_seed().is_some()).await;
    for _ in 0..10 {
        site.tick(&running).await;
    }
    let phases = seeds(&site).await;
    assert!(phases.contains(&(old, SeedPhase::Retiring)), "{phases:?}");
    running.stop().await;
    drop(custody);
    site.store.heal();

    // As a command has it, which knows of the database what it reads.
    site.cluster = second;
    let custody = after_a_restore(&site, "one").await;
    accept(&site, &custody).await;
    drop(custody);
    assert_eq!(seeds(&site).await, phases, "what is held is what the database names");
    let custody = join(&site, "one", &peers).await.unwrap();
    let running = start(&site, &custody, &peers);
    site.tick_until(&running, || custody.seed_id() != old && custody.next_seed().is_none()).await;
    running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    assert_eq!(running.keyset("main"), keyset);
    assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 0);
    assert_eq!(running.operations().verify_audit(0, None).await.unwrap().broken, None);
}

/// A backup from before the seed that is held: the one that it names is gone, and its cluster secret
/// is the previous one, under which grants and lines of the trail are.
#[tokio::test]
async fn an_accepted_restore_stays_with_the_cluster_secret_of_what_was_restored() {
    let mut site = Site::new();
    let custody = site.claim("one").await;
    let running = site.start_with(custody);
    running.create("main", PolicyDocument::default()).await;
    let token = running.token("token:edge", &[(Role::Terminator, "main")]).await.1;
    running.stop().await;
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    let previous = ClusterSecret::parse(site.text.as_str()).unwrap();
    site.cluster = Arc::new(ClusterSecret::parse(&text).unwrap().with_previous(previous));
    let (path, seed) = (site.path("later"), SeedId::from_bytes([9; 16]));
    let now = Epoch::of(site.now());
    Custody::create(&path, Arc::clone(&site.cluster), seed, &SystemRandom, now).unwrap();
    let custody = after_a_restore(&site, "later").await;
    accept(&site, &custody).await;
    let live = site.store.seed().await.unwrap().unwrap();
    let generation = site.cluster.claimed_with(&seed, &live.check);
    assert_eq!((live.seed, generation), (seed, Some(Generation::Previous)));
    assert_eq!(site.cluster.in_use(), Generation::Previous);
    drop(custody);
    let (peers, path) = (Directory::default(), "later");
    let custody = join(&site, path, &peers).await.unwrap();
    let running = start(&site, &custody, &peers);
    // And the exchange goes on by itself.
    site.tick_until(&running, || {
        running.gauge("stek_manager_previous_cluster_secret_needed") == 0.0
    })
    .await;
    let feed = running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    assert!(feed.access.tokens().iter().any(|one| one.id == token.id));
    assert_eq!(running.operations().verify_audit(0, None).await.unwrap().broken, None);
}

/// A manager that is cut off from its peers holds no state of the seed that the others made live.
/// It mints nothing, and what the others revoke is out all the same.
#[tokio::test]
async fn without_the_live_seed_nothing_is_minted_and_revocations_go_out() {
    let site = Site::new();
    let (peers, all) = managers(&site, &["one", "two"]).await;
    let [(one, first), (two, second)] = all.as_slice() else { panic!() };
    first.create("main", PolicyDocument::default()).await;
    site.tick_until(second, || second.published().keysets.contains_key(&name("main"))).await;
    let before = second.keyset("main");
    peers.clear();
    first.operations().reseed("test").await.unwrap();
    let old = one.seed_id();
    site.tick_until(first, || one.seed_id() != old).await;
    site.tick(second).await;
    assert_eq!(second.unready(), ["the ratchet's live seed is not held"]);
    assert!(!two.holds(one.seed_id()));
    assert_eq!(second.keyset("main"), before, "what was published stays");
    first.operations().revoke(&name("main"), Selection::All, "test", "test").await.unwrap();
    let ended = |feed: &stek_core::feed::FeedState| {
        let bundle = &feed.keysets[&name("main")];
        bundle.keyset().keys().iter().all(|key| before.keys().iter().all(|old| old.id != key.id))
    };
    site.tick_until(second, || ended(&second.published())).await;
}

/// What cannot be unwrapped for want of a state is not put out in part under the tag that other
/// managers give to the whole, and comes with a revision of its own once the state is there.
#[tokio::test]
async fn one_tag_has_one_content_also_while_a_state_is_lacking() {
    let site = Site::new();
    let (peers, all) = managers(&site, &["one", "two"]).await;
    let [(one, first), (two, second)] = all.as_slice() else { panic!() };
    first.create("main", PolicyDocument::default()).await;
    site.tick_until(second, || second.published().keysets.contains_key(&name("main"))).await;
    let listed = peers.0.lock().unwrap().clone();
    peers.clear();
    first.operations().reseed("test").await.unwrap();
    let old = one.seed_id();
    site.tick_until(first, || one.seed_id() != old).await;
    let tag = |running: &Running| running.published().keysets[&name("main")].tag();
    let before = (tag(second), second.keyset("main"));
    let rotated = first.operations().rotate(&name("main"), "test").await.unwrap().revision;
    first.until(|feed| feed.keysets[&name("main")].tag().revision.as_u64() == rotated).await;
    for _ in 0..10 {
        site.tick(second).await;
    }
    let rotated = tag(first).revision;
    assert!(rotated > before.0.revision && !two.holds(one.seed_id()));
    assert_eq!((tag(second), second.keyset("main")), before);
    assert!(second.published().revision >= rotated, "what else there is, is out");
    // A revocation does not wait for the rest.
    let pending = first.keyset("main").next_pending(site.now()).unwrap().id;
    first
        .operations()
        .revoke(&name("main"), Selection::Key(before.1.keys()[0].id), "t", "t")
        .await
        .unwrap();
    site.tick_until(second, || tag(second).revision > rotated).await;
    let revoked = tag(second);
    assert!(second.keyset("main").keys().iter().all(|key| key.id != pending));
    *peers.0.lock().unwrap() = listed;
    site.tick_until(second, || tag(second).revision > revoked.revision).await;
    site.tick_until(first, || tag(first) == tag(second)).await;
    assert_eq!(second.keyset("main"), first.keyset("main"));
    assert!(second.keyset("main").keys().iter().any(|key| key.id == pending));
    let (tag, passes) = (tag(second), second.passes("succeeded"));
    for _ in 0..5 {
        site.tick(second).await;
    }
    assert!(second.passes("succeeded") > passes);
    assert_eq!(second.published().keysets[&name("main")].tag(), tag, "once");
}

#[tokio::test]
async fn rotation_does_not_wait_for_the_upkeep_of_the_ratchet() {
    let site = Site::new();
    let (_, all) = managers(&site, &["one"]).await;
    let (custody, running) = &all[0];
    running.create("main", FAST).await;
    running.operations().reseed("test").await.unwrap();
    let old = custody.seed_id();
    for step in ["report_replica", "rewrap"] {
        site.store.fail(step, Fault::Unreachable, u64::MAX);
        site.tick(running).await;
        for _ in 0..12 {
            site.tick(running).await;
            let (keyset, now) = (running.keyset("main"), site.now());
            assert!(keyset.active(now).is_some(), "{step}");
        }
        assert_eq!(running.unready(), Vec::<String>::new(), "{step}");
    }
    site.store.heal();
    until_moved_on(&site, old, &all).await;
}
