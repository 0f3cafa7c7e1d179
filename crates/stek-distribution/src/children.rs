//! What other replicas report to this one: the last word of each on each keyset, for a while. A
//! replica may report in several ways, as through two parents, and is still known once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stek_core::check_in::{
    Census, KeysetTally, MAX_REPLICAS, REPORT_LIFE, ReplicaId, ReplicaTally,
};
use stek_core::id::Incarnation;
use stek_core::name::{KeysetName, PrincipalName};

/// The most replicas that one credential may speak for, itself included.
const MAX_OF_REPORTER: usize = 64;
/// The most replicas that are remembered; one place of a report is this replica's own.
const MAX_CHILDREN: usize = MAX_REPLICAS - 1;

/// One replica.
struct Child {
    /// Whose credential brought its last word.
    reporter: PrincipalName,
    /// When it last counted, by this machine's boot time as near as can be known.
    counted: Duration,
    incarnation: Incarnation,
    keysets: BTreeMap<KeysetName, Word>,
}

/// What was last said of one keyset.
struct Word {
    counted: Duration,
    tally: Arc<KeysetTally>,
}

#[derive(Default)]
pub(crate) struct Children(Mutex<HashMap<ReplicaId, Child>>);

impl Children {
    /// Takes up what `reporter` says at `boot` of the lineage `incarnation`, as far as it is of
    /// keysets that it `may` speak of: what is younger than what is known. What is known of other
    /// keysets stays, and nobody speaks for a replica whose own credential brings its word.
    pub(crate) fn accept(
        &self,
        reporter: &PrincipalName,
        census: Census,
        (incarnation, boot): (Incarnation, Duration),
        may: impl Fn(&KeysetName) -> bool,
    ) {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut tally in census.replicas.into_iter().filter(|one| one.incarnation == incarnation) {
            let principal = tally.replica.principal.get_or_insert_with(|| reporter.clone());
            let speaks_for_another = *principal != *reporter;
            if let Some(child) = children.get(&tally.replica) {
                let spoke_itself = tally.replica.principal.as_ref() == Some(&child.reporter);
                if speaks_for_another && spoke_itself && is_current(child.counted, boot) {
                    continue;
                }
            } else {
                make_room(&mut children, reporter);
            }
            let counted = boot.saturating_sub(tally.age);
            let unknown = || Child {
                reporter: reporter.clone(),
                counted,
                incarnation,
                keysets: BTreeMap::new(),
            };
            let child = children.entry(tally.replica).or_insert_with(unknown);
            child.hear(tally.keysets, (incarnation, counted), &may);
            if child.counted <= counted {
                (child.counted, child.reporter) = (counted, reporter.clone());
            }
        }
    }

    /// What is known at `boot` of replicas that have counted not long ago.
    pub(crate) fn current(&self, boot: Duration) -> Vec<ReplicaTally> {
        let mut children = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        children.retain(|_, child| is_current(child.counted, boot));
        let aged = children.iter_mut().map(|(id, child)| {
            child.keysets.retain(|_, word| is_current(word.counted, boot));
            // Whoever hears of it must not take the oldest word in it for a younger one.
            let oldest = child.keysets.values().map(|word| word.counted).min();
            let keysets = child.keysets.iter();
            ReplicaTally {
                replica: id.clone(),
                age: boot.saturating_sub(oldest.unwrap_or(child.counted)),
                incarnation: child.incarnation,
                keysets: keysets.map(|(name, word)| (name.clone(), word.tally.clone())).collect(),
            }
        });
        let mut tallies: Vec<_> = aged.collect();
        tallies.sort_unstable_by(|one, two| one.replica.cmp(&two.replica));
        tallies
    }
}

impl Child {
    fn hear(
        &mut self,
        keysets: BTreeMap<KeysetName, Arc<KeysetTally>>,
        (incarnation, counted): (Incarnation, Duration),
        may: impl Fn(&KeysetName) -> bool,
    ) {
        if self.incarnation != incarnation {
            self.keysets.clear();
            self.incarnation = incarnation;
        }
        self.keysets.retain(|name, word| word.counted > counted || !may(name));
        for (name, tally) in keysets.into_iter().filter(|(name, _)| may(name)) {
            self.keysets.entry(name).or_insert(Word { counted, tally });
        }
    }
}

