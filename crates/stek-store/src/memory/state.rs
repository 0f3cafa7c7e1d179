//! What is held.

use std::collections::{BTreeMap, HashSet};

use stek_core::access::Grant;
use stek_core::audit::{AuditChain, AuditEvent, ChainLink};
use stek_core::bundle::{EndCause, EndedKey, MAX_ENDED_KEYS};
use stek_core::id::{ContentDigest, Incarnation, KeyId, Revision};
use stek_core::keyset::Keyset;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};

use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, ClusterState, Committed, Replica, SealedToken, Seed,
    SeedPhase, SeedRow, StoredKey, StoredKeyset, Tombstone, trail,
};

/// What ended keys were wrapped to.
type Wrapped = BTreeMap<KeyId, (SeedId, Epoch)>;

pub(super) struct State {
    pub(super) cluster: ClusterState,
    pub(super) last_id: u64,
    pub(super) live: BTreeMap<KeysetName, Entry>,
    /// By revision.
    pub(super) deleted: Vec<Deleted>,
    /// Of all keys that are not forgotten.
    pub(super) key_ids: HashSet<KeyId>,
    pub(super) tokens: BTreeMap<KeyId, SealedToken>,
    pub(super) grants: BTreeMap<Grant, [u8; 32]>,
    /// Those that have not ended.
    pub(super) seeds: Vec<Seed>,
    pub(super) replicas: BTreeMap<ReplicaId, Replica>,
    /// Since when ended keys are provably destroyed.
    pub(super) proofs: BTreeMap<KeyId, Timestamp>,
    pub(super) audit: Vec<AuditRow>,
    pub(super) checkpoint: Option<AuditCheckpoint>,
    /// By line.
    pub(super) hand_overs: BTreeMap<u64, AuditHandOver>,
}

/// A keyset with all its ended keys.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) keyset: Keyset,
    pub(super) keys: Vec<StoredKey>,
    /// Newest end first.
    pub(super) ended: Vec<EndedKey>,
    /// What those were wrapped to.
    pub(super) wrapped_to: Wrapped,
    pub(super) revision: Revision,
    pub(super) digest: ContentDigest,
    pub(super) next_due: Timestamp,
    pub(super) created_at: Timestamp,
}

pub(super) struct Deleted {
    pub(super) tombstone: Tombstone,
    pub(super) ended: Vec<EndedKey>,
    pub(super) wrapped_to: Wrapped,
}

impl Entry {
    pub(super) fn stored(&self) -> StoredKeyset {
        StoredKeyset {
            keyset: self.keyset.clone(),
            keys: self.keys.clone(),
            ended: self.ended.iter().take(MAX_ENDED_KEYS).copied().collect(),
            revision: self.revision,
            digest: self.digest,
            next_due: self.next_due,
            created_at: self.created_at,
        }
    }

    /// Ends the keys for which `cause` has one.
    pub(super) fn end(&mut self, at: Timestamp, cause: impl Fn(&KeyId) -> Option<EndCause>) {
        let (ended, wrapped_to) = (&mut self.ended, &mut self.wrapped_to);
        self.keys.retain(|key| {
            let Some(cause) = cause(&key.record.id) else { return true };
            let (id, kcv) = (key.record.id, key.record.kcv);
            wrapped_to.insert(id, (key.wrapped.seed, key.wrapped.epoch));
            ended.push(EndedKey { id, kcv, cause, ended_at: at });
            false
        });
        ended.sort_by_key(|key| std::cmp::Reverse((key.ended_at, key.id)));
    }
}

