//! What every pass and every operation needs: the store, custody, the audit chain and the time.
//! Decides whether the clock and the database may be believed; what to do then is the planner's.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use stek_clock::{Clock, FleetClock, FleetTimeError};
use stek_core::id::{Incarnation, Revision};
use stek_core::time::{Seconds, Timestamp};
use stek_custody::clock_rules::{self, ClockDisagreement, ClockReading, HoldReason, Ruling};
use stek_custody::cluster_secret::{AuditKey, ClusterSecret, RowSealer};
use stek_custody::custody::Custody;
use stek_custody::random::RandomSource;
use stek_custody::state_file::HighWater;
use stek_store::{ClusterState, KeyStore, StoreError};
use tokio::sync::Notify;

use crate::confirmations::Confirmations;
use crate::ratchet::RatchetRules;

/// By how much the time may leave boot time at once.
const STEP: Seconds = Seconds::new(clock_rules::MAX_DISAGREEMENT_MS / 1000);
/// How long a longer step must last to be followed, at the least: what it destroys cannot be had back.
const LEAST_PATIENCE: Seconds = Seconds::from_hours(1);

/// What a manager is made of.
pub struct EngineParts {
    /// The database.
    pub store: Arc<dyn KeyStore>,
    /// The ratchet and the wrapping.
    pub custody: Arc<Custody>,
    /// Seals grants and tokens and links the audit trail.
    pub cluster: Arc<ClusterSecret>,
    /// Where keys come from.
    pub random: Arc<dyn RandomSource + Send + Sync>,
    /// The machine's clocks.
    pub clock: Arc<dyn Clock>,
    /// How long the audit trail is kept; for ever if none.
    pub audit_retention: Option<Seconds>,
    /// How to deal with seeds and peers.
    pub rules: RatchetRules,
}

/// The parts, and what is derived from them once.
pub struct Engine {
    pub(crate) store: Arc<dyn KeyStore>,
    pub(crate) custody: Arc<Custody>,
    pub(crate) audit: AuditKey,
    pub(crate) sealer: RowSealer,
    pub(crate) random: Arc<dyn RandomSource + Send + Sync>,
    pub(crate) cluster: Arc<ClusterSecret>,
    pub(crate) rules: RatchetRules,
    pub(crate) audit_retention: Option<Seconds>,
    /// Held by whoever reads which seeds there are and takes on, makes or erases states by that:
    /// between the two nobody else may.
    pub(crate) seeds: tokio::sync::Mutex<()>,
    /// What the fleet holds.
    pub(crate) confirmations: Arc<Confirmations>,
    fleet: Arc<FleetClock>,
    /// The reading that an operator, or the start, vouches for.
    anchor: Mutex<ClockReading>,
    /// The longest lead of what is published, in seconds.
    longest_lead: AtomicU64,
    previous_secret_needed: AtomicBool,
    ratchet_detail: Mutex<String>,
    last_cluster: Mutex<Option<ClusterState>>,
    /// Somebody has changed something that the reconcile loop should look at.
    pub(crate) changed: Notify,
}

/// The instant of a pass, read once from the database.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PassTime {
    pub(crate) now: Timestamp,
    pub(crate) millis: u64,
    /// How far the process clock lay from it.
    pub(crate) apart_millis: u64,
}

/// What the database's clock and ours show, which an operator vouches for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Vouched {
    database_millis: u64,
    ours: ClockReading,
}

/// Why there is no time to act on. Nothing is minted and no schedule is moved meanwhile.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The database was not reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its clock and ours disagree.
    #[error(transparent)]
    Disagreement(#[from] ClockDisagreement),
    /// Our clock jumped further than is ever followed without an operator.
    #[error(transparent)]
    Jump(#[from] HoldReason),
    /// Both clocks stepped together, as those of one machine do, and it has not lasted yet.
    #[error(transparent)]
    Step(#[from] FleetTimeError),
}

impl ClockError {
    /// Whether the database was reached and the clocks are what is wrong.
    pub(crate) fn is_dispute(&self) -> bool {
        !matches!(self, Self::Store(_))
    }
}

/// The database is one that must not be written or served: an operator has to accept it first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database is at revision {revision} of incarnation {incarnation}, behind what was \
     published before: it was restored from a backup, or is a lagging standby"
)]
pub struct DatabaseBehind {
    /// Its lineage.
    pub incarnation: Incarnation,
    /// Its newest revision.
    pub revision: Revision,
}

/// The cluster's row cannot be had, or not be believed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Behind(#[from] DatabaseBehind),
}

impl PassTime {
    fn new(millis: u64, apart_millis: u64) -> Self {
        Self { now: Timestamp::from_unix(millis / 1000), millis, apart_millis }
    }
}

