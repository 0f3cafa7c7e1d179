//! The first start of a manager: brings the ratchet's state file and the seed that the database
//! names together, and refuses any two that do not belong to each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stek_clock::Clock;
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use stek_custody::clock_rules::{self, ClockDisagreement};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::{CreateError, Custody, HoldError, SeedMismatch};
use stek_custody::random::{RandomError, RandomSource};
use stek_custody::ratchet::{self, RatchetState};
use stek_custody::state_file::StateFileError;
use stek_store::{KeyStore, SeedRow, StoreError};

use crate::operations::{AcceptError, replace_lost_seed};
use crate::ratchet::{NoPeers, PeerError, Peers, WATCH, drop_ended, fetch, is_lost};

/// Why a manager cannot start with this database, state file and cluster secret.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The clocks.
    #[error(transparent)]
    Clock(#[from] ClockDisagreement),
    /// The state file cannot be used.
    #[error(transparent)]
    State(StateFileError),
    /// The state file cannot be made.
    #[error("the ratchet cannot be begun")]
    Create(#[source] CreateError),
    /// The database's keys are wrapped under a seed that this manager does not have.
    #[error(
        "the database's keys are wrapped under seed {seed}, of which there is no state at {}, and \
         no peer gave it. Name the other managers in [peers]; if no state is left anywhere, \
         `stekd ratchet reseed --lost` begins a new one",
        path.display()
    )]
    NoState {
        /// The seed that the database names.
        seed: SeedId,
        /// Where its state was looked for.
        path: PathBuf,
        /// What the peers said.
        #[source]
        source: PeerError,
    },
    /// A lost seed could not be given up.
    #[error("the lost seed could not be given up")]
    Replace(#[from] AcceptError),
    /// The state of a new seed could not be taken on.
    #[error(transparent)]
    Hold(#[from] HoldError),
    /// Another manager began the ratchet at the same time, and the one begun here, which nothing was
    /// wrapped under, could not be removed.
    #[error("another manager began the ratchet; the state made here is of no use and has to go")]
    Lost(#[source] StateFileError),
    /// State file, cluster secret and database do not belong together.
    #[error(transparent)]
    Mismatch(#[from] SeedMismatch),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// How long a manager without a state asks its peers before it gives up.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long it rests between two rounds.
const JOIN_PAUSE: Duration = Duration::from_secs(1);

/// How often it looks whether somebody shows life.
const LOOK: Duration = Duration::from_secs(10);

/// What a manager brings to its start.
pub struct Newcomer<'a> {
    /// The database.
    pub store: &'a dyn KeyStore,
    /// The cluster secret.
    pub cluster: &'a Arc<ClusterSecret>,
    /// Where its state is, or will be.
    pub path: &'a Path,
    /// Where seeds and identities come from.
    pub random: &'a (dyn RandomSource + Sync),
    /// The machine's clocks.
    pub clock: &'a dyn Clock,
    /// The other managers.
    pub peers: &'a dyn Peers,
}

/// Opens the ratchet at `path`, or begins one if the database names no seed yet. For a manager
/// without peers; see [`join_ratchet`].
///
/// # Errors
/// [`BootstrapError`] by cause.
pub async fn claim_ratchet(
    store: &dyn KeyStore,
    cluster: &Arc<ClusterSecret>,
    path: &Path,
    random: &(dyn RandomSource + Sync),
    clock: &dyn Clock,
) -> Result<Custody, BootstrapError> {
    join_ratchet(&Newcomer { store, cluster, path, random, clock, peers: &NoPeers }).await
}

/// Opens the state of the ratchet; without one, begins it if the database names no seed, else asks
/// the peers for it. Begins another in place of a live seed only if nobody who holds that one has
/// shown life for as long as the longest lead.
///
/// # Errors
/// [`BootstrapError`] by cause. A state file that was made stays, and is claimed at the next try,
/// unless another manager's seed was claimed first.
pub async fn join_ratchet(newcomer: &Newcomer<'_>) -> Result<Custody, BootstrapError> {
    let Newcomer { store, cluster, path, random, clock, .. } = *newcomer;
    let now = time(newcomer).await?;
    let named = store.seed().await?;
    if path.try_exists().unwrap_or(true) {
        let custody = Custody::open(path, Arc::clone(cluster)).map_err(BootstrapError::State)?;
        let row = match named {
            Some(row) => row,
            None => claim(store, cluster, &custody, now).await?,
        };
        take_up(newcomer, &custody, &row, now).await?;
        return Ok(custody);
    }
    let row = match named {
        Some(row) => row,
        None => {
            let seed = ratchet::new_seed_id(random)?;
            let begun = Custody::create(path, Arc::clone(cluster), seed, random, Epoch::of(now));
            let custody = begun.map_err(BootstrapError::Create)?;
            let row = claim(store, cluster, &custody, now).await?;
            if row.seed == seed {
                custody.verify_seed(row.seed, &row.check)?;
                return Ok(custody);
            }
            tracing::info!(seed = %row.seed, "another manager began the ratchet first; joining it");
            custody.erase().map_err(BootstrapError::Lost)?;
            row
        }
    };
    choose_secret(cluster, &row)?;
    let replica = ratchet::new_replica_id(random)?;
    match join(newcomer, replica, row.seed).await {
        Ok(state) => {
            let joined = Custody::join(path, Arc::clone(cluster), state, replica);
            let custody = joined.map_err(|error| BootstrapError::Create(error.into()))?;
            custody.verify_seed(row.seed, &row.check)?;
            Ok(custody)
        }
        Err(source) => {
            if !stays_lost(newcomer, &row).await? {
                let path = path.to_owned();
                return Err(BootstrapError::NoState { seed: row.seed, path, source });
            }
            tracing::error!(seed = %row.seed, "nobody who holds the ratchet has shown life for a \
                            lead: new seed, new keys, and every session needs a full handshake");
            replace_lost_seed(store, cluster, path, random, clock).await?;
            Ok(Custody::open(path, Arc::clone(cluster)).map_err(BootstrapError::State)?)
        }
    }
}

/// Whether nobody who holds the live seed has shown life for a lead, nor does while the database is
/// watched for [`WATCH`].
async fn stays_lost(newcomer: &Newcomer<'_>, row: &SeedRow) -> Result<bool, BootstrapError> {
    let Newcomer { store, clock, .. } = *newcomer;
    let end = clock.boot() + WATCH;
    loop {
        let (rows, now) = (store.ratchet().await?, time(newcomer).await?);
        if !is_lost(store, &rows, row.seed, row.claimed_at, now).await? {
            return Ok(false);
        }
        if clock.boot() >= end {
            return Ok(true);
        }
        tracing::warn!(seed = %row.seed, "nobody who holds the ratchet has shown life for a lead; \
                       watching whether anybody does");
        clock.sleep_until((clock.boot() + LOOK).min(end)).await;
    }
}

async fn time(newcomer: &Newcomer<'_>) -> Result<Timestamp, BootstrapError> {
    let millis = newcomer.store.now_millis().await?;
    clock_rules::agree(millis, newcomer.clock.wall_millis())?;
    Ok(Timestamp::from_unix(millis / 1000))
}

/// Makes what seals rows be the cluster secret that the live seed was claimed with.
///
/// # Errors
/// [`SeedMismatch`] if it is neither of ours.
pub(crate) fn choose_secret(cluster: &ClusterSecret, row: &SeedRow) -> Result<(), SeedMismatch> {
    let generation = cluster.claimed_with(&row.seed, &row.check);
    cluster.put_in_use(generation.ok_or(SeedMismatch::OtherClusterSecret { named: row.seed })?);
    Ok(())
}

/// Checks a state that was found. One that missed a change of seeds is brought up to it if a peer
/// gives the new state.
async fn take_up(
    newcomer: &Newcomer<'_>,
    custody: &Custody,
    row: &SeedRow,
    now: Timestamp,
) -> Result<(), BootstrapError> {
    choose_secret(newcomer.cluster, row)?;
    if let Err(mismatch) = custody.verify_seed(row.seed, &row.check) {
        let Newcomer { cluster, random, peers, .. } = *newcomer;
        let wanted = (custody.replica(), row.seed);
        let fetched = match fetch(peers, cluster, random, wanted, now).await {
            Ok(state) => state,
            Err(PeerError::None) => return Err(mismatch.into()),
            Err(source) => {
                let path = newcomer.path.to_owned();
                return Err(BootstrapError::NoState { seed: row.seed, path, source });
            }
        };
        make_room(newcomer, custody).await?;
        custody.hold_next(fetched, &row.check)?;
        custody.verify_seed(row.seed, &row.check)?;
    }
    Ok(())
}

/// Erases what a change of seeds that was missed has ended. A database that was restored says
/// nothing of that.
async fn make_room(newcomer: &Newcomer<'_>, custody: &Custody) -> Result<(), BootstrapError> {
    let cluster = newcomer.store.cluster().await?;
    if custody.is_behind(cluster.incarnation, cluster.revision) {
        return Ok(());
    }
    let rows = newcomer.store.ratchet().await?;
    drop_ended(custody, &rows).map_err(BootstrapError::State)
}

/// Asks the peers until one gives the state, for a bounded time: they may be starting too.
async fn join(
    newcomer: &Newcomer<'_>,
    replica: ReplicaId,
    seed: SeedId,
) -> Result<RatchetState, PeerError> {
    let Newcomer { cluster, random, clock, peers, .. } = *newcomer;
    let end = clock.boot() + JOIN_PATIENCE;
    loop {
        let now = Timestamp::from_unix(clock.wall_millis() / 1000);
        match fetch(peers, cluster, random, (replica, seed), now).await {
            Ok(state) => return Ok(state),
            Err(error @ PeerError::None) => return Err(error),
            Err(error) if clock.boot() >= end => return Err(error),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::info!(%seed, error, "waiting for a peer to give the ratchet's state");
            }
        }
        clock.sleep_until((clock.boot() + JOIN_PAUSE).min(end)).await;
    }
}

async fn claim(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    custody: &Custody,
    now: Timestamp,
) -> Result<SeedRow, StoreError> {
    let seed = custody.seed_id();
    let row = SeedRow { seed, check: custody.check_value(), claimed_at: now };
    let event = AuditEvent {
        at: now,
        actor: stek_core::principal::PLANNER.into(),
        action: AuditAction::SeedClaimed,
        keyset: None,
        key: None,
        reason: format!("first seed {seed}"),
    };
    store.claim_seed(&row, &event, &cluster.audit_key()).await
}
