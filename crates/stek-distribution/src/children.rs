//! What other replicas report to this one: the last word of each, for a while. A replica may report
//! in several ways, as through two parents, and is still known once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stek_core::check_in::{Census, MAX_REPLICAS, ReplicaId, ReplicaTally};
use stek_core::name::{KeysetName, PrincipalName};

/// How long ago a replica may have counted for its word to be passed on.
const REPORT_LIFE: Duration = Duration::from_secs(15);
/// The most replicas that one credential may speak for, itself included.
const MAX_OF_REPORTER: usize = 64;
/// The most replicas that are remembered; one place of a report is this replica's own.
const MAX_CHILDREN: usize = MAX_REPLICAS - 1;

struct Child {
    tally: ReplicaTally,
    reporter: PrincipalName,
    /// When it counted, by this machine's boot time as near as can be known.
    counted: Duration,
}

#[derive(Default)]
pub(crate) struct Children(Mutex<HashMap<ReplicaId, Child>>);

impl Children {
    /// Takes up what `reporter` says at `boot`, as far as it is of keysets that it `may` speak of.
    /// Of what it says of one replica, only what is younger than what is known.
    pub(crate) fn accept(
        &self,
        reporter: &PrincipalName,
        census: Census,
        boot: Duration,
        may: impl Fn(&KeysetName) -> bool,
    ) {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut tally in census.replicas {
            tally.replica.principal.get_or_insert_with(|| reporter.clone());
            tally.keysets.retain(|name, _| may(name));
            let counted = boot.saturating_sub(tally.age);
            let id = tally.replica.clone();
            if children.get(&id).is_some_and(|held| held.counted > counted) {
                continue;
            }
            if !children.contains_key(&id) {
                make_room(&mut children, reporter);
            }
            children.insert(id, Child { tally, reporter: reporter.clone(), counted });
        }
    }

    /// What is known at `boot` of replicas that have counted not long ago.
    pub(crate) fn current(&self, boot: Duration) -> Vec<ReplicaTally> {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|_, child| boot.saturating_sub(child.counted) <= REPORT_LIFE);
        let aged = children.values().map(|child| {
            let age = boot.saturating_sub(child.counted);
            ReplicaTally { age, ..child.tally.clone() }
        });
        let mut tallies: Vec<_> = aged.collect();
        tallies.sort_unstable_by(|one, two| one.replica.cmp(&two.replica));
        tallies
    }
}

/// Who speaks for very many makes room with the oldest of its own; else the oldest of all goes.
fn make_room(children: &mut HashMap<ReplicaId, Child>, reporter: &PrincipalName) {
    let own = children.values().filter(|child| &child.reporter == reporter).count();
    let of_reporter = own >= MAX_OF_REPORTER;
    if !of_reporter && children.len() < MAX_CHILDREN {
        return;
    }
    let candidates =
        children.iter().filter(|(_, child)| !of_reporter || &child.reporter == reporter);
    let oldest = candidates.min_by_key(|(_, child)| child.counted).map(|(id, _)| id.clone());
    if let Some(oldest) = oldest {
        children.remove(&oldest);
    }
}