impl Engine {
    /// An engine whose fleet time begins with the first pass.
    pub fn new(parts: EngineParts) -> Self {
        let fleet = Arc::new(FleetClock::new(Arc::clone(&parts.clock)));
        let anchor = Mutex::new(reading(parts.clock.as_ref()));
        Self {
            store: parts.store,
            custody: parts.custody,
            audit: parts.cluster.audit_key(),
            sealer: parts.cluster.row_sealer(),
            random: parts.random,
            cluster: parts.cluster,
            rules: parts.rules,
            audit_retention: parts.audit_retention,
            seeds: tokio::sync::Mutex::default(),
            confirmations: Arc::new(Confirmations::new(Arc::clone(&parts.clock))),
            fleet,
            anchor,
            longest_lead: AtomicU64::new(0),
            previous_secret_needed: AtomicBool::new(true),
            ratchet_detail: Mutex::default(),
            last_cluster: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Fleet time.
    pub fn fleet(&self) -> &Arc<FleetClock> {
        &self.fleet
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        self.fleet.clock()
    }

    /// Reads the database's clock and, if it may be believed, makes it fleet time. A step that both
    /// clocks make is followed once it has lasted a lead, as by everybody who follows fleet time:
    /// an outage of that length costs nothing, and a wrong time ends keys early.
    pub(crate) async fn read_time(&self) -> Result<PassTime, ClockError> {
        let millis = self.store.now_millis().await?;
        let ours = reading(self.clock().as_ref());
        clock_rules::agree(millis, ours.wall_ms)?;
        let anchor = *self.anchor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Ruling::Hold(reason) = clock_rules::judge(anchor, ours) {
            return Err(reason.into());
        }
        let lead = Seconds::new(self.longest_lead.load(Ordering::Relaxed));
        self.fleet.observe(millis, STEP, lead.max(LEAST_PATIENCE))?;
        Ok(PassTime::new(millis, millis.abs_diff(ours.wall_ms)))
    }

    /// What was last believed, run on by boot time: for what must not wait until clocks are right.
    pub(crate) fn fleet_time(&self) -> Option<PassTime> {
        self.fleet.told_millis().map(|millis| PassTime::new(millis, 0))
    }

    /// The present, or fleet time while that is in dispute.
    pub(crate) async fn read_time_or_fleet_time(&self) -> Result<PassTime, ClockError> {
        match self.read_time().await {
            Err(error) if error.is_dispute() => self.fleet_time().ok_or(error),
            read => read,
        }
    }

    /// Notes the longest lead of what is published.
    pub(crate) fn set_longest_lead(&self, lead: Seconds) {
        self.longest_lead.store(lead.as_secs(), Ordering::Relaxed);
    }

    /// The present as an operator vouches for it: a jump up to now counts no more. The database's
    /// clock must still agree.
    pub(crate) async fn vouched_time(&self) -> Result<(PassTime, Vouched), ClockError> {
        let millis = self.store.now_millis().await?;
        let ours = reading(self.clock().as_ref());
        clock_rules::agree(millis, ours.wall_ms)?;
        let time = PassTime::new(millis, millis.abs_diff(ours.wall_ms));
        Ok((time, Vouched { database_millis: millis, ours }))
    }

    /// Takes a reading as fleet time, and as the one that jumps are measured from.
    pub(crate) fn vouch(&self, reading: Vouched) {
        *self.anchor.lock().unwrap_or_else(PoisonError::into_inner) = reading.ours;
        self.fleet.set(reading.database_millis);
    }

    /// Where the managers are with the ratchet, in words that anyone may read.
    pub(crate) fn ratchet_detail(&self) -> String {
        self.ratchet_detail.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_ratchet_detail(&self, detail: String) {
        *self.ratchet_detail.lock().unwrap_or_else(PoisonError::into_inner) = detail;
    }

    pub(crate) fn set_previous_secret_needed(&self, needed: bool) {
        self.previous_secret_needed.store(needed, Ordering::Relaxed);
    }

    /// Whether the previous cluster secret must stay configured; `None` if there is none.
    pub(crate) fn previous_secret_needed(&self) -> Option<bool> {
        let needed = || self.previous_secret_needed.load(Ordering::Relaxed);
        self.cluster.has_previous().then(needed)
    }

    /// The cluster's row, if the database is not behind what was published. Read before anything
    /// is written: commits to a restored database would carry its revision past the high-water
    /// mark, and nobody could tell any more.
    pub(crate) async fn read_cluster(&self) -> Result<ClusterState, ClusterError> {
        let published = self.custody.high_water();
        let cluster = self.store.cluster().await?;
        let checked = check_not_behind(&cluster, published);
        let last = checked.is_ok().then_some(cluster);
        *self.last_cluster.lock().unwrap_or_else(PoisonError::into_inner) = last;
        checked?;
        Ok(cluster)
    }

    /// The same as it was last read; none before that, and while the database is behind.
    pub(crate) fn last_cluster(&self) -> Option<ClusterState> {
        *self.last_cluster.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the database, as `cluster` shows it, has all that was published: `published` is the
/// high-water mark from before it was read, for what came out meanwhile it cannot show.
pub(crate) fn check_not_behind(
    cluster: &ClusterState,
    published: Option<HighWater>,
) -> Result<(), DatabaseBehind> {
    let (incarnation, revision) = (cluster.incarnation, cluster.revision);
    if Some(HighWater { incarnation, revision }) < published {
        return Err(DatabaseBehind { incarnation, revision });
    }
    Ok(())
}

fn reading(clock: &dyn Clock) -> ClockReading {
    let boot_ms = u64::try_from(clock.boot().as_millis()).unwrap_or(u64::MAX);
    ClockReading { wall_ms: clock.wall_millis(), boot_ms }
}
