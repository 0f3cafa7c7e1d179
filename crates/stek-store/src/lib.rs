//! Where keysets live: one trait, and PostgreSQL, SQLite and memory behind it. A commit is one
//! transaction, one revision and one segment of the audit chain; it is refused whole if a keyset
//! has moved on since it was read. What to commit is the planner's to say.

mod changeset;
mod clocked;
mod commit;
#[cfg(feature = "contract")]
pub mod contract;
mod error;
mod memory;
mod postgres;
mod ratchet;
mod row;
mod sql;
mod sqlite;
mod trail;

pub use clocked::{ClockFn, WithClock};
pub use commit::{Change, Commit, Committed, KeyStep, KeysetUpdate};
pub use error::{CommitError, StoreError};
pub use memory::MemoryStore;
pub use postgres::{PostgresOptions, PostgresStore, REVISION_CHANNEL};
pub use ratchet::{
    Acceptance, Ratchet, RatchetStore, Replica, Resealed, Rewrapped, SealedRow, Seed, SeedChange,
    SeedPhase,
};
pub use row::{
    AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClusterState, Keysets, SealedGrant,
    SealedToken, SeedRow, StoredAccess, StoredKey, StoredKeyset, Tombstone, Unsound,
};
pub use sqlite::SqliteStore;

use async_trait::async_trait;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;

/// The most keysets that one commit may change.
pub const MAX_BATCH: usize = 256;

/// The most rows that one listing returns.
pub const MAX_PAGE: usize = 1000;

/// The version of the schema that this program was made for.
pub const SCHEMA_VERSION: i64 = 1;

/// How long an operation may take unless it was set otherwise.
pub const DEFAULT_TIME_OUT: std::time::Duration = std::time::Duration::from_secs(10);

/// A database of keysets. Every method has a time-out of its own and ends with
/// [`StoreError::Unreachable`] rather than wait for ever.
#[async_trait]
pub trait KeyStore: RatchetStore {
    /// The database's clock, in milliseconds since the Unix epoch.
    async fn now_millis(&self) -> Result<u64, StoreError>;

    /// Lineage, newest revision and head of the audit chain.
    async fn cluster(&self) -> Result<ClusterState, StoreError>;

    /// The keysets with `next_due ≤ now`, most overdue first, at most `limit` with those that
    /// cannot be read.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<Keysets, StoreError>;

    /// When the next keyset is due, if there is a keyset.
    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError>;

    /// One keyset, if it exists and is not deleted; [`StoreError::Corrupt`] if it cannot be read.
    async fn keyset(&self, name: &KeysetName) -> Result<Option<StoredKeyset>, StoreError>;

    /// Keysets in the order of their names, those after `after`, at most `limit`.
    async fn keysets(
        &self,
        after: Option<&KeysetName>,
        limit: usize,
    ) -> Result<Keysets, StoreError>;

    /// What was published after `since`, read as of one instant, with the cluster at that instant.
    async fn changed_since(&self, since: Revision) -> Result<Changes, StoreError>;

    /// The tokens and grants with their seals; whoever asks verifies them.
    async fn access(&self) -> Result<StoredAccess, StoreError>;

    /// Applies all changes or none, linking the events to the chain in order.
    ///
    /// # Errors
    /// [`CommitError`] by cause. Nothing was applied, except that after
    /// [`StoreError::Unreachable`] the answer may be what was lost: read again before repeating.
    async fn commit(
        &self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError>;

    /// The seed of the ratchet that this cluster wraps its keys under, if one was claimed.
    async fn seed(&self) -> Result<Option<SeedRow>, StoreError>;

    /// Claims the seed for this cluster unless one is claimed already; returns the one that holds.
    async fn claim_seed(
        &self,
        seed: &SeedRow,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<SeedRow, StoreError>;

    /// The audit trail after link `after`, oldest first, at most `limit`.
    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError>;

    /// Waits for word that somebody has committed, and returns the revision, or none if word may
    /// have been missed: on a new connection, and after one was lost. The only method without a
    /// time-out; one that must not wait asks for [`KeyStore::cluster`]. Never returns where a
    /// database has no way to send word.
    ///
    /// # Errors
    /// [`StoreError`] if there is no connection; wait a while before asking again.
    async fn notified(&self) -> Result<Option<Revision>, StoreError> {
        std::future::pending().await
    }

    /// Up to where the audit trail was removed, if it ever was.
    async fn audit_checkpoint(&self) -> Result<Option<AuditCheckpoint>, StoreError>;

    /// Where the audit trail that is left went over from one cluster secret to the next, in order.
    async fn audit_hand_overs(&self) -> Result<Vec<AuditHandOver>, StoreError>;

    /// Forgets ended keys and tombstones that ended before `before`; returns how many.
    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError>;
}
