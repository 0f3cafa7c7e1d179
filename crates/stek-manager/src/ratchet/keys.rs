//! What is wrapped or sealed under something old: re-wrapped and re-sealed in batches, and ended
//! where nobody can unwrap it any more.

use std::collections::BTreeSet;

use stek_core::audit::{AuditAction, HandOver, checkpoint_canonical};
use stek_core::bundle::EndCause;
use stek_core::id::Incarnation;
use stek_core::name::KeysetName;
use stek_core::planner::{self, Convergence, Op};
use stek_custody::custody::{RewrapError, UnwrapError};
use stek_store::{
    AuditHandOver, Change, Commit, CommitError, Ratchet, Replica, Resealed, Rewrapped, SealedRow,
    SeedPhase, SeedRow, StoreError,
};

use super::{ALIVE, RatchetError, State, event};
use crate::draft::Draft;
use crate::engine::{Engine, PassTime};

/// How many keys one statement re-wraps.
const BATCH: usize = 64;
/// How many batches one pass takes on: rotation must not wait for the end of it.
const BATCHES: usize = 8;

/// Whether no key is wrapped under another seed than the live one, after a bounded part of what
/// there is has been done.
pub(super) async fn sweep(
    engine: &Engine,
    state: &mut State,
    rows: &Ratchet,
    live: &SeedRow,
    time: PassTime,
    incarnation: Incarnation,
) -> Result<bool, RatchetError> {
    let here = Some((incarnation, live.seed));
    if state.swept == here && rows.in_phase(SeedPhase::Retiring).is_none() {
        return Ok(false);
    }
    for _ in 0..BATCHES {
        let keys = engine.store.wrapped_elsewhere(live.seed, BATCH).await?;
        if keys.is_empty() {
            state.swept = here;
            return Ok(true);
        }
        let mut moved = Vec::new();
        let mut lost = BTreeSet::new();
        for (keyset, key) in &keys {
            let random = engine.random.as_ref();
            match engine.custody.rewrap(random, keyset, &key.record, &key.wrapped) {
                Ok(new) => {
                    moved.push(Rewrapped { key: key.record.id, old: key.wrapped.clone(), new });
                }
                Err(RewrapError::Unwrap(UnwrapError::OtherSeed { named, .. }))
                    if rows.seeds.iter().any(|seed| seed.row.seed == named) =>
                {
                    // Others hold it, and re-wrap.
                }
                // It ends by itself.
                Err(RewrapError::Unwrap(UnwrapError::Epoch(_))) => {}
                Err(error @ RewrapError::Unwrap(_)) => {
                    let (key, error) = (key.record.id, &error as &dyn std::error::Error);
                    tracing::error!(%keyset, %key, error, "key is lost, and ended");
                    lost.insert(keyset.clone());
                }
                Err(error @ RewrapError::Wrap(_)) => {
                    let (key, error) = (key.record.id, &error as &dyn std::error::Error);
                    tracing::error!(%keyset, %key, error, "key is not re-wrapped");
                }
            }
        }
        let done = engine.store.rewrap(&moved).await?;
        tracing::info!(keys = done, seed = %live.seed, "keys are re-wrapped");
        for keyset in &lost {
            end_lost(engine, keyset, rows, time).await?;
        }
        if done == 0 && lost.is_empty() {
            return Ok(false);
        }
    }
    // There is more; what is due comes first.
    engine.changed.notify_one();
    Ok(false)
}

/// Ends the keys of `name` that do not open, and lets the planner see to what is to seal instead.
async fn end_lost(
    engine: &Engine,
    name: &KeysetName,
    rows: &Ratchet,
    time: PassTime,
) -> Result<(), RatchetError> {
    let Some(stored) = engine.store.keyset(name).await? else { return Ok(()) };
    let is_lost = |key: &&stek_store::StoredKey| {
        let others_hold = |seed| rows.seeds.iter().any(|known| known.row.seed == seed);
        match engine.custody.unwrap(name, &key.record, &key.wrapped) {
            Ok(_) | Err(UnwrapError::Epoch(_)) => false,
            Err(UnwrapError::OtherSeed { named, .. }) => !others_hold(named),
            Err(_) => true,
        }
    };
    let lost = stored.keys.iter().filter(is_lost).map(|key| key.record.id);
    let mut ops: Vec<Op> = lost.map(|id| Op::End { id, cause: EndCause::Revoked }).collect();
    let drafted = planner::apply(&stored.keyset, &ops, &[]).map(|rest| {
        ops.extend(planner::plan(&rest, &Convergence::confirmed(), time.now));
        Draft::new(engine, (&stored.keyset, stored.next_due), &ops, "manager", time)
    });
    let mut draft = match drafted {
        Ok(Ok(draft)) => draft,
        Ok(Err(error)) => return log(name, &error),
        Err(error) => return log(name, &error),
    };
    draft.revoked_for("lost: nobody holds what it could be unwrapped with");
    draft.leave_undecided((&stored.keyset, stored.next_due), time.now);
    let (update, events) = draft.into_update((stored.revision, stored.next_due), None);
    let commit = Commit { at: time.now, changes: vec![Change::UpdateKeyset(update)], events };
    match engine.store.commit(&commit, &engine.audit).await {
        Ok(_) => Ok(()),
        Err(CommitError::Store(error)) => Err(error.into()),
        // Somebody else has changed it: the next pass looks again.
        Err(error) => log(name, &error),
    }
}

