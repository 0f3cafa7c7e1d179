//! A commit sorted by what it does and checked as far as that needs no database; the same for all
//! stores, so that they refuse the same.

use std::collections::{BTreeMap, BTreeSet};

use stek_core::access::Grant;
use stek_core::bundle::EndCause;
use stek_core::id::{ContentDigest, KeyId, Revision};
use stek_core::name::KeysetName;
use stek_core::policy::Policy;
use stek_core::schedule::Schedule;
use stek_core::time::Timestamp;
use stek_core::wrapped::SeedId;

use crate::{
    AuditCheckpoint, AuditHandOver, Change, Commit, CommitError, KeyStep, KeysetUpdate, MAX_BATCH,
};
use crate::{SealedGrant, SealedToken, StoredKey};

/// Names of the rules that the stores themselves hold; the others are those of the migrations.
pub(crate) mod rule {
    /// No two live keys of a keyset seal at one instant.
    pub(crate) const DISJOINT: &str = "ticket_keys_encrypt_periods_disjoint";
    /// No two keys of a keyset have one check value.
    pub(crate) const KCV: &str = "ticket_keys_kcv_unique";
    /// No two keys have one identity.
    pub(crate) const KEY_ID: &str = "ticket_keys_pkey";
    /// No two tokens have one identity.
    pub(crate) const TOKEN_ID: &str = "tokens_pkey";
    /// No two tokens have one secret.
    pub(crate) const TOKEN_HASH: &str = "tokens_hash_unique";
    /// At most [`stek_core::keyset::MAX_LIVE_KEYS`].
    pub(crate) const LIVE_KEYS: &str = "keysets_live_keys_limit";
    /// A move leaves `published_at` and `destroy_by` alone: the wrapping covers them.
    pub(crate) const ENVELOPE: &str = "ticket_keys_envelope";
    /// At most [`crate::MAX_BATCH`] changes.
    pub(crate) const BATCH: &str = "commit_batch_limit";
    /// Each keyset at most once.
    pub(crate) const ONCE: &str = "commit_keyset_once";
    /// A change of what is published comes with a digest.
    pub(crate) const PUBLISHED: &str = "commit_change_published";
}

pub(crate) struct Creation<'a> {
    pub(crate) name: &'a KeysetName,
    pub(crate) policy: &'a Policy,
    pub(crate) keys: &'a [StoredKey],
    pub(crate) digest: ContentDigest,
    pub(crate) next_due: Timestamp,
}

pub(crate) enum AccessChange<'a> {
    AddToken(&'a SealedToken),
    RemoveToken(KeyId),
    AddGrant(&'a SealedGrant),
    RemoveGrant(&'a Grant),
}

/// How a keyset was when it was read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected {
    revision: Revision,
    next_due: Option<Timestamp>,
}

/// The seed that keys must be wrapped under.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LiveSeed {
    /// None was ever claimed.
    Unclaimed,
    /// This one.
    Is(SeedId),
    /// There are seeds and none of them is live: they change while one looks.
    Changing,
}

impl From<Option<SeedId>> for LiveSeed {
    fn from(live: Option<SeedId>) -> Self {
        live.map_or(Self::Unclaimed, Self::Is)
    }
}

/// The changes of a commit by kind.
pub(crate) struct Changeset<'a> {
    pub(crate) at: Timestamp,
    /// By name, so that two commits that create the same keysets wait for each other in one order.
    pub(crate) creates: Vec<Creation<'a>>,
    pub(crate) updates: Vec<&'a KeysetUpdate>,
    pub(crate) deletes: Vec<(&'a KeysetName, Revision)>,
    pub(crate) access: Vec<AccessChange<'a>>,
    pub(crate) prune: Option<&'a AuditCheckpoint>,
    pub(crate) hand_over: Option<&'a AuditHandOver>,
}

impl<'a> Changeset<'a> {
    pub(crate) fn try_new(commit: &'a Commit) -> Result<Self, CommitError> {
        let mut this = Self {
            at: commit.at,
            creates: vec![],
            updates: vec![],
            deletes: vec![],
            access: vec![],
            prune: None,
            hand_over: None,
        };
        for change in &commit.changes {
            this.push(change);
        }
        this.creates.sort_by_key(|create| create.name);
        if commit.changes.len() > MAX_BATCH {
            return Err(broken(&this.names(), rule::BATCH));
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = this.keyset_names().find(|name| !seen.insert(*name)) {
            return Err(broken(twice, rule::ONCE));
        }
        if let Some(update) = this.updates.iter().find(|update| changes_unpublished(update)) {
            return Err(broken(&update.name, rule::PUBLISHED));
        }
        Ok(this)
    }

    fn push(&mut self, change: &'a Change) {
        match change {
            Change::CreateKeyset { name, policy, keys, digest, next_due } => {
                let (digest, next_due) = (*digest, *next_due);
                self.creates.push(Creation { name, policy, keys, digest, next_due });
            }
            Change::UpdateKeyset(update) => self.updates.push(update),
            Change::DeleteKeyset { name, expected } => self.deletes.push((name, *expected)),
            Change::AddToken(token) => self.access.push(AccessChange::AddToken(token)),
            Change::RemoveToken(id) => self.access.push(AccessChange::RemoveToken(*id)),
            Change::AddGrant(grant) => self.access.push(AccessChange::AddGrant(grant)),
            Change::RemoveGrant(grant) => self.access.push(AccessChange::RemoveGrant(grant)),
            Change::PruneAudit(checkpoint) => self.prune = Some(checkpoint),
            Change::HandOverAudit(hand_over) => self.hand_over = Some(hand_over),
        }
    }

    /// The keysets that must exist, and how each must be.
    pub(crate) fn expected(&self) -> impl Iterator<Item = (&'a KeysetName, Expected)> {
        let updates = self.updates.iter().map(|update| {
            (&update.name, Expected { revision: update.expected, next_due: update.expected_due })
        });
        let delete = |revision| Expected { revision, next_due: None };
        updates.chain(self.deletes.iter().map(move |(name, revision)| (*name, delete(*revision))))
    }

    /// Whether any key begins.
    pub(crate) fn inserts_keys(&self) -> bool {
        self.inserts().next().is_some()
    }

    /// Refuses keys wrapped under another seed than the live one, which managers are about to
    /// erase or do not hold yet. A database without a seed takes any.
    pub(crate) fn check_seeds(&self, live: LiveSeed) -> Result<(), CommitError> {
        let is_taken = |seed| match live {
            LiveSeed::Unclaimed => true,
            LiveSeed::Is(live) => seed == live,
            LiveSeed::Changing => false,
        };
        match self.inserts().find(|(_, key)| !is_taken(key.wrapped.seed)) {
            None => Ok(()),
            Some((name, _)) => Err(CommitError::Conflict(name.clone())),
        }
    }

    fn inserts(&self) -> impl Iterator<Item = (&'a KeysetName, &'a StoredKey)> {
        let created =
            self.creates.iter().flat_map(|one| one.keys.iter().map(|key| (one.name, key)));
        let added = self.updates.iter().flat_map(|one| {
            one.steps.iter().filter_map(|step| match step {
                KeyStep::Insert(key) => Some((&one.name, key)),
                KeyStep::Move { .. } | KeyStep::End { .. } => None,
            })
        });
        created.chain(added)
    }

    fn keyset_names(&self) -> impl Iterator<Item = &'a KeysetName> {
        self.creates.iter().map(|create| create.name).chain(self.expected().map(|(name, _)| name))
    }

