//! Polls as check-ins, what is counted of them and when, reports of other replicas, and the list.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use stek_core::access::Role;
use stek_core::check_in::Census;
use stek_core::id::{ContentTag, Incarnation};
use stek_core::name::InstanceName;
use stek_wire::admin::InstanceList;
use stek_wire::check_ins::encode_check_ins;
use tokio::sync::{oneshot, watch};
use tower::ServiceExt;

use crate::fixture::{Ask, Replica, access, bundle, eventually, name, secret, settle, soon, state};

type Counts = watch::Receiver<Arc<Census>>;

/// Terminator 1 of `main`, terminator 2 of `other`, replica 3 of `main`, replica 4 of all, operator 5
/// and auditor 6 of `main`.
async fn replica() -> (Replica, Counts, ContentTag) {
    let who = access(&[
        (1, Role::Terminator, "main"),
        (2, Role::Terminator, "other"),
        (3, Role::Distribution, "main"),
        (4, Role::Distribution, "*"),
        (5, Role::Operator, "main"),
        (6, Role::Auditor, "main"),
    ]);
    let main = bundle("main", 42, 1);
    let replica = Replica::with(state(&[Arc::clone(&main), bundle("other", 41, 3)], who)).await;
    let counts = replica.distribution.census(InstanceName::try_new("here").unwrap());
    settle().await;
    (replica, counts, main.tag())
}

fn poll(instance: &str) -> Ask {
    Ask::keyset("main", 1).header("stek-instance", instance)
}

/// Instances of `main` that `counts` has by now, and those that hold the newest of it.
fn standing(counts: &Counts, incarnation: Incarnation, newest: ContentTag) -> (u64, u64) {
    let census = counts.borrow().clone();
    let standing = census.standing(incarnation, &name("main"), newest.revision);
    standing.map_or((0, 0), |standing| (standing.instances, standing.confirmed))
}

async fn post(replica: &Replica, token: u8, body: Vec<u8>) -> StatusCode {
    soon(posting(replica, token, Body::from(body))).await
}

fn posting(
    replica: &Replica,
    token: u8,
    body: Body,
) -> impl Future<Output = StatusCode> + Send + use<> {
    let bearer = format!("Bearer {}", secret(token).expose_text());
    let request = Request::post("/v1/check-ins").header(AUTHORIZATION, bearer);
    let answer = replica.routes.clone().oneshot(request.body(body).unwrap());
    async { answer.await.unwrap().status() }
}

/// A body that ends when the sender is dropped, and counts that it is read.
fn slow(said: &[u8], reads: &Arc<AtomicUsize>) -> (oneshot::Sender<()>, Body) {
    let ((hold, held), reads) = (oneshot::channel(), Arc::clone(reads));
    let end = async move {
        reads.fetch_add(1, Ordering::Relaxed);
        let _ = held.await;
        None
    };
    (hold, Body::new(Full::new(Bytes::copy_from_slice(said)).with_trailers(end)))
}

fn report(census: &Census) -> Vec<u8> {
    encode_check_ins(census).as_slice().to_vec()
}

async fn list(replica: &Replica, token: u8, query: &str) -> (StatusCode, Option<InstanceList>) {
    let bearer = format!("Bearer {}", secret(token).expose_text());
    let request = Request::get(format!("/v1/keysets/main/terminators{query}"));
    let request = request.header(AUTHORIZATION, bearer).body(Body::empty()).unwrap();
    let answer = soon(replica.routes.clone().oneshot(request)).await.unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).ok())
}

#[tokio::test]
async fn a_poll_is_counted_within_100_ms_while_a_revision_is_young_and_every_two_seconds_after() {
    let (replica, counts, tag) = replica().await;
    let now = || standing(&counts, tag.incarnation, tag);
    replica.ask(&poll("a")).await;
    settle().await;
    assert_eq!(now(), (0, 0));
    replica.clock.advance(Duration::from_millis(100));
    eventually(|| now() == (1, 0)).await;
    replica.ask(&poll("a").has(tag)).await;
    replica.clock.advance(Duration::from_millis(100));
    eventually(|| now() == (1, 1)).await;

    replica.advance(30);
    eventually(|| counts.borrow().replicas[0].age == Duration::ZERO).await;
    settle().await;
    replica.ask(&poll("b").has(tag)).await;
    replica.clock.advance(Duration::from_millis(1999));
    settle().await;
    assert_eq!(now(), (1, 1), "no revision is young");
    replica.clock.advance(Duration::from_millis(1));
    eventually(|| now() == (2, 2)).await;

    // A new revision is counted against at once.
    let who = replica.feed.borrow().clone().unwrap().access.as_ref().clone();
    let next = bundle("main", 43, 5);
    replica.put_out(state(std::slice::from_ref(&next), who)).await;
    eventually(|| standing(&counts, tag.incarnation, next.tag()) == (2, 0)).await;
}

