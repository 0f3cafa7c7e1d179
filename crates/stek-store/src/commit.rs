//! A commit as data: what changes, under which expectation, and what is written down of it.

use stek_core::audit::{AuditEvent, ChainLink};
use stek_core::bundle::EndCause;
use stek_core::id::{ContentDigest, KeyId, Revision};
use stek_core::name::KeysetName;
use stek_core::policy::Policy;
use stek_core::schedule::Schedule;
use stek_core::time::Timestamp;

use crate::row::{AuditCheckpoint, AuditHandOver, SealedGrant, SealedToken, StoredKey};

/// Everything that one transaction does.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The instant at which it was decided, by the database's clock.
    pub at: Timestamp,
    /// The changes; at most [`crate::MAX_BATCH`], each keyset at most once.
    pub changes: Vec<Change>,
    /// What is written down, in order.
    pub events: Vec<AuditEvent>,
}

/// One change of a commit.
#[derive(Debug, Clone)]
pub enum Change {
    /// Begins a keyset with its first keys.
    CreateKeyset {
        /// Its name; a deleted keyset's name may be used again.
        name: KeysetName,
        /// Its policy.
        policy: Policy,
        /// Its first keys.
        keys: Vec<StoredKey>,
        /// The digest of what is published.
        digest: ContentDigest,
        /// When the planner must look at it next.
        next_due: Timestamp,
    },
    /// Changes the keys, policy or due time of a keyset.
    UpdateKeyset(KeysetUpdate),
    /// Ends all keys of a keyset as revoked, erases them and leaves a tombstone.
    DeleteKeyset {
        /// Its name.
        name: KeysetName,
        /// The revision it was read at.
        expected: Revision,
    },
    /// Stores a token.
    AddToken(SealedToken),
    /// Erases a token.
    RemoveToken(KeyId),
    /// Stores a grant; one that is there already stays.
    AddGrant(SealedGrant),
    /// Erases a grant.
    RemoveGrant(stek_core::access::Grant),
    /// Removes the audit trail up to and with the checkpoint's line, unless it is gone already.
    PruneAudit(AuditCheckpoint),
    /// Notes where the audit trail goes over to another cluster secret; once for each line.
    HandOverAudit(AuditHandOver),
}

/// Changes to one keyset.
#[derive(Debug, Clone)]
pub struct KeysetUpdate {
    /// Its name.
    pub name: KeysetName,
    /// The revision it was read at; the commit is refused if it has another by now.
    pub expected: Revision,
    /// If given, the commit is refused too if the planner is to look at the keyset at another time
    /// than this by now: what was due has been done. Erasing what has expired makes no revision.
    pub expected_due: Option<Timestamp>,
    /// A new policy.
    pub policy: Option<Policy>,
    /// What happens to its keys: all inserts, then all moves, then all ends. Whether encrypt
    /// periods overlap is looked at after the last of them.
    pub steps: Vec<KeyStep>,
    /// The digest of the new content if the keyset gets a new revision. Erasing what has expired
    /// changes nothing that was published, so it needs none; everything else does.
    pub publish: Option<ContentDigest>,
    /// When the planner must look at it next.
    pub next_due: Timestamp,
}

/// What happens to one key.
#[derive(Debug, Clone)]
pub enum KeyStep {
    /// It begins.
    Insert(StoredKey),
    /// Its schedule moves inside its envelope: `published_at` and `destroy_by` stay. A key that is
    /// not live makes the commit a conflict.
    Move {
        /// Which key.
        id: KeyId,
        /// The new schedule.
        schedule: Schedule,
    },
    /// It ends and its wrapped material is erased. A key that has ended stays as it is; one that
    /// the keyset never had, or that is forgotten, makes the commit a conflict.
    End {
        /// Which key.
        id: KeyId,
        /// Why.
        cause: EndCause,
    },
}

/// A commit that was applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The revision it made.
    pub revision: Revision,
    /// The head of the audit chain after it.
    pub head: ChainLink,
}