impl State {
    pub(super) fn new(incarnation: Incarnation) -> Self {
        Self {
            cluster: ClusterState {
                incarnation,
                revision: Revision::ZERO,
                access_revision: Revision::ZERO,
                audit_sequence: 0,
                audit_head: ChainLink::ORIGIN,
            },
            last_id: 0,
            live: BTreeMap::new(),
            deleted: vec![],
            key_ids: HashSet::new(),
            tokens: BTreeMap::new(),
            grants: BTreeMap::new(),
            seeds: vec![],
            replicas: BTreeMap::new(),
            proofs: BTreeMap::new(),
            audit: vec![],
            checkpoint: None,
            hand_overs: BTreeMap::new(),
        }
    }

    pub(super) fn live_seed(&self) -> Option<SeedRow> {
        self.seeds.iter().find(|seed| seed.phase == SeedPhase::Live).map(|seed| seed.row)
    }

    pub(super) fn take_revision(
        &mut self,
        access_changed: bool,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Committed {
        let cluster = &mut self.cluster;
        cluster.revision = cluster.revision.next();
        if access_changed {
            cluster.access_revision = cluster.revision;
        }
        let (rows, head) = trail::link(
            events,
            cluster.revision,
            cluster.audit_sequence,
            cluster.audit_head,
            chain,
        );
        cluster.audit_head = head;
        cluster.audit_sequence = rows.last().map_or(cluster.audit_sequence, |row| row.sequence);
        self.audit.extend(rows);
        Committed { revision: cluster.revision, head }
    }

    /// Removes the trail up to the checkpoint, unless that lies behind the present one.
    pub(super) fn prune(&mut self, checkpoint: &AuditCheckpoint) {
        self.audit.retain(|row| row.sequence > checkpoint.sequence);
        self.hand_overs.retain(|sequence, _| *sequence > checkpoint.sequence);
        self.checkpoint = Some(*checkpoint);
    }

    /// The ended keys that are not proven destroyed, with what they were wrapped to.
    pub(super) fn unproven(&self) -> impl Iterator<Item = (KeyId, SeedId, Epoch)> {
        let ended = self.live.values().flat_map(|entry| &entry.wrapped_to);
        ended
            .chain(self.deleted.iter().flat_map(|deleted| &deleted.wrapped_to))
            .filter(|(key, _)| !self.proofs.contains_key(*key))
            .map(|(key, (seed, epoch))| (*key, *seed, *epoch))
    }

    /// Whether it holds a state that unwraps a key which is live, or not proven destroyed.
    pub(super) fn is_unwrapped_by(&self, replica: &Replica) -> bool {
        let opens = |seed, epoch| {
            (seed == replica.seed || Some(seed) == replica.next_seed) && replica.epoch <= epoch
        };
        let live = self.live.values().flat_map(|entry| &entry.keys);
        let live = live.map(|key| (key.wrapped.seed, key.wrapped.epoch));
        live.chain(self.unproven().map(|(_, seed, epoch)| (seed, epoch)))
            .any(|(seed, epoch)| opens(seed, epoch))
    }

    pub(super) fn purge(&mut self, before: Timestamp) -> u64 {
        let mut forgotten = 0;
        let Self { key_ids, proofs, live, deleted, .. } = self;
        let mut forget = |ended: &mut Vec<EndedKey>, wrapped: &mut Wrapped, limit: Timestamp| {
            ended.retain(|key| {
                let stays = key.ended_at >= limit;
                if !stays {
                    key_ids.remove(&key.id);
                    proofs.remove(&key.id);
                    wrapped.remove(&key.id);
                    forgotten += 1;
                }
                stays
            });
        };
        for entry in live.values_mut() {
            forget(&mut entry.ended, &mut entry.wrapped_to, before);
        }
        for deleted in deleted {
            let goes = deleted.tombstone.deleted_at < before;
            let limit = if goes { Timestamp::MAX } else { before };
            forget(&mut deleted.ended, &mut deleted.wrapped_to, limit);
        }
        let tombstones = self.deleted.len();
        self.deleted.retain(|deleted| deleted.tombstone.deleted_at >= before);
        forgotten + u64::try_from(tombstones - self.deleted.len()).unwrap_or(u64::MAX)
    }
}
