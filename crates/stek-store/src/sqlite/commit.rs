//! One commit is one transaction that holds the write lock from its beginning.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{SqliteConnection, SqlitePool};
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::Revision;
use stek_core::time::Timestamp;
use uuid::Uuid;

use super::{read, write};
use crate::changeset::{Changeset, KeySteps, KnownKey};
use crate::sql::{
    ClusterRecord, Failure, KnownKeyRecord, SqlTime, as_signed, as_unsigned, bounded, key_id,
    not_a_commit, to_uuid, writing,
};
use crate::{
    ClusterState, Commit, CommitError, Committed, KeysetUpdate, SeedRow, StoreError, trail,
};

/// Takes the write lock at once: a lock that is taken later can fail at any statement.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// How many rows one statement forgets.
const PURGE_BATCH: i64 = 1000;

pub(super) async fn commit(
    pool: &SqlitePool,
    commit: &Commit,
    chain: &dyn AuditChain,
) -> Result<Committed, CommitError> {
    let changes = Changeset::try_new(commit)?;
    try_commit(pool, &changes, &commit.events, chain)
        .await
        .map_err(|failure| failure.into_error(&changes.names()))
}

async fn try_commit(
    pool: &SqlitePool,
    changes: &Changeset<'_>,
    events: &[AuditEvent],
    chain: &dyn AuditChain,
) -> Result<Committed, Failure> {
    let mut transaction = pool.begin_with(BEGIN).await?;
    let ids = compare(&mut transaction, changes).await?;
    changes.check_seeds(read::seed(&mut transaction).await?.map(|live| live.seed).into())?;
    let created = apply(&mut transaction, changes, &ids).await?;
    let access_changed = write::access(&mut transaction, &changes.access).await?;
    write::prune(&mut transaction, changes.prune).await?;
    write::hand_over(&mut transaction, changes.hand_over).await?;
    let touched: Vec<i64> = created.iter().chain(ids.values()).copied().collect();
    write::check_keys(&mut transaction, &touched).await?;

    let committed = take_revision(&mut transaction, access_changed, events, chain).await?;
    for (create, id) in changes.creates.iter().zip(created) {
        write::publish(&mut transaction, id, create.digest, committed.revision).await?;
    }
    for update in &changes.updates {
        if let (Some(digest), Some(id)) = (update.publish, ids.get(update.name.as_str())) {
            write::publish(&mut transaction, *id, digest, committed.revision).await?;
        }
    }
    for (name, _) in &changes.deletes {
        if let Some(id) = ids.get(name.as_str()) {
            write::delete(&mut transaction, *id, changes.at, committed.revision).await?;
        }
    }
    transaction.commit().await?;
    Ok(committed)
}

/// Compares what the commit expects with what is there; returns ids by name.
async fn compare(
    connection: &mut SqliteConnection,
    changes: &Changeset<'_>,
) -> Result<HashMap<String, i64>, Failure> {
    let mut ids = HashMap::new();
    let mut found = HashMap::new();
    for (name, _) in changes.expected() {
        let row: Option<(i64, i64, SqlTime)> = sqlx::query_as(
            "SELECT id, revision, next_due FROM keysets WHERE name = ? AND deleted_at IS NULL",
        )
        .bind(name.as_str())
        .fetch_optional(&mut *connection)
        .await?;
        if let Some((id, revision, next_due)) = row {
            let revision = as_unsigned("keysets", "revision", revision)?;
            ids.insert(name.to_string(), id);
            let next_due = next_due.read("keysets", "next_due")?;
            found.insert(name.to_string(), (Revision::new(revision), next_due));
        }
    }
    changes.check_expected(|name| found.get(name.as_str()).copied())?;
    Ok(ids)
}

/// Returns the ids of the created keysets, in their order.
async fn apply(
    connection: &mut SqliteConnection,
    changes: &Changeset<'_>,
    ids: &HashMap<String, i64>,
) -> Result<Vec<i64>, Failure> {
    let mut created = vec![];
    for create in &changes.creates {
        let id = write::create(connection, create, changes.at).await?;
        write::insert_keys(connection, id, create.keys.iter()).await?;
        created.push(id);
    }
    for update in &changes.updates {
        if let Some(id) = ids.get(update.name.as_str()) {
            apply_update(connection, *id, update, changes.at).await?;
        }
    }
    for (name, _) in &changes.deletes {
        if let Some(id) = ids.get(name.as_str()) {
            write::revoke_all(connection, *id, changes.at).await?;
        }
    }
    Ok(created)
}

