//! Seeds, replicas and wrappings.

use std::sync::Arc;

use stek_core::access::Role;
use stek_core::audit::HandOver;
use stek_core::bundle::EndCause;
use stek_core::id::Incarnation;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId, WrappedKey};
use tokio::task::JoinSet;

use super::access::{grant, token};
use super::fixture::{
    PlainChain, assert_conflict, at, commit, create, end, event, id, key, name, update,
};
use crate::{
    Acceptance, AuditCheckpoint, AuditHandOver, Change, KeyStep, KeyStore, Replica, Resealed,
    Rewrapped, SealedGrant, SealedRow, SeedChange, SeedPhase, SeedRow, StoredKey,
};

/// The seed that the keys of the fixture are wrapped under.
const OLD: SeedId = SeedId::from_bytes([7; 16]);
const NEW: SeedId = SeedId::from_bytes([8; 16]);

fn row(seed: SeedId) -> SeedRow {
    SeedRow { seed, check: [seed.as_bytes()[0]; 8], claimed_at: at(0) }
}

fn replica(number: u8, seed: SeedId, epoch: u64) -> Replica {
    let id = ReplicaId::from_bytes([number; 16]);
    Replica { id, seed, next_seed: None, epoch: Epoch::new(epoch), seen_at: at(5) }
}

async fn change(store: &Arc<dyn KeyStore>, change: SeedChange) -> bool {
    store.change_seeds(&change, &[event("main")], &PlainChain).await.unwrap()
}

async fn claim(store: &Arc<dyn KeyStore>) {
    store.claim_seed(&row(OLD), &event("main"), &PlainChain).await.unwrap();
}

async fn phases(store: &Arc<dyn KeyStore>) -> Vec<(SeedId, SeedPhase)> {
    let mut seeds = store.ratchet().await.unwrap().seeds;
    seeds.sort_by_key(|seed| seed.row.seed);
    seeds.iter().map(|seed| (seed.row.seed, seed.phase)).collect()
}

/// Wrapped anew under `seed`.
fn moved(key: &StoredKey, seed: SeedId) -> Rewrapped {
    let new = WrappedKey { seed, nonce: [9; 12], ciphertext: [9; 48], ..key.wrapped.clone() };
    Rewrapped { key: key.record.id, old: key.wrapped.clone(), new }
}

/// A seed is offered, becomes live, and the one before it ends; nothing out of turn.
pub async fn seeds_follow_each_other(store: Arc<dyn KeyStore>) {
    let promote = SeedChange::Promote { offered: NEW, live: OLD };
    assert!(!change(&store, SeedChange::Offer(row(NEW))).await, "nothing is live yet");
    claim(&store).await;
    let before = store.cluster().await.unwrap().revision;
    for early in [promote, SeedChange::End(OLD), SeedChange::Withdraw(OLD)] {
        assert!(!change(&store, early).await, "{early:?}");
    }
    assert_eq!(store.cluster().await.unwrap().revision, before, "nothing was written");
    assert!(change(&store, SeedChange::Offer(row(NEW))).await);
    assert!(!change(&store, SeedChange::Offer(row(SeedId::from_bytes([9; 16])))).await);
    assert!(change(&store, SeedChange::Withdraw(NEW)).await);
    assert_eq!(phases(&store).await, [(OLD, SeedPhase::Live)]);
    assert!(change(&store, SeedChange::Offer(row(NEW))).await);
    assert_eq!(store.ratchet().await.unwrap().in_phase(SeedPhase::Offered), Some(&row(NEW)));
    assert!(change(&store, promote).await);
    assert!(!change(&store, promote).await);
    assert_eq!(phases(&store).await, [(OLD, SeedPhase::Retiring), (NEW, SeedPhase::Live)]);
    assert_eq!(store.seed().await.unwrap(), Some(row(NEW)));
    assert!(change(&store, SeedChange::End(OLD)).await);
    assert_eq!(phases(&store).await, [(NEW, SeedPhase::Live)]);
    let by = row(SeedId::from_bytes([9; 16]));
    assert!(!change(&store, SeedChange::Replace { lost: OLD, by }).await);
    assert!(change(&store, SeedChange::Replace { lost: NEW, by }).await);
    assert_eq!(store.seed().await.unwrap(), Some(by));
}

