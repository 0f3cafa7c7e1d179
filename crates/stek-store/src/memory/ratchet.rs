//! Seeds, replicas and wrappings in memory.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::KeyId;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};

use super::MemoryStore;
use super::state::State;
use crate::ratchet::SeedWrites;
use crate::{
    Acceptance, MAX_PAGE, Ratchet, RatchetStore, Replica, Resealed, Rewrapped, SealedRow, Seed,
    SeedChange, SeedPhase, StoreError, StoredKey,
};

impl State {
    /// Whether it could be done.
    fn write_seeds(&mut self, writes: &SeedWrites) -> bool {
        let used = |seed| {
            let mut keys = self.live.values().flat_map(|entry| &entry.keys);
            keys.any(|key| key.wrapped.seed == seed)
        };
        if writes.must_be_unused.is_some_and(used) {
            return false;
        }
        if let Some(row) = writes.insert {
            self.seeds.retain(|seed| seed.row.seed != row.seed);
            self.seeds.push(Seed { row, phase: SeedPhase::Ended });
        }
        for (id, phase) in &writes.phases {
            for seed in self.seeds.iter_mut().filter(|seed| seed.row.seed == *id) {
                seed.phase = *phase;
            }
        }
        self.seeds.retain(|seed| seed.phase != SeedPhase::Ended);
        true
    }
}

#[async_trait]
impl RatchetStore for MemoryStore {
    async fn ratchet(&self) -> Result<Ratchet, StoreError> {
        let state = self.state();
        let replicas = state.replicas.values().copied().collect();
        Ok(Ratchet { seeds: state.seeds.clone(), replicas })
    }

    async fn change_seeds(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(writes) = change.writes(&state.seeds) else { return Ok(false) };
        let done = state.write_seeds(&writes);
        if done {
            state.take_revision(false, events, chain);
        }
        Ok(done)
    }

    async fn report_replica(&self, replica: &Replica) -> Result<(), StoreError> {
        self.state().replicas.insert(replica.id, *replica);
        Ok(())
    }

    async fn forget_replica(
        &self,
        replica: &Replica,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        let known = state.replicas.get(&replica.id).filter(|one| one.seen_at == replica.seen_at);
        if known.is_none_or(|known| state.is_unwrapped_by(known)) {
            return Ok(false);
        }
        state.replicas.remove(&replica.id);
        state.take_revision(false, std::slice::from_ref(event), chain);
        Ok(true)
    }

    async fn wrapped_elsewhere(
        &self,
        seed: SeedId,
        limit: usize,
    ) -> Result<Vec<(KeysetName, StoredKey)>, StoreError> {
        let state = self.state();
        let mut keys: Vec<_> = state
            .live
            .iter()
            .flat_map(|(name, entry)| entry.keys.iter().map(|key| (name.clone(), key.clone())))
            .filter(|(_, key)| key.wrapped.seed != seed)
            .collect();
        keys.sort_by_key(|(_, key)| key.record.id);
        keys.truncate(limit.min(MAX_PAGE));
        Ok(keys)
    }

    async fn rewrap(&self, keys: &[Rewrapped]) -> Result<u64, StoreError> {
        let mut state = self.state();
        let mut changed = 0;
        for Rewrapped { key, old, new } in keys {
            let live = state.live.values_mut().flat_map(|entry| &mut entry.keys);
            let same = |stored: &&mut StoredKey| {
                stored.record.id == *key && stored.wrapped.nonce == old.nonce
            };
            for stored in live.filter(same) {
                stored.wrapped = new.clone();
                changed += 1;
            }
        }
        Ok(changed)
    }

    async fn reseal(&self, rows: &[Resealed]) -> Result<u64, StoreError> {
        let mut state = self.state();
        let mut changed = 0;
        for Resealed { row, old, new } in rows {
            let seal = match row {
                SealedRow::Token(id) => state.tokens.get_mut(id).map(|token| &mut token.seal),
                SealedRow::Grant(grant) => state.grants.get_mut(grant),
                SealedRow::Checkpoint(sequence) => state
                    .checkpoint
                    .as_mut()
                    .filter(|row| row.sequence == *sequence)
                    .map(|row| &mut row.seal),
                SealedRow::HandOver(sequence) => {
                    state.hand_overs.get_mut(sequence).map(|row| &mut row.seal)
                }
            };
            if let Some(seal) = seal.filter(|seal| **seal == *old) {
                *seal = *new;
                changed += 1;
            }
        }
        Ok(changed)
    }

    async fn prove_destroyed(
        &self,
        held: &[(SeedId, Epoch)],
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        let mut state = self.state();
        let opens = |seed, epoch| held.iter().any(|(one, lowest)| *one == seed && *lowest <= epoch);
        let proven: Vec<_> = state
            .unproven()
            .filter(|(_, seed, epoch)| !opens(*seed, *epoch))
            .map(|(key, ..)| (key, at))
            .collect();
        let count = u64::try_from(proven.len()).unwrap_or(u64::MAX);
        state.proofs.extend(proven);
        Ok(count)
    }

    async fn proofs(&self, keyset: &KeysetName) -> Result<BTreeMap<KeyId, Timestamp>, StoreError> {
        let state = self.state();
        let ended = state.live.get(keyset).into_iter().flat_map(|entry| &entry.ended);
        Ok(ended.filter_map(|key| Some((key.id, *state.proofs.get(&key.id)?))).collect())
    }

    async fn accept_restore(
        &self,
        acceptance: &Acceptance,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        let mut state = self.state();
        if state.cluster.incarnation != acceptance.from {
            return Ok(false);
        }
        if let Some(row) = acceptance.seed {
            let writes = SeedChange::restoring(row, &state.seeds);
            state.write_seeds(&writes);
        }
        state.cluster.incarnation = acceptance.to;
        state.take_revision(false, std::slice::from_ref(event), chain);
        Ok(true)
    }
}
