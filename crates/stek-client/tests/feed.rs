//! How a follower of the feed joins snapshots and differences, and whom it waits for.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::material::{WEAK, at, feed, key, named, tag, with_weak_key};
use common::server::{Asked, Reply};
use common::{Bench, until};
use stek_client::FeedFollower;
use stek_core::bundle::Bundle;
use stek_core::feed::FeedState;
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_wire::feed::{AccessPart, encode_feed};

const SECOND: Duration = Duration::from_secs(1);

fn one(revision: u64) -> Bundle {
    named("one", tag(1, revision), vec![key(1, 0, 100), key(2, 100, 200)])
}

fn two(revision: u64) -> Bundle {
    named("two", tag(1, revision), vec![key(3, 0, 150)])
}

fn snapshot(state: &FeedState) -> Reply {
    let document = encode_feed(None, state, AccessPart::Included);
    Reply::document(state.tag(), document.as_slice())
}

fn since(revision: u64, state: &FeedState) -> Reply {
    let document = encode_feed(Some(Revision::new(revision)), state, AccessPart::Omitted);
    Reply::document(state.tag(), document.as_slice())
}

fn revisions(state: &FeedState) -> Vec<(&str, u64)> {
    state.keysets.iter().map(|(name, b)| (name.as_str(), b.tag().revision.as_u64())).collect()
}

/// A follower that has installed revision 5 with keyset `one` at 5 and `two` at 4.
async fn installed(servers: usize) -> (Bench, FeedFollower, Asked) {
    let mut bench = Bench::new(servers).await;
    let follower = bench.follow_feed(&bench.options());
    let first = bench.next().await;
    assert_eq!((&*first.path, first.installed()), ("/v1/feed", None));
    first.answer(snapshot(&feed(1, 5, vec![one(5), two(4)])));
    let asked = bench.next().await;
    assert_eq!(asked.installed(), Some(feed(1, 5, vec![]).tag()));
    assert_eq!(asked.header("prefer"), Some("wait=5"));
    (bench, follower, asked)
}

fn state(follower: &FeedFollower) -> Arc<FeedState> {
    follower.states().borrow().clone().unwrap()
}

#[tokio::test]
async fn a_snapshot_and_then_differences() {
    let (mut bench, follower, asked) = installed(1).await;
    assert_eq!(revisions(&follower.ready().await.unwrap()), [("one", 5), ("two", 4)]);
    asked.answer(since(5, &feed(1, 6, vec![one(6)])));
    let asked = bench.next().await;
    assert_eq!(revisions(&state(&follower)), [("one", 6), ("two", 4)]);
    let mut deleted = feed(1, 7, vec![]);
    deleted.tombstones.insert(KeysetName::try_new("two").unwrap(), Revision::new(7));
    asked.answer(since(6, &deleted));
    let asked = bench.next().await;
    assert_eq!(revisions(&state(&follower)), [("one", 6)]);
    assert_eq!(asked.installed(), Some(feed(1, 7, vec![]).tag()));
    assert_eq!(bench.metric("stek_client_installed_revision", ""), 7.0);
}

#[tokio::test]
async fn a_difference_that_does_not_fit_is_answered_by_asking_for_everything() {
    let mut other_access = feed(1, 6, vec![one(6)]);
    other_access.access = Arc::default();
    for unfit in [since(3, &feed(1, 6, vec![one(6)])), since(5, &other_access)] {
        let (mut bench, follower, asked) = installed(1).await;
        let began = asked.at;
        let asked = bench.after(asked, unfit).await;
        assert_eq!((asked.installed(), asked.header("prefer")), (None, None));
        assert_eq!(asked.at, began, "there is nothing to wait for");
        assert_eq!(revisions(&state(&follower)), [("one", 5), ("two", 4)]);
        let asked = bench.after(asked, snapshot(&feed(1, 6, vec![one(6), two(4)]))).await;
        assert_eq!(asked.installed(), Some(feed(1, 6, vec![]).tag()));
        assert_eq!(revisions(&state(&follower)), [("one", 6), ("two", 4)]);
        assert_eq!(bench.metric("stek_client_polls_total", "unfit"), 1.0);
        assert_eq!(bench.metric("stek_client_refused_bundles_total", "other-base"), 0.0);
    }
}