/// Of those who offer a seed at one time, one does.
pub async fn one_seed_is_offered(store: Arc<dyn KeyStore>) {
    claim(&store).await;
    let mut offers = JoinSet::new();
    for number in 20..28 {
        let (store, seed) = (Arc::clone(&store), SeedId::from_bytes([number; 16]));
        offers.spawn(async move {
            let offer = SeedChange::Offer(row(seed));
            store.change_seeds(&offer, &[event("main")], &PlainChain).await
        });
    }
    let outcomes = offers.join_all().await;
    // A store may also say that the offer breaks a rule.
    assert_eq!(outcomes.iter().filter(|one| matches!(one, Ok(true))).count(), 1, "{outcomes:?}");
    assert_eq!(phases(&store).await.len(), 2);
}

/// Once a seed is live, keys under any other are refused; and one does not end while it is used.
pub async fn keys_begin_under_the_live_seed(store: Arc<dyn KeyStore>) {
    claim(&store).await;
    let made = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    change(&store, SeedChange::Offer(row(NEW))).await;
    let insert = |number: u64| vec![KeyStep::Insert(key(number, 10 * number, 10 * number + 10))];
    let made = commit(&store, vec![Change::UpdateKeyset(update("main", made.revision, insert(2)))]);
    let made = made.await.unwrap();
    change(&store, SeedChange::Promote { offered: NEW, live: OLD }).await;
    let late = vec![Change::UpdateKeyset(update("main", made.revision, insert(3)))];
    assert_conflict(commit(&store, late).await, "main");
    assert_conflict(commit(&store, vec![create("other", vec![key(4, 0, 10)])]).await, "other");
    assert!(!change(&store, SeedChange::End(OLD)).await, "two keys are wrapped under it");

    let revision = store.cluster().await.unwrap().revision;
    let first = store.wrapped_elsewhere(NEW, 1).await.unwrap();
    assert_eq!(first, [(name("main"), key(1, 0, 10))]);
    assert_eq!(store.rewrap(&[moved(&first[0].1, NEW)]).await.unwrap(), 1);
    assert_eq!(store.rewrap(&[moved(&first[0].1, NEW)]).await.unwrap(), 0, "it has moved on");
    let rest = store.wrapped_elsewhere(NEW, 10).await.unwrap();
    assert_eq!(rest, [(name("main"), key(2, 20, 30))]);
    let gone = update("main", made.revision, vec![end(2, EndCause::Revoked)]);
    assert_eq!(store.cluster().await.unwrap().revision, revision, "nothing published has changed");
    commit(&store, vec![Change::UpdateKeyset(gone)]).await.unwrap();
    assert_eq!(store.rewrap(&[moved(&rest[0].1, NEW)]).await.unwrap(), 0, "it has ended");
    assert!(store.wrapped_elsewhere(NEW, 10).await.unwrap().is_empty());
    assert!(change(&store, SeedChange::End(OLD)).await);
    let stored = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!(stored.keys[0].wrapped, moved(&key(1, 0, 10), NEW).new);
}

/// Managers say what they hold; one is forgotten only as it was last seen.
pub async fn replicas_come_and_go(store: Arc<dyn KeyStore>) {
    claim(&store).await;
    change(&store, SeedChange::Offer(row(NEW))).await;
    let (one, two) = (replica(1, OLD, 100), replica(2, OLD, 101));
    store.report_replica(&two).await.unwrap();
    store.report_replica(&one).await.unwrap();
    assert_eq!(store.ratchet().await.unwrap().replicas, [one, two]);
    let later = Replica { next_seed: Some(NEW), seen_at: at(6), ..one };
    store.report_replica(&later).await.unwrap();
    assert!(!store.forget_replica(&one, &event("main"), &PlainChain).await.unwrap());
    assert!(store.forget_replica(&two, &event("main"), &PlainChain).await.unwrap());
    assert_eq!(store.ratchet().await.unwrap().replicas, [later]);
}

