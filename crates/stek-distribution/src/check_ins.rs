//! Who polls this replica, and what each instance says it has installed. Decides how long one is
//! present and who makes room when many names are invented; what is told upwards is in [`tally`].

mod tally;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stek_core::check_in::{KeysetTally, Laggard};
use stek_core::id::Revision;
use stek_core::name::{InstanceName, KeysetName, PrincipalName};
use stek_core::time::{Seconds, Timestamp};

use crate::LONGEST_WAIT;

/// The most instances that are remembered of one principal. A fleet may share one credential.
const MAX_OF_PRINCIPAL: usize = 16_384;
/// The most that are remembered in all.
const MAX_INSTANCES: usize = 65_536;
/// Which part of a principal's instances makes room when there is none: more than one, so that
/// looking for the oldest is paid for once in many inventions.
const EVICTED_PART: usize = 8;
/// How many polls an instance may miss before it counts as gone.
const MISSED_POLLS: u64 = 3;

/// What a poll says of its instance.
#[derive(Debug, Clone)]
pub(crate) struct CheckIn {
    pub(crate) keyset: KeysetName,
    pub(crate) principal: PrincipalName,
    pub(crate) instance: InstanceName,
    /// What it has installed; zero for nothing.
    pub(crate) revision: Revision,
    pub(crate) clock_offset_millis: Option<i32>,
    pub(crate) now: Timestamp,
    pub(crate) boot: Duration,
}

/// What is remembered of one instance.
#[derive(Debug, Clone, Copy)]
struct Seen {
    revision: Revision,
    clock_offset_millis: Option<i32>,
    last: Timestamp,
    /// The poll before the last.
    before: Option<Timestamp>,
    /// Boot time of the last poll, by which presence ends.
    boot: Duration,
}

/// The instances of one keyset, in order so that they can be paged through.
type Roll = BTreeMap<PrincipalName, BTreeMap<InstanceName, Seen>>;

#[derive(Debug, Default)]
struct Rolls {
    keysets: HashMap<KeysetName, Roll>,
    /// How many instances each principal has, over all keysets.
    totals: HashMap<PrincipalName, usize>,
    total: usize,
}

/// The instances that poll this replica. One lock, held for a look-up at each poll and for a walk
/// over one keyset when it is counted.
#[derive(Debug, Default)]
pub(crate) struct CheckIns(Mutex<Rolls>);

/// An instance in a list.
pub(crate) struct Listed {
    pub(crate) instances: Vec<Laggard>,
    /// Whether there are more.
    pub(crate) more: bool,
}

/// How long after its last poll an instance is present: a poll may wait, and some may be lost.
pub(crate) fn presence(poll_interval: Seconds) -> Duration {
    poll_interval.times(MISSED_POLLS).to_std() + LONGEST_WAIT
}

impl CheckIns {
    /// Takes note of a poll; whether the instance is new or holds something else than before.
    pub(crate) fn note(&self, check_in: CheckIn) -> bool {
        self.lock().note(check_in)
    }

    /// Counts the instances of `keyset` at `boot`, to which `newest` is offered, and forgets those
    /// that have been silent for longer than `presence`.
    pub(crate) fn tally(
        &self,
        keyset: &KeysetName,
        newest: Revision,
        presence: Duration,
        boot: Duration,
    ) -> Option<KeysetTally> {
        let mut rolls = self.lock();
        rolls.forget_silent(keyset, presence, boot);
        rolls.keysets.get(keyset).map(|roll| tally::count(roll, newest))
    }

    /// The keysets that are polled.
    pub(crate) fn keysets(&self) -> Vec<KeysetName> {
        self.lock().keysets.keys().cloned().collect()
    }

    /// Forgets the instances of a keyset that is not served any more.
    pub(crate) fn forget(&self, keyset: &KeysetName) {
        self.lock().forget_silent(keyset, Duration::ZERO, Duration::MAX);
    }

    /// Up to `limit` instances of `keyset` after `after`, by principal and name, that hold less than
    /// `below`, if that is given.
    pub(crate) fn list(
        &self,
        keyset: &KeysetName,
        after: Option<&(PrincipalName, InstanceName)>,
        below: Option<Revision>,
        limit: usize,
    ) -> Listed {
        let rolls = self.lock();
        let Some(roll) = rolls.keysets.get(keyset) else {
            return Listed { instances: vec![], more: false };
        };
        let first = after.map_or(Bound::Unbounded, |(principal, _)| Bound::Included(principal));
        let later = roll.range::<PrincipalName, _>((first, Bound::Unbounded));
        let each = later.flat_map(|(principal, instances)| {
            instances.iter().map(move |(instance, seen)| (principal, instance, seen))
        });
        let is_after = |principal: &PrincipalName, instance: &InstanceName| {
            after.is_none_or(|(p, i)| (principal, instance) > (p, i))
        };
        let mut wanted = each.filter(|(principal, instance, seen)| {
            is_after(principal, instance) && below.is_none_or(|below| seen.revision < below)
        });
        let page = wanted.by_ref().take(limit);
        let instances = page.map(|(principal, instance, seen)| seen.named(principal, instance));
        Listed { instances: instances.collect(), more: wanted.next().is_some() }
    }

