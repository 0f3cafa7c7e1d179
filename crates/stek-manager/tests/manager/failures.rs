//! Whatever fails, rotation goes on as soon as it can, and for everybody whom it does not concern.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stek_core::audit::AuditAction;
use stek_core::derive;
use stek_core::id::KeyId;
use stek_core::name::KeysetName;
use stek_core::secret::KeyMaterial;
use stek_core::wrapped::ReplicaId;
use stek_custody::custody::Custody;
use stek_custody::random::SystemRandom;
use stek_custody::share::JoinRequest;
use stek_store::{KeyStore, MAX_PAGE};
use stek_wire::admin::PolicyDocument;

use crate::fixture::{FAST, Running, Site, eventually, name};
use crate::store::{Fault, Refusal};

/// Whether this keyset has a key for now and one for later.
fn is_supplied(site: &Site, running: &Running, keyset: &str) -> bool {
    let (keyset, now) = (running.keyset(keyset), site.now());
    keyset.active(now).is_some() && keyset.next_pending(now).is_some()
}

#[tokio::test]
async fn no_failure_of_the_database_stops_rotation() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    for method in ["now_millis", "cluster", "due", "commit", "changed_since", "access", "next_due"]
    {
        for (fault, outcome) in [(Fault::Unreachable, "store"), (Fault::Panic, "panicked")] {
            let failed = running.passes(outcome);
            site.store.fail(method, fault, 3);
            site.tick_until(&running, || running.passes(outcome) >= failed + 3).await;
            assert_eq!(running.unready().len(), 1, "{method} {fault:?}");
            site.tick_until(&running, || running.unready().is_empty()).await;
            site.advance(&running, 15).await;
            site.advance(&running, 5).await;
            assert!(is_supplied(&site, &running, "main"), "{method} {fault:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_needed_may_fail_without_being_missed() {
    let site = Site::new();
    site.store.fail("purge", Fault::Unreachable, u64::MAX);
    let running = site.start().await;
    running.create("main", FAST).await;
    for _ in 0..10 {
        site.advance(&running, 5).await;
    }
    assert!(is_supplied(&site, &running, "main"));
    assert_eq!(running.unready(), Vec::<String>::new());
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_not_made_twice() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    for _ in 0..10 {
        let failed = running.passes("store");
        site.store.fail("commit", Fault::AnswerLost, 1);
        site.tick_until(&running, || running.passes("store") > failed).await;
        site.tick_until(&running, || running.unready().is_empty()).await;
    }
    site.store.heal();
    site.advance(&running, 5).await;
    let mints = mints_by_keyset(&site).await;
    let seconds = site.now().as_unix() - crate::fixture::START_MILLIS / 1000;
    assert!(mints[&name("main")] as u64 <= seconds / 10 + 2, "{mints:?}");
    assert!(is_supplied(&site, &running, "main"));
}

#[tokio::test(start_paused = true)]
async fn a_pass_that_hangs_is_ended() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    site.store.fail("due", Fault::Hang, 1);
    site.clock.advance(Duration::from_secs(5));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(Duration::from_secs(301)).await;
    eventually(|| running.passes("timed-out") == 1).await;
    assert_eq!(running.unready(), ["a pass did not end"]);
    site.advance(&running, 10).await;
    site.advance(&running, 5).await;
    assert!(is_supplied(&site, &running, "main"));
    // Nor does one hold up the end.
    site.store.fail("due", Fault::Hang, 1);
    site.clock.advance(Duration::from_secs(5));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    running.shutdown.cancel();
    let stopped = tokio::spawn(running.manager.stopped());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    tokio::time::advance(Duration::from_secs(11)).await;
    eventually(|| stopped.is_finished()).await;
}

#[tokio::test]
async fn while_the_database_is_away_keys_end_when_it_was_said() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let running = site.start_with(Arc::clone(&custody));
    running.create("main", PolicyDocument::default()).await;
    site.store.fail("now_millis", Fault::Unreachable, u64::MAX);
    let keys = running.keyset("main").keys().to_vec();
    let mut hours = 0;
    while !running.keyset("main").keys().is_empty() {
        assert!(hours < 48, "keys outlive their end");
        site.clock.advance(Duration::from_secs(3600));
        hours += 1;
        let now = site.now();
        let live = |key: &&stek_core::keyset::KeyRecord| key.schedule.opens(now);
        let live: Vec<_> = keys.iter().filter(live).copied().collect();
        running.until(|feed| feed.keysets[&name("main")].keyset().keys() == live).await;
    }
    assert_eq!(running.unready(), ["the database failed"]);
    // What ended can no more be unwrapped either, once its last hour is over.
    site.clock.advance(Duration::from_secs(48 * 3600));
    let stored = site.store.inner.keyset(&name("main")).await.unwrap().unwrap();
    let unwrap = |custody: &Custody| {
        let key = &stored.keys[0];
        custody.unwrap(&name("main"), &key.record, &key.wrapped)
    };
    eventually(|| unwrap(&custody).is_err()).await;
    assert_eq!(running.gauge("stek_manager_unsealed_keysets"), 1.0);
    site.store.heal();
    site.tick_until(&running, || is_supplied(&site, &running, "main")).await;
}

