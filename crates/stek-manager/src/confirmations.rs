//! What the fleet has confirmed, as distribution reports it. Kept in memory and never longer than a
//! few seconds after the last report; decides which keys instances are known to lack. What follows
//! from that is the planner's to say.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use stek_clock::Clock;
use stek_core::bundle::Bundle;
use stek_core::check_in::{Census, REPORT_LIFE, Standing};
use stek_core::id::{Incarnation, KeyId, Revision};
use stek_core::keyset::Keyset;
use stek_core::name::KeysetName;
use stek_core::planner::Convergence;
use stek_core::time::Timestamp;

/// How long after its start a manager that has heard of no replica takes every pending key for
/// unconfirmed: replicas that knew another manager need a moment to find this one.
const FIRST_REPORTS: Duration = Duration::from_secs(5);

/// The census as it came, and the boot time at which it did.
#[derive(Debug, Default)]
struct Heard {
    census: Census,
    at: Duration,
}

/// The first revision in which this manager has seen each live key published. After a start that
/// is the newest one, so that an instance may be taken to lack a key that it has, never the reverse.
#[derive(Debug, Default)]
struct Published {
    incarnation: Option<Incarnation>,
    keys: HashMap<KeysetName, HashMap<KeyId, Revision>>,
}

/// The reports of distribution replicas, and what they mean for the keys that are published.
pub struct Confirmations {
    clock: Arc<dyn Clock>,
    started: Duration,
    heard: RwLock<Heard>,
    published: RwLock<Published>,
}

impl Confirmations {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let started = clock.boot();
        Self { clock, started, heard: RwLock::default(), published: RwLock::default() }
    }

    /// Puts `census` in the place of what was known.
    pub fn replace(&self, census: Census) {
        let heard = Heard { census, at: self.clock.boot() };
        *self.heard.write().unwrap_or_else(PoisonError::into_inner) = heard;
    }

    /// What is known now: of replicas that have counted within [`REPORT_LIFE`].
    pub fn current(&self) -> Census {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let passed = self.clock.boot().saturating_sub(heard.at);
        let aged = heard.census.replicas.iter().filter_map(|tally| {
            let age = tally.age + passed;
            let mut tally = (age <= REPORT_LIFE).then(|| tally.clone())?;
            tally.age = age;
            Some(tally)
        });
        Census { replicas: aged.collect() }
    }

    /// How far `revision` of `keyset` has got; none if nobody says anything of it, which confirms
    /// nothing and denies nothing.
    pub fn standing(&self, keyset: &KeysetName, revision: Revision) -> Option<Standing> {
        self.current().standing(self.incarnation()?, keyset, revision)
    }

    /// The lineage that is published.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        self.published.read().unwrap_or_else(PoisonError::into_inner).incarnation
    }

    /// Notes which keys are out with `bundle`.
    pub(crate) fn note_published(&self, bundle: &Bundle) {
        let tag = bundle.tag();
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        if published.incarnation != Some(tag.incarnation) {
            *published = Published { incarnation: Some(tag.incarnation), ..Published::default() };
        }
        let before = published.keys.remove(bundle.name()).unwrap_or_default();
        let first = |id: KeyId| before.get(&id).copied().unwrap_or(tag.revision);
        let ids = bundle.keys().iter().map(|key| key.record.id);
        let now = ids.map(|id| (id, first(id))).collect();
        published.keys.insert(bundle.name().clone(), now);
    }

    /// Forgets a deleted keyset.
    pub(crate) fn note_deleted(&self, keyset: &KeysetName) {
        let mut published = self.published.write().unwrap_or_else(PoisonError::into_inner);
        published.keys.remove(keyset);
    }

    /// Which pending keys of `keyset` an instance lacks by `census`.
    ///
    /// Only what replicas say counts. One that says nothing, or nobody at all, neither confirms nor
    /// holds up: a key that has been out for its lead activates. The exception is a manager that has
    /// just started and has heard nothing yet.
    pub(crate) fn convergence(
        &self,
        census: &Census,
        keyset: &Keyset,
        now: Timestamp,
    ) -> Convergence {
        let pending = keyset.keys().iter().filter(|key| key.schedule.activate_at() > now);
        let young = self.clock.boot().saturating_sub(self.started) < FIRST_REPORTS;
        if census.replicas.is_empty() && young {
            return Convergence::lacking(pending.map(|key| key.id).collect());
        }
        let published = self.published.read().unwrap_or_else(PoisonError::into_inner);
        let (Some(incarnation), Some(keys)) =
            (published.incarnation, published.keys.get(keyset.name()))
        else {
            return Convergence::confirmed();
        };
        let lacking = pending.filter(|key| {
            keys.get(&key.id).is_some_and(|revision| {
                let since = key.schedule.published_at();
                census.lacks(incarnation, keyset.name(), *revision, since)
            })
        });
        Convergence::lacking(lacking.map(|key| key.id).collect())
    }
}