fn is_current(counted: Duration, boot: Duration) -> bool {
    boot.saturating_sub(counted) <= REPORT_LIFE
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

#[cfg(test)]
mod tests {
    use super::*;
    use stek_core::name::InstanceName;

    const LINEAGE: Incarnation = Incarnation::from_bytes([7; 16]);
    const NOW: Duration = Duration::from_secs(1000);

    fn principal(name: &str) -> PrincipalName {
        PrincipalName::try_new(name).unwrap()
    }

    /// What is said of replica `eu-1`: by itself if `principal` is none.
    fn said(principal: Option<&str>, age: u64, keysets: &[&str]) -> Census {
        let name = InstanceName::try_new("eu-1").unwrap();
        let replica = ReplicaId { principal: principal.map(self::principal), name };
        let keysets =
            keysets.iter().map(|name| (KeysetName::try_new(name).unwrap(), Arc::default()));
        let (age, keysets) = (Duration::from_secs(age), keysets.collect());
        Census { replicas: vec![ReplicaTally { replica, age, incarnation: LINEAGE, keysets }] }
    }

    /// The keysets that are known of the one replica there is, and its age in seconds.
    fn known(children: &Children, boot: Duration) -> Option<(String, u64)> {
        let tallies = children.current(boot);
        assert!(tallies.len() <= 1);
        let tally = tallies.first()?;
        let names: Vec<_> = tally.keysets.keys().map(KeysetName::as_str).collect();
        Some((names.join(" "), tally.age.as_secs()))
    }

    fn accept(children: &Children, reporter: &str, census: Census, may: &[&str], boot: Duration) {
        let may = |name: &KeysetName| may.contains(&name.as_str());
        children.accept(&principal(reporter), census, (LINEAGE, boot), may);
    }

    #[test]
    fn who_may_speak_of_one_keyset_takes_away_nothing_of_others() {
        let children = Children::default();
        let both = ["main", "other"];
        // Through a parent that may speak of both, then through one that may speak of one.
        accept(&children, "parent", said(Some("eu"), 2, &both), &both, NOW);
        accept(&children, "partial", said(Some("eu"), 0, &["main"]), &["main"], NOW);
        assert_eq!(known(&children, NOW), Some(("main other".into(), 2)));
        accept(&children, "partial", said(Some("eu"), 0, &[]), &["main"], NOW);
        assert_eq!(known(&children, NOW), Some(("other".into(), 2)));
        // Nor does it keep alive what it may not speak of.
        for second in 1..=14 {
            let now = NOW + Duration::from_secs(second);
            accept(&children, "partial", said(Some("eu"), 0, &["main"]), &["main"], now);
        }
        let now = NOW + Duration::from_secs(14);
        assert_eq!(known(&children, now), Some(("main".into(), 0)));
    }

    #[test]
    fn nobody_speaks_for_a_replica_that_speaks_itself() {
        let children = Children::default();
        accept(&children, "eu", said(None, 5, &["main"]), &["main"], NOW);
        accept(&children, "partial", said(Some("eu"), 0, &[]), &["main"], NOW);
        assert_eq!(known(&children, NOW), Some(("main".into(), 5)));
        // Once it is silent, others may.
        let later = NOW + Duration::from_secs(11);
        accept(&children, "partial", said(Some("eu"), 1, &["main"]), &["main"], later);
        assert_eq!(known(&children, later), Some(("main".into(), 1)));
        accept(&children, "eu", said(None, 0, &[]), &["main"], later);
        assert_eq!(known(&children, later), Some((String::new(), 0)));
    }

    #[test]
    fn a_word_of_another_lineage_replaces_nothing() {
        let children = Children::default();
        accept(&children, "eu", said(None, 0, &["main"]), &["main"], NOW);
        let mut other = said(None, 0, &[]);
        other.replicas[0].incarnation = Incarnation::from_bytes([8; 16]);
        accept(&children, "eu", other.clone(), &["main"], NOW);
        assert_eq!(known(&children, NOW), Some(("main".into(), 0)));
        // What is published here by now is of that lineage.
        let lineage = other.replicas[0].incarnation;
        children.accept(&principal("eu"), other, (lineage, NOW), |_| true);
        assert_eq!(known(&children, NOW), Some((String::new(), 0)));
    }
}