#[tokio::test]
async fn a_broken_random_source_makes_no_key_and_alarms() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    let before: BTreeSet<KeyId> = running.keyset("main").keys().iter().map(|key| key.id).collect();
    site.random.broken.store(true, Ordering::SeqCst);
    for _ in 0..12 {
        site.advance(&running, 5).await;
        assert!(running.keyset("main").keys().iter().all(|key| before.contains(&key.id)));
    }
    assert!(running.counter("stek_manager_keyset_failures_total", None) > 2);
    assert_eq!(running.gauge("stek_manager_unsealed_keysets"), 1.0);
    assert_eq!(running.gauge("stek_manager_least_coverage_seconds"), 0.0);
    let error = running.operations().create(&name("other"), FAST, "test").await.unwrap_err();
    assert_eq!(error.to_string(), "the change cannot be carried out");
    site.random.broken.store(false, Ordering::SeqCst);
    site.tick_until(&running, || is_supplied(&site, &running, "main")).await;
    let trail = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    assert_eq!(trail.iter().filter(|row| row.event.action == AuditAction::Gap).count(), 1);
    assert_eq!(running.gauge("stek_manager_unsealed_keysets"), 0.0);
}

/// What a broken random source gives, wrapped by somebody who holds ratchet and cluster secret and
/// looks at nothing, stops at the door of unwrapping: it is left out, told, and the others serve.
#[tokio::test]
async fn a_key_of_a_broken_random_source_in_the_database_is_not_published() {
    const BROKEN: [fn(u8) -> u8; 3] = [|_| 0, |i| i, |i| i % 3];
    for broken in BROKEN {
        let site = Site::new();
        let custody = site.claim("ratchet").await;
        let running = site.start_with(Arc::clone(&custody));
        running.create("main", PolicyDocument::default()).await;
        let keyset = running.keyset("main");
        let [sound, weak] = [keyset.keys()[0].id, keyset.keys()[1].id];
        site.store.tamper(move |stored| {
            let mut bytes = std::array::from_fn(|i| broken(u8::try_from(i).unwrap()));
            let material = KeyMaterial::take_from(&mut bytes);
            let key = stored.keys.iter_mut().find(|key| key.record.id == weak).unwrap();
            key.record.kcv = derive::kcv(&material);
            let name = stored.keyset.name();
            key.wrapped = custody.wrap(&SystemRandom, name, &key.record, &material).unwrap();
        });
        // It is published anew, with another policy.
        let failures = || running.counter("stek_manager_unwrap_failures_total", None);
        assert_eq!(failures(), 0);
        let asked = PolicyDocument { clock_skew_seconds: Some(30), ..PolicyDocument::default() };
        running.operations().change_policy(&name("main"), asked, "test").await.unwrap();
        site.tick_until(&running, || failures() > 0).await;
        let ids = |feed: &stek_core::feed::FeedState| {
            let bundle = &feed.keysets[&name("main")];
            bundle.keys().iter().map(|key| key.record.id).collect::<Vec<_>>()
        };
        running.until(|feed| ids(feed) == [sound]).await;
    }
}

#[tokio::test]
async fn one_keyset_that_cannot_be_carried_out_holds_up_nobody() {
    for refusal in [Refusal::Invariant, Refusal::Refused, Refusal::Conflict] {
        let site = Site::new();
        let running = site.start().await;
        running.create("bad", FAST).await;
        for number in 0..300 {
            let keyset = name(&format!("good{number}"));
            running.operations().create(&keyset, FAST, "test").await.unwrap();
        }
        running.until(|feed| feed.keysets.len() == 301).await;
        site.store.refuse(&name("bad"), refusal);
        for _ in 0..8 {
            site.advance(&running, 5).await;
        }
        for number in 0..300 {
            assert!(is_supplied(&site, &running, &format!("good{number}")), "{refusal:?}");
        }
        assert!(!is_supplied(&site, &running, "bad"));
        let failures = running.counter("stek_manager_keyset_failures_total", None);
        // A conflict is nobody's failure.
        assert_eq!(failures > 0, refusal != Refusal::Conflict, "{refusal:?}");
        site.store.heal();
        site.tick_until(&running, || is_supplied(&site, &running, "bad")).await;
    }
}

