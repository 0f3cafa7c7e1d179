//! Decides what is left of a keyset when keys of it are forbidden at once, and what seals after
//! them. The one way in which a key ends before its `destroy_at`.

use super::{GapCause, MoveReason, Op, cover};
use crate::bundle::EndCause;
use crate::id::KeyId;
use crate::keyset::{KeyRecord, Keyset};
use crate::planner::draft::Draft;
use crate::schedule::MoveDestroy;
use crate::time::Timestamp;

/// Which keys are forbidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// Every key of the keyset: whoever read a terminator's memory holds the pending ones too.
    All,
    /// This one alone.
    Key(KeyId),
}

/// Why nothing was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// The keyset has no key of this identity that still opens tickets.
    #[error("no live key {0}: it was never of this keyset, or has ended already")]
    NoSuchKey(KeyId),
    /// The keyset has no key that still opens tickets.
    #[error("the keyset has no live key")]
    NoKeys,
}

/// Ends the selected keys at once and supplies what seals after them.
///
/// Without any key left, a fresh one seals after the urgent lead; nothing does meanwhile, which is
/// a gap. After the active key alone, the pending one activates at once, and later ones follow as
/// much earlier; every `destroy_at` stays. Whatever else is missing is minted by the rules of
/// [`super::plan`].
///
/// # Errors
/// [`RevokeError`] if there is nothing to revoke.
pub fn revoke(
    keyset: &Keyset,
    selection: Selection,
    now: Timestamp,
) -> Result<Vec<Op>, RevokeError> {
    let mut draft = Draft::of(keyset);
    draft.end_expired(now);
    let selected = |key: &&KeyRecord| match selection {
        Selection::All => true,
        Selection::Key(id) => key.id == id,
    };
    let live = keyset.keys().iter().filter(|key| key.schedule.opens(now));
    let ended: Vec<KeyRecord> = live.filter(selected).copied().collect();
    match (ended.is_empty(), selection) {
        (true, Selection::All) => return Err(RevokeError::NoKeys),
        (true, Selection::Key(id)) => return Err(RevokeError::NoSuchKey(id)),
        (false, _) => {}
    }
    for key in &ended {
        draft.end(key.id, EndCause::Revoked);
    }
    let left = keyset.retaining(|key| !ended.iter().any(|gone| gone.id == key.id));
    if ended.iter().any(|key| key.schedule.seals(now)) {
        succeed(&left, now, &mut draft);
    }
    cover(keyset, now, GapCause::Revoked, &mut draft);
    Ok(draft.into_ops())
}

