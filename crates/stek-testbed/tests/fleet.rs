//! The main job, seen by a rustls client that hops between the servers of a fleet.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod fleet {
    mod clocks;
    mod meddling;
}

use std::time::Duration;

use stek_core::name::KeysetName;
use stek_testbed::{Bed, Database};
use stek_wire::admin::PolicyDocument;
use stekd::dev::node::KEYSET;
use stekd::dev::visitor::{Handshake, Visitor};

async fn hop(bed: &Bed, visitor: &Visitor, turn: usize) -> Handshake {
    let server = &bed.node.servers[turn % 2];
    visitor.connect(server.name, server.terminator.address()).await.unwrap()
}

fn opened(bed: &Bed, server: usize, outcome: &str) -> u64 {
    let outcomes = bed.node.servers[server].opened();
    outcomes.into_iter().find(|(name, _)| name == outcome).map_or(0, |(_, count)| count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hops_resumes_over_many_rotations() {
    let week = PolicyDocument {
        session_lifetime_seconds: Some(7 * 24 * 3600),
        ..PolicyDocument::default()
    };
    let bed = Bed::start(Database::Postgres, week).await.unwrap();
    let visitor = Visitor::new(&bed.site.authority()).unwrap();
    assert!(!hop(&bed, &visitor, 0).await.resumed);
    for turn in 1..=10 {
        let before = hop(&bed, &visitor, turn).await;
        assert!(before.resumed && before.issuer.is_some(), "turn {turn}, before the rotation");
        bed.rotate_by_time().await.unwrap();
        // The ticket is of the key that has just retired.
        let after = hop(&bed, &visitor, turn).await;
        assert!(after.resumed, "turn {turn}, after the rotation");
    }
    assert_eq!(opened(&bed, 0, "decrypt-only") + opened(&bed, 1, "decrypt-only"), 10);

    // Offered when it is older than its lifetime, it is refused by both.
    for server in 0..2 {
        let address = bed.node.servers[server].terminator.address();
        let name = bed.node.servers[server].name;
        let stale = visitor.connect_with_stale_ticket(name, address).await.unwrap();
        assert!(!stale.resumed);
        assert_eq!(opened(&bed, server, "expired"), 1);
    }
    bed.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_chain_of_resumptions_outlives_the_session_lifetime() {
    let bed = Bed::start(Database::Sqlite, PolicyDocument::default()).await.unwrap();
    let visitor = Visitor::new(&bed.site.authority()).unwrap();
    assert!(!hop(&bed, &visitor, 0).await.resumed);
    // Renewed every six hours at the other server; the default session lifetime is a day.
    let mut resumed = Vec::new();
    for turn in 1..=5 {
        bed.rotate_by_time().await.unwrap();
        resumed.push(hop(&bed, &visitor, turn).await.resumed);
    }
    assert_eq!(resumed, [true, true, true, false, true]);
    bed.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_keyset_ends_resumption_and_making_it_again_begins_anew() {
    let bed = Bed::start(Database::Sqlite, PolicyDocument::default()).await.unwrap();
    let visitor = Visitor::new(&bed.site.authority()).unwrap();
    hop(&bed, &visitor, 0).await;
    assert!(hop(&bed, &visitor, 1).await.resumed);

    let keyset = KeysetName::try_new(KEYSET).unwrap();
    let effect = bed.node.operations().delete(&keyset, "test").await.unwrap();
    let deleted = |revision: u64| {
        let servers = bed.node.servers.iter();
        servers
            .map(|server| server.terminator.installed().unwrap().as_u64())
            .all(|has| has >= revision)
    };
    bed.until("both servers know of the deletion", || Ok(deleted(effect.revision))).await.unwrap();
    for turn in 0..4 {
        let refused = hop(&bed, &visitor, turn).await;
        assert!(!refused.resumed, "turn {turn}");
    }
    // No new ticket was given either.
    assert!(hop(&bed, &visitor, 0).await.issuer.is_none());

    // A key may begin in the second in which the old one was deleted; tickets begin with it.
    bed.clock.advance(Duration::from_secs(1));
    bed.node.operations().create(&keyset, PolicyDocument::default(), "test").await.unwrap();
    bed.until("it is published again", || Ok(bed.active_key().is_ok())).await.unwrap();
    bed.servers_are_current().await.unwrap();
    assert!(!hop(&bed, &visitor, 0).await.resumed);
    assert!(hop(&bed, &visitor, 1).await.resumed);
    bed.stop().await.unwrap();
}
