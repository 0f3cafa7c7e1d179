//! The feed for further replicas: whole or as a difference, and no more of it than is granted.

use std::sync::Arc;

use http::StatusCode;
use stek_core::access::{Access, KeysetSelector, Role};
use stek_core::feed::FeedState;
use stek_core::id::{ContentTag, Revision};
use stek_wire::feed::{FeedUpdate, decode_feed};

use crate::fixture::{Answer, Ask, Replica, access, at, bundle, name, settle, soon, state};

const GRANTS: [(u8, Role, &str); 7] = [
    (1, Role::Terminator, "main"),
    (2, Role::Terminator, "other"),
    (3, Role::Distribution, "*"),
    (4, Role::Distribution, "main"),
    (5, Role::Operator, "*"),
    (6, Role::Terminator, "*"),
    (7, Role::Auditor, "main"),
];

fn first() -> FeedState {
    state(&[bundle("main", 5, 1), bundle("other", 7, 11)], access(&GRANTS))
}

fn second() -> FeedState {
    state(&[bundle("main", 9, 3), bundle("other", 7, 11)], access(&GRANTS))
}

fn update(answer: &Answer) -> FeedUpdate {
    assert_eq!(answer.status, StatusCode::OK);
    decode_feed(&answer.body).unwrap()
}

#[tokio::test]
async fn who_has_nothing_gets_everything() {
    let replica = Replica::with(first()).await;
    let answer = replica.ask(&Ask::feed(3)).await;
    assert_eq!((answer.tag(), answer.sent_at()), (first().tag(), 0));
    let update = update(&answer);
    assert_eq!((update.since(), update.tag()), (None, first().tag()));
    let applied = update.apply(None).unwrap();
    assert_eq!(applied.keysets.len(), 2);
    // In another order, which means nothing.
    assert_eq!(applied.access.digest(), first().access.digest());
}

#[tokio::test]
async fn who_has_an_earlier_revision_gets_the_difference() {
    let replica = Replica::with(first()).await;
    let held = update(&replica.ask(&Ask::feed(3)).await).apply(None).unwrap();
    let mut next = second();
    next.keysets.remove(&name("other"));
    next.tombstones.insert(name("other"), Revision::new(8));
    replica.put_out(next.clone()).await;
    let difference = update(&replica.ask(&Ask::feed(3).has(held.tag())).await);
    assert_eq!(difference.since(), Some(Revision::new(7)));
    assert!(difference.access().is_none());
    assert_eq!(difference.tombstones().len(), 1);
    let applied = difference.apply(Some(&held)).unwrap();
    assert_eq!((applied.tag(), applied.keysets.len()), (next.tag(), 1));
}

#[tokio::test]
async fn other_grants_or_another_lineage_or_too_old_a_base_need_everything() {
    let replica = Replica::with(first()).await;
    replica.put_out(second()).await;
    let tag = first().tag();
    let other_grants = ContentTag { digest: access(&GRANTS[1..]).digest(), ..tag };
    let other_lineage =
        ContentTag { incarnation: stek_core::id::Incarnation::from_bytes([6; 16]), ..tag };
    // From before this replica began: tombstones of that time may be forgotten.
    let too_old = ContentTag { revision: Revision::new(6), ..tag };
    for had in [other_grants, other_lineage, too_old] {
        let update = update(&replica.ask(&Ask::feed(3).has(had)).await);
        assert_eq!(update.since(), None, "{had}");
        assert!(update.access().is_some());
    }
}

#[tokio::test]
async fn a_follower_of_one_keyset_sees_nothing_else() {
    let mut all = first();
    all.tombstones.insert(name("gone"), Revision::new(3));
    all.tombstones.insert(name("main"), Revision::new(2));
    let replica = Replica::with(all).await;
    let answer = replica.ask(&Ask::feed(4)).await;
    let update = update(&answer);
    assert_eq!(update.keysets().keys().collect::<Vec<_>>(), [&name("main")]);
    assert!(update.tombstones().is_empty());
    let access = update.access().unwrap();
    let principals: Vec<_> = access.tokens().iter().map(|token| token.principal.as_str()).collect();
    // Those of `main`, and of everything as far as that is `main`; no operator and no auditor.
    assert_eq!(principals, ["token:1", "token:3", "token:4", "token:6"]);
    assert_eq!(access.grants().len(), 4);
    let main = KeysetSelector::Named(name("main"));
    assert!(access.grants().iter().all(|grant| grant.keysets == main));
    let text = String::from_utf8_lossy(&answer.body);
    assert!(!text.contains("other") && !text.contains("gone") && !text.contains("token:2"));
}

