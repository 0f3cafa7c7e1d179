//! The first start of a manager: brings the ratchet's state file and the seed that the database
//! names together, and refuses any two that do not belong to each other.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stek_clock::Clock;
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};
use stek_custody::clock_rules::{self, ClockDisagreement};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::{CreateError, Custody, SeedMismatch};
use stek_custody::random::{RandomError, RandomSource};
use stek_custody::ratchet;
use stek_custody::state_file::StateFileError;
use stek_store::{KeyStore, SeedRow, StoreError};

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
    #[error("ratchet state {}", path.display())]
    State {
        /// Its path.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: StateFileError,
    },
    /// The state file cannot be made.
    #[error("ratchet state {} cannot be made", path.display())]
    Create {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: CreateError,
    },
    /// The database's keys are wrapped under a seed that this manager does not have.
    #[error(
        "the database's keys are wrapped under seed {seed}, and there is no ratchet state at {}: \
         put that manager's state file there",
        path.display()
    )]
    NoState {
        /// The seed that the database names.
        seed: SeedId,
        /// Where its state was looked for.
        path: PathBuf,
    },
    /// Another manager began the ratchet at the same time, and the one begun here, which nothing was
    /// wrapped under, could not be removed.
    #[error("ratchet state {} is of no use and cannot be removed: remove it", path.display())]
    Lost {
        /// Its path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: StateFileError,
    },
    /// State file, cluster secret and database do not belong together.
    #[error(transparent)]
    Mismatch(#[from] SeedMismatch),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// Opens the ratchet at `path`, or begins one if the database names no seed yet.
///
/// # Errors
/// [`BootstrapError`] by cause. A state file that was made stays, and is claimed at the next try,
/// unless another manager's seed was claimed first.
pub async fn claim_ratchet(
    store: &dyn KeyStore,
    cluster: &Arc<ClusterSecret>,
    path: &Path,
    random: &dyn RandomSource,
    clock: &dyn Clock,
) -> Result<Custody, BootstrapError> {
    let millis = store.now_millis().await?;
    clock_rules::agree(millis, clock.wall_millis())?;
    let now = Timestamp::from_unix(millis / 1000);
    let named = store.seed().await?;
    let exists = path.try_exists().unwrap_or(true);
    let custody = match (exists, named) {
        (true, _) => Custody::open(path, Arc::clone(cluster))
            .map_err(|source| BootstrapError::State { path: path.to_owned(), source })?,
        (false, Some(row)) => {
            return Err(BootstrapError::NoState { seed: row.seed, path: path.to_owned() });
        }
        (false, None) => {
            let seed = ratchet::new_seed_id(random)?;
            Custody::create(path, Arc::clone(cluster), seed, random, Epoch::of(now))
                .map_err(|source| BootstrapError::Create { path: path.to_owned(), source })?
        }
    };
    let row = match named {
        Some(row) => row,
        None => claim(store, cluster, &custody, now).await?,
    };
    if !exists && row.seed != custody.seed_id() {
        let path = path.to_owned();
        return Err(match custody.erase() {
            Ok(()) => BootstrapError::NoState { seed: row.seed, path },
            Err(source) => BootstrapError::Lost { path, source },
        });
    }
    custody.verify_seed(row.seed, &row.check)?;
    Ok(custody)
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
