//! A store whose clock is given from outside, for simulation and tests.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::{KeyId, Revision};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};

use crate::{
    Acceptance, AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClusterState, Commit,
    CommitError, Committed, KeyStore, Keysets, Ratchet, RatchetStore, Replica, Resealed, Rewrapped,
    SeedChange, SeedRow, StoreError, StoredAccess, StoredKey, StoredKeyset,
};

/// A clock: milliseconds since the Unix epoch.
pub type ClockFn = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Delegates everything to a store but the question what time it is. For simulation and tests;
/// instants that the store itself keeps are arguments anyway.
pub struct WithClock<S> {
    store: S,
    clock: ClockFn,
}

impl<S> WithClock<S> {
    /// `store` with the time of `clock`.
    pub fn new(store: S, clock: ClockFn) -> Self {
        Self { store, clock }
    }
}

impl<S: fmt::Debug> fmt::Debug for WithClock<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WithClock").field(&self.store).finish()
    }
}

#[async_trait]
impl<S: KeyStore> RatchetStore for WithClock<S> {
    async fn ratchet(&self) -> Result<Ratchet, StoreError> {
        self.store.ratchet().await
    }

    async fn change_seeds(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        self.store.change_seeds(change, events, chain).await
    }

    async fn report_replica(&self, replica: &Replica) -> Result<(), StoreError> {
        self.store.report_replica(replica).await
    }

    async fn forget_replica(
        &self,
        replica: &Replica,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        self.store.forget_replica(replica, event, chain).await
    }

    async fn wrapped_elsewhere(
        &self,
        seed: SeedId,
        limit: usize,
    ) -> Result<Vec<(KeysetName, StoredKey)>, StoreError> {
        self.store.wrapped_elsewhere(seed, limit).await
    }

    async fn rewrap(&self, keys: &[Rewrapped]) -> Result<u64, StoreError> {
        self.store.rewrap(keys).await
    }

    async fn reseal(&self, rows: &[Resealed]) -> Result<u64, StoreError> {
        self.store.reseal(rows).await
    }

    async fn prove_destroyed(
        &self,
        held: &[(SeedId, Epoch)],
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        self.store.prove_destroyed(held, at).await
    }

    async fn proofs(&self, keyset: &KeysetName) -> Result<BTreeMap<KeyId, Timestamp>, StoreError> {
        self.store.proofs(keyset).await
    }

    async fn accept_restore(
        &self,
        acceptance: &Acceptance,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        self.store.accept_restore(acceptance, event, chain).await
    }
}

#[async_trait]
impl<S: KeyStore> KeyStore for WithClock<S> {
    async fn now_millis(&self) -> Result<u64, StoreError> {
        Ok((self.clock)())
    }

    async fn cluster(&self) -> Result<ClusterState, StoreError> {
        self.store.cluster().await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Keysets, StoreError> {
        self.store.due(now, limit).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.store.next_due().await
    }

    async fn keyset(&self, name: &KeysetName) -> Result<Option<StoredKeyset>, StoreError> {
        self.store.keyset(name).await
    }

    async fn keysets(
        &self,
        after: Option<&KeysetName>,
        limit: usize,
    ) -> Result<Keysets, StoreError> {
        self.store.keysets(after, limit).await
    }

    async fn changed_since(&self, since: Revision) -> Result<Changes, StoreError> {
        self.store.changed_since(since).await
    }

    async fn access(&self) -> Result<StoredAccess, StoreError> {
        self.store.access().await
    }

    async fn commit(
        &self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError> {
        self.store.commit(commit, chain).await
    }

    async fn seed(&self) -> Result<Option<SeedRow>, StoreError> {
        self.store.seed().await
    }

    async fn claim_seed(
        &self,
        seed: &SeedRow,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<SeedRow, StoreError> {
        self.store.claim_seed(seed, event, chain).await
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        self.store.audit(after, limit).await
    }

    async fn notified(&self) -> Result<Option<Revision>, StoreError> {
        self.store.notified().await
    }

    async fn audit_checkpoint(&self) -> Result<Option<AuditCheckpoint>, StoreError> {
        self.store.audit_checkpoint().await
    }

    async fn audit_hand_overs(&self) -> Result<Vec<AuditHandOver>, StoreError> {
        self.store.audit_hand_overs().await
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.store.purge(before).await
    }
}