fn log(keyset: &KeysetName, error: &(dyn std::error::Error + 'static)) -> Result<(), RatchetError> {
    tracing::warn!(%keyset, error, "lost keys are not ended yet");
    Ok(())
}

/// Exchanges the seals of the previous cluster secret once the live seed is of the current one.
pub(super) async fn reseal(
    engine: &Engine,
    state: &mut State,
    rows: &Ratchet,
    live: &SeedRow,
    time: PassTime,
) -> Result<(), RatchetError> {
    let settled = rows.seeds.len() == 1 && state.swept.is_some_and(|(_, seed)| seed == live.seed);
    let is_current = engine.cluster.check_value(&live.seed) == live.check;
    if !engine.cluster.has_previous() || !settled || !is_current {
        return Ok(());
    }
    if state.resealed == Some(live.seed) {
        return Ok(());
    }
    let old = outdated(engine).await?;
    if old.is_empty() {
        if !hand_over(engine, rows, live, time).await? {
            return Ok(());
        }
        state.resealed = Some(live.seed);
        tracing::info!(
            "nothing is under the previous cluster secret: it may be removed from the \
                        configuration of this manager"
        );
        return Ok(());
    }
    let done = engine.store.reseal(&old).await?;
    let reason = format!("{done} tokens, grants and anchors of this trail");
    let event = event(time, AuditAction::AccessResealed, reason);
    let commit = Commit { at: time.now, changes: Vec::new(), events: vec![event] };
    match engine.store.commit(&commit, &engine.audit).await {
        Err(CommitError::Store(error)) => Err(error.into()),
        _ => Ok(()),
    }
}

/// Whether the audit trail has been handed over from the previous cluster secret to the current
/// one. It is once every manager that runs has seen the seed of the current one alone live, for
/// from then on nobody links under the previous one.
async fn hand_over(
    engine: &Engine,
    rows: &Ratchet,
    live: &SeedRow,
    time: PassTime,
) -> Result<bool, RatchetError> {
    let Some(before) = engine.audit.previous_identity() else { return Ok(true) };
    let last = engine.store.audit_hand_overs().await?.pop();
    let is_genuine =
        |row: &AuditHandOver| engine.sealer.is_up_to_date(&row.hand_over.canonical(), &row.seal);
    if last.filter(is_genuine).is_some_and(|row| row.hand_over.before == before) {
        return Ok(true);
    }
    let moved = |one: &Replica| one.seed == live.seed && one.next_seed.is_none();
    if rows.replicas.iter().any(|one| time.now < one.seen_at + ALIVE && !moved(one)) {
        return Ok(false);
    }
    let cluster = engine.store.cluster().await?;
    let (sequence, link) = (cluster.audit_sequence, cluster.audit_head);
    let hand_over = HandOver { sequence, link, before };
    let seal = engine.sealer.seal(&hand_over.canonical());
    let change = Change::HandOverAudit(AuditHandOver { hand_over, seal });
    let reason = format!("lines after {sequence}, whose link is {link}, are of the new secret");
    let events = vec![event(time, AuditAction::TrailHandedOver, reason)];
    let commit = Commit { at: time.now, changes: vec![change], events };
    match engine.store.commit(&commit, &engine.audit).await {
        Ok(_) => Ok(true),
        Err(CommitError::Store(error)) => Err(error.into()),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the audit trail is not handed over yet");
            Ok(false)
        }
    }
}

/// The rows whose seal holds and is not of the cluster secret in use.
async fn outdated(engine: &Engine) -> Result<Vec<Resealed>, StoreError> {
    let stored = engine.store.access().await?;
    let exchange = |canonical: &[u8], old: [u8; 32], row| {
        let sealer = &engine.sealer;
        let holds = sealer.verify(canonical, &old) && !sealer.is_up_to_date(canonical, &old);
        holds.then(|| Resealed { row, old, new: sealer.seal(canonical) })
    };
    let tokens = stored.tokens.into_iter().filter_map(|row| {
        exchange(&row.token.canonical(), row.seal, SealedRow::Token(row.token.id))
    });
    let tokens: Vec<_> = tokens.collect();
    let grants = stored.grants.into_iter().filter_map(|row| {
        exchange(&row.grant.canonical(), row.seal, SealedRow::Grant(row.grant.clone()))
    });
    let checkpoint = engine.store.audit_checkpoint().await?.and_then(|row| {
        let canonical = checkpoint_canonical(row.sequence, &row.link);
        exchange(&canonical, row.seal, SealedRow::Checkpoint(row.sequence))
    });
    let hand_overs = engine.store.audit_hand_overs().await?.into_iter().filter_map(|row| {
        let at = SealedRow::HandOver(row.hand_over.sequence);
        exchange(&row.hand_over.canonical(), row.seal, at)
    });
    Ok(tokens.into_iter().chain(grants).chain(checkpoint).chain(hand_overs).collect())
}
