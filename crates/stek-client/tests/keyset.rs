//! What a follower of a keyset installs, what it refuses, and what it tells the server.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::time::Duration;

use common::material::{T0, WEAK, bundle, key, named, policy, tag, with_weak_key};
use common::server::{Asked, Reply};
use common::{Bench, PATIENCE, until};
use stek_client::{KeysetFollower, Stopped};
use stek_core::bundle::Bundle;
use stek_core::id::ContentTag;
use stek_wire::bundle::encode_bundle;

const SECOND: Duration = Duration::from_secs(1);

/// A follower that has installed revision 5, and its next request.
async fn installed() -> (Bench, KeysetFollower, Asked) {
    let mut bench = Bench::new(1).await;
    let follower = bench.follow(&bench.options());
    bench.next().await.answer(Reply::bundle(&bundle(5)));
    let asked = bench.next().await;
    (bench, follower, asked)
}

fn revision(follower: &KeysetFollower) -> u64 {
    follower.bundles().borrow().as_ref().unwrap().tag().revision.as_u64()
}

#[tokio::test]
async fn installs_and_then_long_polls_with_what_is_installed() {
    let mut bench = Bench::new(1).await;
    let follower = bench.follow(&bench.options());
    assert!(follower.bundles().borrow().is_none());

    let first = bench.next().await;
    assert_eq!(first.path, "/v1/keysets/main");
    assert_eq!(first.header("stek-instance"), Some("edge-7"));
    assert_eq!((first.header("if-none-match"), first.header("prefer")), (None, None));
    assert_eq!(first.header("authorization"), None);
    first.answer(Reply::bundle(&bundle(5)));
    let ready = tokio::time::timeout(PATIENCE, follower.ready()).await.unwrap().unwrap();
    assert_eq!((ready.tag(), ready.keys().len()), (bundle(5).tag(), 2));

    let poll = bench.next().await;
    let expected = format!("\"{}\"", bundle(5).tag());
    assert_eq!(poll.header("if-none-match"), Some(&*expected));
    assert_eq!(poll.header("prefer"), Some("wait=55"));
    bench.clock.advance(55 * SECOND);
    poll.answer(Reply::not_modified());

    let again = bench.next().await;
    assert_eq!(again.installed(), Some(bundle(5).tag()));
    again.answer(Reply::bundle(&bundle(6)));
    let mut bundles = follower.bundles();
    until(&mut bundles, |bundle| bundle.tag().revision.as_u64() == 6).await;
    assert_eq!(bench.next().await.installed(), Some(bundle(6).tag()));

    assert_eq!(bench.metric("stek_client_polls_total", "changed"), 2.0);
    assert_eq!(bench.metric("stek_client_polls_total", "not-modified"), 1.0);
    assert_eq!(bench.metric("stek_client_installed_revision", ""), 6.0);
    let last_end = f64::from(u32::try_from(T0 + 300).unwrap());
    assert_eq!(bench.metric("stek_client_last_key_end_timestamp_seconds", ""), last_end);
    let span = bundle(6).least_span().as_secs();
    assert_eq!(bench.metric("stek_client_least_key_span_seconds", "") as u64, span);
    let status = follower.status();
    assert_eq!((status.installed, status.failure), (Some(bundle(6).tag()), None));
}

/// The document of `bundle` with one text for another.
fn forged(bundle: &Bundle, from: &str, to: &str) -> Reply {
    let text = String::from_utf8(encode_bundle(bundle).as_slice().to_vec()).unwrap();
    assert!(text.contains(from), "{from} is not in {text}");
    Reply::document(bundle.tag(), text.replacen(from, to, 1).as_bytes())
}

async fn expect_refusal(cause: &str, reply: Reply) {
    let (mut bench, follower, poll) = installed().await;
    poll.answer(reply);
    let next = bench.next().await;
    assert_eq!(next.installed(), Some(bundle(5).tag()), "{cause}");
    assert_eq!(next.header("prefer"), None, "after a failure an answer is wanted at once");
    assert_eq!(revision(&follower), 5, "{cause}");
    assert_eq!(follower.bundles().borrow().as_ref().unwrap().keys().len(), 2, "{cause}");
    assert_eq!(bench.metric("stek_client_refused_bundles_total", cause), 1.0, "{cause}");
    assert_eq!(bench.metric("stek_client_polls_total", "rejected"), 1.0, "{cause}");
    assert!(follower.status().failure.is_some(), "{cause}");
    next.answer(Reply::bundle(&bundle(6)));
    until(&mut follower.bundles(), |bundle| bundle.tag().revision.as_u64() == 6).await;
    bench.next().await;
    assert_eq!(follower.status().failure, None);
}