#[tokio::test]
async fn a_follower_of_one_keyset_follows_it() {
    let replica = Replica::with(first()).await;
    let held = update(&replica.ask(&Ask::feed(4)).await).apply(None).unwrap();
    replica.put_out(second()).await;
    let difference = update(&replica.ask(&Ask::feed(4).has(held.tag())).await);
    assert_eq!(difference.since(), Some(Revision::new(7)));
    assert_eq!(difference.apply(Some(&held)).unwrap().keysets.len(), 1);
}

#[tokio::test]
async fn a_change_wakes_and_the_age_of_the_grants_travels_without_one() {
    let replica = Replica::with(first()).await;
    let task = replica.wait(&Ask::feed(3).has(first().tag()).waits(55)).await;
    let mut confirmed = first();
    confirmed.access_read_at = at(30);
    replica.advance(30);
    replica.feed.send_replace(Some(Arc::new(confirmed)));
    settle().await;
    assert!(!task.is_finished());
    replica.advance(25);
    let answer = soon(task).await.unwrap();
    assert_eq!((answer.status, answer.sent_at()), (StatusCode::NOT_MODIFIED, 55));
    let task = replica.wait(&Ask::feed(3).has(first().tag()).waits(55)).await;
    replica.put_out(second()).await;
    assert_eq!(soon(task).await.unwrap().tag(), second().tag());
}

#[tokio::test]
async fn a_follower_ahead_of_us_waits() {
    let replica = Replica::with(first()).await;
    let ahead = ContentTag { revision: Revision::new(8), ..first().tag() };
    let task = replica.wait(&Ask::feed(3).has(ahead).waits(55)).await;
    settle().await;
    assert!(!task.is_finished());
    replica.put_out(second()).await;
    assert_eq!(soon(task).await.unwrap().tag(), second().tag());
}

#[tokio::test]
async fn a_follower_shut_out_while_waiting_is_told_at_once() {
    let replica = Replica::with(first()).await;
    let task = replica.wait(&Ask::feed(3).has(first().tag()).waits(55)).await;
    let mut without = second();
    let all = access(&GRANTS);
    let left = all.grants().iter().filter(|grant| grant.role != Role::Distribution);
    without.access = Arc::new(Access::new(all.tokens().to_vec(), left.cloned().collect()));
    replica.put_out(without).await;
    assert_eq!(soon(task).await.unwrap().status, StatusCode::NOT_FOUND);
    let revoked = state(&[bundle("main", 10, 1)], access(&GRANTS[..2]));
    replica.put_out(revoked).await;
    assert_eq!(replica.ask(&Ask::feed(3)).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn ended_keys_are_not_passed_on() {
    let replica = Replica::with(first()).await;
    replica.advance(200);
    let update = update(&replica.ask(&Ask::feed(3)).await);
    assert!(update.keysets().values().all(|bundle| bundle.keys().len() == 1));
}

#[tokio::test]
async fn the_whole_is_made_once_for_all_who_may_see_it() {
    let replica = Replica::with(first()).await;
    let [one, two, part] = [3, 3, 4].map(Ask::feed);
    let (one, two) = (replica.ask(&one).await, replica.ask(&two).await);
    assert_eq!(one.body.as_ptr(), two.body.as_ptr());
    assert_eq!(update(&replica.ask(&part).await).keysets().len(), 1);
    // When tokens and grants were confirmed is told, give or take a minute.
    for (seconds, told) in [(60, 0), (61, 61)] {
        replica
            .feed
            .send_replace(Some(Arc::new(FeedState { access_read_at: at(seconds), ..first() })));
        assert_eq!(update(&replica.ask(&Ask::feed(3)).await).access_read_at(), at(told));
    }
    replica.put_out(second()).await;
    assert_eq!(replica.ask(&Ask::feed(3)).await.tag(), second().tag());
    // Without the keys that have ended since it was made.
    replica.advance(200);
    let update = update(&replica.ask(&Ask::feed(3)).await);
    assert!(update.keysets().values().all(|bundle| bundle.keys().len() == 1));
}
