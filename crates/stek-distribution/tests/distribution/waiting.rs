//! Long-polls: what wakes them, what does not, and what they are told in the end.

use std::collections::BTreeSet;
use std::time::Duration;

use http::StatusCode;
use stek_core::access::{Access, Role};
use stek_core::id::{ContentTag, Revision};

use crate::fixture::{Ask, Replica, access, at, bundle, name, settle, soon, state};

const GRANTS: [(u8, Role, &str); 3] =
    [(1, Role::Terminator, "main"), (2, Role::Terminator, "other"), (3, Role::Distribution, "*")];

async fn replica() -> Replica {
    Replica::with(state(&[bundle("main", 5, 1), bundle("other", 7, 11)], access(&GRANTS))).await
}

/// Terminator 1, which has what is out and waits for more.
fn waiting() -> Ask {
    Ask::keyset("main", 1).has(bundle("main", 5, 1).tag()).waits(55)
}

#[tokio::test]
async fn a_change_of_this_keyset_wakes_and_one_of_another_does_not() {
    let replica = replica().await;
    let task = replica.wait(&waiting()).await;
    replica.put_out(state(&[bundle("main", 5, 1), bundle("other", 8, 21)], access(&GRANTS))).await;
    settle().await;
    assert!(!task.is_finished());
    replica.advance(10);
    let next = bundle("main", 9, 3);
    replica.put_out(state(&[next.clone(), bundle("other", 8, 21)], access(&GRANTS))).await;
    let answer = soon(task).await.unwrap();
    assert_eq!((answer.status, answer.tag()), (StatusCode::OK, next.tag()));
    assert_eq!(answer.sent_at(), 10);
}

#[tokio::test]
async fn many_wait_and_all_are_woken_with_one_buffer() {
    let replica = replica().await;
    let mut tasks = Vec::new();
    for _ in 0..50 {
        tasks.push(replica.wait(&waiting()).await);
    }
    replica.put_out(state(&[bundle("main", 9, 3)], access(&GRANTS))).await;
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(soon(task).await.unwrap());
    }
    assert!(answers.iter().all(|answer| answer.status == StatusCode::OK));
    let buffers: BTreeSet<_> = answers.iter().map(|answer| answer.body.as_ptr()).collect();
    assert_eq!(buffers.len(), 1);
    assert_eq!(replica.metric("stek_distribution_waiting_requests"), 0.0);
}

#[tokio::test]
async fn the_time_of_an_answer_is_that_of_its_sending() {
    let replica = replica().await;
    for ask in [
        waiting(),
        Ask::keyset("main", 1).header("if-none-match", "*").waits(55),
        // More is asked for than anybody gets.
        Ask::keyset("main", 1).has(bundle("main", 5, 1).tag()).waits(100_000),
    ] {
        let begun = replica.ask(&Ask::keyset("main", 1)).await.sent_at();
        let task = replica.wait(&ask).await;
        replica.advance(54);
        settle().await;
        assert!(!task.is_finished());
        replica.advance(1);
        let answer = soon(task).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
        assert_eq!(answer.sent_at(), begun + 55);
    }
}

#[tokio::test]
async fn who_is_shut_out_while_waiting_is_told_so_and_gets_nothing() {
    let no_token = || access(&GRANTS[1..]);
    let no_grant = || {
        let access = access(&GRANTS);
        let left = access.grants().iter().filter(|grant| grant.role != Role::Terminator);
        Access::new(access.tokens().to_vec(), left.cloned().collect())
    };
    let expired = || {
        let access = access(&GRANTS);
        let mut tokens = access.tokens().to_vec();
        tokens.iter_mut().for_each(|token| token.expires_at = at(20));
        Access::new(tokens, access.grants().to_vec())
    };
    let cases: [(&str, &dyn Fn() -> Access, StatusCode); 3] = [
        ("token revoked", &no_token, StatusCode::UNAUTHORIZED),
        ("grant removed", &no_grant, StatusCode::NOT_FOUND),
        ("token expired", &expired, StatusCode::UNAUTHORIZED),
    ];
    for (case, access, status) in cases {
        // At the end of the wait.
        let replica = replica().await;
        let task = replica.wait(&waiting()).await;
        replica.put_out(state(&[bundle("main", 5, 1), bundle("other", 8, 21)], access())).await;
        replica.advance(55);
        assert_eq!(soon(task).await.unwrap().status, status, "{case}, at the end");
        // By what is new, made in the same commit.
        let replica = self::replica().await;
        let task = replica.wait(&waiting()).await;
        replica.advance(20);
        replica.put_out(state(&[bundle("main", 9, 3)], access())).await;
        assert_eq!(soon(task).await.unwrap().status, status, "{case}, with news");
    }
}

