//! How far back a follower may be to get a difference. The database forgets tombstones after a
//! week, so a difference from before that could leave a deleted keyset in place.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use stek_core::id::{ContentTag, Incarnation, Revision};

/// How long a mark is the newer one; the older is up to twice as old, far less than a week.
const TURN_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Two revisions that were the newest at known times.
#[derive(Debug, Clone, Copy)]
struct Marks {
    incarnation: Incarnation,
    older: Revision,
    newer: Revision,
    turned_at: Duration,
}

#[derive(Debug, Default)]
pub(crate) struct Horizon(Mutex<Option<Marks>>);

impl Horizon {
    /// Notes that `revision` is the newest at this boot time.
    pub(crate) fn observe(&self, incarnation: Incarnation, revision: Revision, boot: Duration) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Marks { incarnation, older: revision, newer: revision, turned_at: boot };
        let held = marks.get_or_insert(begun);
        if held.incarnation != incarnation {
            *held = begun;
        } else if boot.saturating_sub(held.turned_at) >= TURN_AFTER {
            *held = Marks { older: held.newer, ..begun };
        }
    }

    /// Whether a difference to `installed` holds every deletion since.
    pub(crate) fn reaches(&self, installed: ContentTag) -> bool {
        let marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        marks.is_some_and(|marks| {
            marks.incarnation == installed.incarnation && installed.revision >= marks.older
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stek_core::id::ContentDigest;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn it_moves_on_by_a_day_behind_what_is_new() {
        let incarnation = |number| Incarnation::from_bytes([number; 16]);
        let reaches = |horizon: &Horizon, lineage, revision| {
            let digest = ContentDigest::from_bytes([0; 8]);
            let revision = Revision::new(revision);
            horizon.reaches(ContentTag { incarnation: incarnation(lineage), revision, digest })
        };
        let horizon = Horizon::default();
        assert!(!reaches(&horizon, 1, u64::MAX));
        horizon.observe(incarnation(1), Revision::new(10), HOUR);
        assert!(reaches(&horizon, 1, 10) && !reaches(&horizon, 1, 9) && !reaches(&horizon, 2, 10));
        horizon.observe(incarnation(1), Revision::new(20), 24 * HOUR);
        assert!(reaches(&horizon, 1, 10));
        horizon.observe(incarnation(1), Revision::new(30), 25 * HOUR);
        assert!(reaches(&horizon, 1, 10));
        horizon.observe(incarnation(1), Revision::new(40), 49 * HOUR);
        assert!(reaches(&horizon, 1, 30) && !reaches(&horizon, 1, 29));
        horizon.observe(incarnation(2), Revision::new(5), 50 * HOUR);
        assert!(reaches(&horizon, 2, 5) && !reaches(&horizon, 2, 4) && !reaches(&horizon, 1, 40));
    }
}
