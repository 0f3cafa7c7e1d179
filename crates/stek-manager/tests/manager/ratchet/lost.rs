//! When a ratchet counts as lost, and what is made of its keys then.

use std::sync::Arc;
use std::time::Duration;

use stek_clock::Clock;
use stek_core::audit::AuditAction;
use stek_manager::BootstrapError;
use stek_store::{KeyStore, MAX_PAGE, RatchetStore, Replica};
use stek_wire::admin::PolicyDocument;

use super::{count, join, managers};
use crate::fixture::{Site, name};

#[tokio::test]
async fn a_ratchet_that_nobody_holds_is_given_up_after_a_lead() {
    let site = Site::new();
    let (peers, mut all) = managers(&site, &["one"]).await;
    let (custody, running) = all.pop().unwrap();
    running.create("main", PolicyDocument::default()).await;
    let (lost, before) = (custody.seed_id(), running.keyset("main").keys()[0].kcv);
    running.stop().await;
    drop(custody);
    std::fs::remove_file(site.path("one")).unwrap();
    peers.clear();
    let alone = || join(&site, "one", &stek_manager::NoPeers);
    site.clock.advance(Duration::from_secs(6 * 3600 - 60));
    assert!(matches!(alone().await, Err(BootstrapError::NoState { .. })), "a lead has not passed");
    site.clock.advance(Duration::from_secs(120));
    let begun = site.clock.boot();
    let custody = while_time_passes(&site, alone(), |_| async {}).await.unwrap();
    assert!(
        site.clock.boot() - begun >= Duration::from_secs(120),
        "nobody was away until just now"
    );
    assert_ne!(custody.seed_id(), lost);
    assert_eq!(count(&site, AuditAction::SeedLost).await, 1);
    let running = site.start_with(Arc::clone(&custody));
    running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    site.tick_until(&running, || running.keyset("main").active(site.now()).is_some()).await;
    let keyset = running.keyset("main");
    assert!(keyset.keys().iter().all(|key| key.kcv != before), "new keys");
    assert!(site.store.inner.wrapped_elsewhere(custody.seed_id(), 1).await.unwrap().is_empty());
    assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 0);
    let trail = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    let ended = trail.iter().filter(|row| row.event.action == AuditAction::KeyRevoked);
    assert!(
        ended.clone().count() > 0 && ended.clone().all(|row| row.event.reason.contains("lost"))
    );
}

/// What comes of `future` while second after second passes; `at` is done at each.
async fn while_time_passes<T, A: Future<Output = ()>>(
    site: &Site,
    future: impl Future<Output = T>,
    at: impl Fn(u64) -> A,
) -> T {
    let mut future = std::pin::pin!(future);
    for second in 0..3600 {
        tokio::select! {
            biased;
            done = &mut future => return done,
            () = tokio::task::yield_now() => site.clock.advance(Duration::from_secs(1)),
        }
        at(second).await;
    }
    panic!("it has not ended in an hour");
}

/// As after an outage of the database for longer than a lead: whoever holds the seed is there, and
/// could not say so.
#[tokio::test]
async fn a_ratchet_is_not_given_up_before_its_holders_could_show_life() {
    let site = Site::new();
    let (peers, mut all) = managers(&site, &["one", "two"]).await;
    all[0].1.create("main", PolicyDocument::default()).await;
    // One that runs and has missed a change of seeds, for nobody gave it the new state.
    peers.clear();
    all[0].1.operations().reseed("test").await.unwrap();
    let (two, one) = (all.pop().unwrap().1, all.pop().unwrap());
    let lacks = || two.unready().concat().contains("live seed is not held");
    site.tick_until(&two, lacks).await;
    let replica = one.0.replica();
    one.1.stop().await;
    let rows = site.store.inner.ratchet().await.unwrap();
    let holder = *rows.replicas.iter().find(|row| row.id == replica).unwrap();
    let shows_life = async || {
        let row = Replica { seen_at: site.now(), ..holder };
        site.store.inner.report_replica(&row).await.unwrap();
    };
    for _ in 0..2 {
        site.clock.advance(Duration::from_secs(6 * 3600));
        for _ in 0..20 {
            site.tick(&two).await;
        }
        shows_life().await;
        site.tick(&two).await;
    }
    site.clock.advance(Duration::from_secs(6 * 3600));
    two.stop().await;
    // One that starts, and has no state at all.
    let alone = join(&site, "three", &stek_manager::NoPeers);
    let back = async |second| {
        if second == 60 {
            shows_life().await;
        }
    };
    let joined = while_time_passes(&site, alone, back).await;
    assert!(matches!(joined, Err(BootstrapError::NoState { .. })));
    assert_eq!(count(&site, AuditAction::SeedLost).await, 0);
}
