//! What the database keeps of the ratchet: seeds by identity and phase, which managers hold which
//! of them, and the wrapped keys as they move from one seed to the next. When to do what is the
//! manager's; that no two managers do opposite things is decided here.

use std::collections::BTreeMap;

use async_trait::async_trait;
use stek_core::access::Grant;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::{Incarnation, KeyId};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId, WrappedKey};

use crate::{SeedRow, StoreError, StoredKey};

/// Where a seed is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SeedPhase {
    /// Managers fetch it; nothing is wrapped under it yet.
    Offered,
    /// New keys are wrapped under it.
    Live,
    /// Its keys are being re-wrapped under the live one.
    Retiring,
    /// Nothing is wrapped under it; managers erase it.
    Ended,
}

impl SeedPhase {
    const ALL: [Self; 4] = [Self::Offered, Self::Live, Self::Retiring, Self::Ended];

    /// The phase as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::Live => "live",
            Self::Retiring => "retiring",
            Self::Ended => "ended",
        }
    }

    /// The phase of this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.as_str() == text)
    }
}

/// A seed that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seed {
    /// What is known of it.
    pub row: SeedRow,
    /// Where it is in its life.
    pub phase: SeedPhase,
}

/// What a manager last said of the states that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// Which state file it is.
    pub id: ReplicaId,
    /// The seed in it.
    pub seed: SeedId,
    /// The seed that it holds beside that one while seeds change.
    pub next_seed: Option<SeedId>,
    /// The epoch that it has reached.
    pub epoch: Epoch,
    /// When it said so, by the database's clock.
    pub seen_at: Timestamp,
}

impl Replica {
    /// Whether it holds a state of `seed`.
    pub fn holds(&self, seed: SeedId) -> bool {
        self.seed == seed || self.next_seed == Some(seed)
    }
}

/// The seeds that have not ended, and all replicas.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ratchet {
    /// At most one live, and at most one offered or retiring.
    pub seeds: Vec<Seed>,
    /// By identity.
    pub replicas: Vec<Replica>,
}

impl Ratchet {
    /// The seed in this phase.
    pub fn in_phase(&self, phase: SeedPhase) -> Option<&SeedRow> {
        self.seeds.iter().find(|seed| seed.phase == phase).map(|seed| &seed.row)
    }
}

/// A step in the life of seeds. Each is one transaction, and none if the seeds are not as it
/// assumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SeedChange {
    /// Offers a seed beside the live one, unless one is offered or retiring.
    Offer(SeedRow),
    /// Takes the offered seed back.
    Withdraw(SeedId),
    /// The offered seed becomes the live one, and the live one retires. From then on no commit
    /// inserts a key under any other.
    Promote {
        /// The offered seed.
        offered: SeedId,
        /// The live one.
        live: SeedId,
    },
    /// The retiring seed ends, if no live key is wrapped under it any more.
    End(SeedId),
    /// The live seed is lost: it ends, with any that was offered or retiring, and another is live.
    Replace {
        /// The live seed.
        lost: SeedId,
        /// The one in its place.
        by: SeedRow,
    },
}

/// What a [`SeedChange`] writes, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct SeedWrites {
    /// Inserted as ended, to be given its phase with the others.
    pub(crate) insert: Option<SeedRow>,
    pub(crate) phases: Vec<(SeedId, SeedPhase)>,
    /// No live key may be wrapped under this one.
    pub(crate) must_be_unused: Option<SeedId>,
}

impl SeedChange {
    /// What is written if `seeds` have not ended, or nothing if they are not as the change assumes.
    pub(crate) fn writes(&self, seeds: &[Seed]) -> Option<SeedWrites> {
        let phase_of = |id: SeedId| seeds.iter().find(|seed| seed.row.seed == id).map(|s| s.phase);
        let is_settled = seeds.len() == 1 && seeds[0].phase == SeedPhase::Live;
        let mut writes = SeedWrites::default();
        match *self {
            Self::Offer(row) if is_settled => {
                writes.insert = Some(row);
                writes.phases.push((row.seed, SeedPhase::Offered));
            }
            Self::Withdraw(seed) if phase_of(seed) == Some(SeedPhase::Offered) => {
                writes.phases.push((seed, SeedPhase::Ended));
            }
            Self::Promote { offered, live }
                if phase_of(offered) == Some(SeedPhase::Offered)
                    && phase_of(live) == Some(SeedPhase::Live) =>
            {
                // Never two of a kind in between: the database holds that at every statement.
                writes.phases.push((live, SeedPhase::Ended));
                writes.phases.push((offered, SeedPhase::Live));
                writes.phases.push((live, SeedPhase::Retiring));
            }
            Self::End(seed) if phase_of(seed) == Some(SeedPhase::Retiring) => {
                writes.must_be_unused = Some(seed);
                writes.phases.push((seed, SeedPhase::Ended));
            }
            Self::Replace { lost, by } if phase_of(lost) == Some(SeedPhase::Live) => {
                writes.phases.extend(seeds.iter().map(|seed| (seed.row.seed, SeedPhase::Ended)));
                writes.insert = Some(by);
                writes.phases.push((by.seed, SeedPhase::Live));
            }
            _ => return None,
        }
        Some(writes)
    }

