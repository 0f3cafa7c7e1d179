//! What operators ask for: each operation reads the keyset, lets the planner decide, commits, and
//! says what it did. Who may ask is decided in [`crate::admin`].

use std::sync::Arc;

use stek_core::access::{Grant, Token, TokenHash};
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::feed::FeedState;
use stek_core::id::KeyId;
use stek_core::keyset::{History, Keyset};
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::planner::{self, Convergence, Op, RotateError};
use stek_core::policy::{Policy, PolicyError};
use stek_core::time::Timestamp;
use stek_custody::random::RandomError;
use stek_store::{
    Change, Commit, CommitError, Committed, SealedGrant, SealedToken, StoreError, StoredKeyset,
};
use stek_wire::admin::{
    Effect, EffectDocument, KeysetDocument, KeysetList, KeysetTimes, PlanDocument, PolicyDocument,
};
use tokio::sync::watch;

use crate::draft::{Draft, DraftError, new_id};
use crate::engine::{ClockError, Engine, PassTime};
use crate::forecast;

/// How often an operation is tried again when the keyset moved under it.
const TRIES: usize = 5;

/// The most keysets of one page.
pub(crate) const PAGE: usize = 200;

/// Why an operation was not done. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum OperationError {
    /// There is no time to act on.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// The decision cannot be carried out: no randomness, no wrapping, a broken rule.
    #[error("{0}")]
    Failed(String, #[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<DraftError> for OperationError {
    fn from(error: DraftError) -> Self {
        Self::Failed(error.to_string(), Box::new(error))
    }
}

impl From<RandomError> for OperationError {
    fn from(error: RandomError) -> Self {
        Self::Failed(error.to_string(), Box::new(error))
    }
}

/// A token to store. Its secret stays with whoever made it.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The principal that its bearer will be.
    pub principal: PrincipalName,
    /// The hash of its secret.
    pub hash: TokenHash,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// What its bearer may do, on top of what was granted to the principal before.
    pub grants: Vec<Grant>,
}