#[tokio::test]
async fn differences_that_never_fit_are_no_busy_loop() {
    let (mut bench, follower, mut asked) = installed(1).await;
    let began = asked.at;
    for _ in 0..40 {
        asked = bench.after(asked, since(3, &feed(1, 6, vec![one(6)]))).await;
    }
    let passed = asked.at - began;
    assert!(passed > 10 * SECOND, "40 requests within {passed:?}");
    assert_eq!(bench.metric("stek_client_refused_bundles_total", "other-base"), 20.0);
    assert_eq!(revisions(&state(&follower)), [("one", 5), ("two", 4)]);
}

/// What a distribution is given goes through the same door as what a terminator is given.
#[tokio::test]
async fn weak_and_altered_keys_are_refused_and_the_last_good_state_stays() {
    let good = || {
        let document =
            encode_feed(Some(Revision::new(5)), &feed(1, 6, vec![one(6)]), AccessPart::Omitted);
        String::from_utf8(document.as_slice().to_vec()).unwrap()
    };
    let kcv = |seed| key(seed, 0, 1).record.kcv.to_string();
    let mut bad = vec![("wrong-kcv", good().replace(&kcv(1), &kcv(9)))];
    bad.extend(WEAK.map(|weak| ("weak-key", with_weak_key(&good(), 1, weak))));
    for (cause, text) in bad {
        let (mut bench, follower, asked) = installed(1).await;
        let tag = feed(1, 6, vec![]).tag();
        let asked = bench.after(asked, Reply::document(tag, text.as_bytes())).await;
        assert_eq!(revisions(&state(&follower)), [("one", 5), ("two", 4)], "{cause}");
        assert_eq!(bench.metric("stek_client_refused_bundles_total", cause), 1.0);
        asked.answer(Reply::document(tag, good().as_bytes()));
        until(&mut follower.states(), |state| state.revision.as_u64() == 6).await;
    }
}

#[tokio::test]
async fn an_upstream_that_is_behind_is_waited_for() {
    let (mut bench, follower, asked) = installed(2).await;
    let asked = bench.after(asked, snapshot(&feed(1, 4, vec![two(4)]))).await;
    assert_eq!((asked.upstream, asked.installed()), (1, Some(feed(1, 5, vec![]).tag())));
    assert_eq!(revisions(&state(&follower)), [("one", 5), ("two", 4)]);
    assert_eq!(bench.metric("stek_client_polls_total", "behind"), 1.0);
    for cause in stek_client::Rejected::CAUSES {
        assert_eq!(bench.metric("stek_client_refused_bundles_total", cause), 0.0, "{cause}");
    }
    asked.answer(since(5, &feed(1, 6, vec![one(6)])));
    until(&mut follower.states(), |state| state.revision.as_u64() == 6).await;
}

#[tokio::test]
async fn an_earlier_lineage_and_a_keyset_that_goes_back_are_refused() {
    let old = named("one", tag(0, 9), vec![key(1, 0, 100)]);
    for (cause, reply) in [
        ("earlier-incarnation", snapshot(&feed(0, 9, vec![old]))),
        ("lower-revision", snapshot(&feed(1, 6, vec![one(3), two(6)]))),
        ("malformed", Reply::document(feed(1, 6, vec![]).tag(), b"{}")),
        ("other-tag", snapshot(&feed(1, 6, vec![])).with("etag", "")),
    ] {
        let (mut bench, follower, asked) = installed(1).await;
        let reply = if cause == "other-tag" {
            Reply::document(feed(1, 7, vec![]).tag(), &reply.body)
        } else {
            reply
        };
        let asked = bench.after(asked, reply).await;
        assert_eq!(asked.installed(), Some(feed(1, 5, vec![]).tag()), "{cause}");
        assert_eq!(revisions(&state(&follower)), [("one", 5), ("two", 4)], "{cause}");
        assert_eq!(bench.metric("stek_client_refused_bundles_total", cause), 1.0, "{cause}");
    }
}