#[tokio::test]
async fn what_a_poll_says_is_checked_and_no_poll_without_a_name_is_counted() {
    let (replica, counts, tag) = replica().await;
    let bad = poll("a").header("stek-clock-offset", "soon");
    assert_eq!(replica.ask(&bad).await.status, StatusCode::UNPROCESSABLE_ENTITY);
    replica.ask(&Ask::keyset("main", 1).has(tag)).await;
    replica.ask(&Ask::keyset("main", 2).header("stek-instance", "stranger")).await;
    // What is of another lineage is as good as nothing.
    let other = ContentTag { incarnation: Incarnation::from_bytes([6; 16]), ..tag };
    replica.ask(&poll("b").has(other).header("stek-clock-offset", "-12")).await;
    replica.advance(2);
    eventually(|| standing(&counts, tag.incarnation, tag) == (1, 0)).await;
    let census = counts.borrow().clone();
    let laggard = &census.replicas[0].keysets[&name("main")].laggards[0];
    assert_eq!((laggard.instance.as_str(), laggard.revision.as_u64()), ("b", 0));
    assert_eq!(laggard.clock_offset_millis, Some(-12));
}

#[tokio::test]
async fn reports_of_other_replicas_add_up_each_replica_once() {
    let (below, counts, tag) = replica().await;
    below.ask(&poll("a").has(tag)).await;
    below.advance(2);
    eventually(|| standing(&counts, tag.incarnation, tag) == (1, 1)).await;
    let said = counts.borrow().as_ref().clone();

    let (above, counts, _) = replica().await;
    let now = || standing(&counts, tag.incarnation, tag);
    above.ask(&poll("b").has(tag)).await;
    for _ in 0..3 {
        assert_eq!(post(&above, 3, report(&said)).await, StatusCode::NO_CONTENT);
    }
    above.advance(2);
    eventually(|| now() == (2, 2)).await;
    let census = counts.borrow().clone();
    let child = census.replicas.iter().find(|one| one.replica.principal.is_some()).unwrap();
    assert_eq!(child.replica.principal.as_ref().unwrap().as_str(), "token:3");
    assert_eq!(child.age, Duration::from_secs(2));

    // The same through another replica, older and younger: its own word holds.
    let mut relayed = Census { replicas: vec![child.clone()] };
    for age in [9, 1, 9] {
        relayed.replicas[0].age = Duration::from_secs(age);
        relayed.replicas[0].keysets.clear();
        assert_eq!(post(&above, 4, report(&relayed)).await, StatusCode::NO_CONTENT);
    }
    above.advance(2);
    settle().await;
    assert_eq!(now(), (2, 2));
    let census = counts.borrow().clone();
    let child = census.replicas.iter().find(|one| one.replica.principal.is_some()).unwrap();
    assert_eq!(child.age, Duration::from_secs(4));

    // Its word ends with its silence.
    above.advance(11);
    settle().await;
    assert_eq!(now(), (2, 2));
    above.advance(2);
    eventually(|| now() == (1, 1)).await;
}