    /// The keysets for an error that cannot tell which of them it was.
    pub(crate) fn names(&self) -> String {
        const SHOWN: usize = 8;
        let mut names: Vec<_> = self.keyset_names().map(KeysetName::as_str).collect();
        let hidden = names.len().saturating_sub(SHOWN);
        names.truncate(SHOWN);
        let shown = names.join(", ");
        match (names.len(), hidden) {
            (0, _) => "(none)".to_owned(),
            (_, 0) => shown,
            _ => format!("{shown} or one of {hidden} more"),
        }
    }

    /// Refuses the commit unless every keyset is where it was read.
    pub(crate) fn check_expected(
        &self,
        found: impl Fn(&KeysetName) -> Option<(Revision, Timestamp)>,
    ) -> Result<(), CommitError> {
        for (name, expected) in self.expected() {
            match found(name) {
                None => return Err(CommitError::NotFound(name.clone())),
                Some((revision, next_due))
                    if revision != expected.revision
                        || expected.next_due.is_some_and(|due| due != next_due) =>
                {
                    return Err(CommitError::Conflict(name.clone()));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}

fn changes_unpublished(update: &KeysetUpdate) -> bool {
    let only_erases =
        |step: &KeyStep| matches!(step, KeyStep::End { cause: EndCause::Expired, .. });
    update.publish.is_none() && (update.policy.is_some() || !update.steps.iter().all(only_erases))
}

pub(crate) fn broken(keyset: &(impl ToString + ?Sized), constraint: &str) -> CommitError {
    CommitError::Invariant { keyset: keyset.to_string(), constraint: constraint.to_owned() }
}

/// What a store knows of a key that a step names.
#[derive(Clone, Copy)]
pub(crate) struct KnownKey {
    pub(crate) published_at: Timestamp,
    pub(crate) destroy_by: Timestamp,
    pub(crate) ended: bool,
}

/// The steps of one update by kind, one of each kind for a key.
pub(crate) struct KeySteps<'a> {
    pub(crate) inserts: Vec<&'a StoredKey>,
    pub(crate) moves: BTreeMap<KeyId, Schedule>,
    pub(crate) ends: BTreeMap<KeyId, EndCause>,
}

impl<'a> KeySteps<'a> {
    pub(crate) fn new(steps: &'a [KeyStep]) -> Self {
        let mut this = Self { inserts: vec![], moves: BTreeMap::new(), ends: BTreeMap::new() };
        for step in steps {
            match step {
                KeyStep::Insert(key) => this.inserts.push(key),
                KeyStep::Move { id, schedule } => {
                    this.moves.insert(*id, *schedule);
                }
                KeyStep::End { id, cause } => {
                    this.ends.entry(*id).or_insert(*cause);
                }
            }
        }
        this
    }

    /// The keys that must be known.
    pub(crate) fn known_ids(&self) -> impl Iterator<Item = KeyId> {
        self.moves.keys().chain(self.ends.keys()).copied()
    }

    /// Refuses moves and ends of keys that are not as the steps assume, and drops ends of keys that
    /// have ended. `known` answers for keys of this keyset only.
    pub(crate) fn settle(
        &mut self,
        name: &KeysetName,
        known: impl Fn(KeyId) -> Option<KnownKey>,
    ) -> Result<(), CommitError> {
        for (id, schedule) in &self.moves {
            match known(*id) {
                Some(key) if !key.ended => {
                    let envelope = (schedule.published_at(), schedule.destroy_by());
                    if envelope != (key.published_at, key.destroy_by) {
                        return Err(broken(name, rule::ENVELOPE));
                    }
                }
                _ => return Err(CommitError::Conflict(name.clone())),
            }
        }
        if self.ends.keys().any(|id| known(*id).is_none()) {
            return Err(CommitError::Conflict(name.clone()));
        }
        self.ends.retain(|id, _| known(*id).is_some_and(|key| !key.ended));
        Ok(())
    }
}
