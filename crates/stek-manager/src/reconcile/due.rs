//! Carries out what is due, a bounded part of it in each pass. A keyset that cannot be carried out
//! is left alone for a while, so that it holds up nobody else.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::name::KeysetName;
use stek_core::planner::{self, Convergence};
use stek_core::principal::PLANNER;
use stek_core::time::Timestamp;
use stek_store::{
    Change, Commit, CommitError, Keysets, MAX_BATCH, MAX_PAGE, StoreError, StoredKeyset, Unsound,
};

use crate::draft::{Draft, DraftError};
use crate::engine::{Engine, PassTime};
use crate::metrics::ManagerMetrics;

/// The most batches of one pass: then what was done is published before there is more.
const BATCHES: usize = 4;
/// How long a keyset is left alone whose plan failed.
const FAILED_REST: Duration = Duration::from_secs(10);
/// How long one is left alone that others keep changing.
const CONFLICT_REST: Duration = Duration::from_secs(1);
/// How much of a name is told that need not be one.
const SHOWN_CHARACTERS: usize = 64;
/// How many failed keysets of a batch are named in the log.
const NAMED: usize = 16;

/// Whether a pass did all that was due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Done,
    More,
}

/// Keysets that are left alone, each until a boot time.
#[derive(Default)]
pub(super) struct Resting {
    keysets: HashMap<KeysetName, Duration>,
    /// Those that cannot be read, with the reason. They stay due until somebody mends them.
    unsound: BTreeMap<String, String>,
}

impl Resting {
    pub(super) fn is_empty(&self) -> bool {
        self.keysets.is_empty() && self.unsound.is_empty()
    }

    fn wake(&mut self, boot: Duration) {
        self.keysets.retain(|_, until| *until > boot);
    }

    fn rest(&mut self, engine: &Engine, name: &KeysetName, span: Duration) {
        self.keysets.insert(name.clone(), engine.clock().boot() + span);
    }

    /// How many keysets cannot be read, as far as that was seen.
    pub(super) fn unsound(&self) -> usize {
        self.unsound.len()
    }

    /// Notes which due keysets cannot be read; each is told once until it can.
    fn set_aside(&mut self, unsound: Vec<Unsound>) {
        let before = std::mem::take(&mut self.unsound);
        for Unsound { name, why } in unsound {
            let name: String = name.chars().take(SHOWN_CHARACTERS).collect();
            if before.get(&name) != Some(&why) {
                tracing::error!(keyset = ?name, why, "keyset cannot be read; others go on");
            }
            self.unsound.insert(name, why);
        }
    }

    fn rests(&self, keyset: &StoredKeyset) -> bool {
        self.keysets.contains_key(keyset.keyset.name())
    }
}

/// What one commit failed at.
#[derive(Debug, thiserror::Error)]
enum KeysetFailure {
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl KeysetFailure {
    /// Somebody else was faster, and has probably done the work.
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Commit(CommitError::Conflict(_) | CommitError::NotFound(_)))
    }

    /// The failure again, if it is the database's and no keyset's: all others would fail alike.
    fn into_outage(self) -> Result<StoreError, Self> {
        match self {
            Self::Commit(CommitError::Store(
                error @ (StoreError::Unreachable(_)
                | StoreError::NotMigrated
                | StoreError::Schema { .. }),
            )) => Ok(error),
            other => Err(other),
        }
    }
}

/// Carries out what is due at `time`, at most [`BATCHES`] batches of it.
pub(super) async fn carry_out(
    engine: &Engine,
    metrics: &ManagerMetrics,
    resting: &mut Resting,
    time: PassTime,
) -> Result<Progress, StoreError> {
    resting.wake(engine.clock().boot());
    let mut conflicts = 0;
    for _ in 0..BATCHES {
        let batch = next_batch(engine, resting, time.now).await?;
        if batch.is_empty() {
            return Ok(Progress::Done);
        }
        // One transaction for all; if that is refused, one for each, so that one does not hold up
        // the others.
        match commit(engine, metrics, &batch, time).await {
            Ok(()) => continue,
            // Read again, once, rather than do in small what another manager has just done.
            Err(failure) if failure.is_conflict() && conflicts == 0 => {
                conflicts += 1;
                continue;
            }
            Err(failure) => {
                if let Ok(outage) = failure.into_outage() {
                    return Err(outage);
                }
            }
        }
        one_by_one(engine, metrics, resting, &batch, time).await?;
    }
    Ok(Progress::More)
}

