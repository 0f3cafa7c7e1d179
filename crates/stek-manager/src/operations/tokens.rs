//! Tokens and grants: who may do what, as rows under a seal that only managers can make.

use std::collections::HashSet;

use stek_clock::Clock;
use stek_core::access::{Grant, Token, TokenHash};
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::id::KeyId;
use stek_core::name::PrincipalName;
use stek_core::time::Timestamp;
use stek_custody::clock_rules;
use stek_custody::cluster_secret::{ClusterSecret, RowSealer};
use stek_custody::random::RandomSource;
use stek_custody::state_file::HighWater;
use stek_store::{Change, Commit, KeyStore, MAX_BATCH, SealedGrant, SealedToken, StoredAccess};

use super::grants::MAX_GRANTS;
use super::{OperationError, Operations, event};
use crate::bootstrap::choose_secret;
use crate::draft::new_id;
use crate::engine::{ClockError, PassTime, check_not_behind};

/// The most tokens of a cluster: every request is compared with all of them.
pub const MAX_TOKENS: usize = 10_000;

/// Who is written down as the maker of a token that was made without a manager.
pub(super) const OFFLINE_ACTOR: &str = "offline";

/// A token to store. Its secret stays with whoever made it.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The principal that its bearer will be.
    pub principal: PrincipalName,
    /// The hash of its secret.
    pub hash: TokenHash,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// What its bearer may do, on top of what was granted to the principal before.
    pub grants: Vec<Grant>,
}

/// A stored token with what its bearer may do.
#[derive(Debug, Clone)]
pub struct TokenRow {
    /// The token.
    pub token: Token,
    /// The grants of its principal.
    pub grants: Vec<Grant>,
}

impl Operations {
    /// Stores a token and the grants of its principal.
    ///
    /// # Errors
    /// [`OperationError::TokenExists`], [`OperationError::TooManyTokens`],
    /// [`OperationError::TooManyGrants`], or the parts below.
    pub async fn add_token(&self, new: NewToken, actor: &str) -> Result<Token, OperationError> {
        let (time, _) = self.begin().await?;
        check_new(&self.engine.store.access().await?, &new)?;
        let id = new_id(self.engine.random.as_ref(), time)?;
        let (token, changes, events) = creation(new, id, &self.engine.sealer, time, actor);
        self.commit_all(time, changes, events).await?;
        Ok(token)
    }

    /// The tokens whose seals hold, with the grants of their principals.
    ///
    /// # Errors
    /// The database.
    pub async fn tokens(&self) -> Result<Vec<TokenRow>, OperationError> {
        let stored = self.engine.store.access().await?;
        let sealer = &self.engine.sealer;
        let good = |row: &SealedGrant| sealer.verify(&row.grant.canonical(), &row.seal);
        let grants: Vec<Grant> =
            stored.grants.into_iter().filter(good).map(|row| row.grant).collect();
        let tokens = stored.tokens.into_iter();
        let tokens = tokens.filter(|row| sealer.verify(&row.token.canonical(), &row.seal));
        let rows = tokens.map(|row| {
            let mine = grants.iter().filter(|grant| grant.principal.covers(&row.token.principal));
            TokenRow { grants: mine.cloned().collect(), token: row.token }
        });
        Ok(rows.collect())
    }

    /// Revokes a token, and the grants of its principal unless another token is of the same.
    /// Returns whether there was such a token. One whose seal does not hold grants nothing and is
    /// erased all the same.
    ///
    /// # Errors
    /// The database.
    pub async fn revoke_token(&self, id: KeyId, actor: &str) -> Result<bool, OperationError> {
        let (time, _) = self.begin_revoking().await?;
        let stored = self.engine.store.access().await?;
        let Some(row) = stored.tokens.iter().find(|row| row.token.id == id) else {
            return Ok(false);
        };
        let principal = &row.token.principal;
        let is_only =
            stored.tokens.iter().filter(|row| &row.token.principal == principal).count() == 1;
        let reason = principal.to_string();
        let mut events = vec![event(time, actor, AuditAction::TokenRevoked, None, reason)];
        let mut changes = vec![Change::RemoveToken(id)];
        if is_only {
            for grant in grants_of(&stored, principal).take(MAX_BATCH - 1) {
                events.push(removal(time, actor, grant));
                changes.push(Change::RemoveGrant(grant.clone()));
            }
        }
        self.commit_all(time, changes, events).await?;
        if let Err(error) = self.sweep(principal, time, actor).await {
            // The token is gone, and that is what was asked for.
            let error = &error as &dyn std::error::Error;
            tracing::warn!(%principal, error, "grants of a principal without a token may be left");
        }
        Ok(true)
    }