async fn apply_update(
    connection: &mut SqliteConnection,
    id: i64,
    update: &KeysetUpdate,
    at: Timestamp,
) -> Result<(), Failure> {
    if let Some(policy) = &update.policy {
        write::policy(connection, id, policy).await?;
    }
    write::next_due(connection, id, update.next_due).await?;
    let mut steps = KeySteps::new(&update.steps);
    let mut known: HashMap<_, KnownKey> = HashMap::new();
    for key in steps.known_ids() {
        let row: Option<KnownKeyRecord> = sqlx::query_as(
            "SELECT id, keyset_id, published_at, destroy_by, ended_at IS NOT NULL AS ended
             FROM ticket_keys WHERE id = ? AND keyset_id = ?",
        )
        .bind(to_uuid(key))
        .bind(id)
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(row) = row {
            known.insert(key_id(row.id), row.known()?);
        }
    }
    steps.settle(&update.name, |key| known.get(&key).copied())?;
    write::insert_keys(connection, id, steps.inserts.iter().copied()).await?;
    for (key, schedule) in &steps.moves {
        write::move_key(connection, *key, schedule).await?;
    }
    for (key, cause) in &steps.ends {
        write::end_key(connection, *key, *cause, at).await?;
    }
    Ok(())
}

pub(super) async fn take_revision(
    connection: &mut SqliteConnection,
    access_changed: bool,
    events: &[AuditEvent],
    chain: &dyn AuditChain,
) -> Result<Committed, Failure> {
    let cluster: ClusterState = sqlx::query_as::<_, ClusterRecord>(
        "UPDATE cluster SET revision = revision + 1,
             access_revision = CASE WHEN ? THEN revision + 1 ELSE access_revision END
         RETURNING incarnation, revision, access_revision, audit_sequence, audit_head",
    )
    .bind(access_changed)
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotMigrated)?
    .try_into()?;
    let (rows, head) =
        trail::link(events, cluster.revision, cluster.audit_sequence, cluster.audit_head, chain);
    write::audit(connection, &rows).await?;
    sqlx::query("UPDATE cluster SET audit_sequence = ?, audit_head = ?")
        .bind(as_signed(rows.last().map_or(cluster.audit_sequence, |row| row.sequence)))
        .bind(head.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
    Ok(Committed { revision: cluster.revision, head })
}

pub(super) async fn claim_seed(
    pool: &SqlitePool,
    seed: &SeedRow,
    event: &AuditEvent,
    chain: &dyn AuditChain,
) -> Result<SeedRow, StoreError> {
    try_claim(pool, seed, event, chain).await.map_err(not_a_commit("a claim of the seed"))
}

async fn try_claim(
    pool: &SqlitePool,
    seed: &SeedRow,
    event: &AuditEvent,
    chain: &dyn AuditChain,
) -> Result<SeedRow, Failure> {
    let mut transaction = pool.begin_with(BEGIN).await?;
    if let Some(holds) = read::seed(&mut transaction).await? {
        return Ok(holds);
    }
    sqlx::query("INSERT INTO ratchet_seeds (seed_id, check_value, claimed_at) VALUES (?, ?, ?)")
        .bind(Uuid::from_bytes(*seed.seed.as_bytes()))
        .bind(seed.check.as_slice())
        .bind(SqlTime::of(seed.claimed_at))
        .execute(&mut *transaction)
        .await?;
    take_revision(&mut transaction, false, std::slice::from_ref(event), chain).await?;
    transaction.commit().await?;
    Ok(*seed)
}

/// Forgets in batches, each within the time-out.
pub(super) async fn purge(
    pool: &SqlitePool,
    time_out: Duration,
    before: Timestamp,
) -> Result<u64, StoreError> {
    let mut forgotten = 0;
    loop {
        let batch = bounded(time_out, async {
            sqlx::query(
                "DELETE FROM ticket_keys WHERE id IN
                     (SELECT id FROM ticket_keys WHERE ended_at < ? LIMIT ?)",
            )
            .bind(SqlTime::of(before))
            .bind(PURGE_BATCH)
            .execute(pool)
            .await
            .map_err(writing("ticket_keys"))
        })
        .await?
        .rows_affected();
        forgotten += batch;
        if batch < PURGE_BATCH.unsigned_abs() {
            break;
        }
    }
    let tombstones = bounded(time_out, async {
        sqlx::query("DELETE FROM keysets WHERE deleted_at < ?")
            .bind(SqlTime::of(before))
            .execute(pool)
            .await
            .map_err(writing("keysets"))
    })
    .await?;
    Ok(forgotten + tombstones.rows_affected())
}