async fn one_by_one(
    engine: &Engine,
    metrics: &ManagerMetrics,
    resting: &mut Resting,
    batch: &[StoredKeyset],
    time: PassTime,
) -> Result<(), StoreError> {
    let mut failed = 0;
    for keyset in batch {
        let name = keyset.keyset.name();
        let Err(failure) = commit(engine, metrics, std::slice::from_ref(keyset), time).await else {
            continue;
        };
        if failure.is_conflict() {
            resting.rest(engine, name, CONFLICT_REST);
            continue;
        }
        let failure = match failure.into_outage() {
            Ok(outage) => return Err(outage),
            Err(failure) => failure,
        };
        metrics.keyset_failures.inc();
        resting.rest(engine, name, FAILED_REST);
        failed += 1;
        if failed <= NAMED {
            let error = &failure as &dyn std::error::Error;
            tracing::error!(keyset = %name, error, "plan cannot be carried out");
        }
    }
    if failed > NAMED {
        tracing::error!(keysets = failed, "plans cannot be carried out");
    }
    Ok(())
}

/// Up to [`MAX_BATCH`] keysets that are due and do not rest.
async fn next_batch(
    engine: &Engine,
    resting: &mut Resting,
    now: Timestamp,
) -> Result<Vec<StoredKeyset>, StoreError> {
    let limit = MAX_BATCH + resting.keysets.len() + resting.unsound.len();
    if limit <= MAX_PAGE {
        let Keysets { sound: mut due, unsound } = engine.store.due(now, limit).await?;
        resting.set_aside(unsound);
        due.retain(|keyset| !resting.rests(keyset));
        due.truncate(MAX_BATCH);
        return Ok(due);
    }
    // So many rest that they would fill the list of those due: look at all.
    let (mut batch, mut unsound) = (Vec::new(), Vec::new());
    let mut after: Option<KeysetName> = None;
    loop {
        let page = engine.store.keysets(after.as_ref(), MAX_PAGE).await?;
        after = page.last_name();
        let is_last = page.rows() < MAX_PAGE || after.is_none();
        unsound.extend(page.unsound);
        batch.extend(
            page.sound.into_iter().filter(|one| one.next_due <= now && !resting.rests(one)),
        );
        if is_last || batch.len() >= MAX_BATCH {
            batch.truncate(MAX_BATCH);
            resting.set_aside(unsound);
            return Ok(batch);
        }
    }
}

/// The event of a key that activates though instances lack it, in the first pass after that could
/// be decided: the keyset was due for it.
fn forced(stored: &StoredKeyset, convergence: &Convergence, now: Timestamp) -> Option<AuditEvent> {
    let (key, decided_at) = planner::forced(&stored.keyset, convergence, now)?;
    (stored.next_due <= decided_at).then(|| AuditEvent {
        at: now,
        actor: PLANNER.into(),
        action: AuditAction::ActivationForced,
        keyset: Some(stored.keyset.name().clone()),
        key: Some(key),
        reason: "instances lack it, and its activation cannot be postponed any further".into(),
    })
}

async fn commit(
    engine: &Engine,
    metrics: &ManagerMetrics,
    keysets: &[StoredKeyset],
    time: PassTime,
) -> Result<(), KeysetFailure> {
    let mut commit = Commit { at: time.now, changes: Vec::new(), events: Vec::new() };
    let census = engine.confirmations.current();
    for stored in keysets {
        let convergence = engine.confirmations.convergence(&census, &stored.keyset, time.now);
        let ops = planner::plan(&stored.keyset, &convergence, time.now);
        let draft = Draft::new(engine, (&stored.keyset, stored.next_due), &ops, PLANNER, time)?;
        let (update, events) = draft.into_update((stored.revision, stored.next_due), None);
        commit.events.extend(forced(stored, &convergence, time.now));
        commit.changes.push(Change::UpdateKeyset(update));
        commit.events.extend(events);
    }
    let committed = engine.store.commit(&commit, &engine.audit).await?;
    for event in &commit.events {
        metrics.observe_event(event.action, event.at);
        if event.action == AuditAction::ActivationForced {
            let (keyset, reason) = (event.keyset.as_ref().map(KeysetName::as_str), &event.reason);
            tracing::error!(keyset, reason, "key activates though instances lack it");
        }
        tracing::info!(
            keyset = event.keyset.as_ref().map(KeysetName::as_str),
            key = event.key.map(|key| key.to_string()),
            action = event.action.as_str(),
            reason = event.reason,
            revision = committed.revision.as_u64(),
            "planned change"
        );
    }
    Ok(())
}
