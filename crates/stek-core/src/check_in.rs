//! Who holds which revision, as distribution counts it and reports it upwards: per replica and
//! keyset a number of instances for each revision, and the names of some that lag. Decides what may
//! be concluded from that; collecting and carrying it is others' work. Check-ins are claims.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{Incarnation, Revision};
use crate::name::{InstanceName, KeysetName, PrincipalName};
use crate::time::Timestamp;

/// The most laggards that a replica names for one keyset.
pub const MAX_LAGGARDS: usize = 100;
/// The most revisions of one keyset that a replica tells apart.
pub const MAX_HOLDINGS: usize = 64;
/// The most replicas of one report, those that report through others included.
pub const MAX_REPLICAS: usize = 256;
/// The most lagging instances of one principal that count, at a replica and in all. Whoever holds a
/// credential can invent as many instances as it likes.
pub const MAX_COUNTED_LAGGARDS: usize = 16;
/// How long ago a replica may have counted for its word to count. Replicas report every two seconds.
pub const REPORT_LIFE: Duration = Duration::from_secs(15);
/// The farthest that a clock may be said to be off, either way: a day.
pub const MAX_CLOCK_OFFSET_MILLIS: i32 = 86_400_000;

/// The instances of one keyset at one replica that say they hold the same revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holding {
    /// What they hold; zero for nothing.
    pub revision: Revision,
    /// How many they are.
    pub instances: u32,
    /// The latest instant since which one of them has polled twice, if one has at all.
    pub twice_since: Option<Timestamp>,
}

/// An instance that holds less than its replica has to give.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Laggard {
    /// Whose credential it used.
    pub principal: PrincipalName,
    /// What it calls itself.
    pub instance: InstanceName,
    /// What it holds; zero for nothing.
    pub revision: Revision,
    /// When it last polled.
    pub last_seen: Timestamp,
    /// How far its wall clock is ahead of fleet time, in milliseconds, if it said so.
    pub clock_offset_millis: Option<i32>,
}

/// One keyset at one replica.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct KeysetTally {
    /// The newest revision that the replica has to give.
    pub newest: Revision,
    /// How many hold what, newest first; at most [`MAX_HOLDINGS`].
    pub holdings: Vec<Holding>,
    /// Instances that hold less than `newest`, those that hold least first; at most
    /// [`MAX_LAGGARDS`].
    pub laggards: Vec<Laggard>,
    /// Instances that lag and are not counted: those of a principal beyond
    /// [`MAX_COUNTED_LAGGARDS`].
    pub uncounted: u32,
}

/// Which replica. Two credentials may use one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId {
    /// Whose credential it reports with; none for the replica that speaks, before somebody has
    /// proven who that is.
    pub principal: Option<PrincipalName>,
    /// What it calls itself.
    pub name: InstanceName,
}

/// What one replica says of the instances that poll it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaTally {
    /// Which replica.
    pub replica: ReplicaId,
    /// How long ago it counted.
    pub age: Duration,
    /// The lineage to which its revisions belong.
    pub incarnation: Incarnation,
    /// The keysets that are polled there.
    pub keysets: BTreeMap<KeysetName, Arc<KeysetTally>>,
}

/// What is known of all replicas, each of them once.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// The replicas.
    pub replicas: Vec<ReplicaTally>,
}

/// How far a revision has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Standing {
    /// The instances that count.
    pub instances: u64,
    /// Those of them that hold the revision or a newer one.
    pub confirmed: u64,
}

impl Standing {
    /// The instances that hold something older.
    pub fn lagging(&self) -> u64 {
        self.instances - self.confirmed
    }

    /// Whether there are instances, and none of them lags.
    pub fn is_confirmed(&self) -> bool {
        self.instances > 0 && self.confirmed == self.instances
    }
}

