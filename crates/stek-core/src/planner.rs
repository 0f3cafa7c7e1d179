//! Decides what happens to the keys of a keyset next: which to mint, to move and to end. A pure
//! function of the keyset, of what the fleet has confirmed and of the time; it never sees a secret
//! and nothing here is stored. Carrying a decision out is the manager's work.

mod draft;
mod revoke;

use crate::bundle::EndCause;
use crate::id::KeyId;
use crate::keyset::{History, KeyRecord, Keyset, KeysetError, MAX_LIVE_KEYS};
use crate::policy::ActivationQuorum;
use crate::schedule::{MoveDestroy, Schedule, ScheduleError};
use crate::time::{Seconds, Timestamp};
use draft::Draft;

pub use revoke::{RevokeError, Selection, revoke};

/// One decision, with its reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Create a key with this schedule.
    Mint {
        /// When it seals and opens.
        schedule: Schedule,
        /// Why.
        reason: MintReason,
    },
    /// Give a key another schedule, inside the envelope it was minted with.
    Move {
        /// Which key.
        id: KeyId,
        /// Its new schedule.
        schedule: Schedule,
        /// Why.
        reason: MoveReason,
    },
    /// End a key and erase it.
    End {
        /// Which key.
        id: KeyId,
        /// Why.
        cause: EndCause,
    },
}

/// Why a key is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MintReason {
    /// The first key of a keyset; it seals at once.
    First,
    /// It follows the key before it without a break.
    Scheduled,
    /// There was no time to deliver it before the key before it ceased to seal.
    AfterGap {
        /// Why there was none.
        cause: GapCause,
        /// From when on nothing seals.
        from: Timestamp,
        /// Until when.
        until: Timestamp,
    },
    /// Somebody asked for a rotation and no key was pending.
    RotateNow,
}

/// Why nothing seals for a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GapCause {
    /// No pass has come in time, as in an outage.
    Late,
    /// The key that sealed, or was to, has been revoked.
    Revoked,
}

/// Why a key's schedule moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveReason {
    /// Somebody asked for a rotation.
    RotateNow,
    /// Instances do not hold the next key yet, so its activation waits.
    Postponed {
        /// By how long.
        by: Seconds,
    },
    /// The key that sealed was revoked, and this one takes its place.
    Revoked,
}

impl std::fmt::Display for MintReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => f.write_str("first key"),
            Self::Scheduled => f.write_str("scheduled rotation"),
            Self::AfterGap { cause, from, until } => {
                let why = match cause {
                    GapCause::Late => "minted too late",
                    GapCause::Revoked => "what sealed was revoked",
                };
                write!(f, "{why}: nothing seals from {from} to {until}")
            }
            Self::RotateNow => f.write_str("rotation asked for, no key was pending"),
        }
    }
}

impl std::fmt::Display for MoveReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RotateNow => f.write_str("rotation asked for"),
            Self::Postponed { by } => write!(f, "postponed by {by}: instances lack the next key"),
            Self::Revoked => f.write_str("the key before it was revoked"),
        }
    }
}

/// What the fleet has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Convergence {
    unready: Vec<KeyId>,
}

impl Convergence {
    /// Nobody is known to lag.
    pub fn confirmed() -> Self {
        Self::default()
    }

    /// Some instance that counts still lacks these keys.
    pub fn lacking(unready: Vec<KeyId>) -> Self {
        Self { unready }
    }

    fn is_ready(&self, id: KeyId) -> bool {
        !self.unready.contains(&id)
    }
}

/// What to do now so that at every instant up to `now + lead` some key seals, whose schedule has
/// been out long enough, and that nothing is kept past its end.
///
/// Applied, the same call has nothing more to do. A key is never ended before its `destroy_at`,
/// whatever the clock did: a keyset with keys from a wrong future is bridged, not cleared.
pub fn plan(keyset: &Keyset, convergence: &Convergence, now: Timestamp) -> Vec<Op> {
    let mut draft = Draft::of(keyset);
    draft.end_expired(now);
    postpone(keyset, convergence, now, &mut draft);
    cover(keyset, now, GapCause::Late, &mut draft);
    draft.into_ops()
}

