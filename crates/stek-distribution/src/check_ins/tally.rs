//! Counts the instances of one keyset for those upstream: how many hold what, and who lags. Decides
//! which laggards count, so that one credential cannot count for many.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use stek_core::check_in::{Holding, KeysetTally, MAX_COUNTED_LAGGARDS, MAX_HOLDINGS, MAX_LAGGARDS};
use stek_core::id::Revision;
use stek_core::name::{InstanceName, PrincipalName};

use super::{Roll, Seen};

type Named<'a> = (&'a PrincipalName, &'a InstanceName, &'a Seen);

/// Counts `roll`, to which `newest` is offered. Who claims to hold something newer is counted with
/// those who hold that.
pub(super) fn count(roll: &Roll, newest: Revision) -> KeysetTally {
    let mut holdings: BTreeMap<Revision, Holding> = BTreeMap::new();
    let mut add = |seen: &Seen| {
        let revision = seen.revision.min(newest);
        let empty = Holding { revision, instances: 0, twice_since: None };
        let holding = holdings.entry(revision).or_insert(empty);
        holding.instances = holding.instances.saturating_add(1);
        holding.twice_since = holding.twice_since.max(seen.before);
    };
    let mut laggards: Vec<Named<'_>> = Vec::new();
    let mut uncounted = 0;
    for (principal, instances) in roll {
        let (current, mut lagging): (Vec<Named<'_>>, Vec<_>) = instances
            .iter()
            .map(|(instance, seen)| (principal, instance, seen))
            .partition(|(_, _, seen)| seen.revision >= newest);
        current.iter().for_each(|(_, _, seen)| add(seen));
        if lagging.len() > MAX_COUNTED_LAGGARDS {
            lagging.select_nth_unstable_by_key(MAX_COUNTED_LAGGARDS, urgency);
            uncounted += lagging.len() - MAX_COUNTED_LAGGARDS;
            lagging.truncate(MAX_COUNTED_LAGGARDS);
        }
        lagging.iter().for_each(|(_, _, seen)| add(seen));
        laggards.append(&mut lagging);
    }
    laggards.sort_unstable_by_key(urgency);
    laggards.truncate(MAX_LAGGARDS);
    let named = laggards.iter().map(|(principal, instance, seen)| seen.named(principal, instance));
    KeysetTally {
        newest,
        laggards: named.collect(),
        holdings: bounded(holdings),
        uncounted: u32::try_from(uncounted).unwrap_or(u32::MAX),
    }
}

/// Who lags most comes first, and of those who lags for certain.
fn urgency<'a>(
    (principal, instance, seen): &Named<'a>,
) -> (Revision, Reverse<Option<stek_core::time::Timestamp>>, &'a PrincipalName, &'a InstanceName) {
    (seen.revision, Reverse(seen.before), principal, instance)
}

/// Newest first. If too many revisions are told apart, the oldest of them are one: what the least
/// of them holds.
fn bounded(mut holdings: BTreeMap<Revision, Holding>) -> Vec<Holding> {
    while holdings.len() > MAX_HOLDINGS {
        let (Some((_, oldest)), Some(mut next)) = (holdings.pop_first(), holdings.first_entry())
        else {
            break;
        };
        let next = next.get_mut();
        next.revision = oldest.revision;
        next.instances = next.instances.saturating_add(oldest.instances);
        next.twice_since = next.twice_since.max(oldest.twice_since);
    }
    holdings.into_values().rev().collect()
}
