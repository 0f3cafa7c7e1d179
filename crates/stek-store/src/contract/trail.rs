//! The audit trail, and what is forgotten.

use std::sync::Arc;

use stek_core::audit::{AUDIT_TEXT_MAX, AuditAction, AuditChain, AuditEvent, ChainLink, HandOver};
use stek_core::bundle::EndCause;
use stek_core::id::Revision;

use super::fixture::{
    PlainChain, at, commit, commit_at, create, end, erase, event, id, key, name, update,
};
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, Change, Commit, CommitError, KeyStep, KeyStore,
    SeedRow,
};

fn verify(rows: &[AuditRow]) -> ChainLink {
    let mut head = ChainLink::ORIGIN;
    for (row, sequence) in rows.iter().zip(1..) {
        assert_eq!(row.sequence, sequence);
        head = PlainChain.link(&head, &row.event.canonical(sequence, row.revision));
        assert_eq!(row.link, head, "link {sequence}");
    }
    head
}

/// Every event is there with every field, numbered without gaps, each linked to the one before it,
/// and refused commits have left nothing.
pub async fn the_audit_trail_is_one_chain(store: Arc<dyn KeyStore>) {
    let bare = AuditEvent {
        at: at(9),
        actor: "manager".into(),
        action: AuditAction::Gap,
        keyset: None,
        key: None,
        reason: String::new(),
    };
    let changes = vec![create("main", vec![])];
    let events = vec![event("main"), bare.clone()];
    let first = Commit { at: at(0), changes, events: events.clone() };
    let first = store.commit(&first, &PlainChain).await.unwrap();
    assert!(commit(&store, vec![create("main", vec![])]).await.is_err());
    let silent = Commit { at: at(0), changes: vec![], events: vec![] };
    let silent = store.commit(&silent, &PlainChain).await.unwrap();
    assert_eq!(silent.head, first.head);
    let seed = SeedRow {
        seed: stek_core::wrapped::SeedId::from_bytes([7; 16]),
        check: [1; 8],
        claimed_at: at(0),
    };
    store.claim_seed(&seed, &bare, &PlainChain).await.unwrap();
    let last = commit(&store, vec![]).await.unwrap();

    let rows = store.audit(0, 100).await.unwrap();
    let found: Vec<_> = rows.iter().map(|row| (&row.event, row.revision.as_u64())).collect();
    let expected = [(&events[0], 1), (&bare, 1), (&bare, 3), (&event("main"), 4)];
    assert_eq!(found, expected);
    assert_eq!(verify(&rows), last.head);
    let cluster = store.cluster().await.unwrap();
    assert_eq!((cluster.audit_sequence, cluster.audit_head), (4, last.head));
    assert_eq!(store.audit(1, 2).await.unwrap(), rows[1..3]);
    assert!(store.audit(4, 100).await.unwrap().is_empty());
    assert!(store.audit(u64::MAX, 100).await.unwrap().is_empty());
}

/// A text that is too long, or that some database does not take, does not hold up the change; what
/// was kept of it is what the link covers.
pub async fn audit_texts_are_cut(store: Arc<dyn KeyStore>) {
    let long = AuditEvent {
        actor: "ü".repeat(AUDIT_TEXT_MAX),
        reason: format!("a\0b{}", "x".repeat(AUDIT_TEXT_MAX)),
        ..event("main")
    };
    let change = Commit { at: at(0), changes: vec![], events: vec![long, event("main")] };
    store.commit(&change, &PlainChain).await.unwrap();
    let rows = store.audit(0, 10).await.unwrap();
    assert_eq!(rows[0].event.actor, "ü".repeat(AUDIT_TEXT_MAX / 2));
    assert_eq!(rows[0].event.reason.len(), AUDIT_TEXT_MAX);
    assert!(rows[0].event.reason.starts_with("a\u{fffd}bx"));
    verify(&rows);
}