#[tokio::test]
async fn keys_are_erased_from_the_feed_though_nobody_answers() {
    let (mut bench, follower, asked) = installed(1).await;
    drop(asked);
    bench.servers.clear();
    let mut states = follower.states();
    let counts = |state: &FeedState| {
        state.keysets.values().map(|bundle| bundle.keys().len()).collect::<Vec<_>>()
    };
    assert_eq!(counts(&state(&follower)), [2, 1]);
    bench.clock.advance(199 * SECOND);
    let thinner = until(&mut states, |state| counts(state) == [1, 1]).await;
    assert_eq!(thinner.tag(), feed(1, 5, vec![]).tag());
    bench.clock.advance(49 * SECOND);
    bench.clock.sleeper(SECOND).await;
    assert_eq!(counts(&state(&follower)), [1, 1]);
    bench.clock.advance(SECOND);
    until(&mut states, |state| counts(state) == [1, 0]).await;
    bench.clock.advance(50 * SECOND);
    until(&mut states, |state| counts(state) == [0, 0]).await;
}

/// Lets time pass, if it was asked to wait; who was not is soon given up.
fn let_wait(bench: &Bench, asked: &Asked) {
    if asked.header("prefer").is_some() {
        bench.clock.advance(9 * SECOND);
    }
}

#[tokio::test]
async fn tokens_and_grants_that_were_read_long_ago_are_fetched_anew() {
    let (mut bench, follower, mut asked) = installed(1).await;
    let six_hours = 6 * 3600;
    let latest = Duration::from_secs(3600 + six_hours + 60);
    while asked.installed().is_some() {
        assert!(asked.at < latest, "never fetched anew");
        let_wait(&bench, &asked);
        asked = bench.after(asked, Reply::not_modified()).await;
    }
    assert!(follower.fleet().now() > at(six_hours));
    assert_eq!(asked.header("prefer"), None);
    let mut fresh = feed(1, 5, vec![one(5), two(4)]);
    fresh.access_read_at = at(six_hours);
    let asked = bench.after(asked, snapshot(&fresh)).await;
    assert_eq!(asked.installed(), Some(fresh.tag()));
    assert_eq!(state(&follower).access_read_at, at(six_hours));
    assert_eq!(state(&follower).keysets.values().map(|b| b.keys().len()).sum::<usize>(), 0);
}

#[tokio::test]
async fn all_is_fetched_anew_once_a_day_for_differences_do_not_say_what_is_forgotten() {
    let (mut bench, follower, mut asked) = installed(1).await;
    // Tokens and grants are confirmed all the time, and with each poll something has changed.
    let mut now = feed(1, 5, vec![one(5), two(4)]);
    now.tombstones.insert(KeysetName::try_new("gone").unwrap(), Revision::new(6));
    let began = asked.at;
    while let Some(installed) = asked.installed() {
        assert!(asked.at < began + Duration::from_secs(25 * 3600), "never fetched anew");
        let_wait(&bench, &asked);
        now.revision = installed.revision.next();
        now.access_read_at = follower.fleet().now();
        asked = bench.after(asked, since(installed.revision.as_u64(), &now)).await;
    }
    assert!(asked.at >= began + Duration::from_secs(23 * 3600), "{:?}", asked.at);
    assert_eq!(state(&follower).tombstones.len(), 1);
    now.tombstones.clear();
    let asked = bench.after(asked, snapshot(&now)).await;
    assert_eq!(asked.installed(), Some(now.tag()));
    assert!(state(&follower).tombstones.is_empty());
}
