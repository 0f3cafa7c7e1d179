//! Clocks that disagree or jump, and databases that are not the one that was published.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stek_clock::Clock;
use stek_core::id::{Incarnation, Revision};
use stek_manager::OperationError;
use stek_store::KeyStore;
use stek_wire::admin::PolicyDocument;

use crate::fixture::{FAST, Running, Site, name};

const DAY: Duration = Duration::from_secs(24 * 3600);

async fn assert_nothing_moves(site: &Site, running: &Running, why: &str) {
    let commits = site.store.commits.load(Ordering::SeqCst);
    let revision = running.published().revision;
    for _ in 0..10 {
        site.tick(running).await;
    }
    assert_eq!(running.unready(), [why]);
    assert_eq!(site.store.commits.load(Ordering::SeqCst), commits);
    assert_eq!(running.published().revision, revision);
    assert!(running.published().keysets.contains_key(&name("main")));
}

#[tokio::test]
async fn clocks_apart_move_nothing_until_they_agree() {
    for apart in [30_001, -30_001] {
        let site = Site::new();
        let running = site.start().await;
        running.create("main", FAST).await;
        site.database_ahead.store(apart, Ordering::SeqCst);
        site.tick(&running).await;
        // What is published stays, by the time that was believed before.
        assert!(running.keyset("main").active(site.now()).is_some());
        assert_nothing_moves(&site, &running, "the clocks disagree").await;
        assert_eq!(running.gauge("stek_manager_clock_disagreement_seconds"), 30.001);
        let refused = running.operations().rotate(&name("main"), "test").await;
        assert!(matches!(refused, Err(OperationError::Clock(_))));
        site.database_ahead.store(30_000, Ordering::SeqCst);
        site.tick(&running).await;
        site.tick_until(&running, || running.unready().is_empty()).await;
        let fleet = running.manager.fleet();
        site.tick_until(&running, || running.keyset("main").active(fleet.now()).is_some()).await;
        assert_eq!(running.gauge("stek_manager_clock_disagreement_seconds"), 30.0);
    }
}

#[tokio::test]
async fn a_jump_of_more_than_a_day_moves_nothing_until_it_is_undone() {
    for (jump, is_followed) in [(DAY, true), (DAY + Duration::from_millis(1), false)] {
        let site = Site::new();
        let custody = site.claim("ratchet").await;
        let running = site.start_with(Arc::clone(&custody));
        running.create("main", FAST).await;
        let (before, epoch) = (site.clock.wall_millis(), custody.epoch());
        site.clock.set_wall_millis(before + u64::try_from(jump.as_millis()).unwrap());
        if is_followed {
            site.tick(&running).await;
            assert_eq!(running.unready(), Vec::<String>::new());
            assert!(custody.epoch() > epoch);
            continue;
        }
        assert_nothing_moves(&site, &running, "the clock jumped").await;
        assert_eq!(custody.epoch(), epoch);
        assert!(running.passes("clock") > 0);
        site.clock.set_wall_millis(before + 60_000);
        site.tick_until(&running, || running.unready().is_empty()).await;
        site.tick_until(&running, || running.keyset("main").active(site.now()).is_some()).await;
    }
}

#[tokio::test]
async fn a_database_behind_what_was_published_is_neither_served_nor_written() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    running.stop().await;
    // Another manager has published much more of this lineage.
    let custody = site.claim("ratchet").await;
    let cluster = site.store.inner.cluster().await.unwrap();
    custody.raise_high_water(cluster.incarnation, Revision::new(30)).unwrap();
    let running = site.start_with(Arc::clone(&custody));
    for _ in 0..40 {
        site.tick(&running).await;
    }
    assert_eq!(running.unready(), ["the database is behind what was published"]);
    assert!(running.feed.borrow().is_none());
    assert!(running.passes("behind") >= 40);
    // Had it been written, its revision would pass the mark some day, and nobody could tell.
    assert_eq!(site.store.inner.cluster().await.unwrap().revision, cluster.revision);
    let operations = running.operations();
    let create = operations.create(&name("new"), FAST, "test").await;
    assert!(matches!(create, Err(OperationError::Behind(_))));
    let rotate = operations.rotate(&name("main"), "test").await;
    assert!(matches!(rotate, Err(OperationError::Behind(_))));
    let delete = operations.delete(&name("main"), "test").await;
    assert!(matches!(delete, Err(OperationError::Behind(_))));
    // Looking is allowed.
    assert_eq!(operations.show(&name("main")).await.unwrap().name, "main");
    assert_eq!(site.store.inner.cluster().await.unwrap().revision, cluster.revision);
}

#[tokio::test]
async fn what_was_published_stays_when_the_database_goes_back() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let running = site.start_with(Arc::clone(&custody));
    running.create("main", PolicyDocument::default()).await;
    let later = Incarnation::new(crate::fixture::START_MILLIS + 1, &[0; 10]);
    custody.raise_high_water(later, Revision::new(1)).unwrap();
    assert_nothing_moves(&site, &running, "the database is behind what was published").await;
    assert!(running.keyset("main").active(site.now()).is_some());
}
