//! The ratchet's state for managers that join, and what operators ask of it.

use std::time::Duration;

use stek_core::audit::AuditAction;
use stek_core::time::Timestamp;
use stek_core::wrapped::Epoch;
use stek_custody::share::{JoinRequest, SealedState};
use stek_store::Replica;
use stek_wire::admin::{HolderDocument, RatchetDocument, SeedDocument};

use super::{OperationError, Operations, event};
use crate::ratchet::{self, RatchetError};

/// How long a pass is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

impl From<RatchetError> for OperationError {
    fn from(error: RatchetError) -> Self {
        match error {
            RatchetError::Store(error) => Self::Store(error),
            error => Self::Failed(Box::new(error)),
        }
    }
}

impl Operations {
    /// The state that `request` is about, written down before it is given.
    ///
    /// # Errors
    /// [`OperationError::Ratchet`] if it is not held here, or the parts below.
    pub async fn share(
        &self,
        request: &JoinRequest,
        actor: &str,
    ) -> Result<SealedState, OperationError> {
        let (time, _) = self.begin().await?;
        let sealed = self.engine.custody.share(request);
        let sealed = sealed.map_err(|_| OperationError::Ratchet("that state is not held here"))?;
        self.note_holder(request, sealed.epoch, time.now).await?;
        let reason = format!(
            "replica {} was given seed {} at epoch {}",
            request.replica,
            request.seed,
            sealed.epoch.as_u64()
        );
        let events = vec![event(time, actor, AuditAction::ManagerJoined, None, reason)];
        self.commit_all(time, Vec::new(), events).await?;
        Ok(sealed)
    }

    /// Notes what a state that is about to be given unwraps: until its holder says otherwise, no
    /// key is shown as destroyed that it does.
    async fn note_holder(
        &self,
        request: &JoinRequest,
        epoch: Epoch,
        now: Timestamp,
    ) -> Result<(), OperationError> {
        let store = &self.engine.store;
        let rows = store.ratchet().await?;
        let known = rows.replicas.iter().find(|one| one.id == request.replica).copied();
        let mut holder = known.unwrap_or(Replica {
            id: request.replica,
            seed: request.seed,
            next_seed: None,
            epoch,
            seen_at: now,
        });
        if !holder.holds(request.seed) {
            holder.next_seed = Some(request.seed);
        }
        holder.epoch = holder.epoch.min(epoch);
        if known != Some(holder) {
            store.report_replica(&holder).await?;
        }
        Ok(())
    }

    /// Seeds and replicas.
    ///
    /// # Errors
    /// The database.
    pub async fn ratchet(&self) -> Result<RatchetDocument, OperationError> {
        let now = self.engine.fleet().now();
        let rows = self.engine.store.ratchet().await?;
        let epoch = Epoch::of(now).as_u64();
        let seeds = rows.seeds.iter().map(|seed| SeedDocument {
            seed: seed.row.seed.to_string(),
            phase: seed.phase.as_str().into(),
            claimed_at: seed.row.claimed_at.to_string(),
        });
        let replicas = rows.replicas.iter().map(|one| HolderDocument {
            replica: one.id.to_string(),
            seed: one.seed.to_string(),
            next_seed: one.next_seed.map(|seed| seed.to_string()),
            epoch: one.epoch.as_u64(),
            behind: epoch.saturating_sub(one.epoch.as_u64()),
            seen_at: one.seen_at.to_string(),
        });
        Ok(RatchetDocument {
            replica: self.engine.custody.replica().to_string(),
            seeds: seeds.collect(),
            replicas: replicas.collect(),
            previous_cluster_secret_needed: self.engine.previous_secret_needed(),
            now: now.to_string(),
        })
    }

    /// Offers a new seed; what follows is the managers' own doing.
    ///
    /// # Errors
    /// [`OperationError::Ratchet`] if seeds are changing already, or the parts below.
    pub async fn reseed(&self, actor: &str) -> Result<(), OperationError> {
        // A pass that waits for the database or for peers waits with a bound, and so does this.
        let alone = tokio::time::timeout(PATIENCE, self.engine.seeds.lock()).await;
        let _alone =
            alone.map_err(|_| OperationError::Ratchet("a pass is at the seeds; try again"))?;
        let (time, _) = self.begin().await?;
        if !ratchet::offer(&self.engine, time, actor, "asked for").await? {
            return Err(OperationError::Ratchet("seeds are changing already"));
        }
        self.engine.changed.notify_one();
        Ok(())
    }

    /// Takes the present for what it shows, after a jump of the clock: the ratchet goes on, and what
    /// was wrapped to the epochs between is destroyed.
    ///
    /// # Errors
    /// [`OperationError::Clock`] while the database's clock disagrees, or the parts below.
    pub async fn confirm_clock(&self, actor: &str) -> Result<(), OperationError> {
        let (time, reading) = self.engine.vouched_time().await?;
        self.engine.read_cluster().await?;
        let reason = format!("it is {}", time.now);
        let events = vec![event(time, actor, AuditAction::ClockConfirmed, None, reason)];
        self.commit_all(time, Vec::new(), events).await?;
        self.engine.vouch(reading);
        self.engine.changed.notify_one();
        Ok(())
    }
}
