//! A commit works on copies of what it touches and installs them once nothing can fail any more.

use std::collections::{BTreeMap, HashSet};

use stek_core::access::Grant;
use stek_core::audit::AuditChain;
use stek_core::bundle::EndCause;
use stek_core::id::KeyId;
use stek_core::keyset::{History, Keyset, KeysetError};
use stek_core::name::KeysetName;
use stek_core::policy::Policy;
use stek_core::time::Timestamp;

use super::state::{Deleted, Entry, State};
use crate::changeset::{AccessChange, Changeset, KeySteps, KnownKey, broken, rule};
use crate::{Commit, CommitError, Committed, KeysetUpdate, SealedToken, StoredKey, Tombstone};

impl State {
    pub(super) fn commit(
        &mut self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError> {
        let changes = Changeset::try_new(commit)?;
        changes.check_expected(|name| {
            self.live.get(name).map(|entry| (entry.revision, entry.next_due))
        })?;
        changes.check_seeds(self.live_seed().map(|live| live.seed).into())?;
        if let Some(checkpoint) = changes.prune
            && self.checkpoint.is_some_and(|present| present.sequence >= checkpoint.sequence)
        {
            return Err(CommitError::Pruned(checkpoint.sequence));
        }
        let mut draft = Draft::new(self);
        for create in &changes.creates {
            if self.live.contains_key(create.name) {
                return Err(CommitError::Exists(create.name.clone()));
            }
            draft.last_id += 1;
            let keyset = sound(create.name, create.policy, History::Fresh, &[])?;
            let mut entry = Entry {
                id: draft.last_id,
                keyset,
                keys: vec![],
                wrapped_to: BTreeMap::new(),
                ended: vec![],
                revision: self.cluster.revision,
                digest: create.digest,
                next_due: create.next_due,
                created_at: changes.at,
            };
            draft.insert(&mut entry, create.keys)?;
            draft.put(entry, create.policy, true)?;
        }
        for update in &changes.updates {
            if let Some(entry) = self.live.get(&update.name) {
                draft.update(entry.clone(), update, changes.at)?;
            }
        }
        draft.access(&changes.access, &changes.names())?;
        Ok(self.install(draft.done(), &changes, commit, chain))
    }

    fn install(
        &mut self,
        done: Done,
        changes: &Changeset<'_>,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Committed {
        if let Some(checkpoint) = changes.prune {
            self.prune(checkpoint);
        }
        if let Some(hand_over) = changes.hand_over {
            self.hand_overs.entry(hand_over.hand_over.sequence).or_insert(*hand_over);
        }
        let committed = self.take_revision(done.access_changed, &commit.events, chain);
        for (mut entry, published) in done.entries {
            if published {
                entry.revision = committed.revision;
            }
            self.live.insert(entry.keyset.name().clone(), entry);
        }
        for (name, _) in &changes.deletes {
            if let Some(mut entry) = self.live.remove(name) {
                entry.end(changes.at, |_| Some(EndCause::Revoked));
                self.deleted.push(Deleted {
                    tombstone: Tombstone {
                        name: (*name).clone(),
                        revision: committed.revision,
                        deleted_at: changes.at,
                    },
                    ended: entry.ended,
                    wrapped_to: entry.wrapped_to,
                });
            }
        }
        self.last_id = done.last_id;
        self.key_ids.extend(done.key_ids);
        self.tokens = done.tokens;
        self.grants = done.grants;
        committed
    }
}

/// What the commit would leave.
struct Draft<'a> {
    state: &'a State,
    last_id: u64,
    /// With whether it gets the new revision.
    entries: Vec<(Entry, bool)>,
    key_ids: HashSet<KeyId>,
    tokens: BTreeMap<KeyId, SealedToken>,
    grants: BTreeMap<Grant, [u8; 32]>,
    access_changed: bool,
}

/// The same without its hold on the state.
struct Done {
    last_id: u64,
    entries: Vec<(Entry, bool)>,
    key_ids: HashSet<KeyId>,
    tokens: BTreeMap<KeyId, SealedToken>,
    grants: BTreeMap<Grant, [u8; 32]>,
    access_changed: bool,
}

impl<'a> Draft<'a> {
    fn new(state: &'a State) -> Self {
        Self {
            state,
            last_id: state.last_id,
            entries: vec![],
            key_ids: HashSet::new(),
            tokens: state.tokens.clone(),
            grants: state.grants.clone(),
            access_changed: false,
        }
    }

