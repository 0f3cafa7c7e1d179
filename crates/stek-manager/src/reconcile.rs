//! The loop that keeps rotation going: reads the time, carries out what is due, publishes, sleeps
//! until the next due time. An error ends a pass and never the loop.

mod due;

use std::sync::Arc;
use std::time::Duration;

use stek_core::feed::FeedState;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::Epoch;
use stek_store::StoreError;
use tokio::sync::{Mutex, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::engine::{ClockError, ClusterError, DatabaseBehind, Engine};
use crate::metrics::{ManagerMetrics, Outcome};
use crate::publisher::{PublishError, Publisher};
use crate::ratchet::{self, RatchetError};
use crate::readiness::ManagerReadiness;
use crate::reconcile::due::{Progress, Resting};
use crate::trail::{self, Secrets};

/// Longest time between two passes: how late another manager's commit is seen at worst.
const LONGEST_IDLE: Duration = Duration::from_secs(5);
/// Shortest time between two passes while keysets rest: they are due and must not make it spin.
const RESTING_IDLE: Duration = Duration::from_secs(1);
/// First wait after a failed pass; doubles up to [`LONGEST_IDLE`].
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// How long a pass may take. Its parts have time-outs of their own and it does a bounded number of
/// things, so one that takes longer hangs.
const LONGEST_PASS: Duration = Duration::from_secs(300);
/// How long the last pass may go on after `shutdown`.
const LAST_PASS: Duration = Duration::from_secs(10);
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
    Behind(#[from] DatabaseBehind),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Ratchet(#[from] RatchetError),
    #[error("the pass panicked")]
    Panicked,
    #[error("the pass did not end in time")]
    TimedOut,
}

impl From<ClusterError> for PassError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Store(error) => Self::Store(error),
            ClusterError::Behind(error) => Self::Behind(error),
        }
    }
}

impl PassError {
    /// The label of the metric, and the cause in words that anyone may read.
    fn outcome(&self) -> (Outcome, &'static str) {
        match self {
            Self::Clock(ClockError::Disagreement(_)) => (Outcome::Clock, "the clocks disagree"),
            Self::Clock(ClockError::Jump(_) | ClockError::Step(_)) => {
                (Outcome::Clock, "the clock jumped")
            }
            Self::Behind(_) | Self::Publish(PublishError::Behind(_)) => {
                (Outcome::Behind, "the database is behind what was published")
            }
            Self::Publish(PublishError::Exchanged) => {
                (Outcome::Behind, "the database was exchanged for another")
            }
            Self::Publish(PublishError::Audit(_)) => {
                (Outcome::Failed, "the audit trail cannot be written")
            }
            Self::Publish(PublishError::HighWater(_) | PublishError::Panicked) => {
                (Outcome::Failed, "the state file failed")
            }
            Self::Ratchet(RatchetError::Store(_)) => (Outcome::Store, "the database failed"),
            Self::Ratchet(RatchetError::StateFile(_)) => (Outcome::Failed, "the state file failed"),
            Self::Ratchet(RatchetError::Mismatch(_)) => {
                (Outcome::Ratchet, "the live seed was claimed with another cluster secret")
            }
            Self::Ratchet(_) => (Outcome::Ratchet, "the ratchet's live seed is not held"),
            Self::Panicked => (Outcome::Panicked, "a pass panicked"),
            Self::TimedOut => (Outcome::TimedOut, "a pass did not end"),
            Self::Clock(ClockError::Store(_))
            | Self::Store(_)
            | Self::Publish(PublishError::Store(_)) => (Outcome::Store, "the database failed"),
        }
    }
}

pub(crate) struct Reconciler {
    engine: Arc<Engine>,
    metrics: Arc<ManagerMetrics>,
    readiness: Arc<ManagerReadiness>,
    state: Arc<Mutex<State>>,
}

struct State {
    publisher: Publisher,
    resting: Resting,
    purged_at: Timestamp,
    ratchet: ratchet::State,
}