#[tokio::test]
async fn what_may_not_replace_the_installed_is_refused() {
    expect_refusal("lower-revision", Reply::bundle(&bundle(4))).await;
    let restored = named("main", tag(0, 9), vec![key(1, 0, 100)]);
    expect_refusal("earlier-incarnation", Reply::bundle(&restored)).await;
    let other = named("other", tag(1, 6), vec![key(1, 0, 100)]);
    expect_refusal("other-keyset", Reply::bundle(&other)).await;
    let mut twin = key(9, 200, 300);
    (twin.record.kcv, twin.material) = (key(1, 0, 1).record.kcv, key(1, 0, 1).material);
    let repeated = named("main", tag(1, 6), vec![twin]);
    expect_refusal("repeated-key", Reply::bundle(&repeated)).await;
    let digest = stek_core::id::ContentDigest::from_bytes([8; 8]);
    let fork = named("main", ContentTag { digest, ..tag(1, 5) }, vec![key(3, 0, 100)]);
    expect_refusal("other-content", Reply::bundle(&fork)).await;
}

#[tokio::test]
async fn what_is_unsound_in_itself_is_refused() {
    let kcv = |seed| key(seed, 0, 1).record.kcv.to_string();
    expect_refusal("wrong-kcv", forged(&bundle(6), &kcv(1), &kcv(9))).await;
    for weak in WEAK {
        let text = String::from_utf8(encode_bundle(&bundle(6)).as_slice().to_vec()).unwrap();
        let text = with_weak_key(&text, 1, weak);
        expect_refusal("weak-key", Reply::document(tag(1, 6), text.as_bytes())).await;
    }
    let retire = common::material::at(100).to_string();
    let later = common::material::at(101).to_string();
    expect_refusal("overlap", forged(&bundle(6), &retire, &later)).await;
    expect_refusal("malformed", forged(&bundle(6), "\"keys\"", "\"no keys\"")).await;
    expect_refusal("malformed", Reply::document(tag(1, 6), b"")).await;
    expect_refusal("other-tag", forged(&bundle(6), "\"revision\":6", "\"revision\":7")).await;
    expect_refusal("unsound", forged(&bundle(6), "lead_seconds\":100", "lead_seconds\":1")).await;
}

#[tokio::test]
async fn another_keyset_is_refused_from_the_start() {
    let mut bench = Bench::new(1).await;
    let follower = bench.follow(&bench.options());
    let other = named("other", tag(1, 6), vec![key(1, 0, 100)]);
    bench.next().await.answer(Reply::bundle(&other));
    let next = bench.next().await;
    assert_eq!((next.installed(), follower.bundles().borrow().is_none()), (None, true));
    assert_eq!(bench.metric("stek_client_refused_bundles_total", "other-keyset"), 1.0);
}

#[tokio::test]
async fn a_later_incarnation_replaces_whatever_its_revision() {
    let (_bench, follower, poll) = installed().await;
    let accepted = named("main", tag(2, 1), vec![key(1, 0, 100)]);
    poll.answer(Reply::bundle(&accepted));
    until(&mut follower.bundles(), |bundle| bundle.tag() == accepted.tag()).await;
}

#[tokio::test]
async fn an_upstream_that_has_yet_to_hear_of_what_is_installed_is_behind() {
    let (mut bench, follower, poll) = installed().await;
    poll.answer(Reply::not_modified().with("etag", format!("\"{}\"", tag(1, 4))));
    let next = bench.next().await;
    assert_eq!(bench.metric("stek_client_polls_total", "behind"), 1.0);
    assert_eq!((next.installed(), revision(&follower)), (Some(tag(1, 5)), 5));
}

#[tokio::test]
async fn an_answer_against_the_contract_is_invalid() {
    let (mut bench, follower, poll) = installed().await;
    poll.answer(Reply::status(200).with_body(encode_bundle(&bundle(6)).as_slice()));
    let other = Reply::not_modified().with("etag", format!("\"{}\"", tag(1, 6)));
    bench.next().await.answer(other);
    bench.next().await;
    assert_eq!(bench.metric("stek_client_polls_total", "invalid"), 2.0);
    assert_eq!(revision(&follower), 5);

    let mut bench = Bench::new(1).await;
    let _follower = bench.follow(&bench.options());
    bench.next().await.answer(Reply::not_modified());
    bench.next().await;
    assert_eq!(bench.metric("stek_client_polls_total", "invalid"), 1.0);
}

