//! What the stores give back: domain values with what only the database knows of them.

use stek_core::access::{Grant, Token};
use stek_core::audit::{AuditEvent, ChainLink, HandOver};
use stek_core::bundle::EndedKey;
use stek_core::id::{ContentDigest, ContentTag, Incarnation, Revision};
use stek_core::keyset::{KeyRecord, Keyset};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{SeedId, WrappedKey};

/// The cluster's one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterState {
    /// The lineage.
    pub incarnation: Incarnation,
    /// The newest revision.
    pub revision: Revision,
    /// The newest revision that changed tokens or grants.
    pub access_revision: Revision,
    /// How many links the audit chain has.
    pub audit_sequence: u64,
    /// Its head.
    pub audit_head: ChainLink,
}

/// A live key as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKey {
    /// What is known of it.
    pub record: KeyRecord,
    /// Its material, encrypted.
    pub wrapped: WrappedKey,
}

/// A keyset as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredKeyset {
    /// Its live keys and policy.
    pub keyset: Keyset,
    /// The wrapped material of the live keys, in the same order.
    pub keys: Vec<StoredKey>,
    /// Keys that ended and are not forgotten yet, newest end first, at most
    /// [`stek_core::bundle::MAX_ENDED_KEYS`].
    pub ended: Vec<EndedKey>,
    /// The revision of its published content.
    pub revision: Revision,
    /// The digest of that content, as it was published.
    pub digest: ContentDigest,
    /// When the planner must look at it next.
    pub next_due: Timestamp,
    /// When it was created.
    pub created_at: Timestamp,
}

impl StoredKeyset {
    /// The tag of its published content in this lineage.
    pub fn tag(&self, incarnation: Incarnation) -> ContentTag {
        ContentTag { incarnation, revision: self.revision, digest: self.digest }
    }
}

/// A keyset that cannot be read: one of its rows breaks a rule of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsound {
    /// Its name as it stands in the database; not necessarily one.
    pub name: String,
    /// Table and rule, without secrets.
    pub why: String,
}

/// Keysets that were read, and those that could not be. The latter hold up nobody else.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keysets {
    /// Those that are sound, in the order that was asked for.
    pub sound: Vec<StoredKeyset>,
    /// Those that are not.
    pub unsound: Vec<Unsound>,
}

impl Keysets {
    /// How many rows they were.
    pub fn rows(&self) -> usize {
        self.sound.len() + self.unsound.len()
    }

    /// The greatest name, after which the next page of a listing begins.
    pub fn last_name(&self) -> Option<KeysetName> {
        let sound = self.sound.iter().map(|stored| stored.keyset.name().clone());
        let unsound = self.unsound.iter().filter_map(|gone| KeysetName::try_new(&gone.name).ok());
        sound.chain(unsound).max()
    }
}

/// A deleted keyset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tombstone {
    /// Its name.
    pub name: KeysetName,
    /// The revision that deleted it.
    pub revision: Revision,
    /// When.
    pub deleted_at: Timestamp,
}

/// What changed after a revision.
#[derive(Debug, Clone)]
pub struct Changes {
    /// The cluster when this was read.
    pub cluster: ClusterState,
    /// Keysets with a later revision.
    pub keysets: Vec<StoredKeyset>,
    /// Those with a later revision that cannot be read.
    pub unsound: Vec<Unsound>,
    /// Keysets deleted at a later revision and not created again since.
    pub tombstones: Vec<Tombstone>,
}

/// A grant and the seal over [`Grant::canonical`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedGrant {
    /// The grant.
    pub grant: Grant,
    /// The seal.
    pub seal: [u8; 32],
}

/// A token and the seal over [`Token::canonical`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedToken {
    /// The token.
    pub token: Token,
    /// The seal.
    pub seal: [u8; 32],
}

/// All tokens and grants.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoredAccess {
    /// The tokens.
    pub tokens: Vec<SealedToken>,
    /// The grants.
    pub grants: Vec<SealedGrant>,
    /// How many rows of either cannot be read.
    pub unsound: usize,
}

/// The seed that a cluster wraps its keys under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeedRow {
    /// Its identity.
    pub seed: SeedId,
    /// A value derived from seed and cluster secret that tells a wrong state or secret from the
    /// right one.
    pub check: [u8; 8],
    /// When it was claimed.
    pub claimed_at: Timestamp,
}

/// The place up to which the audit trail was removed because of its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditCheckpoint {
    /// The last line that was removed.
    pub sequence: u64,
    /// Its link, from which the rest of the chain is verified.
    pub link: ChainLink,
    /// The seal over [`stek_core::audit::checkpoint_canonical`].
    pub seal: [u8; 32],
}

/// Where the audit trail went over from one cluster secret to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditHandOver {
    /// Where, and from which key.
    pub hand_over: HandOver,
    /// The seal over [`HandOver::canonical`].
    pub seal: [u8; 32],
}

/// One line of the audit trail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its place in the chain, from 1.
    pub sequence: u64,
    /// The revision of the transaction that wrote it.
    pub revision: Revision,
    /// What happened.
    pub event: AuditEvent,
    /// The link.
    pub link: ChainLink,
}