    fn done(self) -> Done {
        let Self { last_id, entries, key_ids, tokens, grants, access_changed, .. } = self;
        Done { last_id, entries, key_ids, tokens, grants, access_changed }
    }

    fn update(
        &mut self,
        mut entry: Entry,
        update: &KeysetUpdate,
        at: Timestamp,
    ) -> Result<(), CommitError> {
        let mut steps = KeySteps::new(&update.steps);
        steps.settle(&update.name, |id| known(&entry, id))?;
        self.insert(&mut entry, steps.inserts.iter().copied())?;
        for key in &mut entry.keys {
            if let Some(schedule) = steps.moves.get(&key.record.id) {
                key.record.schedule = *schedule;
            }
        }
        entry.end(at, |id| steps.ends.get(id).copied());
        entry.next_due = update.next_due;
        if let Some(digest) = update.publish {
            entry.digest = digest;
        }
        let policy = update.policy.unwrap_or(*entry.keyset.policy());
        self.put(entry, &policy, update.publish.is_some())
    }

    fn insert<'k>(
        &mut self,
        entry: &mut Entry,
        keys: impl IntoIterator<Item = &'k StoredKey>,
    ) -> Result<(), CommitError> {
        for key in keys {
            let (id, kcv) = (key.record.id, key.record.kcv);
            if self.state.key_ids.contains(&id) || !self.key_ids.insert(id) {
                return Err(broken(entry.keyset.name(), rule::KEY_ID));
            }
            let live = entry.keys.iter().map(|key| key.record.kcv);
            if live.chain(entry.ended.iter().map(|key| key.kcv)).any(|other| other == kcv) {
                return Err(broken(entry.keyset.name(), rule::KCV));
            }
            entry.keys.push(key.clone());
        }
        Ok(())
    }

    fn put(
        &mut self,
        mut entry: Entry,
        policy: &Policy,
        published: bool,
    ) -> Result<(), CommitError> {
        entry.keys.sort_by_key(|key| (key.record.schedule.activate_at(), key.record.id));
        let history = match entry.keyset.history() {
            History::Fresh if entry.keys.is_empty() => History::Fresh,
            _ => History::Used,
        };
        entry.keyset = sound(entry.keyset.name(), policy, history, &entry.keys)?;
        self.entries.push((entry, published));
        Ok(())
    }

    fn access(&mut self, changes: &[AccessChange<'_>], names: &str) -> Result<(), CommitError> {
        for change in changes {
            self.access_changed |= match change {
                AccessChange::AddToken(row) => {
                    if self.tokens.contains_key(&row.token.id) {
                        return Err(broken(names, rule::TOKEN_ID));
                    }
                    if self.tokens.values().any(|other| other.token.hash == row.token.hash) {
                        return Err(broken(names, rule::TOKEN_HASH));
                    }
                    self.tokens.insert(row.token.id, (*row).clone()).is_none()
                }
                AccessChange::RemoveToken(id) => self.tokens.remove(id).is_some(),
                AccessChange::AddGrant(row) => {
                    let is_new = !self.grants.contains_key(&row.grant);
                    if is_new {
                        self.grants.insert(row.grant.clone(), row.seal);
                    }
                    is_new
                }
                AccessChange::RemoveGrant(grant) => self.grants.remove(*grant).is_some(),
            };
        }
        Ok(())
    }
}

fn known(entry: &Entry, id: KeyId) -> Option<KnownKey> {
    if let Some(key) = entry.keys.iter().find(|key| key.record.id == id) {
        let (published_at, destroy_by) =
            (key.record.schedule.published_at(), key.record.schedule.destroy_by());
        return Some(KnownKey { published_at, destroy_by, ended: false });
    }
    let ended = entry.ended.iter().find(|key| key.id == id)?;
    Some(KnownKey { published_at: ended.ended_at, destroy_by: ended.ended_at, ended: true })
}

fn sound(
    name: &KeysetName,
    policy: &Policy,
    history: History,
    keys: &[StoredKey],
) -> Result<Keyset, CommitError> {
    let records = keys.iter().map(|key| key.record).collect();
    Keyset::try_new(name.clone(), *policy, history, records).map_err(|error| {
        broken(
            name,
            match error {
                KeysetError::Overlap { .. } => rule::DISJOINT,
                KeysetError::DuplicateId(_) => rule::KEY_ID,
                KeysetError::DuplicateKcv { .. } => rule::KCV,
                KeysetError::TooMany(_) => rule::LIVE_KEYS,
            },
        )
    })
}
