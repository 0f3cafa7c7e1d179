//! What managers say of the states that they hold, and what follows from it: which ended keys are
//! provably destroyed, who is behind, who is forgotten.

use std::collections::BTreeMap;

use stek_core::audit::AuditAction;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::{Epoch, SeedId};
use stek_store::{Ratchet, Replica, StoreError};

use super::{FORGET_AFTER, RatchetError, State, event};
use crate::engine::{Engine, PassTime};
use crate::metrics::ManagerMetrics;

/// How often a manager says that it is there, if nothing else has changed.
pub(super) const SAY_AGAIN: Seconds = Seconds::new(60);

/// Says what is held here, if that is news, and puts it among the rows.
pub(super) async fn replica(
    engine: &Engine,
    state: &mut State,
    rows: &mut Ratchet,
    time: PassTime,
) -> Result<(), StoreError> {
    let custody = &engine.custody;
    let known = |seed: &SeedId| rows.seeds.iter().any(|one| one.row.seed == *seed);
    let own = Replica {
        id: custody.replica(),
        seed: custody.seed_id(),
        next_seed: custody.next_seed().filter(known),
        epoch: custody.epoch(),
        seen_at: time.now,
    };
    let is_news = state.reported.is_none_or(|said| {
        let same = Replica { seen_at: own.seen_at, ..said } == own;
        !same || said.seen_at + SAY_AGAIN <= time.now || said.seen_at > time.now
    });
    let is_there = rows.replicas.iter().any(|replica| replica.id == own.id);
    if is_news || !is_there {
        engine.store.report_replica(&own).await?;
        state.reported = Some(own);
    }
    rows.replicas.retain(|replica| replica.id != own.id);
    rows.replicas.push(own);
    Ok(())
}

/// The lowest epoch of each seed that any manager holds: what a thief of all of them could unwrap.
fn held(rows: &Ratchet) -> Vec<(SeedId, Epoch)> {
    let mut lowest: BTreeMap<SeedId, Epoch> = BTreeMap::new();
    for replica in &rows.replicas {
        for seed in std::iter::once(replica.seed).chain(replica.next_seed) {
            let epoch = lowest.entry(seed).or_insert(replica.epoch);
            *epoch = replica.epoch.min(*epoch);
        }
    }
    lowest.into_iter().collect()
}

/// Notes which ended keys nobody can unwrap any more.
pub(super) async fn prove(
    engine: &Engine,
    metrics: &ManagerMetrics,
    state: &mut State,
    rows: &Ratchet,
    time: PassTime,
) -> Result<(), StoreError> {
    let held = held(rows);
    if state.proven.as_ref() == Some(&held) {
        return Ok(());
    }
    let proven = engine.store.prove_destroyed(&held, time.now).await?;
    metrics.keys_proven_destroyed.inc_by(proven);
    state.proven = Some(held);
    Ok(())
}

/// Forgets managers that have shown no life for long and could unwrap nothing that is there: what
/// they could is not proven destroyed, and is forgotten first.
pub(super) async fn forget(
    engine: &Engine,
    rows: &Ratchet,
    time: PassTime,
) -> Result<(), RatchetError> {
    for gone in rows.replicas.iter().filter(|one| one.seen_at + FORGET_AFTER <= time.now) {
        let reason = format!(
            "replica {} was last seen at {} with seed {} at epoch {}: whether its state was erased \
             is not known",
            gone.id,
            gone.seen_at,
            gone.seed,
            gone.epoch.as_u64()
        );
        let event = event(time, AuditAction::ReplicaForgotten, reason);
        if engine.store.forget_replica(gone, &event, &engine.audit).await? {
            tracing::warn!(replica = %gone.id, seen_at = %gone.seen_at, "a manager is forgotten");
        }
    }
    Ok(())
}

/// When the newest of several seeds was claimed.
fn changing_since(rows: &Ratchet) -> Option<Timestamp> {
    let newest = rows.seeds.iter().map(|seed| seed.row.claimed_at).max();
    newest.filter(|_| rows.seeds.len() > 1)
}

/// Shows where everybody is.
pub(super) fn observe(
    engine: &Engine,
    metrics: &ManagerMetrics,
    state: &State,
    rows: &Ratchet,
    time: PassTime,
) {
    let now = Epoch::of(time.now).as_u64();
    let behind = rows.replicas.iter().map(|one| now.saturating_sub(one.epoch.as_u64())).max();
    let is_known = |seed: SeedId| rows.seeds.iter().any(|known| known.row.seed == seed);
    let unproven = rows.replicas.iter().filter(|one| !is_known(one.seed)).count();
    let needed = engine.cluster.has_previous() && state.resealed.is_none();
    metrics.observe_ratchet(crate::metrics::RatchetView {
        replicas: rows.replicas.len(),
        behind: behind.unwrap_or(0),
        unproven,
        changing_since: changing_since(rows),
        previous_secret_needed: needed,
    });
    engine.set_previous_secret_needed(needed);
    let mut detail = format!(
        "epoch {}, {} replicas, the slowest {} behind",
        engine.custody.epoch().as_u64(),
        rows.replicas.len(),
        behind.unwrap_or(0)
    );
    if rows.seeds.len() > 1 {
        detail.push_str("; seeds are changing");
    }
    if engine.cluster.has_previous() {
        detail.push_str(if needed {
            "; the previous cluster secret is needed"
        } else {
            "; the previous cluster secret may be removed"
        });
    }
    engine.set_ratchet_detail(detail);
}
