//! Clocks that disagree or jump, and databases that are not the one that was published.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stek_clock::Clock;
use stek_core::access::{Grant, KeysetSelector, Role, TokenSecret};
use stek_core::id::{Incarnation, Revision};
use stek_core::planner::Selection;
use stek_core::principal::PrincipalPattern;
use stek_core::time::Seconds;
use stek_core::wrapped::Epoch;
use stek_custody::random::SystemRandom;
use stek_manager::{KeysetChange, NewToken, OperationError, add_grant_offline, add_token_offline};
use stek_store::KeyStore;
use stek_wire::admin::PolicyDocument;
use stek_wire::headers::STALE_AFTER;

use crate::fixture::{FAST, Running, Site, name, principal};

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;

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
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let running = site.start_with(Arc::clone(&custody));
    running.create("main", FAST).await;
    let (before, epoch) = (site.clock.wall_millis(), custody.epoch());
    site.clock.set_wall_millis(before.strict_add_signed(DAY + 1));
    for _ in 0..3 {
        assert_nothing_moves(&site, &running, "the clock jumped").await;
        site.clock.advance(Duration::from_secs(3600));
    }
    assert_eq!(custody.epoch(), epoch);
    assert!(running.passes("clock") > 0);
    site.clock.set_wall_millis(site.clock.wall_millis().strict_add_signed(-DAY - 1));
    site.tick_until(&running, || running.unready().is_empty()).await;
    site.tick_until(&running, || running.keyset("main").active(site.now()).is_some()).await;
}

/// As of a manager and a database on one machine, which agree whatever they show.
#[tokio::test]
async fn a_step_of_both_clocks_ends_nothing_until_it_has_lasted_or_is_vouched_for() {
    for step in [30_001, HOUR, -HOUR, DAY, -DAY] {
        for end in [StepEnd::Undone, StepEnd::Lasted, StepEnd::Vouched] {
            let site = Site::new();
            let custody = site.claim("ratchet").await;
            let running = site.start_with(Arc::clone(&custody));
            running.create("main", PolicyDocument::default()).await;
            let keys = running.keyset("main").keys().to_vec();
            let epoch = custody.epoch();
            let stepped = |by| {
                site.clock.set_wall_millis(site.clock.wall_millis().strict_add_signed(by));
            };
            stepped(step);
            assert_nothing_moves(&site, &running, "the clock jumped").await;
            let refused = running.operations().rotate(&name("main"), "test").await;
            assert!(matches!(refused, Err(OperationError::Clock(_))));
            // The lead is six hours.
            site.clock.advance(Duration::from_millis((6 * HOUR - 120_000) as u64));
            assert_nothing_moves(&site, &running, "the clock jumped").await;
            assert_eq!(running.keyset("main").keys(), keys, "{step}");
            assert_eq!(custody.epoch(), epoch, "{step}");
            match end {
                StepEnd::Undone => stepped(-step),
                StepEnd::Lasted => site.clock.advance(Duration::from_secs(60)),
                StepEnd::Vouched => running.operations().confirm_clock("test").await.unwrap(),
            }
            site.tick_until(&running, || running.unready().is_empty()).await;
            assert_eq!(running.manager.fleet().now(), site.now(), "{step} {end:?}");
            if step == -DAY && !matches!(end, StepEnd::Undone) {
                // The ratchet is a day ahead, and nothing can be wrapped that ends before it.
                continue;
            }
            let planned = || running.keyset("main").covered_from(site.now()) > Seconds::ZERO;
            site.tick_until(&running, planned).await;
            assert!(custody.epoch() >= Epoch::of(site.now()).max(epoch), "{step} {end:?}");
        }
    }
}

/// How a step of the clock comes to an end.
#[derive(Debug, Clone, Copy)]
enum StepEnd {
    Undone,
    Lasted,
    Vouched,
}

/// Whoever follows a manager in a dispute has the last revocation, and need not look elsewhere.
#[tokio::test]
async fn a_manager_whose_clock_is_in_dispute_still_hears_of_the_database() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    site.database_ahead.store(HOUR, Ordering::SeqCst);
    assert_nothing_moves(&site, &running, "the clocks disagree").await;
    let age = running.manager.fleet().read_age().unwrap();
    assert!(age < STALE_AFTER, "{age:?}");
}

/// Whoever revokes does not wait for NTP. What is minted instead goes by fleet time, as everybody
/// who uses it does.
#[tokio::test]
async fn keys_and_tokens_are_revoked_while_clocks_are_in_dispute() {
    for (database, both) in [(HOUR, 0), (0, HOUR), (0, 365 * DAY)] {
        let site = Site::new();
        let running = site.start().await;
        running.create("main", PolicyDocument::default()).await;
        let (_, token) = running.token("token:edge", &[(Role::Terminator, "*")]).await;
        let before = running.keyset("main").keys().to_vec();
        site.database_ahead.store(database, Ordering::SeqCst);
        site.clock.set_wall_millis(site.clock.wall_millis().strict_add_signed(both));
        site.tick(&running).await;
        assert!(!running.unready().is_empty());
        let (operations, main) = (running.operations(), name("main"));
        let revoke = KeysetChange::Revoke { selection: Selection::All, reason: "leaked".into() };
        assert_eq!(operations.cost(&main, &revoke).await.unwrap().ends.len(), before.len());
        operations.revoke(&main, Selection::All, "leaked", "test").await.unwrap();
        assert!(operations.revoke_token(token.id, "test").await.unwrap());
        let out = running.until(|feed| feed.access.tokens().is_empty()).await;
        let now = running.manager.fleet().now();
        let keyset = out.keysets[&main].keyset();
        assert!(keyset.keys().iter().all(|key| before.iter().all(|old| old.id != key.id)));
        assert!(keyset.next_pending(now).is_some(), "one in their place");
        assert!(!running.unready().is_empty(), "nobody has mended the clock");
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
    let mark = custody.high_water();
    let grant = Grant {
        principal: PrincipalPattern::try_new("edge.example").unwrap(),
        keysets: KeysetSelector::All,
        role: Role::Terminator,
    };
    let (store, clock) = (site.store.as_ref(), site.clock.as_ref());
    let offline = add_grant_offline(store, &site.cluster, clock, mark, grant.clone()).await;
    assert!(matches!(offline, Err(OperationError::Behind(_))));
    let new = NewToken {
        principal: principal("token:late"),
        hash: TokenSecret::take_from(&mut [7; 32]).hash(),
        expires_at: site.now() + Seconds::from_days(1),
        grants: vec![grant],
    };
    let offline = add_token_offline(store, &site.cluster, &SystemRandom, clock, mark, new).await;
    assert!(matches!(offline, Err(OperationError::Behind(_))));
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