    /// Removes the grants of a principal who has no token: those for which there was no room in the
    /// commit that revoked the last one, and those left by two revocations at one time, each of
    /// which still saw the other's token.
    async fn sweep(
        &self,
        principal: &PrincipalName,
        time: PassTime,
        actor: &str,
    ) -> Result<(), OperationError> {
        let stored = self.engine.store.access().await?;
        if stored.tokens.iter().any(|row| &row.token.principal == principal) {
            return Ok(());
        }
        let left: HashSet<&Grant> = grants_of(&stored, principal).collect();
        let left: Vec<_> = left.into_iter().collect();
        for part in left.chunks(MAX_BATCH) {
            let changes = part.iter().map(|grant| Change::RemoveGrant((*grant).clone())).collect();
            let events = part.iter().map(|grant| removal(time, actor, grant)).collect();
            self.commit_all(time, changes, events).await?;
        }
        Ok(())
    }
}

/// Stores a token with the database and the cluster secret alone, for the first operator: nobody
/// can ask a manager for one yet. `mark` is the highest revision published, as far as it is known.
///
/// # Errors
/// As for [`Operations::add_token`].
pub async fn add_token_offline(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    random: &dyn RandomSource,
    clock: &dyn Clock,
    mark: Option<HighWater>,
    new: NewToken,
) -> Result<Token, OperationError> {
    let time = begin_offline(store, cluster, clock, mark).await?;
    check_new(&store.access().await?, &new)?;
    let id = new_id(random, time)?;
    let (token, changes, events) = creation(new, id, &cluster.row_sealer(), time, OFFLINE_ACTOR);
    let commit = Commit { at: time.now, changes, events };
    store.commit(&commit, &cluster.audit_key()).await?;
    Ok(token)
}

/// The database's time, if ours agrees and the database may be written. What is sealed and linked
/// from then on is so under the cluster secret that managers use.
pub(super) async fn begin_offline(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    clock: &dyn Clock,
    mark: Option<HighWater>,
) -> Result<PassTime, OperationError> {
    check_not_behind(&store.cluster().await?, mark)?;
    if let Some(row) = store.seed().await? {
        choose_secret(cluster, &row).map_err(|error| OperationError::Failed(Box::new(error)))?;
    }
    let millis = store.now_millis().await?;
    let ours = clock.wall_millis();
    clock_rules::agree(millis, ours).map_err(ClockError::from)?;
    let now = Timestamp::from_unix(millis / 1000);
    Ok(PassTime { now, millis, apart_millis: millis.abs_diff(ours) })
}

fn check_new(stored: &StoredAccess, new: &NewToken) -> Result<(), OperationError> {
    if stored.tokens.iter().any(|row| row.token.hash == new.hash) {
        return Err(OperationError::TokenExists);
    }
    if stored.tokens.len() >= MAX_TOKENS {
        return Err(OperationError::TooManyTokens);
    }
    if stored.grants.len() + new.grants.len() > MAX_GRANTS {
        return Err(OperationError::TooManyGrants);
    }
    Ok(())
}

/// The token, its rows under their seals, and what is written down.
fn creation(
    new: NewToken,
    id: KeyId,
    sealer: &RowSealer,
    time: PassTime,
    actor: &str,
) -> (Token, Vec<Change>, Vec<AuditEvent>) {
    let NewToken { principal, hash, expires_at, grants } = new;
    let token = Token { id, principal, hash, expires_at };
    let reason = format!("{} until {expires_at}", token.principal);
    let mut events = vec![event(time, actor, AuditAction::TokenCreated, None, reason)];
    let seal = sealer.seal(&token.canonical());
    let mut changes = vec![Change::AddToken(SealedToken { token: token.clone(), seal })];
    for grant in grants {
        events.push(event(time, actor, AuditAction::GrantAdded, None, describe(&grant)));
        let seal = sealer.seal(&grant.canonical());
        changes.push(Change::AddGrant(SealedGrant { grant, seal }));
    }
    (token, changes, events)
}

fn grants_of<'a>(
    stored: &'a StoredAccess,
    principal: &'a PrincipalName,
) -> impl Iterator<Item = &'a Grant> {
    // One to a pattern is also that of others.
    let exactly = move |grant: &&Grant| grant.principal.as_str() == principal.as_str();
    stored.grants.iter().map(|row| &row.grant).filter(exactly)
}

fn removal(time: PassTime, actor: &str, grant: &Grant) -> AuditEvent {
    event(time, actor, AuditAction::GrantRemoved, None, describe(grant))
}

pub(super) fn describe(grant: &Grant) -> String {
    format!("{} as {} on {}", grant.principal, grant.role.as_str(), grant.keysets)
}