    /// What is written when a restored database is told that `row` is the seed that is held.
    pub(crate) fn restoring(row: SeedRow, seeds: &[Seed]) -> SeedWrites {
        let ended = seeds.iter().map(|seed| (seed.row.seed, SeedPhase::Ended));
        let phases = ended.chain([(row.seed, SeedPhase::Live)]).collect();
        SeedWrites { insert: Some(row), phases, must_be_unused: None }
    }
}

/// A key's new wrapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewrapped {
    /// Which key.
    pub key: KeyId,
    /// The wrapping that it must still have.
    pub old: WrappedKey,
    /// The one in its place.
    pub new: WrappedKey,
}

/// A row that says who may do what, or from where the audit trail is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SealedRow {
    /// The token of this identity.
    Token(KeyId),
    /// This grant.
    Grant(Grant),
    /// The checkpoint of the audit trail, at this line.
    Checkpoint(u64),
    /// The hand-over of the audit trail at this line.
    HandOver(u64),
}

/// A row's new seal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resealed {
    /// Which row.
    pub row: SealedRow,
    /// The seal that it must still have.
    pub old: [u8; 32],
    /// The one in its place.
    pub new: [u8; 32],
}

/// A restored database is accepted as a later lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acceptance {
    /// The lineage that it has.
    pub from: Incarnation,
    /// The one that it gets; later than any that was published.
    pub to: Incarnation,
    /// The seed that is held, if the database is to name that one.
    pub seed: Option<SeedRow>,
}

/// The part of a [`crate::KeyStore`] that is about the ratchet.
#[async_trait]
pub trait RatchetStore: Send + Sync + 'static {
    /// Seeds and replicas, as of one instant.
    async fn ratchet(&self) -> Result<Ratchet, StoreError>;

    /// Makes a step with its events; `false` if the seeds are not as it assumes, and nothing has
    /// changed then.
    async fn change_seeds(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError>;

    /// Notes what a manager holds. Makes no revision.
    async fn report_replica(&self, replica: &Replica) -> Result<(), StoreError>;

    /// Forgets a manager if it was last seen at `replica.seen_at` and could unwrap nothing that is
    /// there, live or ended and not proven destroyed; returns whether it did.
    async fn forget_replica(
        &self,
        replica: &Replica,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError>;

    /// Live keys that are not wrapped under `seed`, with their keysets, at most `limit`.
    async fn wrapped_elsewhere(
        &self,
        seed: SeedId,
        limit: usize,
    ) -> Result<Vec<(KeysetName, StoredKey)>, StoreError>;

    /// Exchanges wrappings that are still as they were; returns how many. Makes no revision, for
    /// nothing that was published changes.
    async fn rewrap(&self, keys: &[Rewrapped]) -> Result<u64, StoreError>;

    /// Exchanges seals that are still as they were; returns how many. Makes no revision.
    async fn reseal(&self, rows: &[Resealed]) -> Result<u64, StoreError>;

    /// Notes `at` for each ended key that none of `held`, the lowest epoch of each seed that a
    /// manager holds, unwraps; returns how many.
    async fn prove_destroyed(
        &self,
        held: &[(SeedId, Epoch)],
        at: Timestamp,
    ) -> Result<u64, StoreError>;

    /// Since when the ended keys of a keyset have been provably destroyed, as far as they are.
    async fn proofs(&self, keyset: &KeysetName) -> Result<BTreeMap<KeyId, Timestamp>, StoreError>;

    /// Accepts a restored database; `false` if it has another lineage.
    async fn accept_restore(
        &self,
        acceptance: &Acceptance,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError>;
}