/// Only what ended before the given instant: ended keys, tombstones and the keys of those.
pub async fn purging_forgets_what_ended(store: Arc<dyn KeyStore>) {
    let keys = (1..=3).map(|number| key(number, number * 10, number * 10 + 10)).collect();
    let gone = vec![key(11, 0, 10), key(12, 10, 20)];
    let changes = vec![create("main", keys), create("gone", gone)];
    let made = commit(&store, changes).await.unwrap();
    for (offset, number) in [(200, 1), (210, 2)] {
        let change = Change::UpdateKeyset(erase("main", made.revision, &[number]));
        commit_at(&store, offset, vec![change]).await.unwrap();
    }
    let revoke = update("gone", made.revision, vec![end(11, EndCause::Revoked)]);
    let revoked = commit_at(&store, 200, vec![Change::UpdateKeyset(revoke)]).await.unwrap();
    let delete = Change::DeleteKeyset { name: name("gone"), expected: revoked.revision };
    commit_at(&store, 220, vec![delete]).await.unwrap();
    let cluster = store.cluster().await.unwrap();

    let tombstones = async || store.changed_since(Revision::ZERO).await.unwrap().tombstones.len();
    assert_eq!(store.purge(at(200)).await.unwrap(), 0);
    assert_eq!(store.purge(at(201)).await.unwrap(), 2, "one key of each keyset");
    let main = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!(main.ended.iter().map(|key| key.id).collect::<Vec<_>>(), [id(2)]);
    assert_eq!((main.keys.len(), tombstones().await), (1, 1));
    assert_eq!(store.purge(at(221)).await.unwrap(), 3, "two keys and the tombstone");
    assert_eq!(tombstones().await, 0);
    assert_eq!(store.cluster().await.unwrap(), cluster, "purging publishes nothing");

    // A forgotten key cannot end once more; its name, for all we know, is free.
    let again = update("main", made.revision, vec![end(1, EndCause::Revoked)]);
    assert!(commit(&store, vec![Change::UpdateKeyset(again)]).await.is_err());
    let insert = vec![KeyStep::Insert(key(1, 0, 10))];
    commit(&store, vec![Change::UpdateKeyset(update("main", made.revision, insert))])
        .await
        .unwrap();
}

/// The oldest lines go with the change that says so, and what is left is verified from there; a
/// checkpoint that is not ahead of the present one is refused, with what comes with it.
pub async fn the_trail_is_pruned_from_its_beginning(store: Arc<dyn KeyStore>) {
    for _ in 0..5 {
        commit(&store, vec![]).await.unwrap();
    }
    let rows = store.audit(0, 100).await.unwrap();
    assert_eq!(store.audit_checkpoint().await.unwrap(), None);
    let checkpoint = |row: &AuditRow| AuditCheckpoint {
        sequence: row.sequence,
        link: row.link,
        seal: [row.sequence as u8; 32],
    };
    let hand_over = |row: &AuditRow, before: u8| AuditHandOver {
        hand_over: HandOver {
            sequence: row.sequence,
            link: row.link,
            before: ChainLink::from_bytes([before; 32]),
        },
        seal: [row.sequence as u8; 32],
    };
    let (first, second) = (hand_over(&rows[2], 1), hand_over(&rows[3], 2));
    for one in [second, first, hand_over(&rows[2], 9)] {
        commit(&store, vec![Change::HandOverAudit(one)]).await.unwrap();
    }
    assert_eq!(store.audit_hand_overs().await.unwrap(), [first, second], "in order, once each");
    for (row, left) in [(&rows[1], 7), (&rows[3], 6)] {
        commit(&store, vec![Change::PruneAudit(checkpoint(row))]).await.unwrap();
        assert_eq!(store.audit(0, 100).await.unwrap().len(), left, "up to {}", row.sequence);
    }
    assert_eq!(store.audit_hand_overs().await.unwrap(), []);
    for row in [&rows[0], &rows[3]] {
        let late = commit(&store, vec![Change::PruneAudit(checkpoint(row))]).await;
        assert!(matches!(late, Err(CommitError::Pruned(line)) if line == row.sequence), "{late:?}");
    }
    assert_eq!(store.audit_checkpoint().await.unwrap(), Some(checkpoint(&rows[3])));
    let left = store.audit(0, 100).await.unwrap();
    let mut head = rows[3].link;
    for (row, sequence) in left.iter().zip(5..) {
        head = PlainChain.link(&head, &row.event.canonical(sequence, row.revision));
        assert_eq!((row.sequence, row.link), (sequence, head));
    }
    assert_eq!(store.cluster().await.unwrap().audit_head, head);
}
