//! Keysets in memory, for tests and simulation: the same rules, nothing kept. Look-ups walk all
//! keysets where a database has an index.

mod commit;
mod ratchet;
mod state;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::{Incarnation, Revision};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;

use self::state::{Entry, State};
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClockFn, ClusterState, Commit, CommitError,
    Committed, KeyStore, Keysets, MAX_PAGE, SealedGrant, Seed, SeedPhase, SeedRow, StoreError,
    StoredAccess, StoredKeyset, Tombstone,
};

/// A [`KeyStore`] in memory. Clones share what they hold.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    clock: ClockFn,
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MemoryStore(..)")
    }
}

impl MemoryStore {
    /// An empty store of this lineage, whose database's clock is `clock`.
    pub fn new(incarnation: Incarnation, clock: ClockFn) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(incarnation))), clock }
    }

    /// A panic while the lock was held cannot have left half a commit: it is installed in one go.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl KeyStore for MemoryStore {
    async fn now_millis(&self) -> Result<u64, StoreError> {
        Ok((self.clock)())
    }

    async fn cluster(&self) -> Result<ClusterState, StoreError> {
        Ok(self.state().cluster)
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Keysets, StoreError> {
        let state = self.state();
        let mut due: Vec<_> = state.live.values().filter(|entry| entry.next_due <= now).collect();
        due.sort_by_key(|entry| (entry.next_due, entry.id));
        let sound = due.into_iter().take(limit.min(MAX_PAGE)).map(Entry::stored).collect();
        Ok(Keysets { sound, unsound: vec![] })
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(self.state().live.values().map(|entry| entry.next_due).min())
    }

    async fn keyset(&self, name: &KeysetName) -> Result<Option<StoredKeyset>, StoreError> {
        Ok(self.state().live.get(name).map(Entry::stored))
    }

    async fn keysets(
        &self,
        after: Option<&KeysetName>,
        limit: usize,
    ) -> Result<Keysets, StoreError> {
        let state = self.state();
        let later = state.live.values().filter(|entry| after < Some(entry.keyset.name()));
        let sound = later.take(limit.min(MAX_PAGE)).map(Entry::stored).collect();
        Ok(Keysets { sound, unsound: vec![] })
    }

    async fn changed_since(&self, since: Revision) -> Result<Changes, StoreError> {
        let state = self.state();
        let keysets = state.live.values().filter(|entry| entry.revision > since);
        // The latest of each name comes last.
        let mut names = BTreeSet::new();
        let mut tombstones: Vec<Tombstone> = state
            .deleted
            .iter()
            .rev()
            .map(|deleted| &deleted.tombstone)
            .filter(|gone| gone.revision > since && !state.live.contains_key(&gone.name))
            .filter(|gone| names.insert(gone.name.clone()))
            .cloned()
            .collect();
        tombstones.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(Changes {
            cluster: state.cluster,
            keysets: keysets.map(Entry::stored).collect(),
            unsound: vec![],
            tombstones,
        })
    }

    async fn access(&self) -> Result<StoredAccess, StoreError> {
        let state = self.state();
        let grants = state.grants.iter();
        Ok(StoredAccess {
            tokens: state.tokens.values().cloned().collect(),
            grants: grants
                .map(|(grant, seal)| SealedGrant { grant: grant.clone(), seal: *seal })
                .collect(),
            unsound: 0,
        })
    }

    async fn commit(
        &self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError> {
        self.state().commit(commit, chain)
    }

    async fn seed(&self) -> Result<Option<SeedRow>, StoreError> {
        Ok(self.state().live_seed())
    }

    async fn claim_seed(
        &self,
        seed: &SeedRow,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<SeedRow, StoreError> {
        let mut state = self.state();
        if let Some(holds) = state.live_seed() {
            return Ok(holds);
        }
        state.seeds.push(Seed { row: *seed, phase: SeedPhase::Live });
        state.take_revision(false, std::slice::from_ref(event), chain);
        Ok(*seed)
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let state = self.state();
        let later = state.audit.iter().filter(|row| row.sequence > after);
        Ok(later.take(limit.min(MAX_PAGE)).cloned().collect())
    }

    async fn audit_hand_overs(&self) -> Result<Vec<AuditHandOver>, StoreError> {
        Ok(self.state().hand_overs.values().copied().collect())
    }

    async fn audit_checkpoint(&self) -> Result<Option<AuditCheckpoint>, StoreError> {
        Ok(self.state().checkpoint)
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        Ok(self.state().purge(before))
    }
}