/// As long as it could unwrap anything its row stands for what is not proven.
pub async fn who_could_unwrap_is_not_forgotten(store: Arc<dyn KeyStore>) {
    claim(&store).await;
    let made = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let epoch = key(1, 0, 10).wrapped.epoch.as_u64();
    let (early, late) = (replica(1, OLD, epoch), replica(2, OLD, epoch + 1));
    let next = Replica { next_seed: Some(OLD), ..replica(3, NEW, epoch) };
    change(&store, SeedChange::Offer(row(NEW))).await;
    for one in [&early, &late, &next] {
        store.report_replica(one).await.unwrap();
    }
    let forget =
        async |one: &Replica| store.forget_replica(one, &event("main"), &PlainChain).await.unwrap();
    assert!(!forget(&early).await && !forget(&next).await, "it is live");
    assert!(forget(&late).await, "its state is past the key");
    let gone = update("main", made.revision, vec![end(1, EndCause::Expired)]);
    commit(&store, vec![Change::UpdateKeyset(gone)]).await.unwrap();
    assert!(!forget(&early).await && !forget(&next).await, "it is not proven destroyed");
    assert_eq!(store.prove_destroyed(&[(OLD, Epoch::new(epoch + 1))], at(9)).await.unwrap(), 1);
    assert!(forget(&early).await && forget(&next).await);
    assert!(store.ratchet().await.unwrap().replicas.is_empty());
}

/// An ended key is destroyed once nobody holds a state that unwraps it.
pub async fn destruction_is_proven_once(store: Arc<dyn KeyStore>) {
    claim(&store).await;
    let keys = vec![key(1, 0, 10), key(2, 7200, 7210)];
    let made = commit(&store, vec![create("main", keys.clone())]).await.unwrap();
    let (early, late) = (keys[0].wrapped.epoch, keys[1].wrapped.epoch);
    assert!(early < late);
    assert_eq!(store.prove_destroyed(&[], at(1)).await.unwrap(), 0, "both are live");
    let ends = vec![end(1, EndCause::Expired), end(2, EndCause::Revoked)];
    commit(&store, vec![Change::UpdateKeyset(update("main", made.revision, ends))]).await.unwrap();
    assert_eq!(store.prove_destroyed(&[(OLD, early)], at(2)).await.unwrap(), 0);
    let held = [(OLD, Epoch::new(early.as_u64() + 1)), (NEW, Epoch::new(0))];
    assert_eq!(store.prove_destroyed(&held, at(3)).await.unwrap(), 1);
    assert_eq!(store.proofs(&name("main")).await.unwrap(), [(id(1), at(3))].into());
    assert_eq!(store.prove_destroyed(&[(NEW, Epoch::new(0))], at(4)).await.unwrap(), 1);
    let proofs = store.proofs(&name("main")).await.unwrap();
    assert_eq!(proofs, [(id(1), at(3)), (id(2), at(4))].into());
    assert!(store.proofs(&name("other")).await.unwrap().is_empty());
}

/// The same of what the audit trail is verified from.
pub async fn anchors_of_the_trail_are_sealed_anew(store: Arc<dyn KeyStore>) {
    for _ in 0..3 {
        commit(&store, vec![]).await.unwrap();
    }
    let rows = store.audit(0, 100).await.unwrap();
    let (sequence, link) = (rows[0].sequence, rows[0].link);
    let checkpoint = AuditCheckpoint { sequence, link, seal: [1; 32] };
    commit(&store, vec![Change::PruneAudit(checkpoint)]).await.unwrap();
    let (sequence, link) = (rows[1].sequence, rows[1].link);
    let hand_over = HandOver { sequence, link, before: link };
    let handed = AuditHandOver { hand_over, seal: [1; 32] };
    commit(&store, vec![Change::HandOverAudit(handed)]).await.unwrap();
    let exchange = |row, old: u8| Resealed { row, old: [old; 32], new: [2; 32] };
    let others = [
        exchange(SealedRow::Checkpoint(2), 1),
        exchange(SealedRow::Checkpoint(1), 9),
        exchange(SealedRow::HandOver(1), 1),
        exchange(SealedRow::HandOver(2), 9),
    ];
    assert_eq!(store.reseal(&others).await.unwrap(), 0);
    let both = [exchange(SealedRow::Checkpoint(1), 1), exchange(SealedRow::HandOver(2), 1)];
    assert_eq!(store.reseal(&both).await.unwrap(), 2);
    let resealed = AuditCheckpoint { seal: [2; 32], ..checkpoint };
    assert_eq!(store.audit_checkpoint().await.unwrap(), Some(resealed));
    let resealed = AuditHandOver { hand_over, seal: [2; 32] };
    assert_eq!(store.audit_hand_overs().await.unwrap(), [resealed]);
}

