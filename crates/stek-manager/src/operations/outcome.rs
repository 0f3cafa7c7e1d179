//! What an operation did, as the documents that its caller is given.

use stek_core::id::{Incarnation, KeyId};
use stek_core::keyset::Keyset;
use stek_core::planner::Op;
use stek_core::policy::Policy;
use stek_core::time::Timestamp;
use stek_store::{Committed, StoredKeyset};
use stek_wire::admin::{Effect, EffectDocument, KeysetDocument, KeysetTimes};

pub(super) fn document(
    stored: &StoredKeyset,
    incarnation: Incarnation,
    now: Timestamp,
) -> KeysetDocument {
    let next_due = Some(stored.next_due);
    let times = KeysetTimes { next_due, created_at: stored.created_at, now };
    KeysetDocument::new(&stored.keyset, stored.tag(incarnation), &stored.ended, times)
}

pub(super) fn describe(policy: &Policy) -> String {
    format!(
        "rotation {}, ticket lifetime {}, poll {}, skew {}, lead {}, session lifetime {}, \
         activation quorum {} within {}",
        policy.rotation_period(),
        policy.ticket_lifetime(),
        policy.poll_interval(),
        policy.clock_skew(),
        policy.lead(),
        policy.session_lifetime(),
        policy.activation_quorum().as_str(),
        policy.activation_deadline(),
    )
}

/// The effects of `ops`, whose minted keys are `minted` as far as they are made yet.
pub(super) fn effects(
    mut minted: impl Iterator<Item = KeyId>,
    ops: &[Op],
    now: Timestamp,
) -> Vec<Effect> {
    let effects = ops.iter().map(|op| {
        let (action, key, at, reason) = match op {
            Op::Mint { schedule, reason } => {
                let key = minted.next().map(|id| id.to_string());
                ("mint", key, schedule.activate_at(), format!("{reason}; seals from then on"))
            }
            Op::Move { id, schedule, reason } if schedule.seals(now) => {
                let why = format!("{reason}; seals until {}", schedule.retire_at());
                ("activate", Some(id.to_string()), schedule.activate_at(), why)
            }
            Op::Move { id, schedule, reason } if schedule.retire_at() <= now => {
                let why = format!("{reason}; opens until {}", schedule.destroy_at());
                ("retire", Some(id.to_string()), schedule.retire_at(), why)
            }
            Op::Move { id, schedule, reason } => {
                ("move", Some(id.to_string()), schedule.activate_at(), reason.to_string())
            }
            Op::End { id, cause } => ("end", Some(id.to_string()), now, cause.as_str().to_owned()),
        };
        Effect { action: action.into(), key, at: Some(at.to_string()), reason }
    });
    effects.collect()
}

pub(super) fn warnings(
    before: &Keyset,
    after: &Keyset,
    policy: Option<&Policy>,
    now: Timestamp,
) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(active) = after.active(now) {
        let out_for = now.since(active.schedule.published_at());
        let rotated = before.active(now).is_some_and(|before| before.id != active.id);
        if rotated && out_for < before.policy().urgent_lead() {
            warnings.push(format!(
                "key {} was published only {out_for} ago: terminators that have not polled since \
                 miss its tickets until they do",
                active.id
            ));
        }
    }
    if after.active(now).is_none() {
        warnings.push(match seals_from(after, now) {
            Some(from) => format!("no ticket is sealed until {from}"),
            None => "no ticket is sealed until the planner's next key".into(),
        });
    }
    if policy.is_some() {
        let next = before.keys().iter().map(|key| key.schedule.retire_at()).max();
        let from = next.map_or(now, |end| end.max(now));
        warnings.push(format!(
            "keys that exist keep their schedules; the new policy rules the key that seals from {from}"
        ));
    }
    warnings
}

/// From when on something seals, if anything does.
pub(super) fn seals_from(keyset: &Keyset, now: Timestamp) -> Option<Timestamp> {
    let next = || keyset.next_pending(now).map(|key| key.schedule.activate_at());
    keyset.active(now).map(|_| now).or_else(next)
}

/// The ends of all keys of a keyset that is deleted.
pub(super) fn deletions(stored: &StoredKeyset, now: Timestamp) -> Vec<Effect> {
    let effects = stored.keys.iter().map(|key| Effect {
        action: "revoke".into(),
        key: Some(key.record.id.to_string()),
        at: Some(now.to_string()),
        reason: "keyset deleted".into(),
    });
    effects.collect()
}

pub(super) fn deleted(
    stored: &StoredKeyset,
    committed: Committed,
    now: Timestamp,
) -> EffectDocument {
    EffectDocument {
        keyset: stored.keyset.name().to_string(),
        revision: committed.revision.as_u64(),
        effects: deletions(stored, now),
        warnings: vec![
            "terminators make full handshakes as soon as they hear of it; live connections go on"
                .into(),
        ],
    }
}
