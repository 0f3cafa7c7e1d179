//! Whom a follower asks when an upstream answers well and has not heard of the database for long.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::time::Duration;

use common::Bench;
use common::material::{T0, bundle, tag};
use common::server::{Asked, Reply};
use stek_client::KeysetFollower;

const SECOND: Duration = Duration::from_secs(1);
const WAIT: Option<&str> = Some("wait=55");
const READ: &str = "stek_client_database_read_timestamp_seconds";

fn read(reply: Reply, seconds_ago: u64) -> Reply {
    reply.with("stek-read-age", (seconds_ago * 1000).to_string())
}

fn unchanged(seconds_ago: u64) -> Reply {
    read(Reply::not_modified(), seconds_ago)
}

/// A follower with revision 5 of upstream 0, which is asked to wait.
async fn installed(servers: usize) -> (Bench, KeysetFollower, Asked) {
    let mut bench = Bench::new(servers).await;
    let follower = bench.follow(&bench.options());
    let asked = bench.next().await;
    let asked = bench.after(asked, read(Reply::bundle(&bundle(5)), 1)).await;
    assert_eq!((asked.upstream, asked.header("prefer")), (0, WAIT));
    (bench, follower, asked)
}

#[tokio::test]
async fn a_stale_upstream_is_left_for_a_fresh_one() {
    // One that does not say counts as fresh.
    for fresh in [read(Reply::bundle(&bundle(6)), 29), Reply::bundle(&bundle(6))] {
        let (mut bench, _follower, asked) = installed(2).await;
        bench.clock.advance(30 * SECOND);
        let at = asked.at + 30 * SECOND;
        let asked = bench.after(asked, unchanged(30)).await;
        assert_eq!((asked.upstream, asked.header("prefer")), (1, None), "asked for word at once");
        assert!(asked.at <= at + SECOND, "{:?} after {at:?}", asked.at);
        assert_eq!(asked.installed(), Some(tag(1, 5)));
        let mut asked = bench.after(asked, fresh).await;
        for _ in 0..3 {
            assert_eq!((asked.upstream, asked.header("prefer")), (1, WAIT), "who is fresh is kept");
            assert_eq!(asked.installed(), Some(tag(1, 6)));
            bench.clock.advance(55 * SECOND);
            asked = bench.after(asked, unchanged(29)).await;
        }
    }
}

#[tokio::test]
async fn while_all_are_stale_one_is_followed_and_the_others_are_looked_at_after_each_wait() {
    let (mut bench, follower, mut asked) = installed(3).await;
    for round in 0..3 {
        assert_eq!((asked.upstream, asked.header("prefer")), (0, WAIT), "round {round}");
        bench.clock.advance(55 * SECOND);
        asked = bench.after(asked, unchanged(3600)).await;
        assert_eq!((asked.upstream, asked.header("prefer")), (1, None), "round {round}");
        asked = bench.after(asked, Reply::status(500)).await;
        assert_eq!((asked.upstream, asked.header("prefer")), (2, None), "round {round}");
        // It has more, though that is old too.
        let old = if round == 0 { Reply::bundle(&bundle(6)) } else { Reply::not_modified() };
        asked = bench.after(asked, read(old, 1800)).await;
        assert_eq!(asked.installed(), Some(tag(1, 6)), "round {round}");
    }
    assert_eq!(follower.bundles().borrow().as_ref().unwrap().keys().len(), 2, "nothing is dropped");
    bench.clock.advance(55 * SECOND);
    asked = bench.after(asked, unchanged(3600)).await;
    asked = bench.after(asked, unchanged(2)).await;
    assert_eq!((asked.upstream, asked.header("prefer")), (1, WAIT), "one is fresh again");
}

#[tokio::test]
async fn one_that_fails_in_a_search_is_passed_over_for_a_while_and_is_no_failure_of_the_follower() {
    let (mut bench, follower, mut asked) = installed(2).await;
    for round in 0..2 {
        // A change ends the wait, and a search follows each answer.
        asked = bench.after(asked, read(Reply::bundle(&bundle(6 + round * 3)), 3600)).await;
        assert_eq!((asked.upstream, asked.header("prefer")), (1, None), "round {round}");
        let failed_at = asked.at;
        asked = bench.after(asked, Reply::status(500)).await;
        assert_eq!(follower.status().failure, None, "the one that is followed answers");
        for more in 1..3 {
            assert_eq!((asked.upstream, asked.header("prefer")), (0, WAIT), "round {round}");
            asked =
                bench.after(asked, read(Reply::bundle(&bundle(6 + round * 3 + more)), 3600)).await;
        }
        assert_eq!(asked.upstream, 0, "round {round}");
        assert!(asked.at < failed_at + 3 * SECOND, "before a poll interval is over");
        bench.clock.advance(3 * SECOND);
    }
    // If the one that is followed fails, the other one is asked at once.
    asked = bench.after(asked, read(Reply::bundle(&bundle(12)), 3600)).await;
    assert_eq!(asked.upstream, 1);
    asked = bench.after(asked, Reply::status(500)).await;
    assert_eq!(asked.upstream, 0);
    asked = bench.after(asked, Reply::status(500)).await;
    assert_eq!(asked.upstream, 1);
    assert!(follower.status().failure.is_some());
}

#[tokio::test]
async fn the_only_upstream_may_end_one_wait_to_say_that_it_is_stale_and_no_more() {
    let (mut bench, _follower, asked) = installed(1).await;
    bench.clock.advance(30 * SECOND);
    let at = asked.at + 30 * SECOND;
    let asked = bench.after(asked, unchanged(30)).await;
    assert_eq!((asked.at, asked.header("prefer")), (at, WAIT), "what comes next is not missed");
    let asked = bench.after(asked, unchanged(31)).await;
    assert!(asked.at >= at + 2 * SECOND, "no busy loop: {:?} after {at:?}", asked.at);
}

#[tokio::test]
async fn when_the_database_was_read_is_told() {
    let (mut bench, follower, asked) = installed(1).await;
    bench.clock.advance(55 * SECOND);
    let asked = bench.after(asked, unchanged(7)).await;
    let now = bench.metric("stek_client_last_success_timestamp_seconds", "");
    assert_eq!(bench.metric(READ, ""), now - 7.0);
    let read_at = follower.status().database_read.unwrap().as_unix();
    assert_eq!(read_at - T0, (now - 7.0) as u64 - T0);
    // It says the same as long as the database is away.
    bench.clock.advance(55 * SECOND);
    let asked = bench.after(asked, unchanged(62)).await;
    assert_eq!(bench.metric(READ, ""), now - 7.0);
    let _asked = bench.after(asked, Reply::not_modified()).await;
    assert_eq!((bench.metric(READ, ""), follower.status().database_read), (0.0, None));
}
