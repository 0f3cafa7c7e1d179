//! The keyset as the planner is changing it: keys that stay, move or are new, and the decisions so
//! far. Finds where nothing seals.

use super::{MintReason, MoveReason, Op};
use crate::bundle::EndCause;
use crate::id::KeyId;
use crate::keyset::Keyset;
use crate::schedule::Schedule;
use crate::time::Timestamp;

/// A time in which nothing seals and a key could.
pub(super) struct Hole {
    /// From when on nothing seals.
    pub(super) from: Timestamp,
    /// The first instant of it at which a new key may seal.
    pub(super) start: Timestamp,
    /// When the next key begins.
    pub(super) end: Timestamp,
}

pub(super) struct Draft {
    keys: Vec<(Option<KeyId>, Schedule)>,
    ops: Vec<Op>,
}

impl Draft {
    pub(super) fn of(keyset: &Keyset) -> Self {
        let keys = keyset.keys().iter().map(|key| (Some(key.id), key.schedule)).collect();
        Self { keys, ops: Vec::new() }
    }

    pub(super) fn live(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    pub(super) fn end_expired(&mut self, now: Timestamp) {
        let ops = &mut self.ops;
        self.keys.retain(|(id, schedule)| {
            if let (Some(id), false) = (id, schedule.opens(now)) {
                ops.push(Op::End { id: *id, cause: EndCause::Expired });
            }
            schedule.opens(now)
        });
    }

    pub(super) fn end(&mut self, id: KeyId, cause: EndCause) {
        self.keys.retain(|(key, _)| *key != Some(id));
        self.ops.push(Op::End { id, cause });
    }

    pub(super) fn reschedule(&mut self, id: KeyId, schedule: Schedule, reason: MoveReason) {
        for (_, current) in self.keys.iter_mut().filter(|(key, _)| *key == Some(id)) {
            *current = schedule;
        }
        self.ops.push(Op::Move { id, schedule, reason });
    }

    pub(super) fn mint(&mut self, schedule: Schedule, reason: MintReason) {
        self.keys.push((None, schedule));
        self.ops.push(Op::Mint { schedule, reason });
    }

    /// The first instant from `now` on at which nothing seals, not counting holes that end before
    /// `deliverable`: nothing can be done about those any more.
    pub(super) fn first_hole(&self, now: Timestamp, deliverable: Timestamp) -> Hole {
        let mut from = now;
        loop {
            if let Some((_, covering)) = self.keys.iter().find(|(_, s)| s.seals(from)) {
                from = covering.retire_at();
                continue;
            }
            let start = from.max(deliverable);
            let next = self.keys.iter().map(|(_, s)| s.activate_at()).filter(|at| *at > from).min();
            match next {
                Some(next) if next <= start => from = next,
                next => return Hole { from, start, end: next.unwrap_or(Timestamp::MAX) },
            }
        }
    }
}