/// Lets the next pending key seal now. If the schedules do not allow it, as after a wrong clock,
/// they stay, for a revocation must not fail over them: the hole is covered like any other.
fn succeed(left: &Keyset, now: Timestamp, draft: &mut Draft) {
    let Some(next) = left.next_pending(now) else { return };
    let boundary = next.schedule.activate_at();
    let by = boundary.since(now);
    let later = left.keys().iter().filter(|key| key.schedule.activate_at() >= boundary);
    let moved: Result<Vec<_>, _> = later
        .map(|key| {
            let (activate, retire) =
                (key.schedule.activate_at() - by, key.schedule.retire_at() - by);
            // An instance that has not heard of it may seal by the old schedule, so ends stay.
            Ok((key.id, key.schedule.moved(activate, retire, MoveDestroy::Keep)?))
        })
        .collect::<Result<_, crate::schedule::ScheduleError>>();
    for (id, schedule) in moved.into_iter().flatten() {
        draft.reschedule(id, schedule, MoveReason::Revoked);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{World, at, world};
    use super::super::{Convergence, MintReason, plan, publishes};
    use super::*;

    fn ended(ops: &[Op]) -> Vec<KeyId> {
        let revoked = |op: &Op| match op {
            Op::End { id, cause: EndCause::Revoked } => Some(*id),
            _ => None,
        };
        ops.iter().filter_map(revoked).collect()
    }

    /// At 1250: one key decrypt-only, one active, one pending.
    fn in_use() -> (World, Vec<KeyId>) {
        let mut world = world();
        for now in [1000, 1100, 1200] {
            world.pass(at(now));
        }
        let ids = world.keyset.keys().iter().map(|key| key.id).collect();
        (world, ids)
    }

    #[test]
    fn all_keys_end_and_a_fresh_one_seals_after_the_urgent_lead() {
        let (mut world, ids) = in_use();
        let ops = revoke(&world.keyset, Selection::All, at(1250)).unwrap();
        assert_eq!(ended(&ops), ids);
        assert!(publishes(&ops));
        world.apply(&ops);
        let schedules: Vec<_> = world.keyset.keys().iter().map(|key| key.schedule).collect();
        assert_eq!(schedules[0].activate_at(), at(1262));
        assert_eq!(schedules[0].published_at(), at(1250));
        assert!(ops.iter().any(|op| matches!(op, Op::Mint {
            reason: MintReason::AfterGap { from, until, .. }, .. } if (*from, *until) == (at(1250), at(1262)))));
        let said = ops.iter().filter_map(|op| match op {
            Op::Mint { reason, .. } => Some(reason.to_string()),
            _ => None,
        });
        let gap = "1970-01-01T00:20:50Z to 1970-01-01T00:21:02Z";
        let expected = [format!("what sealed was revoked: nothing seals from {gap}")];
        assert_eq!(said.collect::<Vec<_>>(), expected, "nobody was late");
        assert_eq!(plan(&world.keyset, &Convergence::confirmed(), at(1250)), []);
    }

    #[test]
    fn after_the_active_key_alone_the_pending_one_seals_at_once() {
        let (mut world, ids) = in_use();
        let ops = revoke(&world.keyset, Selection::Key(ids[2]), at(1250)).unwrap();
        assert_eq!(ended(&ops), [ids[2]]);
        let pending = world.keyset.keys()[3];
        world.apply(&ops);
        let active = world.keyset.active(at(1250)).unwrap();
        assert_eq!(active.id, pending.id);
        assert_eq!(active.schedule.destroy_at(), pending.schedule.destroy_at());
        assert_eq!(world.keyset.covered_from(at(1250)).as_secs(), 200, "and one follows it");
        assert!(world.keyset.keys().iter().any(|key| key.id == ids[0]), "others stay");
    }

    #[test]
    fn without_a_pending_key_there_is_a_gap() {
        let (mut world, ids) = in_use();
        let ops = revoke(&world.keyset, Selection::Key(ids[3]), at(1250)).unwrap();
        assert_eq!(ended(&ops), [ids[3]]);
        world.apply(&ops);
        assert_eq!(world.keyset.covered_from(at(1250)).as_secs(), 150, "its period is covered");
        let only = world.keyset.retaining(|key| key.schedule.activate_at() <= at(1250));
        world.keyset = only;
        let ops = revoke(&world.keyset, Selection::Key(ids[2]), at(1250)).unwrap();
        world.apply(&ops);
        assert!(world.keyset.active(at(1261)).is_none());
        assert!(world.keyset.active(at(1262)).is_some());
    }

    #[test]
    fn of_a_decrypt_only_key_just_it_ends() {
        let (world, ids) = in_use();
        let ops = revoke(&world.keyset, Selection::Key(ids[0]), at(1250)).unwrap();
        assert_eq!(ops, [Op::End { id: ids[0], cause: EndCause::Revoked }]);
    }

    #[test]
    fn what_is_not_there_is_not_revoked() {
        let (mut world, ids) = in_use();
        let unknown = KeyId::from_bytes([9; 16]);
        let error = revoke(&world.keyset, Selection::Key(unknown), at(1250)).unwrap_err();
        assert_eq!(error, RevokeError::NoSuchKey(unknown));
        // Nor what has expired and only waits to be erased.
        let late = revoke(&world.keyset, Selection::Key(ids[0]), at(1302));
        assert_eq!(late, Err(RevokeError::NoSuchKey(ids[0])));
        world.keyset = world.keyset.retaining(|_| false);
        assert_eq!(revoke(&world.keyset, Selection::All, at(1250)), Err(RevokeError::NoKeys));
    }
}
