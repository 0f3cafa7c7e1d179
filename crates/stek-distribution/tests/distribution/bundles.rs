//! What is answered at once.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, VARY, WWW_AUTHENTICATE};
use stek_core::access::Role;
use stek_core::id::{ContentTag, Incarnation, Revision};
use stek_wire::bundle::decode_bundle;

use crate::fixture::{Ask, DAY, INCARNATION, Replica, access, bundle, settle, state};

const TERMINATORS: [(u8, Role, &str); 3] =
    [(1, Role::Terminator, "main"), (2, Role::Terminator, "other"), (3, Role::Operator, "main")];

async fn replica() -> Replica {
    let bundles = [bundle("main", 5, 1), bundle("other", 7, 11)];
    Replica::with(state(&bundles, access(&TERMINATORS))).await
}

#[tokio::test]
async fn a_bundle_is_what_was_published() {
    let replica = replica().await;
    let answer = replica.ask(&Ask::keyset("main", 1)).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.headers[CONTENT_TYPE], "application/json");
    assert_eq!(answer.headers[VARY], "authorization");
    assert_eq!(answer.sent_at(), 0);
    let published = bundle("main", 5, 1);
    assert_eq!(answer.tag(), published.tag());
    let served = decode_bundle(&answer.body).unwrap();
    assert_eq!((served.tag(), served.keyset()), (published.tag(), published.keyset()));
    for (one, other) in served.keys().iter().zip(published.keys()) {
        assert!(one.material.is_same_as(&other.material));
    }
}

#[tokio::test]
async fn who_has_it_is_told_so() {
    let replica = replica().await;
    let tag = bundle("main", 5, 1).tag();
    replica.advance(3);
    for ask in [
        Ask::keyset("main", 1).has(tag),
        Ask::keyset("main", 1).header("if-none-match", "*"),
        Ask::keyset("main", 1).has(ContentTag { revision: Revision::new(4), ..tag }).has(tag),
        // Something later, which this replica has yet to hear of, is not gone back from.
        Ask::keyset("main", 1).has(ContentTag { revision: Revision::new(6), ..tag }),
        Ask::keyset("main", 1).has(ContentTag {
            incarnation: Incarnation::from_bytes([8; 16]),
            revision: Revision::new(1),
            ..tag
        }),
    ] {
        let answer = replica.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::NOT_MODIFIED);
        assert_eq!((answer.tag(), answer.sent_at()), (tag, 3));
        assert!(answer.body.is_empty());
    }
    for ask in [
        Ask::keyset("main", 1).has(ContentTag { revision: Revision::new(4), ..tag }),
        Ask::keyset("main", 1).has(ContentTag {
            incarnation: Incarnation::from_bytes([6; 16]),
            revision: Revision::new(9),
            ..tag
        }),
        Ask::keyset("main", 1).has(bundle("main", 5, 3).tag()),
        Ask::keyset("main", 1).header("if-none-match", "garbage"),
    ] {
        assert_eq!(replica.ask(&ask).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn unknown_forbidden_and_impossible_names_answer_alike() {
    let replica = replica().await;
    // The connection adds the length where the router does not.
    let ask = async |ask: &Ask| {
        let mut answer = replica.ask(ask).await;
        answer.headers.remove(CONTENT_LENGTH);
        answer
    };
    let unknown = ask(&Ask::keyset("nowhere", 1)).await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    for other in [
        Ask::keyset("other", 1),
        Ask::keyset("Main", 1),
        Ask::keyset("%2e%2e", 1),
        Ask::keyset("%ff", 1),
        Ask::keyset("a%2fb", 1),
        Ask::keyset(&"x".repeat(64), 1),
        // The right keyset in the wrong role.
        Ask::keyset("main", 3),
        Ask::keyset("main", 2),
        Ask::feed(1),
    ] {
        let answer = ask(&other).await;
        assert_eq!(answer.status, unknown.status);
        assert_eq!(answer.body, unknown.body);
        assert_eq!(answer.headers, unknown.headers);
    }
}

#[tokio::test]
async fn without_a_good_token_nothing_is_told() {
    let replica = replica().await;
    let bad_instance = |ask: Ask| ask.header("stek-instance", "two words");
    for ask in [
        Ask::keyset("main", 1).without_token(),
        Ask::keyset("main", 99),
        Ask::keyset("nowhere", 99),
        Ask::keyset("%ff", 99),
        bad_instance(Ask::keyset("main", 99)),
        Ask::keyset("main", 1).without_token().header("authorization", "Basic dTpw"),
        Ask::keyset("main", 1).header("authorization", "Bearer again"),
        Ask::feed(99),
    ] {
        let answer = replica.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers[WWW_AUTHENTICATE], "Bearer");
    }
}

#[tokio::test]
async fn a_bad_instance_name_is_refused_whatever_the_keyset() {
    let replica = replica().await;
    for ask in [Ask::keyset("main", 1), Ask::keyset("nowhere", 1), Ask::feed(1)] {
        let answer = replica.ask(&ask.header("stek-instance", "two words")).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(
            (&problem["field"], &problem["value"]),
            (&"stek-instance".into(), &"two words".into())
        );
    }
    let good = Ask::keyset("main", 1).header("stek-instance", "edge-7");
    assert_eq!(replica.ask(&good).await.status, StatusCode::OK);
}

#[tokio::test]
async fn before_the_first_feed_and_a_day_after_the_last_nothing_is_served() {
    let replica = Replica::empty();
    for ask in [Ask::keyset("main", 1), Ask::feed(1)] {
        let answer = replica.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers[RETRY_AFTER], "2");
    }
    assert_eq!(unready(&replica), ["feed"]);
    replica.put_out(state(&[bundle("main", 5, 1)], access(&TERMINATORS))).await;
    assert_eq!(unready(&replica), Vec::<String>::new());
    replica.advance(DAY.as_secs() - 1);
    assert_eq!(replica.ask(&Ask::keyset("main", 1)).await.status, StatusCode::OK);
    replica.advance(1);
    for ask in [Ask::keyset("main", 1), Ask::keyset("main", 99), Ask::feed(1)] {
        let answer = replica.ask(&ask).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(answer.headers[RETRY_AFTER], "2");
    }
    assert_eq!(unready(&replica), ["access"]);
}