#[tokio::test]
async fn the_deletion_of_a_keyset_ends_the_wait() {
    let replica = replica().await;
    let task = replica.wait(&waiting()).await;
    replica.put_out(state(&[bundle("other", 8, 21)], access(&GRANTS))).await;
    assert_eq!(soon(task).await.unwrap().status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn of_a_deleted_keyset_a_bundle_without_keys_is_served() {
    let replica = replica().await;
    let task = replica.wait(&waiting()).await;
    let mut next = state(&[bundle("other", 8, 21)], access(&GRANTS));
    next.tombstones.insert(name("main"), Revision::new(9));
    replica.put_out(next).await;
    let answer = soon(task).await.unwrap();
    let gone = stek_wire::bundle::decode_bundle(&answer.body).unwrap();
    assert_eq!((gone.tag().revision, gone.keys().len()), (Revision::new(9), 0));
    // Who has heard of it waits for the keyset to be made again.
    let informed = Ask::keyset("main", 1).has(gone.tag()).waits(55);
    let task = replica.wait(&informed).await;
    settle().await;
    assert!(!task.is_finished());
}

#[tokio::test]
async fn a_keyset_that_is_made_again_wakes_with_its_new_content() {
    let replica = replica().await;
    let task = replica.wait(&waiting()).await;
    let again = bundle("main", 12, 31);
    replica.put_out(state(std::slice::from_ref(&again), access(&GRANTS))).await;
    assert_eq!(soon(task).await.unwrap().tag(), again.tag());
}

#[tokio::test]
async fn who_is_ahead_waits_until_this_replica_has_caught_up() {
    let replica = replica().await;
    let (tag, next) = (bundle("main", 5, 1).tag(), bundle("main", 10, 3));
    let ahead = ContentTag { revision: Revision::new(9), ..tag };
    let task = replica.wait(&Ask::keyset("main", 1).has(ahead).waits(55)).await;
    replica.put_out(state(&[bundle("main", 8, 5)], access(&GRANTS))).await;
    settle().await;
    assert!(!task.is_finished(), "an earlier revision is nothing to go back to");
    replica.put_out(state(std::slice::from_ref(&next), access(&GRANTS))).await;
    assert_eq!(soon(task).await.unwrap().tag(), next.tag());
}

#[tokio::test]
async fn shutdown_ends_every_wait_at_once() {
    let replica = replica().await;
    let bundle_task = replica.wait(&waiting()).await;
    let tag = state(&[bundle("main", 5, 1), bundle("other", 7, 11)], access(&GRANTS)).tag();
    let feed_task = replica.wait(&Ask::feed(3).has(tag).waits(55)).await;
    replica.shutdown.cancel();
    for task in [bundle_task, feed_task] {
        assert_eq!(soon(task).await.unwrap().status, StatusCode::NOT_MODIFIED);
    }
    // Nobody begins to wait any more.
    assert_eq!(replica.ask(&waiting()).await.status, StatusCode::NOT_MODIFIED);
    soon(replica.distribution.stopped()).await;
}

#[tokio::test]
async fn without_a_source_waits_last_and_the_end_comes_at_once() {
    let Replica { clock, fleet, feed, registry, shutdown, distribution, routes } = replica().await;
    let (lonely, source) = tokio::sync::watch::channel(None);
    drop(source);
    let replica = Replica { clock, fleet, feed: lonely, registry, shutdown, distribution, routes };
    let tag = feed.borrow().as_ref().unwrap().tag();
    let bundle_task = replica.wait(&waiting()).await;
    let feed_task = replica.wait(&Ask::feed(3).has(tag).waits(55)).await;
    drop(feed);
    settle().await;
    assert!(!bundle_task.is_finished() && !feed_task.is_finished());
    replica.advance(55);
    for task in [bundle_task, feed_task] {
        assert_eq!(soon(task).await.unwrap().status, StatusCode::NOT_MODIFIED);
    }
    replica.shutdown.cancel();
    soon(replica.distribution.stopped()).await;
}

#[tokio::test]
async fn who_goes_away_is_not_counted_as_waiting() {
    let replica = replica().await;
    let task = replica.wait(&waiting()).await;
    replica.abandon(task).await;
}

#[tokio::test]
async fn answers_say_how_long_ago_the_database_was_read() {
    let replica = replica().await;
    let had = bundle("main", 5, 1).tag();
    let asks = [Ask::keyset("main", 1), Ask::keyset("main", 1).has(had), Ask::feed(3)];
    for ask in &asks {
        assert_eq!(replica.ask(ask).await.read_age(), None, "nobody has said");
    }
    replica.fleet.note_read(Some(Duration::from_secs(7)));
    replica.advance(3);
    for ask in &asks {
        assert_eq!(replica.ask(ask).await.read_age(), Some(Duration::from_secs(10)));
    }
}

#[tokio::test]
async fn a_wait_ends_when_what_is_served_becomes_stale_and_not_because_it_is() {
    let replica = replica().await;
    let tag = state(&[bundle("main", 5, 1), bundle("other", 7, 11)], access(&GRANTS)).tag();
    let asks = [waiting(), Ask::feed(3).has(tag).waits(55)];
    for ask in &asks {
        replica.fleet.note_read(Some(Duration::from_secs(10)));
        let task = replica.wait(ask).await;
        replica.advance(19);
        // The database was read again, so nothing is stale when that would have been.
        replica.fleet.note_read(Some(Duration::ZERO));
        replica.advance(1);
        settle().await;
        assert!(!task.is_finished(), "it is not stale");
        replica.advance(29);
        let answer = soon(task).await.unwrap();
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
        assert_eq!(answer.read_age(), Some(Duration::from_secs(30)));
        // Who goes on with it all the same is let wait.
        let task = replica.wait(ask).await;
        replica.advance(54);
        settle().await;
        assert!(!task.is_finished(), "whom should he ask?");
        replica.advance(1);
        assert_eq!(soon(task).await.unwrap().read_age(), Some(Duration::from_secs(85)));
    }
}
