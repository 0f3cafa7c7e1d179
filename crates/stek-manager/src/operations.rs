//! What operators ask for: each operation reads the keyset, lets the planner decide, commits, and
//! says what it did. Who may ask is decided in [`crate::admin`].

mod audit;
mod cost;
mod decide;
mod grants;
mod offline;
mod outcome;
mod ratchet;
mod revoke;
mod terminators;
mod tokens;

use std::collections::BTreeSet;
use std::sync::Arc;

use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::feed::FeedState;
use stek_core::keyset::{History, Keyset};
use stek_core::name::KeysetName;
use stek_core::planner::{self, Convergence, RevokeError, RotateError};
use stek_core::policy::{Policy, PolicyError};
use stek_core::time::Timestamp;
use stek_custody::random::RandomError;
use stek_store::{Change, ClusterState, Commit, CommitError, Committed, StoreError, StoredKeyset};
use stek_wire::admin::{EffectDocument, KeysetDocument, KeysetList, PlanDocument, PolicyDocument};
use tokio::sync::watch;

use crate::draft::{Draft, DraftError};
use crate::engine::{ClockError, ClusterError, DatabaseBehind, Engine, PassTime};
use crate::forecast;

pub use decide::KeysetChange;
pub use grants::{MAX_GRANTS, add_grant_offline};
pub use offline::{AcceptError, accept_restore, replace_lost_seed};
pub use tokens::{MAX_TOKENS, NewToken, TokenRow, add_token_offline};

/// How often an operation is tried again when the keyset moved under it.
const TRIES: usize = 5;

/// The most keysets of one page.
const PAGE: usize = 200;

/// The store's name for the rule that no two tokens have one secret.
const TOKEN_HASH_RULE: &str = "tokens_hash_unique";

/// Why an operation was not done. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no time to act on.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database must not be written before an operator has accepted it.
    #[error(transparent)]
    Behind(#[from] DatabaseBehind),
    /// No keyset of this name.
    #[error("no keyset {0}")]
    NotFound(KeysetName),
    /// A keyset of this name exists.
    #[error("keyset {0} exists already")]
    Exists(KeysetName),
    /// The keyset kept changing under the operation.
    #[error("keyset {0} is being changed by others; try again")]
    Busy(KeysetName),
    /// The policy breaks a relation.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// A rotation cannot be had now.
    #[error(transparent)]
    Rotate(#[from] RotateError),
    /// There is nothing to revoke.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// The state of a ratchet cannot be had here, or no seed offered.
    #[error("{0}")]
    Ratchet(&'static str),
    /// A token with this secret exists, as after an answer that was lost.
    #[error("a token with this hash exists already")]
    TokenExists,
    /// There is no room for another token.
    #[error("there are {MAX_TOKENS} tokens, which is the most; revoke one first")]
    TooManyTokens,
    /// There is no room for another grant.
    #[error("there are {MAX_GRANTS} grants, which is the most; remove one first")]
    TooManyGrants,
    /// The decision cannot be carried out: no randomness, no wrapping, a broken rule.
    #[error("the change cannot be carried out")]
    Failed(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<ClusterError> for OperationError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Store(error) => Self::Store(error),
            ClusterError::Behind(error) => Self::Behind(error),
        }
    }
}

impl From<DraftError> for OperationError {
    fn from(error: DraftError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<RandomError> for OperationError {
    fn from(error: RandomError) -> Self {
        Self::Failed(Box::new(error))
    }
}

impl From<CommitError> for OperationError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict(name) => Self::Busy(name),
            CommitError::Exists(name) => Self::Exists(name),
            CommitError::NotFound(name) => Self::NotFound(name),
            CommitError::Store(error) => Self::Store(error),
            CommitError::Invariant { constraint, .. } if constraint == TOKEN_HASH_RULE => {
                Self::TokenExists
            }
            error @ (CommitError::Invariant { .. } | CommitError::Pruned(_)) => {
                Self::Failed(Box::new(error))
            }
        }
    }
}

/// The operations of one manager.
pub struct Operations {
    engine: Arc<Engine>,
    feed: watch::Receiver<Option<Arc<FeedState>>>,
}

