//! Keeps this manager's copy of the ratchet in step with the seeds that the database names and with
//! the other managers' copies: joins, reports, re-seeds, gives up what is lost. Each step is one
//! that any manager may take, twice or not at all, and the database lets one of them win.

mod keys;
mod peers;
mod report;
mod seeds;

pub(crate) use peers::fetch;
pub use peers::{NoPeers, PeerError, Peers};
pub(crate) use seeds::{drop_ended, offer};

use std::sync::Arc;
use std::time::Duration;

use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::id::Incarnation;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::{Epoch, SeedId};
use stek_custody::cluster_secret::Generation;
use stek_custody::custody::{HoldError, SeedMismatch};
use stek_custody::random::RandomError;
use stek_custody::state_file::StateFileError;
use stek_store::{Ratchet, Replica, SeedPhase, SeedRow, StoreError};

use crate::engine::{Engine, PassTime};
use crate::metrics::ManagerMetrics;

/// How a manager deals with seeds and peers.
#[derive(Clone)]
pub struct RatchetRules {
    /// The other managers, to be asked for states.
    pub peers: Arc<dyn Peers>,
    /// How old the live seed becomes before another takes its place.
    pub reseed_after: Seconds,
    /// How long managers that do not answer are waited for while seeds change.
    pub offer_patience: Seconds,
}

impl Default for RatchetRules {
    fn default() -> Self {
        let (reseed_after, offer_patience) = (Seconds::from_days(7), Seconds::from_minutes(10));
        Self { peers: Arc::new(NoPeers), reseed_after, offer_patience }
    }
}

/// A manager that has shown life within this span counts as running.
const ALIVE: Seconds = Seconds::from_minutes(3);
/// A manager that has shown no life for this span is forgotten, if it could unwrap nothing.
const FORGET_AFTER: Seconds = Seconds::from_days(7);
/// For how long the database is watched before that counts: while it was away nobody could show
/// life, and whoever holds the seed does within half of this once it is back.
pub(crate) const WATCH: Duration = Duration::from_secs(2 * report::SAY_AGAIN.as_secs());
/// The least time without life after which a seed may be given up as lost, without keysets.
const LEAST_LOSS: Seconds = Seconds::from_hours(1);

/// Why the ratchet cannot be used. Nothing is minted meanwhile; what others commit is published.
#[derive(Debug, thiserror::Error)]
pub enum RatchetError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The database names no seed: it is not the one that this manager started with.
    #[error("the database names no seed")]
    NoSeed,
    /// The live seed is not held and was not to be had.
    #[error("no state of the live seed {seed} is held")]
    NotHeld {
        /// Which seed.
        seed: SeedId,
        /// What the peers said.
        #[source]
        source: PeerError,
    },
    /// It was claimed with another cluster secret.
    #[error(transparent)]
    Mismatch(#[from] SeedMismatch),
    /// A second state could not be taken on.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// A state file.
    #[error("a state could not be overwritten")]
    StateFile(#[from] StateFileError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// What is remembered between passes.
#[derive(Default)]
pub(crate) struct State {
    reported: Option<Replica>,
    proven: Option<Vec<(SeedId, Epoch)>>,
    /// Where no key is wrapped under another seed than the live one.
    swept: Option<(Incarnation, SeedId)>,
    resealed: Option<SeedId>,
    asked_for: Option<(SeedId, Timestamp)>,
    /// The live seed, if it is not held and nobody else seems to, and since and until when that was
    /// seen, in boot time.
    lost: Option<(SeedId, Duration, Duration)>,
}

/// Whether the seeds are still those that were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Same,
    Replaced,
}

/// Brings everything one step further. After an error, and only then, nothing can be minted: what
/// fails beside that is told, and waits for the next pass.
pub(crate) async fn sync(
    engine: &Engine,
    metrics: &ManagerMetrics,
    state: &mut State,
    time: PassTime,
    incarnation: Incarnation,
) -> Result<(), RatchetError> {
    let _alone = engine.seeds.lock().await;
    let mut rows = engine.store.ratchet().await?;
    if told("a state that is not needed was not erased", seeds::drop_ended(&engine.custody, &rows))
        .is_none()
    {
        metrics.ratchet_failures.inc();
    }
    let held = seeds::hold_all(engine, state, &rows, time).await;
    if matches!(held, Ok(Outcome::Replaced)) {
        rows = engine.store.ratchet().await?;
    }
    let live = *rows.in_phase(SeedPhase::Live).ok_or(RatchetError::NoSeed)?;
    if !engine.custody.holds(live.seed) {
        held?;
        return Err(RatchetError::NotHeld { seed: live.seed, source: PeerError::None });
    }
    if let Err(error) = held {
        // One that is offered or retiring; the live one serves.
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "a state that is not live yet, or no more, could not be had");
    }
    seeds::verify_held(engine, &rows)?;
    engine.custody.wrap_under(live.seed);
    let generation = engine.cluster.claimed_with(&live.seed, &live.check);
    engine.cluster.put_in_use(generation.unwrap_or(Generation::Current));
    keep_house(engine, metrics, state, rows, &live, time, incarnation).await;
    Ok(())
}