/// Seals are exchanged where they are still the old ones.
pub async fn seals_are_exchanged(store: Arc<dyn KeyStore>) {
    let grant_of = |keysets| grant("a", keysets, Role::Manager);
    let grant = grant_of("*");
    commit(&store, vec![Change::AddGrant(grant.clone())]).await.unwrap();
    let row = SealedRow::Grant(grant.grant.clone());
    let exchange = Resealed { row, old: grant.seal, new: [77; 32] };
    assert_eq!(store.reseal(std::slice::from_ref(&exchange)).await.unwrap(), 1);
    assert_eq!(store.reseal(std::slice::from_ref(&exchange)).await.unwrap(), 0);
    let stored = store.access().await.unwrap().grants;
    assert_eq!(stored, [SealedGrant { seal: [77; 32], ..grant }]);
    let row = SealedRow::Token(id(1));
    let absent = Resealed { row, old: [0; 32], new: [1; 32] };
    assert_eq!(store.reseal(&[absent]).await.unwrap(), 0);

    // All kinds at once; one is no longer as it was.
    let (two, three) = (token(2), token(3));
    let other = grant_of("main");
    let added = [Change::AddToken(two.clone()), Change::AddToken(three.clone())];
    commit(&store, added.into_iter().chain([Change::AddGrant(other.clone())]).collect())
        .await
        .unwrap();
    let exchange = |row, old, new: u8| Resealed { row, old, new: [new; 32] };
    let rows = [
        exchange(SealedRow::Token(two.token.id), two.seal, 2),
        exchange(SealedRow::Grant(other.grant.clone()), other.seal, 4),
        exchange(SealedRow::Token(three.token.id), three.seal, 3),
        exchange(SealedRow::Token(id(1)), [0; 32], 1),
        exchange(SealedRow::Grant(other.grant), [0; 32], 5),
    ];
    assert_eq!(store.reseal(&rows).await.unwrap(), 3);
    let stored = store.access().await.unwrap();
    let seals: Vec<_> = stored.tokens.iter().map(|token| token.seal[0]).collect();
    assert_eq!(seals, [2, 3]);
    assert_eq!(stored.grants.iter().map(|grant| grant.seal[0]).collect::<Vec<_>>(), [77, 4]);
}

/// A restored database gets another lineage once, and the seed that is held.
pub async fn a_restore_is_accepted_once(store: Arc<dyn KeyStore>) {
    claim(&store).await;
    change(&store, SeedChange::Offer(row(SeedId::from_bytes([9; 16])))).await;
    let from = store.cluster().await.unwrap().incarnation;
    let to = Incarnation::new(1_900_000_000_000, &[9; 10]);
    let acceptance = Acceptance { from, to, seed: Some(row(NEW)) };
    let before = store.cluster().await.unwrap().revision;
    let event = event("main");
    assert!(store.accept_restore(&acceptance, &event, &PlainChain).await.unwrap());
    assert!(!store.accept_restore(&acceptance, &event, &PlainChain).await.unwrap());
    let cluster = store.cluster().await.unwrap();
    assert_eq!((cluster.incarnation, cluster.revision), (to, before.next()));
    assert_eq!(phases(&store).await, [(NEW, SeedPhase::Live)]);
    let again =
        Acceptance { from: to, to: Incarnation::new(1_900_000_000_001, &[9; 10]), seed: None };
    assert!(store.accept_restore(&again, &event, &PlainChain).await.unwrap());
    assert_eq!(store.seed().await.unwrap(), Some(row(NEW)));
}