fn unready(replica: &Replica) -> Vec<String> {
    let checks = serde_json::to_value(replica.distribution.readiness().checks()).unwrap();
    let failed = checks.as_array().unwrap().iter().filter(|check| check["ok"] == false);
    failed.map(|check| check["name"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn what_is_in_the_feed_is_served_before_it_is_on_the_shelf() {
    let replica = replica().await;
    let bundles = [bundle("main", 5, 1), bundle("new", 8, 21)];
    let grants = [(1, Role::Terminator, "new")];
    // Nothing else runs between the two: the shelf cannot have been stocked.
    replica.feed.send_replace(Some(std::sync::Arc::new(state(&bundles, access(&grants)))));
    let answer = replica.ask(&Ask::keyset("new", 1)).await;
    assert_eq!((answer.status, answer.tag()), (StatusCode::OK, bundles[1].tag()));
    settle().await;
    let answer = replica.ask(&Ask::keyset("new", 1)).await;
    assert_eq!((answer.status, answer.tag()), (StatusCode::OK, bundles[1].tag()));
}

#[tokio::test]
async fn metrics_follow_the_conventions() {
    let replica = replica().await;
    replica.ask(&Ask::keyset("main", 1)).await;
    let families = replica.registry.gather();
    assert_eq!(families.len(), 9);
    for family in &families {
        let name = family.name();
        assert!(name.starts_with("stek_distribution_"), "{name}");
        let is_counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        assert!(family.help().ends_with('.'), "{name}");
    }
    assert_eq!(replica.metric("stek_distribution_bundles_total"), 1.0);
    assert_eq!(replica.metric("stek_distribution_keysets"), 2.0);
    assert_eq!(INCARNATION, bundle("main", 5, 1).tag().incarnation);
}