/// The first instant after `now` at which [`plan`] has something to do, on a keyset for which it
/// has nothing to do at `now`.
pub fn next_due(keyset: &Keyset, convergence: &Convergence, now: Timestamp) -> Timestamp {
    let policy = keyset.policy();
    let ends = keyset.keys().iter().map(|key| key.schedule.destroy_at());
    let margin = policy.postpone_margin();
    let unready = keyset.keys().iter().filter(|key| !convergence.is_ready(key.id));
    let boundaries = unready.map(|key| key.schedule.activate_at() - margin);
    let hole = Draft::of(keyset).first_hole(now, now + policy.urgent_lead());
    let coverage = hole.from - policy.lead();
    let later = ends.chain(boundaries).filter(|instant| *instant > now);
    later.fold(coverage.max(now + Seconds::new(1)), Timestamp::min)
}

/// Since when it has been open whether an activation that is still to come waits, if that is due:
/// a change of `before`, which the planner was to look at again at `due`, has made it so or has come
/// first. Who makes such a change leaves it to the next pass, by being due since then.
pub fn undecided(
    (before, due): (&Keyset, Timestamp),
    after: &Keyset,
    now: Timestamp,
) -> Option<Timestamp> {
    let decided_at = |keyset: &Keyset, key: &KeyRecord| {
        let waits = keyset.policy().activation_quorum() == ActivationQuorum::All;
        waits.then(|| key.schedule.activate_at() - keyset.policy().postpone_margin())
    };
    let was_decided = |key: &KeyRecord| {
        let old = before.keys().iter().find(|old| old.id == key.id);
        old.and_then(|old| decided_at(before, old)).is_some_and(|at| at < due)
    };
    let to_come = after.keys().iter().filter(|key| key.schedule.activate_at() > now);
    let open = to_come.filter(|key| !was_decided(key)).filter_map(|key| decided_at(after, key));
    open.filter(|at| *at <= now).min()
}

/// Why a rotation cannot be had now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// The key in use has just begun, or the next begins within this second.
    #[error("key {0} is just being activated; rotate again from {1} on")]
    UnderWay(KeyId, Timestamp),
    /// Nothing seals now, and what will is on its way already.
    #[error("nothing seals now; the planner's next key is on its way")]
    Gap,
    /// Rotations were asked for faster than keys end.
    #[error("{MAX_LIVE_KEYS} keys are live; wait until one of them ends")]
    TooManyKeys,
    /// A pending key's published schedule does not allow it, as after a wrong clock.
    #[error("a pending key cannot activate now: {0}")]
    Schedule(#[from] ScheduleError),
}

/// Rotates at once: the pending key activates now, later ones follow as much earlier, and the next
/// is minted. The retiring key keeps its `destroy_at`, so no ticket is lost; instances that have
/// not polled since the pending key was published miss its tickets until they do.
///
/// Without a pending key, one is minted and activates after the urgent lead.
///
/// # Errors
/// [`RotateError`] by cause; nothing changes.
pub fn rotate_now(keyset: &Keyset, now: Timestamp) -> Result<Vec<Op>, RotateError> {
    let mut draft = Draft::of(keyset);
    draft.end_expired(now);
    let active = keyset.active(now);
    match (active, keyset.next_pending(now)) {
        (_, Some(pending)) => activate_early(keyset, active, pending, now, &mut draft)?,
        (Some(active), None) => rotate_urgently(keyset, active, now, &mut draft)?,
        (None, None) => return Err(RotateError::Gap),
    }
    cover(keyset, now, GapCause::Late, &mut draft);
    if draft.live() > MAX_LIVE_KEYS {
        return Err(RotateError::TooManyKeys);
    }
    Ok(draft.into_ops())
}

