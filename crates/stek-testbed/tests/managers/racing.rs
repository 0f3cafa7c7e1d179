//! Three managers on one database, all at it at once.

use std::collections::BTreeMap;
use std::time::Duration;

use stek_core::audit::AuditAction;
use stek_core::id::Revision;
use stek_core::keyset::Keyset;
use stek_store::MAX_PAGE;

use super::site::{FAST, Running, Site, name};

const KEYSETS: usize = 12;
const ROTATIONS: u64 = 12;

fn is_supplied(site: &Site, keyset: &Keyset) -> bool {
    keyset.active(site.now()).is_some() && keyset.next_pending(site.now()).is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_managers_mint_no_key_twice_and_lose_no_change() {
    let site = Site::new().await;
    let managers: [Running; 3] = site.managers().await;
    for number in 0..KEYSETS {
        let operations = managers[number % 3].manager.operations();
        operations.create(&name(&format!("k{number}")), FAST, "test").await.unwrap();
    }
    let begun = site.now();
    for _ in 0..2 * ROTATIONS {
        site.clock.advance(Duration::from_secs(5));
        for manager in &managers {
            let supplied = |keyset: &Keyset| is_supplied(&site, keyset);
            manager
                .until(|feed| {
                    feed.keysets.len() == KEYSETS
                        && feed.keysets.values().all(|bundle| supplied(bundle.keyset()))
                })
                .await;
        }
    }
    let store = site.store().await;
    let (mut mints, mut after, mut revision) = (BTreeMap::new(), 0, Revision::ZERO);
    loop {
        let page = store.audit(after, MAX_PAGE).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.sequence;
        for row in page {
            assert!(row.revision >= revision, "revisions rise along the trail");
            revision = row.revision;
            if row.event.action == AuditAction::KeyMinted {
                *mints.entry(row.event.keyset.unwrap()).or_insert(0) += 1;
            }
            assert_ne!(row.event.action, AuditAction::Gap, "{}", row.event.reason);
        }
    }
    let rotations = site.now().since(begun).as_secs() / 10;
    assert_eq!(mints.len(), KEYSETS);
    for (keyset, mints) in mints {
        // Two at first, and one for each rotation since.
        assert!((rotations..=rotations + 2).contains(&mints), "{keyset}: {mints} in {rotations}");
    }
    let verdict = managers[0].manager.operations().verify_audit(0, None).await.unwrap();
    assert_eq!(verdict.broken, None);
    assert_eq!(verdict.verified_to, after);
    // All three hold the same keys.
    let newest = store.cluster().await.unwrap();
    for manager in &managers {
        for number in 0..KEYSETS {
            let keyset = name(&format!("k{number}"));
            let stored = store.keyset(&keyset).await.unwrap().unwrap();
            let feed =
                manager.until(|feed| feed.keysets[&keyset].tag().revision >= stored.revision).await;
            assert_eq!(feed.keysets[&keyset].keyset().keys(), stored.keyset.keys());
        }
        assert_eq!(
            manager.manager.feed().borrow().as_ref().unwrap().incarnation,
            newest.incarnation
        );
    }
}

/// Each is told to change another field of one policy, both at once: neither change is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn changes_by_hand_at_two_managers_both_count() {
    let site = Site::new().await;
    let managers: [Running; 2] = site.managers().await;
    let [one, two] = &managers;
    one.manager.operations().create(&name("main"), FAST, "test").await.unwrap();
    for round in 0..10 {
        site.clock.advance(Duration::from_secs(2));
        let main = name("main");
        let policy = |seconds| stek_wire::admin::PolicyDocument {
            session_lifetime_seconds: Some(seconds),
            ..stek_wire::admin::PolicyDocument::default()
        };
        let poll = stek_wire::admin::PolicyDocument {
            ticket_lifetime_seconds: Some(10 + round),
            ..stek_wire::admin::PolicyDocument::default()
        };
        let (first, second) = tokio::join!(
            one.manager.operations().change_policy(&main, policy(100 + round), "one"),
            two.manager.operations().change_policy(&main, poll, "two"),
        );
        // What the other manager did is seen at the next pass.
        site.clock.advance(Duration::from_secs(5));
        let newest = first.unwrap().revision.max(second.unwrap().revision);
        let feed = one
            .until(|feed| {
                feed.keysets
                    .get(&main)
                    .is_some_and(|bundle| bundle.tag().revision.as_u64() >= newest)
            })
            .await;
        let policy = feed.keysets[&main].policy();
        assert_eq!(policy.session_lifetime().as_secs(), 100 + round, "round {round}");
        assert_eq!(policy.ticket_lifetime().as_secs(), 10 + round, "round {round}");
    }
}
