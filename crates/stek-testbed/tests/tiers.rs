//! Manager, distribution, regional distribution, terminator: what is published passes down, and who
//! holds it comes back up.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::PathBuf;
use std::sync::Arc;

use stek_client::KeysetFollower;
use stek_clock::Clock;
use stek_core::access::{Role, TokenSecret};
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_core::time::Seconds;
use stek_testbed::{Bed, Database, Tier, client};
use stek_wire::admin::{PolicyDocument, TerminatorsDocument};
use stekd::dev::node::KEYSET;

fn keyset() -> KeysetName {
    KeysetName::try_new(KEYSET).unwrap()
}

async fn token(bed: &Bed, name: &str, role: Role) -> (PathBuf, TokenSecret) {
    bed.token(name, role, Seconds::from_days(300)).await.unwrap()
}

fn known(bed: &Bed) -> TerminatorsDocument {
    bed.node.operations().terminators(&keyset(), None).unwrap()
}

/// What is known has come to this, of this many instances.
async fn confirmed_by(bed: &Bed, instances: u64) {
    let all = || {
        let known = known(bed);
        Ok(known.instances == Some(instances) && known.confirmed == Some(instances))
    };
    bed.until("all hold what is published", all).await.unwrap_or_else(|error| {
        panic!("{error:#}: {:?}", known(bed));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn three_tiers_pass_on_what_is_published_and_who_holds_it() {
    let bed = Bed::start(Database::Sqlite, PolicyDocument::default()).await.unwrap();
    let (feed_token, _) = token(&bed, "replica", Role::Distribution).await;
    let (edge_token, edge_secret) = token(&bed, "edge", Role::Terminator).await;
    let manager = format!("https://localhost:{}", bed.node.ports().admin.port());
    // The upstream that it prefers is not there: it follows the other, and reports to both.
    let gone = "http://127.0.0.1:1".to_owned();
    let central = Tier::start(&bed, &[gone, manager], &feed_token, "central").await.unwrap();
    let regional =
        Tier::start(&bed, std::slice::from_ref(&central.url), &feed_token, "regional").await;
    let regional = regional.unwrap();
    let config = client(&bed, std::slice::from_ref(&regional.url), &edge_token, "edge-1").unwrap();
    let clock = Arc::clone(&bed.clock) as Arc<dyn Clock>;
    let edge = KeysetFollower::start(&config, keyset(), clock, &prometheus::Registry::new());
    let edge = edge.unwrap();
    let held = || edge.status().installed.map(|tag| tag.revision);

    // Two servers poll the distribution beside the manager, one instance the last tier.
    bed.until("the edge has keys", || Ok(held().is_some())).await.unwrap();
    confirmed_by(&bed, 3).await;
    let first = known(&bed);
    let of = |name: &str| first.replicas.iter().find(|one| one.replica == name).cloned();
    assert_eq!(of("dev").unwrap().instances, 2);
    assert_eq!(of("regional").unwrap().instances, 1);
    assert_eq!(of("regional").unwrap().principal.as_deref(), Some("token:replica"));
    assert!(of("central").is_none(), "nobody polls it but a replica");

    // A rotation.
    bed.clock.advance(std::time::Duration::from_secs(60));
    let effect = bed.node.operations().rotate(&keyset(), "test").await.unwrap();
    let rotated = Some(Revision::new(effect.revision));
    bed.until("the edge holds the rotated keys", || Ok(held() >= rotated)).await.unwrap();
    confirmed_by(&bed, 3).await;
    assert_eq!(known(&bed).revision, held().unwrap().as_u64());

    // One that stays behind is known by name at the top.
    let old = edge.bundles().borrow().clone().unwrap().tag();
    let old = stek_core::id::ContentTag { revision: Revision::new(first.revision), ..old };
    let http = stek_client::http_client(&config).unwrap();
    for _ in 0..2 {
        let answer = http
            .get(format!("{}/v1/keysets/{KEYSET}", regional.url))
            .bearer_auth(edge_secret.expose_text())
            .header("stek-instance", "edge-2")
            .header("stek-clock-offset", "-250")
            .header("if-none-match", stek_wire::tag::format_etag(old))
            .send();
        assert_eq!(answer.await.unwrap().status(), 200);
    }
    bed.until("the laggard is known", || Ok(!known(&bed).lagging.is_empty())).await.unwrap();
    let late = known(&bed).lagging[0].clone();
    assert_eq!((late.instance.as_str(), late.principal.as_str()), ("edge-2", "token:edge"));
    assert_eq!((late.revision, late.clock_offset_ms), (first.revision, Some(-250)));
    assert_eq!(late.replica.as_deref(), Some("regional"));

    // A deletion revokes every key, down to the last tier.
    bed.clock.advance(std::time::Duration::from_secs(1));
    let effect = bed.node.operations().delete(&keyset(), "test").await.unwrap();
    let deleted = Some(Revision::new(effect.revision));
    bed.until("the edge knows of the deletion", || Ok(held() == deleted)).await.unwrap();
    assert!(edge.bundles().borrow().as_ref().unwrap().keys().is_empty());
    let told = || Ok(known(&bed).confirmed == Some(3));
    bed.until("who has dropped the keys is known", told).await.unwrap();

    edge.shutdown().await;
    regional.stop().await;
    central.stop().await;
    bed.stop().await.unwrap();
}