fn activate_early(
    keyset: &Keyset,
    active: Option<&KeyRecord>,
    pending: &KeyRecord,
    now: Timestamp,
    draft: &mut Draft,
) -> Result<(), RotateError> {
    let boundary = pending.schedule.activate_at();
    // An encrypt period is at least a second long.
    let earliest = active.map_or(now, |key| key.schedule.activate_at() + Seconds::new(1));
    let start = now.max(earliest).max(pending.schedule.published_at());
    if start > now {
        return Err(RotateError::UnderWay(active.unwrap_or(pending).id, start));
    }
    if let Some(active) = active {
        let begun = active.schedule.activate_at();
        let moved = active.schedule.moved(begun, start, MoveDestroy::Keep)?;
        draft.reschedule(active.id, moved, MoveReason::RotateNow);
    }
    let by = boundary.since(start);
    for key in keyset.keys().iter().filter(|key| key.schedule.activate_at() >= boundary) {
        let (activate, retire) = (key.schedule.activate_at() - by, key.schedule.retire_at() - by);
        // An instance that has not heard of this may seal by the old schedule: what it seals must
        // still open, so the end stays where it was published.
        let moved = key.schedule.moved(activate, retire, MoveDestroy::Keep)?;
        draft.reschedule(key.id, moved, MoveReason::RotateNow);
    }
    Ok(())
}

fn rotate_urgently(
    keyset: &Keyset,
    active: &KeyRecord,
    now: Timestamp,
    draft: &mut Draft,
) -> Result<(), RotateError> {
    let policy = keyset.policy();
    let start = now + policy.urgent_lead();
    let schedule = &active.schedule;
    if schedule.retire_at() <= start {
        // It retires by itself before another key can be delivered.
        return Ok(());
    }
    let moved = schedule.moved(schedule.activate_at(), start, MoveDestroy::Keep)?;
    draft.reschedule(active.id, moved, MoveReason::RotateNow);
    let next = Schedule::planned(policy, now, start, start + policy.rotation_period())?;
    draft.mint(next, MintReason::RotateNow);
    Ok(())
}

/// The boundary about which must be decided now, for instances lack the key that activates there.
struct Doubt<'a> {
    active: &'a KeyRecord,
    next: &'a KeyRecord,
    /// By how much it may be moved; none if that would be no help, or too much.
    by: Option<Seconds>,
}

fn doubt<'a>(keyset: &'a Keyset, convergence: &Convergence, now: Timestamp) -> Option<Doubt<'a>> {
    let policy = keyset.policy();
    let active = keyset.active(now)?;
    let boundary = active.schedule.retire_at();
    let margin = policy.postpone_margin();
    let next = keyset.keys().iter().find(|key| key.schedule.activate_at() == boundary)?;
    let waits = policy.activation_quorum() == ActivationQuorum::All;
    if !waits || convergence.is_ready(next.id) || now + margin < boundary {
        return None;
    }
    // Reckoned from what the key was minted with; the policy may have changed since.
    let left = |key: &KeyRecord| key.schedule.destroy_by().since(key.schedule.destroy_at());
    let gone = next.schedule.postponed();
    let deadline = policy.activation_deadline().as_secs().saturating_sub(gone.as_secs());
    let later = keyset.keys().iter().filter(|key| key.schedule.activate_at() >= boundary);
    let room = later.map(left).fold(left(active), Seconds::min).min(Seconds::new(deadline));
    // As long again each time, so that a fleet which never gets there costs a few revisions.
    let by = margin.max(gone).min(room);
    Some(Doubt { active, next, by: (by >= margin).then_some(by) })
}

