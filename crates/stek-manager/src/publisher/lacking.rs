//! Keysets of which some key could not be unwrapped for want of a state of its seed, which a peer
//! may give yet. What is out of them stays; once all their keys can be unwrapped they get a new
//! revision, for whoever has confirmed the one that they have may lack a key of it.

use std::collections::BTreeSet;
use std::ops::Bound;

use stek_core::bundle::Bundle;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_custody::custody::UnwrapError;
use stek_custody::ratchet::KekError;
use stek_store::{Change, Commit, CommitError, KeysetUpdate, StoredKeyset};

use super::PublishError;
use crate::engine::Engine;

/// How many keysets one pass looks at again.
const LOOKED_AT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Lacking {
    names: BTreeSet<KeysetName>,
    /// The last one that was looked at, so that each has its turn.
    last: Option<KeysetName>,
}

impl Lacking {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn insert(&mut self, name: &KeysetName) {
        self.names.insert(name.clone());
    }

    pub(super) fn remove(&mut self, name: &KeysetName) {
        self.names.remove(name);
    }

    /// Gives those that lack nothing any more a new revision, which the next reading of changes
    /// finds.
    pub(super) async fn renew(
        &mut self,
        engine: &Engine,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        let (mut changes, mut renewed) = (Vec::new(), Vec::new());
        for name in self.turn() {
            match engine.store.keyset(&name).await? {
                Some(stored) if lacks(engine, &stored) => {}
                Some(stored) => {
                    changes.push(Change::UpdateKeyset(KeysetUpdate {
                        name: name.clone(),
                        expected: stored.revision,
                        expected_due: None,
                        policy: None,
                        steps: Vec::new(),
                        publish: Some(stored.digest),
                        next_due: stored.next_due,
                    }));
                    renewed.push(name);
                }
                None => self.remove(&name),
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        let keysets = changes.len();
        match engine
            .store
            .commit(&Commit { at: now, changes, events: Vec::new() }, &engine.audit)
            .await
        {
            Ok(done) => {
                let revision = done.revision.as_u64();
                // Should one lack something again, that is seen when it is read.
                renewed.iter().for_each(|name| self.remove(name));
                tracing::info!(keysets, revision, "keysets are complete, and out anew");
                Ok(())
            }
            // Somebody has changed one of them: it is read with the changes, or in the next turn.
            Err(CommitError::Conflict(_) | CommitError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn turn(&mut self) -> Vec<KeysetName> {
        let after = self.last.take().map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.names.range((after, Bound::Unbounded));
        let names: Vec<_> = names.take(LOOKED_AT).cloned().collect();
        if names.len() == LOOKED_AT {
            self.last = names.last().cloned();
        }
        names
    }
}

/// Whether the reason may pass: the state, or the cluster secret of its seed, is not here yet.
pub(super) fn may_pass(error: UnwrapError) -> bool {
    matches!(error, UnwrapError::OtherSeed { .. } | UnwrapError::Epoch(KekError::UnknownSecret))
}

fn lacks(engine: &Engine, stored: &StoredKeyset) -> bool {
    let name = stored.keyset.name();
    let unwrap = |key: &stek_store::StoredKey| {
        engine.custody.unwrap(name, &key.record, &key.wrapped).is_err_and(may_pass)
    };
    stored.keys.iter().any(unwrap)
}

/// Whether `held` may stay out in the place of `stored`: nothing of it was forbidden.
pub(super) fn may_stay(held: &Bundle, stored: &StoredKeyset, now: Timestamp) -> bool {
    let is_live = |id| stored.keys.iter().any(|key| key.record.id == id);
    let mut opening = held.keys().iter().filter(|key| key.record.schedule.opens(now));
    opening.all(|key| is_live(key.record.id))
}
