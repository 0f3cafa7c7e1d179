//! The loop that keeps rotation going: reads the time, carries out what is due, publishes, sleeps
//! until the next due time. An error ends a pass and never the loop.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use stek_core::feed::FeedState;
use stek_core::name::KeysetName;
use stek_core::planner::{self, Convergence};
use stek_core::time::{Seconds, Timestamp};
use stek_store::{Change, Commit, CommitError, MAX_BATCH, StoreError, StoredKeyset};
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;

use crate::draft::{Draft, DraftError};
use crate::engine::{ClockError, Engine, PassTime};
use crate::metrics::ManagerMetrics;
use crate::publisher::{self, PublishError, Publisher};
use crate::readiness::ManagerReadiness;

/// Longest time between two passes: how late another manager's commit is seen at worst.
const LONGEST_IDLE: Duration = Duration::from_secs(5);
/// First wait after a failed pass; doubles up to [`LONGEST_IDLE`].
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// How long a keyset whose plan failed is left alone, so that it does not crowd out the others.
const FAILED_KEYSET_REST: Seconds = Seconds::new(10);
/// How long ended keys and tombstones are remembered.
const REMEMBER: Seconds = Seconds::from_days(7);
/// How often what is too old to remember is deleted.
const PURGE_EVERY: Seconds = Seconds::from_hours(1);