/// What minting does not depend on.
async fn keep_house(
    engine: &Engine,
    metrics: &ManagerMetrics,
    state: &mut State,
    mut rows: Ratchet,
    live: &SeedRow,
    time: PassTime,
    incarnation: Incarnation,
) {
    let reported = report::replica(engine, state, &mut rows, time).await;
    told("what is held here was not reported", reported);
    let stepped = seeds::step(engine, &rows, time).await;
    told("the change of seeds goes no further", stepped);
    let swept = keys::sweep(engine, state, &rows, live, time, incarnation).await;
    if told("keys are not re-wrapped", swept) == Some(true) {
        let ended = seeds::end_retiring(engine, &rows, time).await;
        told("the retiring seed is not ended", ended);
    }
    let resealed = keys::reseal(engine, state, &rows, live, time).await;
    told("rows are not sealed anew", resealed);
    let proven = report::prove(engine, metrics, state, &rows, time).await;
    told("what is destroyed was not noted", proven);
    told("no manager is forgotten", report::forget(engine, &rows, time).await);
    report::observe(engine, metrics, state, &rows, time);
}

/// The value, or word of the error where it ends.
fn told<T, E>(what: &'static str, result: Result<T, E>) -> Option<T>
where
    E: std::error::Error + 'static,
{
    let told = |error: E| {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, "{what}");
    };
    result.map_err(told).ok()
}

/// An event of the manager itself.
pub(crate) fn event(time: PassTime, action: AuditAction, reason: String) -> AuditEvent {
    let actor = "manager".to_owned();
    AuditEvent { at: time.now, actor, action, keyset: None, key: None, reason }
}

/// Whether all that is known of `seed` is so old that its states count as lost.
pub(crate) async fn is_lost(
    engine: &dyn stek_store::KeyStore,
    rows: &Ratchet,
    seed: SeedId,
    claimed_at: Timestamp,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let lead = longest_lead(engine).await?.max(LEAST_LOSS);
    let holders = rows.replicas.iter().filter(|replica| replica.holds(seed));
    let last = holders.map(|replica| replica.seen_at).max().unwrap_or(claimed_at);
    Ok(last + lead <= now)
}

async fn longest_lead(store: &dyn stek_store::KeyStore) -> Result<Seconds, StoreError> {
    let mut longest = Seconds::ZERO;
    let mut after = None;
    loop {
        let page = store.keysets(after.as_ref(), stek_store::MAX_PAGE).await?;
        let leads = page.sound.iter().map(|stored| stored.keyset.policy().lead());
        longest = leads.max().unwrap_or(Seconds::ZERO).max(longest);
        if page.rows() < stek_store::MAX_PAGE {
            return Ok(longest);
        }
        after = page.last_name();
    }
}
