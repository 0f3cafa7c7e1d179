//! Polls as check-ins, what is counted of them and when, reports of other replicas, and the list.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use stek_core::access::Role;
use stek_core::check_in::Census;
use stek_core::id::{ContentTag, Incarnation};
use stek_core::name::InstanceName;
use stek_wire::admin::InstanceList;
use stek_wire::check_ins::encode_check_ins;
use tokio::sync::watch;
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
    let bearer = format!("Bearer {}", secret(token).expose_text());
    let request = Request::post("/v1/check-ins").header(AUTHORIZATION, bearer);
    let request = request.body(Body::from(body)).unwrap();
    soon(replica.router.clone().oneshot(request)).await.unwrap().status()
}

fn report(census: &Census) -> Vec<u8> {
    encode_check_ins(census).as_slice().to_vec()
}

async fn list(replica: &Replica, token: u8, query: &str) -> (StatusCode, Option<InstanceList>) {
    let bearer = format!("Bearer {}", secret(token).expose_text());
    let request = Request::get(format!("/v1/keysets/main/terminators{query}"));
    let request = request.header(AUTHORIZATION, bearer).body(Body::empty()).unwrap();
    let answer = soon(replica.router.clone().oneshot(request)).await.unwrap();
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

    // The same through another replica, older and younger: one all the same.
    let mut relayed = Census { replicas: vec![child.clone()] };
    for age in [9, 1] {
        relayed.replicas[0].age = Duration::from_secs(age);
        assert_eq!(post(&above, 4, report(&relayed)).await, StatusCode::NO_CONTENT);
    }
    above.advance(2);
    settle().await;
    assert_eq!(now(), (2, 2));
    let census = counts.borrow().clone();
    let child = census.replicas.iter().find(|one| one.replica.principal.is_some()).unwrap();
    assert_eq!(child.age, Duration::from_secs(3), "the younger word holds");

    // Its word ends with its silence.
    above.advance(12);
    settle().await;
    assert_eq!(now(), (2, 2));
    above.advance(2);
    eventually(|| now() == (1, 1)).await;
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