#[tokio::test]
async fn nothing_of_a_report_is_read_before_it_is_known_to_be_a_replicas() {
    let (replica, ..) = replica().await;
    let reads = Arc::default();
    for (token, refusal) in [(9, StatusCode::UNAUTHORIZED), (1, StatusCode::NOT_FOUND)] {
        let (_hold, body) = slow(b"", &reads);
        let posted = tokio::spawn(posting(&replica, token, body));
        settle().await;
        assert!(posted.is_finished(), "{refusal}");
        assert_eq!(posted.await.unwrap(), refusal);
    }
    assert_eq!(reads.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn of_each_credential_one_report_is_read_at_a_time() {
    let (replica, counts, _) = replica().await;
    let said = report(&counts.borrow().as_ref().clone());
    let reads = Arc::default();
    let (first, body) = slow(&said, &reads);
    let first = (tokio::spawn(posting(&replica, 3, body)), first);
    settle().await;
    let second = tokio::spawn(posting(&replica, 3, Body::from(said.clone())));
    settle().await;
    assert_eq!(reads.load(Ordering::Relaxed), 1);
    assert!(!second.is_finished());
    assert_eq!(post(&replica, 4, said.clone()).await, StatusCode::NO_CONTENT, "another's");
    drop(first.1);
    assert_eq!(soon(first.0).await.unwrap(), StatusCode::NO_CONTENT);
    assert_eq!(soon(second).await.unwrap(), StatusCode::NO_CONTENT);

    // Who waits is not kept waiting for ever, and who goes away leaves room.
    let (_hold, body) = slow(&said, &reads);
    let first = tokio::spawn(posting(&replica, 3, body));
    settle().await;
    let second = tokio::spawn(posting(&replica, 3, Body::from(said.clone())));
    settle().await;
    replica.advance(5);
    assert_eq!(soon(second).await.unwrap(), StatusCode::TOO_MANY_REQUESTS);
    first.abort();
    assert_eq!(post(&replica, 3, said).await, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_replica_shut_out_while_it_reports_is_not_heard() {
    let (replica, counts, _) = replica().await;
    let (hold, body) = slow(&report(&counts.borrow().as_ref().clone()), &Arc::default());
    let posted = tokio::spawn(posting(&replica, 3, body));
    settle().await;
    let without = access(&[(4, Role::Distribution, "*")]);
    replica.put_out(state(&[bundle("main", 43, 5)], without)).await;
    drop(hold);
    assert_eq!(soon(posted).await.unwrap(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_report_needs_the_role_and_counts_only_where_that_reaches() {
    let (replica, counts, tag) = replica().await;
    let (other, others, _) = self::replica().await;
    other.ask(&Ask::keyset("other", 2).header("stek-instance", "x")).await;
    other.ask(&poll("a").has(tag)).await;
    other.advance(2);
    eventually(|| others.borrow().replicas.first().is_some_and(|one| one.keysets.len() == 2)).await;
    let said = report(&others.borrow().as_ref().clone());

    for token in [1, 5, 6] {
        assert_eq!(post(&replica, token, said.clone()).await, StatusCode::NOT_FOUND);
    }
    assert_eq!(post(&replica, 9, said.clone()).await, StatusCode::UNAUTHORIZED);
    assert_eq!(post(&replica, 3, b"{}".to_vec()).await, StatusCode::BAD_REQUEST);
    assert_eq!(post(&replica, 3, said).await, StatusCode::NO_CONTENT);
    replica.advance(2);
    eventually(|| standing(&counts, tag.incarnation, tag) == (1, 1)).await;
    let census = counts.borrow().clone();
    assert!(!census.replicas[0].keysets.contains_key(&name("other")), "3 may not speak of it");
}

#[tokio::test]
async fn operators_can_list_all_that_poll_here() {
    let (replica, _counts, tag) = replica().await;
    for instance in 0..5 {
        replica.ask(&poll(&format!("edge-{instance}")).has(tag)).await;
    }
    replica.ask(&poll("late")).await;
    for (token, allowed) in [(1, false), (3, false), (5, true), (6, true)] {
        let wanted = if allowed { StatusCode::OK } else { StatusCode::NOT_FOUND };
        assert_eq!(list(&replica, token, "").await.0, wanted, "{token}");
    }
    let mut query = "?limit=4".to_owned();
    let mut seen = Vec::new();
    loop {
        let (_, page) = list(&replica, 5, &query).await;
        let page = page.unwrap();
        assert!(page.instances.len() <= 4);
        seen.extend(page.instances.into_iter().map(|one| one.instance));
        let Some(next) = page.next else { break };
        query = format!("?limit=4&after={next}");
    }
    assert_eq!(seen, ["edge-0", "edge-1", "edge-2", "edge-3", "edge-4", "late"]);
    let (_, late) = list(&replica, 5, "?below=42").await;
    assert_eq!(late.unwrap().instances[0].instance, "late");
    for bad in ["?limit=0", "?limit=1001", "?after=zz"] {
        assert_eq!(list(&replica, 5, bad).await.0, StatusCode::UNPROCESSABLE_ENTITY, "{bad}");
    }
}