    fn lock(&self) -> MutexGuard<'_, Rolls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn named(&self, principal: &PrincipalName, instance: &InstanceName) -> Laggard {
        Laggard {
            principal: principal.clone(),
            instance: instance.clone(),
            revision: self.revision,
            last_seen: self.last,
            clock_offset_millis: self.clock_offset_millis,
        }
    }
}

impl Rolls {
    fn note(&mut self, check_in: CheckIn) -> bool {
        let CheckIn { keyset, principal, instance, revision, clock_offset_millis, now, boot } =
            check_in;
        let known = self.keysets.get_mut(&keyset).and_then(|roll| roll.get_mut(&principal));
        if let Some(seen) = known.and_then(|instances| instances.get_mut(&instance)) {
            let is_other = seen.revision != revision;
            let before = Some(seen.last);
            *seen = Seen { revision, clock_offset_millis, last: now, before, boot };
            return is_other;
        }
        self.make_room(&principal);
        let seen = Seen { revision, clock_offset_millis, last: now, before: None, boot };
        *self.totals.entry(principal.clone()).or_default() += 1;
        self.total += 1;
        let roll = self.keysets.entry(keyset).or_default();
        roll.entry(principal).or_default().insert(instance, seen);
        true
    }

    /// Makes room for another instance of `principal`: among its own if it has very many, else among
    /// those of whoever has most.
    fn make_room(&mut self, principal: &PrincipalName) {
        if self.totals.get(principal).is_some_and(|total| *total >= MAX_OF_PRINCIPAL) {
            self.evict(&principal.clone());
        } else if self.total >= MAX_INSTANCES {
            let most = self.totals.iter().max_by_key(|(_, total)| **total);
            if let Some(most) = most.map(|(principal, _)| principal.clone()) {
                self.evict(&most);
            }
        }
    }

    /// Forgets those of a principal's instances that have been silent longest.
    fn evict(&mut self, principal: &PrincipalName) {
        let polls = self.keysets.values().filter_map(|roll| roll.get(principal));
        let mut polls: Vec<Duration> =
            polls.flat_map(|instances| instances.values().map(|seen| seen.boot)).collect();
        let wanted = polls.len().div_ceil(EVICTED_PART);
        let (_, newest_to_go, _) = polls.select_nth_unstable(wanted.saturating_sub(1));
        let newest_to_go = *newest_to_go;
        // No more than wanted, if many polled at one instant.
        let mut left = wanted;
        self.retain(|of, seen| {
            let goes = of == principal && seen.boot <= newest_to_go && left > 0;
            left -= usize::from(goes);
            !goes
        });
    }

    fn retain(&mut self, mut keep: impl FnMut(&PrincipalName, &Seen) -> bool) {
        let (totals, total) = (&mut self.totals, &mut self.total);
        self.keysets.retain(|_, roll| {
            retain_in(roll, totals, total, &mut keep);
            !roll.is_empty()
        });
    }

    fn forget_silent(&mut self, keyset: &KeysetName, presence: Duration, boot: Duration) {
        let Some(roll) = self.keysets.get_mut(keyset) else { return };
        let present = |seen: &Seen| boot.saturating_sub(seen.boot) <= presence;
        retain_in(roll, &mut self.totals, &mut self.total, &mut |_, seen| present(seen));
        if roll.is_empty() {
            self.keysets.remove(keyset);
        }
    }
}

fn retain_in(
    roll: &mut Roll,
    totals: &mut HashMap<PrincipalName, usize>,
    total: &mut usize,
    keep: &mut impl FnMut(&PrincipalName, &Seen) -> bool,
) {
    roll.retain(|principal, instances| {
        let before = instances.len();
        instances.retain(|_, seen| keep(principal, seen));
        let gone = before - instances.len();
        *total -= gone;
        if let Some(of_principal) = totals.get_mut(principal) {
            *of_principal -= gone;
            if *of_principal == 0 {
                totals.remove(principal);
            }
        }
        !instances.is_empty()
    });
}

#[cfg(test)]
mod tests;