#[tokio::test]
async fn a_keyset_that_never_gets_through_makes_nobody_spin() {
    for refusal in [Refusal::Invariant, Refusal::Refused, Refusal::Conflict] {
        let site = Site::new();
        let running = site.start().await;
        running.create("main", FAST).await;
        site.store.refuse(&name("main"), refusal);
        for _ in 0..4 {
            site.advance(&running, 5).await;
        }
        // The clock stands still, and so does the loop.
        let passes = running.all_passes();
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        assert!(running.all_passes() <= passes + 1, "{refusal:?}");
    }
}

#[tokio::test]
async fn more_failing_keysets_than_a_page_hold_up_nobody() {
    let site = Site::new();
    let running = site.start().await;
    let bad = MAX_PAGE + 50;
    for number in 0..bad {
        let keyset = name(&format!("bad{number}"));
        running.operations().create(&keyset, FAST, "test").await.unwrap();
        site.store.refuse(&keyset, Refusal::Invariant);
    }
    site.clock.advance(Duration::from_secs(1));
    running.create("good", FAST).await;
    for _ in 0..6 {
        site.advance(&running, 5).await;
    }
    site.tick_until(&running, || is_supplied(&site, &running, "good")).await;
    assert!(running.counter("stek_manager_keyset_failures_total", None) >= bad as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_managers_never_mint_twice() {
    const KEYSETS: usize = 40;
    let site = Site::new();
    let custody = site.claim("first").await;
    let (path, cluster) = (site.path("second"), Arc::clone(&site.cluster));
    let replica = ReplicaId::from_bytes([1; 16]);
    let request = JoinRequest { replica, seed: custody.seed_id(), challenge: [1; 32] };
    let state = custody.share(&request).unwrap().open(&request, &cluster).unwrap();
    let joined = Arc::new(Custody::join(&path, cluster, state, replica).unwrap());
    let managers = [site.start_with(custody), site.start_with(joined)];
    managers[0].until(|_| true).await;
    for number in 0..KEYSETS {
        managers[number % 2].create(&format!("k{number}"), FAST).await;
    }
    let created = site.now();
    for _ in 0..60 {
        site.clock.advance(Duration::from_secs(5));
        for manager in &managers {
            site.settle(manager).await;
        }
    }
    let newest = site.store.inner.cluster().await.unwrap().revision;
    for manager in &managers {
        let feed = site.advance_to(manager, newest).await;
        assert_eq!(feed.keysets.len(), KEYSETS);
        let each = |number| is_supplied(&site, manager, &format!("k{number}"));
        // Waiting for the newest revision may have let time pass, and made more of them due.
        site.tick_until(manager, || (0..KEYSETS).all(each)).await;
        assert_eq!(manager.counter("stek_manager_keyset_failures_total", None), 0);
    }
    let seconds = site.now().since(created).as_secs();
    let destroyed = keys_of(&site, AuditAction::KeyDestroyed).await;
    let each: BTreeSet<_> = destroyed.iter().collect();
    assert_eq!(each.len(), destroyed.len(), "what has ended is written down once");
    for (keyset, mints) in mints_by_keyset(&site).await {
        // Two at first, and one for each rotation since.
        assert!((seconds / 10..=seconds / 10 + 2).contains(&(mints as u64)), "{keyset}: {mints}");
    }
}

/// The keys that events of this kind are about.
async fn keys_of(site: &Site, action: AuditAction) -> Vec<KeyId> {
    let (mut keys, mut after) = (Vec::new(), 0);
    loop {
        let page = site.store.inner.audit(after, MAX_PAGE).await.unwrap();
        let Some(last) = page.last() else { return keys };
        after = last.sequence;
        let rows = page.iter().filter(|row| row.event.action == action);
        keys.extend(rows.filter_map(|row| row.event.key));
    }
}

async fn mints_by_keyset(site: &Site) -> BTreeMap<KeysetName, usize> {
    let (mut mints, mut after) = (BTreeMap::new(), 0);
    loop {
        let page = site.store.inner.audit(after, MAX_PAGE).await.unwrap();
        let Some(last) = page.last() else { return mints };
        after = last.sequence;
        for row in page.iter().filter(|row| row.event.action == AuditAction::KeyMinted) {
            *mints.entry(row.event.keyset.clone().unwrap()).or_default() += 1;
        }
    }
}
