//! What is written down: each thing that happens to keys and to those who may have them is one event
//! with who, why and when. Joining and seeds are with the ratchet's tests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stek_core::access::{Grant, KeysetSelector, Role};
use stek_core::audit::{AuditAction, AuditEvent, checkpoint_canonical};
use stek_core::id::KeyId;
use stek_core::planner::Selection;
use stek_core::principal::PrincipalPattern;
use stek_core::time::Timestamp;
use stek_manager::verify_offline;
use stek_store::{AuditCheckpoint, Change, Commit, KeyStore, MAX_PAGE};
use stek_wire::admin::PolicyDocument;
use tokio::sync::Barrier;

use crate::fixture::{FAST, Site, name, soon};

async fn trail(site: &Site) -> Vec<AuditEvent> {
    let rows = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    rows.into_iter().map(|row| row.event).collect()
}

#[tokio::test]
async fn everything_that_happens_has_an_actor_a_reason_and_a_time() {
    let site = Site::new();
    let begun = site.now();
    let running = site.start().await;
    let operations = running.operations();
    operations.create(&name("main"), FAST, "token:ann").await.unwrap();
    running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    for _ in 0..6 {
        site.advance(&running, 5).await;
    }
    let longer = PolicyDocument { session_lifetime_seconds: Some(90), ..FAST };
    operations.change_policy(&name("main"), longer, "token:ann").await.unwrap();
    site.advance(&running, 3).await;
    operations.rotate(&name("main"), "token:ann").await.unwrap();
    let (_, token) = running.token("token:edge", &[(Role::Terminator, "main")]).await;
    let grant = Grant {
        principal: PrincipalPattern::try_new("token:edge").unwrap(),
        keysets: KeysetSelector::All,
        role: Role::Auditor,
    };
    operations.add_grant(grant.clone(), "token:ann").await.unwrap();
    operations.remove_grant(&grant, "token:ann").await.unwrap();
    operations.revoke_token(token.id, "token:ann").await.unwrap();
    operations.revoke(&name("main"), Selection::All, "a leak", "token:ann").await.unwrap();
    operations.delete(&name("main"), "token:ann").await.unwrap();
    operations.reseed("token:ann").await.unwrap();
    site.advance(&running, 5).await;

    let trail = trail(&site).await;
    for (action, actor) in [
        (AuditAction::SeedClaimed, "manager"),
        (AuditAction::KeysetCreated, "token:ann"),
        (AuditAction::KeyMinted, "token:ann"),
        (AuditAction::KeyMinted, "manager"),
        (AuditAction::KeyActivated, "manager"),
        (AuditAction::KeysRead, "manager"),
        (AuditAction::KeyDestroyed, "manager"),
        (AuditAction::PolicyChanged, "token:ann"),
        (AuditAction::KeyRescheduled, "token:ann"),
        (AuditAction::TokenCreated, "test"),
        (AuditAction::GrantAdded, "token:ann"),
        (AuditAction::GrantRemoved, "token:ann"),
        (AuditAction::TokenRevoked, "token:ann"),
        (AuditAction::KeyRevoked, "token:ann"),
        (AuditAction::KeysetDeleted, "token:ann"),
        (AuditAction::SeedOffered, "token:ann"),
    ] {
        let found =
            trail.iter().any(|event| (event.action, event.actor.as_str()) == (action, actor));
        assert!(found, "{action:?} by {actor}: {trail:#?}");
    }
    for event in &trail {
        assert!(!event.actor.is_empty() && !event.reason.is_empty(), "{event:?}");
        assert!(begun <= event.at && event.at <= site.now(), "{event:?}");
    }
    let read = trail.iter().find(|event| event.action == AuditAction::KeysRead).unwrap();
    assert!(read.reason.starts_with("2 keys decrypted, list "), "count and digest: {read:?}");
}

/// Two managers on one database, of which each sees every activation.
#[tokio::test]
async fn each_activation_is_written_down_once_and_when_it_was_seen() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let managers = [site.start_with(custody.clone()), site.start_with(custody)];
    managers[0].until(|_| true).await;
    // A lead that is no multiple of the period: nothing else is due when a key activates.
    let policy = PolicyDocument { lead_seconds: Some(13), ..FAST };
    managers[0].create("main", policy).await;
    let mut schedules: BTreeMap<KeyId, Timestamp> = BTreeMap::new();
    for step in 0..20 {
        let keyset = managers[0].keyset("main");
        schedules.extend(keyset.keys().iter().map(|key| (key.id, key.schedule.activate_at())));
        if step == 9 {
            // Moves the next boundary to now; that key activates by this, and once.
            managers[1].operations().rotate(&name("main"), "test").await.unwrap();
        }
        site.clock.advance(Duration::from_secs(5));
        for manager in &managers {
            site.settle(manager).await;
        }
    }
    let keyset = managers[0].keyset("main");
    schedules.extend(keyset.keys().iter().map(|key| (key.id, key.schedule.activate_at())));
    let now = site.now();
    let due: BTreeSet<_> =
        schedules.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
    let trail = trail(&site).await;
    let told: Vec<_> =
        trail.iter().filter(|event| event.action == AuditAction::KeyActivated).collect();
    let ids: BTreeSet<_> = told.iter().filter_map(|event| event.key).collect();
    assert!(due.len() >= 10);
    assert_eq!((ids.len(), told.len()), (due.len(), due.len()), "each once");
    assert_eq!(ids, due);
    for event in told {
        let at = schedules[&event.key.unwrap()];
        assert!(at <= event.at && event.at.since(at).as_secs() < 5, "{event:?}, {at}");
    }
    for manager in managers {
        manager.stop().await;
    }
}

/// Removes the trail up to line `sequence` for its age, as another manager does.
async fn prune(site: &Site, sequence: u64) {
    let store = &site.store.inner;
    let link = store.audit(sequence - 1, 1).await.unwrap()[0].link;
    let seal = site.cluster.row_sealer().seal(&checkpoint_canonical(sequence, &link));
    let changes = vec![Change::PruneAudit(AuditCheckpoint { sequence, link, seal })];
    let commit = Commit { at: site.now(), changes, events: Vec::new() };
    store.commit(&commit, &site.cluster.audit_key()).await.unwrap();
}

#[tokio::test]
async fn lines_that_go_for_their_age_while_they_are_verified_are_no_break() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    running.stop().await;
    let reading = Arc::new(Barrier::new(2));
    *site.store.reading.lock().unwrap() = Some(Arc::clone(&reading));
    let (store, cluster) = (Arc::clone(&site.store), Arc::clone(&site.cluster));
    let verifying = tokio::spawn(async move { verify_offline(&*store, &cluster, None).await });
    for gone in 1..=4 {
        soon(reading.wait()).await;
        prune(&site, gone).await;
        if gone == 4 {
            *site.store.reading.lock().unwrap() = None;
        }
        soon(reading.wait()).await;
    }
    let verdict = soon(verifying).await.unwrap().unwrap();
    assert_eq!((verdict.broken, verdict.first), (None, 5));
}
