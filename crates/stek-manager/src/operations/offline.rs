//! What is done to the database and a state file while no manager has that file open: accepting a
//! restored database, and giving up a lost seed.

use std::sync::Arc;

use stek_clock::Clock;
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::id::Incarnation;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};
use stek_custody::clock_rules::{self, ClockDisagreement};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::{CreateError, Custody, SeedMismatch};
use stek_custody::random::{RandomError, RandomSource};
use stek_custody::ratchet::new_seed_id;
use stek_custody::state_file::StateFileError;
use stek_store::{Acceptance, KeyStore, SeedChange, SeedPhase, SeedRow, StoreError};

use crate::bootstrap::choose_secret;

/// Why nothing was accepted or given up.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The clocks.
    #[error(transparent)]
    Clock(#[from] ClockDisagreement),
    /// The state file.
    #[error(transparent)]
    StateFile(#[from] StateFileError),
    /// A new state could not be made.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// No random bytes.
    #[error(transparent)]
    Random(#[from] RandomError),
    /// There is nothing to accept.
    #[error(
        "the database is not behind what this manager published: revision {0} of its lineage is \
         the newest known here"
    )]
    NotBehind(u64),
    /// Somebody else was faster.
    #[error("the database changed meanwhile: look again")]
    Changed,
    /// Its live seed is of a cluster secret that is not given: of the one before an exchange that
    /// came after the backup.
    #[error("the cluster secret from when the backup was made is needed as the previous one")]
    Mismatch(#[from] SeedMismatch),
    /// The seed was never claimed.
    #[error("the database names no seed: nothing is lost")]
    NoSeed,
}

async fn time(store: &dyn KeyStore, clock: &dyn Clock) -> Result<Timestamp, AcceptError> {
    let millis = store.now_millis().await?;
    clock_rules::agree(millis, clock.wall_millis())?;
    Ok(Timestamp::from_unix(millis / 1000))
}

fn event(at: Timestamp, action: AuditAction, reason: String) -> AuditEvent {
    AuditEvent { at, actor: "offline".into(), action, keyset: None, key: None, reason }
}

/// Accepts the database as a later lineage than any that `custody` knows, and makes it name the seed
/// that is held, unless it does. Returns the lineage.
///
/// # Errors
/// [`AcceptError`]; [`AcceptError::NotBehind`] if the database was not restored.
pub async fn accept_restore(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    custody: &Custody,
    random: &dyn RandomSource,
    clock: &dyn Clock,
) -> Result<Incarnation, AcceptError> {
    let at = time(store, clock).await?;
    let found = store.cluster().await?;
    let Some(mark) = custody.high_water() else {
        return Err(AcceptError::NotBehind(found.revision.as_u64()));
    };
    if !custody.is_behind(found.incarnation, found.revision) {
        return Err(AcceptError::NotBehind(found.revision.as_u64()));
    }
    let seed = seed_to_name(store, cluster, custody, at).await?;
    let mut bytes = [0; 10];
    random.fill(&mut bytes)?;
    // Later than the mark too, should the clock have gone back since.
    let later = mark.incarnation.max(found.incarnation).unix_millis().saturating_add(1);
    let to = Incarnation::new(clock.wall_millis().max(later), &bytes);
    let reason = format!(
        "revision {} of {} in place of revision {} of {}; the lineage is {to}",
        found.revision, found.incarnation, mark.revision, mark.incarnation
    );
    let event = event(at, AuditAction::RestoreAccepted, reason);
    let acceptance = Acceptance { from: found.incarnation, to, seed };
    if !store.accept_restore(&acceptance, &event, &cluster.audit_key()).await? {
        return Err(AcceptError::Changed);
    }
    Ok(to)
}

/// The seed that the database is to name in place of its live one: none if that one is held. One
/// that it knows keeps the cluster secret that it was claimed with; nothing in it is wrapped under
/// any other, which is claimed with the one that its rows are sealed under.
async fn seed_to_name(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    custody: &Custody,
    at: Timestamp,
) -> Result<Option<SeedRow>, AcceptError> {
    let rows = store.ratchet().await?;
    let live = rows.in_phase(SeedPhase::Live);
    if let Some(live) = live {
        choose_secret(cluster, live)?;
    }
    if live.is_some_and(|live| custody.holds(live.seed)) {
        return Ok(None);
    }
    let known = rows.seeds.iter().find(|known| custody.holds(known.row.seed));
    let named = known.map_or_else(
        || {
            let seed = custody.seed_id();
            SeedRow { seed, check: cluster.check_value_in_use(&seed), claimed_at: at }
        },
        |known| SeedRow { claimed_at: at, ..known.row },
    );
    choose_secret(cluster, &named)?;
    Ok(Some(named))
}

/// Gives up the live seed, of which no state is left anywhere, for a new one that is begun at
/// `path`. Its keys are ended when a manager starts. Returns the new seed.
///
/// # Errors
/// [`AcceptError`]; then there is no file at `path`, unless there was one before.
pub async fn replace_lost_seed(
    store: &dyn KeyStore,
    cluster: &Arc<ClusterSecret>,
    path: &std::path::Path,
    random: &dyn RandomSource,
    clock: &dyn Clock,
) -> Result<SeedId, AcceptError> {
    let at = time(store, clock).await?;
    let lost = store.seed().await?.ok_or(AcceptError::NoSeed)?.seed;
    let seed = new_seed_id(random)?;
    let custody = Custody::create(path, Arc::clone(cluster), seed, random, Epoch::of(at))?;
    let by = SeedRow { seed, check: custody.check_value(), claimed_at: at };
    let reason = format!("seed {lost} is given up as lost; {seed} is new");
    let event = event(at, AuditAction::SeedLost, reason);
    let change = SeedChange::Replace { lost, by };
    match store.change_seeds(&change, &[event], &cluster.audit_key()).await {
        Ok(true) => Ok(seed),
        Ok(false) => {
            custody.erase()?;
            Err(AcceptError::Changed)
        }
        // The answer may be what was lost, so the state stays: it is the live one then.
        Err(error) => Err(error.into()),
    }
}