impl Reconciler {
    pub(crate) fn new(
        engine: Arc<Engine>,
        feed: watch::Sender<Option<Arc<FeedState>>>,
        metrics: Arc<ManagerMetrics>,
        readiness: Arc<ManagerReadiness>,
    ) -> Self {
        let state = State {
            publisher: Publisher::new(feed),
            resting: Resting::default(),
            purged_at: Timestamp::EPOCH,
            ratchet: ratchet::State::default(),
        };
        Self { engine, metrics, readiness, state: Arc::new(Mutex::new(state)) }
    }

    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut retry = FIRST_RETRY;
        while !shutdown.is_cancelled() {
            let begun = self.engine.clock().boot();
            let timer = self.metrics.pass_seconds.start_timer();
            let next = match self.supervised_pass(&shutdown).await {
                Ok(idle) => {
                    retry = FIRST_RETRY;
                    timer.observe_duration();
                    self.metrics.passes(Outcome::Succeeded).inc();
                    self.readiness.succeeded();
                    begun + idle
                }
                Err(error) => {
                    timer.stop_and_discard();
                    self.report(&error);
                    self.hold_out(&error);
                    let next = self.engine.clock().boot() + retry;
                    retry = (retry * 2).min(LONGEST_IDLE);
                    next
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.engine.clock().sleep_until(next) => {}
                () = self.engine.changed.notified() => {}
            }
        }
    }

    /// A pass in a task of its own, so that a panic or a hang ends the pass and not the loop.
    async fn supervised_pass(&self, shutdown: &CancellationToken) -> Result<Duration, PassError> {
        let engine = Arc::clone(&self.engine);
        let (metrics, state) = (Arc::clone(&self.metrics), Arc::clone(&self.state));
        let readiness = Arc::clone(&self.readiness);
        let span = tracing::debug_span!("pass", outcome = tracing::field::Empty);
        let passing =
            async move { pass(&engine, &metrics, &readiness, &mut *state.lock().await).await };
        let mut task = tokio::spawn(passing.instrument(span.clone()));
        let too_long = async {
            tokio::select! {
                () = tokio::time::sleep(LONGEST_PASS) => {}
                () = shutdown.cancelled() => tokio::time::sleep(LAST_PASS).await,
            }
        };
        let ended = tokio::select! {
            ended = &mut task => ended.unwrap_or(Err(PassError::Panicked)),
            () = too_long => {
                task.abort();
                Err(PassError::TimedOut)
            }
        };
        let outcome = ended.as_ref().err().map_or(Outcome::Succeeded, |error| error.outcome().0);
        span.record("outcome", outcome.as_str());
        ended
    }

    fn report(&self, error: &PassError) {
        let (outcome, why) = error.outcome();
        if let PassError::Clock(ClockError::Disagreement(apart)) = error {
            self.metrics.observe_clocks(apart.database_ms.abs_diff(apart.process_ms));
        }
        self.metrics.passes(outcome).inc();
        self.readiness.failed(why);
        let error = error as &dyn std::error::Error;
        tracing::error!(error, "pass failed; what was published stays");
    }

    /// What goes on without the database, by fleet time, which runs on boot time: keys end when it
    /// was said that they would.
    fn hold_out(&self, error: &PassError) {
        let now = self.engine.fleet().now();
        // A clock in dispute moves no ratchet, which could not be moved back.
        let published = match self.state.try_lock() {
            Ok(state) => {
                state.publisher.erase(now);
                state.publisher.published()
            }
            // A pass that hangs still holds it.
            Err(_) => None,
        };
        if let Some(feed) = published {
            self.metrics.observe_feed(&feed, now);
            if !matches!(error, PassError::Clock(error) if error.is_dispute()) {
                turn_ratchet(&self.engine, &self.metrics, now);
            }
        }
    }
}