impl KeysetTally {
    /// How far `revision` has got here.
    pub fn standing(&self, revision: Revision) -> Standing {
        let count = |holding: &Holding| u64::from(holding.instances);
        let confirmed = self.holdings.iter().filter(|holding| holding.revision >= revision);
        Standing {
            instances: self.holdings.iter().map(count).sum(),
            confirmed: confirmed.map(count).sum(),
        }
    }

    /// Whether an instance still held less than `revision` at the later of two polls since
    /// `published_at`. One poll is not enough: that is how an instance asks for it.
    pub fn lacks(&self, revision: Revision, published_at: Timestamp) -> bool {
        self.holdings.iter().any(|holding| {
            holding.revision < revision
                && holding.instances > 0
                && holding.twice_since.is_some_and(|since| since >= published_at)
        })
    }
}

impl Census {
    /// The tallies of `keyset` in the lineage `incarnation`, by replica.
    pub fn of<'a>(
        &'a self,
        incarnation: Incarnation,
        keyset: &'a KeysetName,
    ) -> impl Iterator<Item = (&'a ReplicaTally, &'a KeysetTally)> {
        let same = self.replicas.iter().filter(move |one| one.incarnation == incarnation);
        same.filter_map(|one| Some((one, one.keysets.get(keyset)?.as_ref())))
    }

    /// How far `revision` of `keyset` has got; none if no replica says anything of it. Of the
    /// laggards that replicas name, [`MAX_COUNTED_LAGGARDS`] of each principal count in all.
    pub fn standing(
        &self,
        incarnation: Incarnation,
        keyset: &KeysetName,
        revision: Revision,
    ) -> Option<Standing> {
        let each = self.of(incarnation, keyset).map(|(_, tally)| tally.standing(revision));
        let all = each.reduce(|one, two| Standing {
            instances: one.instances + two.instances,
            confirmed: one.confirmed + two.confirmed,
        })?;
        let surplus = self.surplus(incarnation, keyset, revision);
        Some(Standing {
            instances: all.instances.saturating_sub(surplus).max(all.confirmed),
            ..all
        })
    }

    /// How many instances lag and do not count, here or where they poll: those of a principal beyond
    /// [`MAX_COUNTED_LAGGARDS`].
    pub fn uncounted(
        &self,
        incarnation: Incarnation,
        keyset: &KeysetName,
        revision: Revision,
    ) -> u64 {
        let at_replicas = self.of(incarnation, keyset).map(|(_, tally)| u64::from(tally.uncounted));
        at_replicas.sum::<u64>() + self.surplus(incarnation, keyset, revision)
    }

    /// How many instances that hold less than `revision` do not count, though they do where they
    /// poll: each replica counts [`MAX_COUNTED_LAGGARDS`] of a principal.
    fn surplus(&self, incarnation: Incarnation, keyset: &KeysetName, revision: Revision) -> u64 {
        let mut lagging: BTreeMap<&PrincipalName, usize> = BTreeMap::new();
        for (_, tally) in self.of(incarnation, keyset) {
            for laggard in tally.laggards.iter().filter(|one| one.revision < revision) {
                *lagging.entry(&laggard.principal).or_default() += 1;
            }
        }
        let surplus = lagging.values().map(|count| count.saturating_sub(MAX_COUNTED_LAGGARDS));
        u64::try_from(surplus.sum::<usize>()).unwrap_or(u64::MAX)
    }

    /// Whether some instance of `keyset` lacks `revision`; see [`KeysetTally::lacks`].
    pub fn lacks(
        &self,
        incarnation: Incarnation,
        keyset: &KeysetName,
        revision: Revision,
        published_at: Timestamp,
    ) -> bool {
        self.of(incarnation, keyset).any(|(_, tally)| tally.lacks(revision, published_at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINEAGE: Incarnation = Incarnation::from_bytes([7; 16]);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(seconds)
    }

    fn holding(revision: u64, instances: u32, twice_since: Option<u64>) -> Holding {
        let twice_since = twice_since.map(at);
        Holding { revision: Revision::new(revision), instances, twice_since }
    }

    fn keyset() -> KeysetName {
        KeysetName::try_new("main").unwrap()
    }

    fn tally(name: &str, age: u64, holdings: Vec<Holding>) -> ReplicaTally {
        let newest = Revision::new(42);
        let tally = KeysetTally { newest, holdings, ..KeysetTally::default() };
        ReplicaTally {
            replica: ReplicaId { principal: None, name: InstanceName::try_new(name).unwrap() },
            age: Duration::from_secs(age),
            incarnation: LINEAGE,
            keysets: BTreeMap::from([(keyset(), Arc::new(tally))]),
        }
    }

    fn lacks(census: &Census, revision: u64, published_at: u64) -> bool {
        census.lacks(LINEAGE, &keyset(), Revision::new(revision), at(published_at))
    }

    #[test]
    fn counts_add_up_over_replicas() {
        let mut census = Census::default();
        let revision = Revision::new(42);
        assert_eq!(census.standing(LINEAGE, &keyset(), revision), None);
        census.replicas.push(tally("a", 0, vec![holding(43, 1, None), holding(42, 5, None)]));
        let standing = census.standing(LINEAGE, &keyset(), revision).unwrap();
        assert!(standing.is_confirmed(), "{standing:?}");
        census.replicas.push(tally("b", 0, vec![holding(41, 2, None)]));
        let standing = census.standing(LINEAGE, &keyset(), revision).unwrap();
        assert_eq!((standing.instances, standing.confirmed, standing.lagging()), (8, 6, 2));
        assert!(!standing.is_confirmed());
        assert!(!Standing::default().is_confirmed(), "silence confirms nothing");
        let other = Incarnation::from_bytes([8; 16]);
        assert_eq!(census.standing(other, &keyset(), revision), None);
    }

    /// Who has a credential can use it at every replica.
    #[test]
    fn a_principal_counts_for_sixteen_laggards_over_all_replicas() {
        let laggard = |principal: &str, number: usize| Laggard {
            principal: PrincipalName::try_new(principal).unwrap(),
            instance: InstanceName::try_new(&format!("made-up-{number}")).unwrap(),
            revision: Revision::new(41),
            last_seen: at(0),
            clock_offset_millis: None,
        };
        let mut census = Census::default();
        for replica in ["a", "b", "c"] {
            let mut one = tally(replica, 0, vec![holding(42, 5, None), holding(41, 17, None)]);
            let counted = Arc::get_mut(one.keysets.get_mut(&keyset()).unwrap()).unwrap();
            counted.laggards = (0..MAX_COUNTED_LAGGARDS).map(|n| laggard("thief", n)).collect();
            counted.laggards.push(laggard(replica, 0));
            counted.uncounted = 4;
            census.replicas.push(one);
        }
        let standing = |revision| census.standing(LINEAGE, &keyset(), revision).unwrap();
        // Sixteen of the thief, and one of each of the others.
        assert_eq!(standing(Revision::new(42)), Standing { instances: 15 + 16 + 3, confirmed: 15 });
        assert_eq!(standing(Revision::new(41)), Standing { instances: 66, confirmed: 66 });
        // Of the thief sixteen count at each replica, and sixteen in all.
        assert_eq!(census.uncounted(LINEAGE, &keyset(), Revision::new(42)), 3 * 4 + 2 * 16);
    }

    #[test]
    fn one_poll_since_the_publication_is_not_enough_to_lag() {
        let mut census = Census::default();
        census.replicas.push(tally("a", 0, vec![holding(41, 1, Some(99))]));
        assert!(!lacks(&census, 42, 100));
        assert!(lacks(&census, 42, 99));
        assert!(!lacks(&census, 41, 0), "it holds that");
        let mut census = Census::default();
        census.replicas.push(tally("a", 0, vec![holding(41, 1, None)]));
        assert!(!lacks(&census, 42, 0));
    }
}
