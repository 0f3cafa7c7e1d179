//! Turns the planner's decisions on one keyset into a change for the store: makes and wraps the
//! keys, proves the outcome, and says what is written down.

use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::bundle::EndCause;
use stek_core::derive;
use stek_core::id::{KeyId, Revision};
use stek_core::keyset::{KeyRecord, Keyset, KeysetError, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::planner::{self, Convergence, MintReason, Op};
use stek_core::policy::{ActivationQuorum, Policy};
use stek_core::principal::PLANNER;
use stek_core::schedule::Schedule;
use stek_core::time::Timestamp;
use stek_custody::custody::{MintError, WrapError};
use stek_custody::random::{RandomError, RandomSource};
use stek_store::{KeyStep, KeysetUpdate, StoredKey};

use crate::engine::{Engine, PassTime};

/// Why a decision cannot be carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DraftError {
    #[error("no key could be made")]
    Mint(#[from] MintError),
    #[error("no random bytes could be had")]
    Random(#[from] RandomError),
    #[error("a new key could not be wrapped")]
    Wrap(#[from] WrapError),
    #[error("the plan would break a rule of keysets")]
    Keyset(#[from] KeysetError),
}

/// One keyset's part of a commit.
pub(crate) struct Draft {
    /// The keyset afterwards.
    pub(crate) keyset: Keyset,
    /// What happens to its keys.
    pub(crate) steps: Vec<KeyStep>,
    /// What is written down.
    pub(crate) events: Vec<AuditEvent>,
    /// When the planner must look again.
    pub(crate) next_due: Timestamp,
    /// Whether terminators must learn of it.
    pub(crate) publishes: bool,
}

impl Draft {
    /// Carries `ops` out on `before`, in the name of `actor`. `due` is since when it has been due, for
    /// whatever has happened by itself.
    pub(crate) fn new(
        engine: &Engine,
        (before, due): (&Keyset, Timestamp),
        ops: &[Op],
        actor: &str,
        time: PassTime,
    ) -> Result<Self, DraftError> {
        let mut minted: Vec<StoredKey> = Vec::new();
        let mut steps = Vec::with_capacity(ops.len());
        let mut events = Vec::with_capacity(ops.len());
        let name = before.name();
        let event = |action, key, reason: String| AuditEvent {
            at: time.now,
            actor: actor.to_owned(),
            action,
            keyset: Some(name.clone()),
            key,
            reason,
        };
        for op in ops {
            match op {
                Op::Mint { schedule, reason } => {
                    let key = mint(engine, name, *schedule, time)?;
                    if let MintReason::AfterGap { .. } = reason {
                        events.push(event(AuditAction::Gap, None, reason.to_string()));
                    }
                    let id = Some(key.record.id);
                    events.push(event(AuditAction::KeyMinted, id, reason.to_string()));
                    steps.push(KeyStep::Insert(key.clone()));
                    minted.push(key);
                }
                Op::Move { id, schedule, reason } => {
                    events.push(event(AuditAction::KeyRescheduled, Some(*id), reason.to_string()));
                    steps.push(KeyStep::Move { id: *id, schedule: *schedule });
                }
                Op::End { id, cause } => {
                    let action = match cause {
                        EndCause::Expired => AuditAction::KeyDestroyed,
                        EndCause::Revoked => AuditAction::KeyRevoked,
                    };
                    events.push(event(action, Some(*id), cause.as_str().to_owned()));
                    steps.push(KeyStep::End { id: *id, cause: *cause });
                }
            }
        }
        let records: Vec<KeyRecord> = minted.iter().map(|key| key.record).collect();
        let keyset = planner::apply(before, ops, &records)?;
        events.extend(activations(before, &keyset, due, time.now));
        // Looked at before each activation, for who lacks a key is known only then.
        let watched = match keyset.policy().activation_quorum() {
            ActivationQuorum::All => keyset.keys().iter().map(|key| key.id).collect(),
            ActivationQuorum::Off => Vec::new(),
        };
        let planned = planner::next_due(&keyset, &Convergence::lacking(watched), time.now);
        // And at each activation, for it is written down.
        let activation = keyset.next_pending(time.now).map(|key| key.schedule.activate_at());
        let next_due = activation.map_or(planned, |at| at.min(planned));
        Ok(Self { keyset, steps, events, next_due, publishes: planner::publishes(ops) })
    }

    /// Leaves to the next pass what has to be decided by what the fleet holds, which this has not
    /// looked at. `before` and `due` are as they were read.
    pub(crate) fn leave_undecided(&mut self, before: (&Keyset, Timestamp), now: Timestamp) {
        let since = planner::undecided(before, &self.keyset, now);
        self.next_due = since.map_or(self.next_due, |since| since.min(self.next_due));
    }

    /// The change of a keyset that was read at revision `expected`, due at `due`. A new policy is published even if no
    /// key changes with it.
    pub(crate) fn into_update(
        self,
        (expected, due): (Revision, Timestamp),
        policy: Option<Policy>,
    ) -> (KeysetUpdate, Vec<AuditEvent>) {
        let publish = self.publishes || policy.is_some();
        let update = KeysetUpdate {
            name: self.keyset.name().clone(),
            expected,
            expected_due: Some(due),
            policy,
            steps: self.steps,
            publish: publish.then(|| self.keyset.content_digest()),
            next_due: self.next_due,
        };
        (update, self.events)
    }

    /// Writes down why keys are revoked, in the words of whoever asked for it.
    pub(crate) fn revoked_for(&mut self, reason: &str) {
        let revoked = |event: &&mut AuditEvent| event.action == AuditAction::KeyRevoked;
        for event in self.events.iter_mut().filter(revoked) {
            event.reason = reason.to_owned();
        }
    }

    /// The keys that it mints.
    pub(crate) fn minted(&self) -> Vec<StoredKey> {
        let inserted = self.steps.iter().filter_map(|step| match step {
            KeyStep::Insert(key) => Some(key.clone()),
            KeyStep::Move { .. } | KeyStep::End { .. } => None,
        });
        inserted.collect()
    }
}

/// The events of keys that have begun to seal. A keyset is due at its next activation, and every
/// commit moves that on by compare-and-swap; so whatever activated since it was due is told by the
/// one commit that follows, whichever manager makes it, and never again.
fn activations(before: &Keyset, after: &Keyset, due: Timestamp, now: Timestamp) -> Vec<AuditEvent> {
    let by_itself = before.keys().iter().filter(|key| {
        let at = key.schedule.activate_at();
        due <= at && at <= now
    });
    let was_active = |id: KeyId| {
        before.keys().iter().any(|key| key.id == id && key.schedule.activate_at() <= now)
    };
    let by_change =
        after.keys().iter().filter(|key| key.schedule.activate_at() <= now && !was_active(key.id));
    let event = |key: &KeyRecord| AuditEvent {
        at: now,
        actor: PLANNER.into(),
        action: AuditAction::KeyActivated,
        keyset: Some(before.name().clone()),
        key: Some(key.id),
        reason: format!(
            "seals from {} to {}",
            key.schedule.activate_at(),
            key.schedule.retire_at()
        ),
    };
    by_itself.chain(by_change).map(event).collect()
}

fn mint(
    engine: &Engine,
    keyset: &KeysetName,
    schedule: Schedule,
    time: PassTime,
) -> Result<StoredKey, DraftError> {
    let material = engine.custody.mint(engine.random.as_ref())?;
    let record = KeyRecord {
        id: new_id(engine.random.as_ref(), time)?,
        format: TicketFormat::V1,
        kcv: derive::kcv(&material),
        schedule,
    };
    let wrapped = engine.custody.wrap(engine.random.as_ref(), keyset, &record, &material)?;
    Ok(StoredKey { record, wrapped })
}

/// An identity that orders by time.
pub(crate) fn new_id(random: &dyn RandomSource, time: PassTime) -> Result<KeyId, RandomError> {
    let mut bytes = [0; 10];
    random.fill(&mut bytes)?;
    Ok(KeyId::new(time.millis, &bytes))
}