/// One pass; returns how long after its beginning the next one should begin.
async fn pass(
    engine: &Engine,
    metrics: &ManagerMetrics,
    readiness: &ManagerReadiness,
    state: &mut State,
) -> Result<Duration, PassError> {
    let begun = engine.clock().boot();
    let time = match engine.read_time().await {
        Err(error) if error.is_dispute() => {
            return Err(pass_in_dispute(engine, metrics, state, error).await);
        }
        read => read?,
    };
    metrics.observe_clocks(time.apart_millis);
    turn_ratchet(engine, metrics, time.now);
    let cluster = engine.read_cluster().await?;
    metrics.observe_audit(&cluster);
    let synced =
        ratchet::sync(engine, metrics, &mut state.ratchet, time, cluster.incarnation).await;
    let carried_out = match &synced {
        Ok(()) => due::carry_out(engine, metrics, &mut state.resting, time).await,
        // Nothing could be wrapped.
        Err(_) => Ok(Progress::Done),
    };
    // Also if that failed: revocations and what other managers did must go out all the same.
    refresh(engine, metrics, &mut state.publisher, time.now).await?;
    if let Some(feed) = state.publisher.published() {
        metrics.observe_feed(&feed, time.now);
    }
    metrics.unsound_keysets.set(i64::try_from(state.resting.unsound()).unwrap_or(i64::MAX));
    readiness.unreadable(state.resting.unsound());
    synced?;
    let progress = carried_out?;
    purge(engine, state, time.now).await;
    let due = engine.store.next_due().await?;
    metrics.observe_due(time.now, due);
    if progress == Progress::More {
        return Ok(Duration::ZERO);
    }
    let idle = due.map_or(LONGEST_IDLE, |due| engine.fleet().boot_at(due).saturating_sub(begun));
    let least = if state.resting.is_empty() { Duration::ZERO } else { RESTING_IDLE };
    Ok(idle.clamp(least, LONGEST_IDLE))
}

/// Publishes what the database holds, and notes that it was read: when this began, for what comes
/// before it in a pass is none of it.
async fn refresh(
    engine: &Engine,
    metrics: &ManagerMetrics,
    publisher: &mut Publisher,
    now: Timestamp,
) -> Result<(), PublishError> {
    let begun = engine.clock().boot();
    publisher.refresh(engine, metrics, now).await?;
    engine.fleet().note_read(Some(engine.clock().boot().saturating_sub(begun)));
    Ok(())
}

/// What is left of a pass while the time is in dispute: what was revoked must go out.
async fn pass_in_dispute(
    engine: &Engine,
    metrics: &ManagerMetrics,
    state: &mut State,
    dispute: ClockError,
) -> PassError {
    if let Some(time) = engine.fleet_time()
        && let Err(error) = refresh(engine, metrics, &mut state.publisher, time.now).await
    {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "what was committed is not published");
    }
    dispute.into()
}

/// Deletes what is too old to remember. Nothing depends on it, so a failure waits for the next turn.
async fn purge(engine: &Engine, state: &mut State, now: Timestamp) {
    if now < state.purged_at + PURGE_EVERY && now >= state.purged_at {
        return;
    }
    let before = now - REMEMBER;
    match engine.store.purge(before).await {
        Ok(forgotten) => tracing::debug!(forgotten, "ended keys and tombstones purged"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "ended keys and tombstones were not purged");
        }
    }
    state.publisher.forget(before);
    prune(engine, now).await;
    state.purged_at = now;
}

/// Removes the audit trail as far as it is older than it has to be kept.
async fn prune(engine: &Engine, now: Timestamp) {
    let Some(retention) = engine.audit_retention else { return };
    let secrets = Secrets { chain: &engine.audit, sealer: &engine.sealer };
    match trail::prune(engine.store.as_ref(), secrets, now, retention).await {
        Ok(lines) => tracing::debug!(lines, "audit trail pruned"),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the audit trail was not pruned");
        }
    }
}

/// Turns the ratchet as far as it may go at `now`. A clock that was set back leaves it where it is:
/// it cannot go back.
fn turn_ratchet(engine: &Engine, metrics: &ManagerMetrics, now: Timestamp) {
    let epoch = Epoch::of(now);
    if epoch > engine.custody.epoch()
        && let Err(error) = engine.custody.advance(epoch)
    {
        metrics.ratchet_failures.inc();
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, epoch = epoch.as_u64(), "the ratchet did not advance");
    }
    metrics.observe_epoch(engine.custody.epoch());
}