/// A stored token with what its bearer may do.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// The token.
    pub token: Token,
    /// The grants of its principal.
    pub grants: Vec<Grant>,
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
        let time = self.engine.read_time().await?;
        let empty = Keyset::try_new(name.clone(), policy, History::Fresh, Vec::new())
            .map_err(DraftError::from)?;
        let ops = planner::plan(&empty, &Convergence::confirmed(), time.now);
        let draft = Draft::new(&self.engine, &empty, &ops, actor, time)?;
        let change = Change::CreateKeyset {
            name: name.clone(),
            policy,
            keys: draft.minted(),
            digest: draft.keyset.content_digest(),
            next_due: draft.next_due,
        };
        let reason = format!("rotation period {}", policy.rotation_period());
        let mut events = vec![event(time, actor, AuditAction::KeysetCreated, Some(name), reason)];
        events.extend(draft.events);
        self.commit(time, change, events).await?;
        self.show(name).await
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
        let time = self.engine.read_time().await?;
        let page = self.engine.store.keysets(after, PAGE).await?;
        let full = page.len() == PAGE;
        let next = page.last().filter(|_| full).map(|last| last.keyset.name().to_string());
        let incarnation = self.engine.store.cluster().await?.incarnation;
        let seen = page.iter().filter(|stored| visible(stored.keyset.name()));
        let keysets = seen.map(|stored| document(stored, incarnation, time.now)).collect();
        Ok(KeysetList { keysets, next })
    }

    /// One keyset.
    ///
    /// # Errors
    /// [`OperationError::NotFound`], or the database.
    pub async fn show(&self, name: &KeysetName) -> Result<KeysetDocument, OperationError> {
        let time = self.engine.read_time().await?;
        let stored = self.read(name).await?;
        let incarnation = self.engine.store.cluster().await?.incarnation;
        Ok(document(&stored, incarnation, time.now))
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
        let time = self.engine.read_time().await?;
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
        self.update(name, actor, |stored, now| {
            let ops = planner::rotate_now(&stored.keyset, now)?;
            Ok(Planned { keyset: stored.keyset.clone(), ops, policy: None, event: None })
        })
        .await
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
        self.update(name, actor, |stored, now| {
            let policy = Policy::try_new(&asked.over(stored.keyset.policy()))?;
            let keys = stored.keyset.keys().to_vec();
            let keyset = Keyset::try_new(name.clone(), policy, stored.keyset.history(), keys)
                .map_err(DraftError::from)?;
            let ops = planner::plan(&keyset, &Convergence::confirmed(), now);
            let reason = describe(&policy);
            let event = Some((AuditAction::PolicyChanged, reason));
            Ok(Planned { keyset, ops, policy: Some(policy), event })
        })
        .await
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
            let time = self.engine.read_time().await?;
            let stored = self.read(name).await?;
            let change =
                Change::DeleteKeyset { name: name.clone(), expected: stored.revision };
            let reason = format!("{} keys revoked", stored.keys.len());
            let events = vec![event(time, actor, AuditAction::KeysetDeleted, Some(name), reason)];
            match self.commit(time, change, events).await {
                Err(OperationError::Busy(_)) => {}
                other => return Ok(deleted(&stored, other?, time)),
            }
        }
        Err(OperationError::Busy(name.clone()))
    }

    /// Stores a token and the grants of its principal.
    ///
    /// # Errors
    /// The database, or no randomness.
    pub async fn add_token(&self, new: NewToken, actor: &str) -> Result<Token, OperationError> {
        let time = self.engine.read_time().await?;
        let id = new_id(&self.engine, time)?;
        let NewToken { principal, hash, expires_at, grants } = new;
        let token = Token { id, principal, hash, expires_at };
        let sealer = &self.engine.sealer;
        let reason = format!("{} until {expires_at}", token.principal);
        let mut events = vec![event(time, actor, AuditAction::TokenCreated, None, reason)];
        let seal = sealer.seal(&token.canonical());
        let mut changes = vec![Change::AddToken(SealedToken { token: token.clone(), seal })];
        for grant in grants {
            let reason = format!("{} as {} on {}", grant.principal, grant.role.as_str(), grant.keysets);
            events.push(event(time, actor, AuditAction::GrantAdded, None, reason));
            let seal = sealer.seal(&grant.canonical());
            changes.push(Change::AddGrant(SealedGrant { grant, seal }));
        }
        self.commit_all(time, changes, events).await?;
        Ok(token)
    }

    /// The tokens whose seals hold, with the grants of their principals.
    ///
    /// # Errors
    /// The database.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, OperationError> {
        let stored = self.engine.store.access().await?;
        let sealer = &self.engine.sealer;
        let good = |row: &SealedGrant| sealer.verify(&row.grant.canonical(), &row.seal);
        let grants: Vec<Grant> =
            stored.grants.into_iter().filter(good).map(|row| row.grant).collect();
        let tokens = stored.tokens.into_iter();
        let tokens = tokens.filter(|row| sealer.verify(&row.token.canonical(), &row.seal));
        let rows = tokens.map(|row| {
            let mine = grants.iter().filter(|grant| grant.principal == row.token.principal);
            TokenRow { grants: mine.cloned().collect(), token: row.token }
        });
        Ok(rows.collect())
    }

    /// Revokes a token, and the grants of its principal unless another token is of the same.
    /// Returns whether there was such a token.
    ///
    /// # Errors
    /// The database.
    pub async fn revoke_token(&self, id: KeyId, actor: &str) -> Result<bool, OperationError> {
        let time = self.engine.read_time().await?;
        let tokens = self.tokens().await?;
        let Some(row) = tokens.iter().find(|row| row.token.id == id) else { return Ok(false) };
        let principal = &row.token.principal;
        let reason = principal.to_string();
        let mut events = vec![event(time, actor, AuditAction::TokenRevoked, None, reason)];
        let mut changes = vec![Change::RemoveToken(id)];
        let others = tokens.iter().filter(|other| &other.token.principal == principal).count();
        if others == 1 {
            for grant in &row.grants {
                let reason = format!("{principal} as {} on {}", grant.role.as_str(), grant.keysets);
                events.push(event(time, actor, AuditAction::GrantRemoved, None, reason));
                changes.push(Change::RemoveGrant(grant.clone()));
            }
        }
        self.commit_all(time, changes, events).await?;
        Ok(true)
    }

    async fn update(
        &self,
        name: &KeysetName,
        actor: &str,
        decide: impl Fn(&StoredKeyset, Timestamp) -> Result<Planned, OperationError>,
    ) -> Result<EffectDocument, OperationError> {
        for _ in 0..TRIES {
            let time = self.engine.read_time().await?;
            let stored = self.read(name).await?;
            let planned = decide(&stored, time.now)?;
            let draft = Draft::new(&self.engine, &planned.keyset, &planned.ops, actor, time)?;
            let effects = effects(&draft, &planned.ops, time.now);
            let warnings = warnings(&stored, &planned, &draft, time.now);
            let (update, planned_events) = draft.into_update(stored.revision, planned.policy);
            let asked = planned.event.map(|(action, why)| event(time, actor, action, Some(name), why));
            let events = asked.into_iter().chain(planned_events).collect();
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
        let committed = self.engine.store.commit(&commit, &self.engine.audit).await;
        let committed = committed.map_err(|error| match error {
            CommitError::Conflict(name) => OperationError::Busy(name),
            CommitError::Exists(name) => OperationError::Exists(name),
            CommitError::NotFound(name) => OperationError::NotFound(name),
            CommitError::Store(error) => OperationError::Store(error),
            error @ CommitError::Invariant { .. } => {
                OperationError::Failed(error.to_string(), Box::new(error))
            }
        })?;
        for event in &commit.events {
            let (action, reason) = (event.action.as_str(), &event.reason);
            let keyset = event.keyset.as_ref().map(KeysetName::as_str);
            tracing::info!(actor = event.actor, action, keyset, reason, "change asked for");
        }
        self.engine.changed.notify_one();
        Ok(committed)
    }
}