#[tokio::test]
async fn keys_outlive_the_servers_until_each_ones_end() {
    let (mut bench, follower, poll) = installed().await;
    drop(poll);
    bench.servers.clear();
    let mut bundles = follower.bundles();
    let count = |bundles: &tokio::sync::watch::Receiver<Option<std::sync::Arc<Bundle>>>| {
        bundles.borrow().as_ref().unwrap().keys().len()
    };
    // One second has passed between install and poll.
    bench.clock.advance(198 * SECOND);
    bench.clock.sleeper(SECOND).await;
    assert_eq!(count(&bundles), 2, "a second before the first end");
    bench.clock.advance(SECOND);
    let thinner = until(&mut bundles, |bundle| bundle.keys().len() == 1).await;
    assert_eq!(thinner.keys()[0].record.id, key(2, 0, 1).record.id);
    assert_eq!(thinner.ended()[0].id, key(1, 0, 1).record.id);
    bench.clock.advance(99 * SECOND);
    bench.clock.sleeper(SECOND).await;
    assert_eq!(count(&bundles), 1, "a second before the last end");
    bench.clock.advance(SECOND);
    let empty = until(&mut bundles, |bundle| bundle.keys().is_empty()).await;
    assert_eq!(empty.tag(), bundle(5).tag());
    bench.metric_is("stek_client_last_key_end_timestamp_seconds", "", 0.0).await;
    assert!(bench.metric("stek_client_polls_total", "unreachable") >= 1.0);
}

#[tokio::test]
async fn an_erased_key_does_not_come_back_with_the_same_content() {
    let (mut bench, follower, poll) = installed().await;
    bench.clock.advance(55 * SECOND);
    poll.answer(Reply::not_modified());
    let mut bundles = follower.bundles();
    let poll = bench.next().await;
    bench.clock.advance(55 * SECOND);
    poll.answer(Reply::not_modified());
    let poll = bench.next().await;
    bench.clock.advance(55 * SECOND);
    poll.answer(Reply::not_modified());
    let poll = bench.next().await;
    bench.clock.advance(40 * SECOND);
    until(&mut bundles, |bundle| bundle.keys().len() == 1).await;
    let watcher = tokio::spawn(async move {
        loop {
            bundles.changed().await.unwrap();
            let published = bundles.borrow_and_update().clone().unwrap();
            assert_eq!(published.keys().len(), 1, "a key came back for a moment");
            if published.tag() == tag(1, 6) {
                return;
            }
        }
    });
    // Without a reading nothing wakes the eraser before the watcher.
    poll.answer(Reply::bundle(&bundle(5)).with("stek-time", ""));
    bench.next().await.answer(Reply::bundle(&bundle(6)).with("stek-time", ""));
    tokio::time::timeout(PATIENCE, watcher).await.unwrap().unwrap();
}

#[tokio::test]
async fn cancelling_ends_a_long_poll_at_once() {
    let (_bench, follower, _poll) = installed().await;
    tokio::time::timeout(PATIENCE, follower.shutdown()).await.unwrap();

    let bench = Bench::new(1).await;
    let follower = bench.follow(&bench.options());
    let cancellation = follower.cancellation();
    let ready = tokio::spawn(async move { (follower.ready().await.err(), follower) });
    cancellation.cancel();
    let (stopped, follower) = tokio::time::timeout(PATIENCE, ready).await.unwrap().unwrap();
    assert_eq!(stopped, Some(Stopped));
    tokio::time::timeout(PATIENCE, follower.shutdown()).await.unwrap();
}

#[tokio::test]
async fn dropping_ends_the_tasks_and_frees_the_metrics() {
    let (bench, follower, poll) = installed().await;
    let mut bundles = follower.bundles();
    drop((follower, poll));
    tokio::time::timeout(PATIENCE, async { while bundles.changed().await.is_ok() {} })
        .await
        .expect("a task still holds the sender");
    assert!(bench.registry.gather().is_empty());
    bench.follow(&bench.options());
}

#[tokio::test]
async fn the_test_policy_is_what_the_tests_say() {
    let policy = policy();
    let seconds = [policy.poll_interval(), policy.clock_skew(), policy.lead()];
    assert_eq!(seconds.map(stek_core::time::Seconds::as_secs), [3, 10, 100]);
}