#[derive(Debug, thiserror::Error)]
enum PassError {
    #[error(transparent)]
    Clock(#[from] ClockError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error("the pass panicked")]
    Panicked,
}

/// What one keyset's plan failed at.
#[derive(Debug, thiserror::Error)]
enum KeysetFailure {
    #[error(transparent)]
    Draft(#[from] DraftError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

pub(crate) struct Reconciler {
    engine: Arc<Engine>,
    metrics: Arc<ManagerMetrics>,
    readiness: Arc<ManagerReadiness>,
    state: Arc<Mutex<State>>,
}

struct State {
    publisher: Publisher,
    /// Keysets whose plan failed, and until when they rest.
    resting: HashMap<KeysetName, Timestamp>,
    purged_at: Timestamp,
}

impl Reconciler {
    pub(crate) fn new(
        engine: Arc<Engine>,
        feed: watch::Sender<Option<Arc<FeedState>>>,
        metrics: ManagerMetrics,
        readiness: Arc<ManagerReadiness>,
    ) -> Self {
        let state = State {
            publisher: Publisher::new(feed),
            resting: HashMap::new(),
            purged_at: Timestamp::EPOCH,
        };
        let (metrics, state) = (Arc::new(metrics), Arc::new(Mutex::new(state)));
        Self { engine, metrics, readiness, state }
    }

    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let idle = match self.supervised_pass().await {
                Ok(idle) => {
                    retry = FIRST_RETRY;
                    idle
                }
                Err(error) => {
                    self.report(&error);
                    let wait = retry;
                    retry = (retry * 2).min(LONGEST_IDLE);
                    wait
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.engine.clock().sleep(idle) => {}
                () = self.engine.changed.notified() => {}
            }
        }
    }

    /// A pass in a task of its own, so that a panic ends the pass and not the loop.
    async fn supervised_pass(&self) -> Result<Duration, PassError> {
        let engine = Arc::clone(&self.engine);
        let (metrics, state) = (Arc::clone(&self.metrics), Arc::clone(&self.state));
        let pass = tokio::spawn(async move { pass(&engine, &metrics, &mut *state.lock().await).await });
        let idle = pass.await.map_err(|_| PassError::Panicked)??;
        self.metrics.passes.with_label_values(&["succeeded"]).inc();
        self.readiness.succeeded();
        Ok(idle)
    }

    fn report(&self, error: &PassError) {
        let (outcome, why) = match error {
            PassError::Clock(ClockError::Disagreement(apart)) => {
                let millis = apart.database_ms.abs_diff(apart.process_ms);
                self.metrics.clock_disagreement.set(Seconds::new(millis / 1000).to_std().as_secs_f64());
                ("clock", "the clocks disagree")
            }
            PassError::Clock(ClockError::Jump(_)) => ("clock", "the clock jumped"),
            PassError::Publish(PublishError::Behind { .. }) => {
                ("behind", "the database is behind what was published")
            }
            PassError::Publish(PublishError::HighWater(_)) => ("failed", "the state file failed"),
            PassError::Panicked => ("panicked", "a pass panicked"),
            PassError::Clock(ClockError::Store(_))
            | PassError::Store(_)
            | PassError::Publish(PublishError::Store(_)) => ("store", "the database failed"),
        };
        self.metrics.passes.with_label_values(&[outcome]).inc();
        self.readiness.failed(why);
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "pass failed; what was published stays");
    }
}

/// One pass; returns how long nothing will be due.
async fn pass(
    engine: &Engine,
    metrics: &ManagerMetrics,
    state: &mut State,
) -> Result<Duration, PassError> {
    let time = engine.read_time().await?;
    metrics.clock_disagreement.set(0.0);
    publisher::turn_ratchet(engine, time.now);
    metrics.ratchet_epoch.set(i64::try_from(engine.custody.epoch().as_u64()).unwrap_or(i64::MAX));
    state.resting.retain(|_, until| *until > time.now);
    carry_out_due(engine, metrics, &mut state.resting, time).await?;
    state.publisher.refresh(engine, metrics, time.now).await?;
    if time.now >= state.purged_at + PURGE_EVERY {
        engine.store.purge(time.now - REMEMBER).await?;
        state.purged_at = time.now;
    }
    let due = engine.store.next_due().await?;
    metrics.last_pass.set(i64::try_from(time.now.as_unix()).unwrap_or(i64::MAX));
    metrics.next_due.set(due.map_or(0, |due| i64::try_from(due.as_unix()).unwrap_or(i64::MAX)));
    let idle = due.map_or(LONGEST_IDLE, |due| {
        let boot = engine.fleet().boot_at(due);
        boot.saturating_sub(engine.clock().boot())
    });
    // Whoever rests is due and must not make the loop spin.
    let least = if state.resting.is_empty() { Duration::ZERO } else { Duration::from_secs(1) };
    Ok(idle.clamp(least, LONGEST_IDLE))
}

async fn carry_out_due(
    engine: &Engine,
    metrics: &ManagerMetrics,
    resting: &mut HashMap<KeysetName, Timestamp>,
    time: PassTime,
) -> Result<(), StoreError> {
    loop {
        let mut due = engine.store.due(time.now, MAX_BATCH + resting.len()).await?;
        due.retain(|keyset| !resting.contains_key(keyset.keyset.name()));
        due.truncate(MAX_BATCH);
        if due.is_empty() {
            return Ok(());
        }
        // One transaction for all; if that is refused, one for each, so that one does not hold up
        // the others.
        if commit(engine, &due, time).await.is_ok() {
            continue;
        }
        for keyset in &due {
            let name = keyset.keyset.name();
            if let Err(error) = commit(engine, std::slice::from_ref(keyset), time).await {
                if matches!(error, KeysetFailure::Commit(CommitError::Conflict(_))) {
                    // Another manager was faster: it has done the work.
                    continue;
                }
                metrics.keyset_failures.inc();
                let cause = &error as &dyn std::error::Error;
                tracing::error!(keyset = %name, error = cause, "plan cannot be carried out");
                if let KeysetFailure::Commit(CommitError::Store(error)) = error {
                    return Err(error);
                }
                resting.insert(name.clone(), time.now + FAILED_KEYSET_REST);
            }
        }
    }
}

async fn commit(
    engine: &Engine,
    keysets: &[StoredKeyset],
    time: PassTime,
) -> Result<(), KeysetFailure> {
    let mut commit = Commit { at: time.now, changes: Vec::new(), events: Vec::new() };
    for stored in keysets {
        let ops = planner::plan(&stored.keyset, &Convergence::confirmed(), time.now);
        let draft = Draft::new(engine, &stored.keyset, &ops, "manager", time)?;
        let (update, events) = draft.into_update(stored.revision, None);
        commit.changes.push(Change::UpdateKeyset(update));
        commit.events.extend(events);
    }
    let committed = engine.store.commit(&commit, &engine.audit).await?;
    for event in &commit.events {
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