/// A decision about one keyset, with the event of the request itself.
struct Planned {
    keyset: Keyset,
    ops: Vec<Op>,
    policy: Option<Policy>,
    event: Option<(AuditAction, String)>,
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

fn document(
    stored: &StoredKeyset,
    incarnation: stek_core::id::Incarnation,
    now: Timestamp,
) -> KeysetDocument {
    let next_due = Some(stored.next_due);
    let times = KeysetTimes { next_due, created_at: stored.created_at, now };
    KeysetDocument::new(&stored.keyset, stored.tag(incarnation), &stored.ended, times)
}

fn describe(policy: &Policy) -> String {
    format!(
        "rotation {}, ticket lifetime {}, poll {}, skew {}, lead {}, session lifetime {}",
        policy.rotation_period(),
        policy.ticket_lifetime(),
        policy.poll_interval(),
        policy.clock_skew(),
        policy.lead(),
        policy.session_lifetime(),
    )
}

fn effects(draft: &Draft, ops: &[Op], now: Timestamp) -> Vec<Effect> {
    let mut minted = draft.minted().into_iter();
    let effects = ops.iter().map(|op| {
        let (action, key, at, reason) = match op {
            Op::Mint { schedule, reason } => {
                let key = minted.next().map(|key| key.record.id.to_string());
                ("mint", key, schedule.activate_at(), format!("{reason}; seals from then on"))
            }
            Op::Move { id, schedule, reason } if schedule.seals(now) => {
                let why = format!("{reason}; seals until {}", schedule.retire_at());
                ("activate", Some(id.to_string()), schedule.activate_at(), why)
            }
            Op::Move { id, schedule, reason } if schedule.retire_at() <= now => {
                let why = format!("{reason}; opens until {}", schedule.destroy_at());
                ("retire", Some(id.to_string()), schedule.retire_at(), why)
            }
            Op::Move { id, schedule, reason } => {
                ("move", Some(id.to_string()), schedule.activate_at(), reason.to_string())
            }
            Op::End { id, cause } => ("end", Some(id.to_string()), now, cause.as_str().to_owned()),
        };
        Effect { action: action.into(), key, at: Some(at.to_string()), reason }
    });
    effects.collect()
}

fn warnings(stored: &StoredKeyset, planned: &Planned, draft: &Draft, now: Timestamp) -> Vec<String> {
    let mut warnings = Vec::new();
    let policy = stored.keyset.policy();
    if let Some(active) = draft.keyset.active(now) {
        let out_for = now.since(active.schedule.published_at());
        let rotated = stored.keyset.active(now).is_some_and(|before| before.id != active.id);
        if rotated && out_for < policy.urgent_lead() {
            warnings.push(format!(
                "key {} was published only {out_for} ago: terminators that have not polled since \
                 miss its tickets until they do",
                active.id
            ));
        }
    }
    if planned.policy.is_some() {
        let next = stored.keyset.keys().iter().map(|key| key.schedule.retire_at()).max();
        let from = next.map_or(now, |end| end.max(now));
        warnings.push(format!(
            "keys that exist keep their schedules; the new policy rules the key that seals from {from}"
        ));
    }
    warnings
}

fn deleted(stored: &StoredKeyset, committed: Committed, time: PassTime) -> EffectDocument {
    let effects = stored.keys.iter().map(|key| Effect {
        action: "revoke".into(),
        key: Some(key.record.id.to_string()),
        at: Some(time.now.to_string()),
        reason: "keyset deleted".into(),
    });
    EffectDocument {
        keyset: stored.keyset.name().to_string(),
        revision: committed.revision.as_u64(),
        effects: effects.collect(),
        warnings: vec![
            "terminators of this keyset make full handshakes from now on; live connections go on"
                .into(),
        ],
    }
}
