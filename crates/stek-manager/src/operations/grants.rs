//! Grants on their own: to principals that no token is made for, and to patterns of them.

use stek_clock::Clock;
use stek_core::access::Grant;
use stek_core::audit::{AuditAction, AuditEvent};
use stek_custody::cluster_secret::{ClusterSecret, RowSealer};
use stek_custody::state_file::HighWater;
use stek_store::{Change, Commit, KeyStore, SealedGrant, StoredAccess};

use super::tokens::{OFFLINE_ACTOR, begin_offline, describe};
use super::{OperationError, Operations, event};
use crate::engine::PassTime;

/// The most grants of a cluster: every request is compared with all of them.
pub const MAX_GRANTS: usize = 20_000;

impl Operations {
    /// The grants whose seals hold.
    ///
    /// # Errors
    /// The database.
    pub async fn grants(&self) -> Result<Vec<Grant>, OperationError> {
        let stored = self.engine.store.access().await?;
        let good = |row: &SealedGrant| self.engine.sealer.verify(&row.grant.canonical(), &row.seal);
        let mut grants: Vec<_> =
            stored.grants.into_iter().filter(good).map(|row| row.grant).collect();
        grants.sort();
        Ok(grants)
    }

    /// Stores a grant. Returns whether there was none like it.
    ///
    /// # Errors
    /// [`OperationError::TooManyGrants`], or the parts below.
    pub async fn add_grant(&self, grant: Grant, actor: &str) -> Result<bool, OperationError> {
        let (time, _) = self.begin().await?;
        let stored = self.engine.store.access().await?;
        let Some((changes, event)) = addition(&stored, grant, &self.engine.sealer, time, actor)?
        else {
            return Ok(false);
        };
        self.commit_all(time, changes, vec![event]).await?;
        Ok(true)
    }

    /// Removes a grant. Returns whether there was one. One whose seal does not hold grants nothing
    /// and is erased all the same.
    ///
    /// # Errors
    /// The database.
    pub async fn remove_grant(&self, grant: &Grant, actor: &str) -> Result<bool, OperationError> {
        let (time, _) = self.begin_revoking().await?;
        let stored = self.engine.store.access().await?;
        if !stored.grants.iter().any(|row| row.grant == *grant) {
            return Ok(false);
        }
        let event = event(time, actor, AuditAction::GrantRemoved, None, describe(grant));
        self.commit_all(time, vec![Change::RemoveGrant(grant.clone())], vec![event]).await?;
        Ok(true)
    }
}

/// Stores a grant with the database and the cluster secret alone, for the first operator. Returns
/// whether there was none like it. `mark` is the highest revision published, as far as it is known.
///
/// # Errors
/// As for [`Operations::add_grant`].
pub async fn add_grant_offline(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    clock: &dyn Clock,
    mark: Option<HighWater>,
    grant: Grant,
) -> Result<bool, OperationError> {
    let time = begin_offline(store, cluster, clock, mark).await?;
    let stored = store.access().await?;
    let added = addition(&stored, grant, &cluster.row_sealer(), time, OFFLINE_ACTOR)?;
    let Some((changes, event)) = added else { return Ok(false) };
    let commit = Commit { at: time.now, changes, events: vec![event] };
    store.commit(&commit, &cluster.audit_key()).await?;
    Ok(true)
}

/// What stores `grant`, unless it is there already. A row like it without a good seal makes way.
fn addition(
    stored: &StoredAccess,
    grant: Grant,
    sealer: &RowSealer,
    time: PassTime,
    actor: &str,
) -> Result<Option<(Vec<Change>, AuditEvent)>, OperationError> {
    let seal = sealer.seal(&grant.canonical());
    let there = stored.grants.iter().find(|row| row.grant == grant);
    if there.is_some_and(|row| sealer.verify(&grant.canonical(), &row.seal)) {
        return Ok(None);
    }
    if there.is_none() && stored.grants.len() >= MAX_GRANTS {
        return Err(OperationError::TooManyGrants);
    }
    let event = event(time, actor, AuditAction::GrantAdded, None, describe(&grant));
    let mut changes = Vec::new();
    if there.is_some() {
        changes.push(Change::RemoveGrant(grant.clone()));
    }
    changes.push(Change::AddGrant(SealedGrant { grant, seal }));
    Ok(Some((changes, event)))
}