/// Moves the next boundary, and all after it, if an instance that counts lacks the key that
/// activates there and there is still time to tell everybody. Never past the deadline or an
/// envelope.
fn postpone(keyset: &Keyset, convergence: &Convergence, now: Timestamp, draft: &mut Draft) {
    let Some(Doubt { active, by: Some(by), .. }) = doubt(keyset, convergence, now) else { return };
    let boundary = active.schedule.retire_at();
    let later = keyset.keys().iter().filter(|key| key.schedule.activate_at() >= boundary);
    let shifted = later.map(|key| {
        let (activate, retire) = (key.schedule.activate_at() + by, key.schedule.retire_at() + by);
        (key.id, key.schedule.moved(activate, retire, MoveDestroy::WithRetire))
    });
    let begun = active.schedule.activate_at();
    let extended = active.schedule.moved(begun, boundary + by, MoveDestroy::WithRetire);
    let moves: Vec<_> = std::iter::once((active.id, extended)).chain(shifted).collect();
    if moves.iter().all(|(_, schedule)| schedule.is_ok()) {
        for (id, schedule) in moves.into_iter().filter_map(|(id, s)| Some((id, s.ok()?))) {
            draft.reschedule(id, schedule, MoveReason::Postponed { by });
        }
    }
}

/// The key that activates next though instances are known to lack it, and since when that could
/// be decided: its activation cannot be postponed any further. Rotation never stops.
pub fn forced(
    keyset: &Keyset,
    convergence: &Convergence,
    now: Timestamp,
) -> Option<(KeyId, Timestamp)> {
    let Doubt { active, next, by: None } = doubt(keyset, convergence, now)? else { return None };
    Some((next.id, active.schedule.retire_at() - keyset.policy().postpone_margin()))
}

/// Mints whatever is missing for some key to seal at every instant up to `now + lead`. A hole that
/// begins too soon to deliver a key for it stays, from its start until the urgent lead has passed,
/// and `cause` is why.
fn cover(keyset: &Keyset, now: Timestamp, cause: GapCause, draft: &mut Draft) {
    let policy = keyset.policy();
    let fresh = keyset.history() == History::Fresh;
    let deliverable = if fresh { now } else { now + policy.urgent_lead() };
    // Bounded by the keys a policy may plan, whatever the keyset looks like.
    for _ in 0..MAX_LIVE_KEYS {
        let hole = draft.first_hole(now, deliverable);
        if hole.from > now + policy.lead() || draft.live() >= MAX_LIVE_KEYS {
            return;
        }
        let retire_at = (hole.start + policy.rotation_period()).min(hole.end);
        let Ok(schedule) = Schedule::planned(policy, now, hole.start, retire_at) else { return };
        let reason = match (fresh && hole.start == now, hole.start > hole.from) {
            (true, _) => MintReason::First,
            (_, true) => MintReason::AfterGap { cause, from: hole.from, until: hole.start },
            _ => MintReason::Scheduled,
        };
        draft.mint(schedule, reason);
    }
}

/// The keyset after `ops`, whose minted keys are `minted` in the order of their ops.
///
/// # Errors
/// [`KeysetError`] if the outcome would break a rule of keysets: the manager commits nothing then.
pub fn apply(keyset: &Keyset, ops: &[Op], minted: &[KeyRecord]) -> Result<Keyset, KeysetError> {
    let mut keys = keyset.keys().to_vec();
    for op in ops {
        match op {
            Op::Mint { .. } => {}
            Op::Move { id, schedule, .. } => {
                for key in keys.iter_mut().filter(|key| key.id == *id) {
                    key.schedule = *schedule;
                }
            }
            Op::End { id, .. } => keys.retain(|key| key.id != *id),
        }
    }
    keys.extend_from_slice(minted);
    let used = keyset.history() == History::Used || !minted.is_empty();
    let history = if used { History::Used } else { History::Fresh };
    Keyset::try_new(keyset.name().clone(), *keyset.policy(), history, keys)
}

/// Whether the keyset changes in a way that terminators must learn of. Ending a key at its
/// `destroy_at` is no news: everybody has known when it would end.
pub fn publishes(ops: &[Op]) -> bool {
    ops.iter().any(|op| !matches!(op, Op::End { cause: EndCause::Expired, .. }))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