impl Operations {
    /// Operations on `engine`; `feed` says who is who.
    pub fn new(engine: Arc<Engine>, feed: watch::Receiver<Option<Arc<FeedState>>>) -> Self {
        Self { engine, feed }
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// What is published, and word of the next change.
    pub(crate) fn feeds(&self) -> watch::Receiver<Option<Arc<FeedState>>> {
        let mut feed = self.feed.clone();
        feed.mark_unchanged();
        feed
    }

    pub(crate) fn feed(&self) -> Option<Arc<FeedState>> {
        self.feed.borrow().clone()
    }

    /// Begins a keyset; its first key seals at once.
    ///
    /// # Errors
    /// [`OperationError::Exists`], [`OperationError::Policy`], or the parts below.
    pub async fn create(
        &self,
        name: &KeysetName,
        policy: PolicyDocument,
        actor: &str,
    ) -> Result<KeysetDocument, OperationError> {
        let policy = Policy::try_new(&policy.to_request())?;
        let (time, cluster) = self.begin().await?;
        let empty = Keyset::try_new(name.clone(), policy, History::Fresh, Vec::new())
            .map_err(DraftError::from)?;
        let ops = planner::plan(&empty, &Convergence::confirmed(), time.now);
        let draft = Draft::new(&self.engine, (&empty, time.now), &ops, actor, time)?;
        let (keys, digest) = (draft.minted(), draft.keyset.content_digest());
        let change = Change::CreateKeyset {
            name: name.clone(),
            policy,
            keys: keys.clone(),
            digest,
            next_due: draft.next_due,
        };
        let reason = outcome::describe(&policy);
        let mut events = vec![event(time, actor, AuditAction::KeysetCreated, Some(name), reason)];
        events.extend(draft.events);
        let revision = self.commit(time, change, events).await?.revision;
        // Not read back: that could fail, and the keyset would be there all the same.
        let (keyset, next_due, created_at) = (draft.keyset, draft.next_due, time.now);
        let ended = Vec::new();
        let stored = StoredKeyset { keyset, keys, ended, revision, digest, next_due, created_at };
        Ok(outcome::document(&stored, cluster.incarnation, time.now))
    }

    /// Keysets that `visible` lets through, in the order of their names, after `after`.
    ///
    /// # Errors
    /// The database.
    pub async fn list(
        &self,
        after: Option<&KeysetName>,
        visible: impl Fn(&KeysetName) -> bool,
    ) -> Result<KeysetList, OperationError> {
        let time = self.engine.read_time_or_fleet_time().await?;
        let page = self.engine.store.keysets(after, PAGE).await?;
        let full = page.rows() == PAGE;
        let next = page.last_name().filter(|_| full).map(|last| last.to_string());
        let incarnation = self.engine.store.cluster().await?.incarnation;
        let seen = page.sound.iter().filter(|stored| visible(stored.keyset.name()));
        let keysets = seen.map(|stored| outcome::document(stored, incarnation, time.now)).collect();
        Ok(KeysetList { keysets, next })
    }

    /// Those of `names` that exist, in order, after `after`: for a caller who may not learn which
    /// others there are, not even from where the next page begins.
    ///
    /// # Errors
    /// The database.
    pub(crate) async fn list_named(
        &self,
        after: Option<&KeysetName>,
        names: &BTreeSet<KeysetName>,
    ) -> Result<KeysetList, OperationError> {
        let time = self.engine.read_time_or_fleet_time().await?;
        let incarnation = self.engine.store.cluster().await?.incarnation;
        let mut later = names.iter().filter(|name| after < Some(name));
        let mut keysets = Vec::new();
        let mut last = None;
        for name in later.by_ref().take(PAGE) {
            let stored = self.engine.store.keyset(name).await?;
            let document = stored.map(|stored| outcome::document(&stored, incarnation, time.now));
            keysets.extend(document);
            last = Some(name.to_string());
        }
        Ok(KeysetList { keysets, next: last.filter(|_| later.next().is_some()) })
    }

    /// One keyset.
    ///
    /// # Errors
    /// [`OperationError::NotFound`], or the database.
    pub async fn show(&self, name: &KeysetName) -> Result<KeysetDocument, OperationError> {
        let time = self.engine.read_time_or_fleet_time().await?;
        let stored = self.read(name).await?;
        let incarnation = self.engine.store.cluster().await?.incarnation;
        let mut document = outcome::document(&stored, incarnation, time.now);
        let proofs = self.engine.store.proofs(name).await?;
        for (key, shown) in stored.ended.iter().zip(&mut document.ended) {
            shown.provably_destroyed_at = proofs.get(&key.id).map(ToString::to_string);
        }
        Ok(document)
    }

    /// What the planner would do until `until`.
    ///
    /// # Errors
    /// [`OperationError::NotFound`], or the database.
    pub async fn plan(
        &self,
        name: &KeysetName,
        until: Timestamp,
    ) -> Result<PlanDocument, OperationError> {
        let time = self.engine.read_time_or_fleet_time().await?;
        let stored = self.read(name).await?;
        Ok(forecast::forecast(&stored.keyset, time.now, until))
    }

    /// Rotates at once; see [`planner::rotate_now`].
    ///
    /// # Errors
    /// [`OperationError::Rotate`], [`OperationError::NotFound`], or the parts below.
    pub async fn rotate(
        &self,
        name: &KeysetName,
        actor: &str,
    ) -> Result<EffectDocument, OperationError> {
        self.update(name, actor, &KeysetChange::Rotate).await
    }

    /// Changes the policy, from the next mint on.
    ///
    /// # Errors
    /// [`OperationError::Policy`], [`OperationError::NotFound`], or the parts below.
    pub async fn change_policy(
        &self,
        name: &KeysetName,
        asked: PolicyDocument,
        actor: &str,
    ) -> Result<EffectDocument, OperationError> {
        self.update(name, actor, &KeysetChange::Policy(asked)).await
    }

    /// Deletes a keyset: its keys are revoked and erased, a tombstone stays.
    ///
    /// # Errors
    /// [`OperationError::NotFound`], or the parts below.
    pub async fn delete(
        &self,
        name: &KeysetName,
        actor: &str,
    ) -> Result<EffectDocument, OperationError> {
        for _ in 0..TRIES {
            let (time, _) = self.begin_revoking().await?;
            let stored = self.read(name).await?;
            let change = Change::DeleteKeyset { name: name.clone(), expected: stored.revision };
            let reason = format!("{} keys revoked", stored.keys.len());
            let mut events =
                vec![event(time, actor, AuditAction::KeysetDeleted, Some(name), reason)];
            events.extend(stored.keys.iter().map(|key| AuditEvent {
                key: Some(key.record.id),
                ..event(time, actor, AuditAction::KeyRevoked, Some(name), "keyset deleted".into())
            }));
            match self.commit(time, change, events).await {
                Err(OperationError::Busy(_)) => {}
                other => return Ok(outcome::deleted(&stored, other?, time.now)),
            }
        }
        Err(OperationError::Busy(name.clone()))
    }

    async fn update(
        &self,
        name: &KeysetName,
        actor: &str,
        asked: &KeysetChange,
    ) -> Result<EffectDocument, OperationError> {
        for _ in 0..TRIES {
            let (time, _) = match asked {
                KeysetChange::Revoke { .. } => self.begin_revoking().await?,
                KeysetChange::Rotate | KeysetChange::Policy(_) => self.begin().await?,
            };
            let stored = self.read(name).await?;
            let planned = decide::decide(&stored, asked, time.now)?;
            let mut draft = Draft::new(
                &self.engine,
                (&planned.keyset, stored.next_due),
                &planned.ops,
                actor,
                time,
            )?;
            draft.leave_undecided((&stored.keyset, stored.next_due), time.now);
            if let KeysetChange::Revoke { reason, .. } = asked {
                draft.revoked_for(reason);
            }
            let minted = draft.minted().into_iter().map(|key| key.record.id);
            let effects = outcome::effects(minted, &planned.ops, time.now);
            let policy = planned.policy.as_ref();
            let warnings = outcome::warnings(&stored.keyset, &draft.keyset, policy, time.now);
            let (update, planned_events) =
                draft.into_update((stored.revision, stored.next_due), planned.policy);
            let request =
                planned.event.map(|(action, why)| event(time, actor, action, Some(name), why));
            let events = request.into_iter().chain(planned_events).collect();
            match self.commit(time, Change::UpdateKeyset(update), events).await {
                Err(OperationError::Busy(_)) => {}
                other => {
                    let revision = other?.revision.as_u64();
                    let keyset = name.to_string();
                    return Ok(EffectDocument { keyset, revision, effects, warnings });
                }
            }
        }
        Err(OperationError::Busy(name.clone()))
    }

    /// What every change begins with: the time, and a database that may be written.
    async fn begin(&self) -> Result<(PassTime, ClusterState), OperationError> {
        let time = self.engine.read_time().await?;
        Ok((time, self.engine.read_cluster().await?))
    }

    /// The same for what takes something back, which waits for no clock.
    async fn begin_revoking(&self) -> Result<(PassTime, ClusterState), OperationError> {
        let time = self.engine.read_time_or_fleet_time().await?;
        Ok((time, self.engine.read_cluster().await?))
    }

    async fn read(&self, name: &KeysetName) -> Result<StoredKeyset, OperationError> {
        let stored = self.engine.store.keyset(name).await?;
        stored.ok_or_else(|| OperationError::NotFound(name.clone()))
    }

    async fn commit(
        &self,
        time: PassTime,
        change: Change,
        events: Vec<AuditEvent>,
    ) -> Result<Committed, OperationError> {
        self.commit_all(time, vec![change], events).await
    }

    async fn commit_all(
        &self,
        time: PassTime,
        changes: Vec<Change>,
        events: Vec<AuditEvent>,
    ) -> Result<Committed, OperationError> {
        let commit = Commit { at: time.now, changes, events };
        let committed = self.engine.store.commit(&commit, &self.engine.audit).await?;
        for event in &commit.events {
            let (action, reason) = (event.action.as_str(), &event.reason);
            let keyset = event.keyset.as_ref().map(KeysetName::as_str);
            tracing::info!(actor = event.actor, action, keyset, reason, "change asked for");
        }
        self.engine.changed.notify_one();
        Ok(committed)
    }
}

fn event(
    time: PassTime,
    actor: &str,
    action: AuditAction,
    keyset: Option<&KeysetName>,
    reason: String,
) -> AuditEvent {
    let (actor, keyset) = (actor.to_owned(), keyset.cloned());
    AuditEvent { at: time.now, actor, action, keyset, key: None, reason }
}
