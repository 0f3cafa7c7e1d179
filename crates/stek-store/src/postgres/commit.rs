//! One commit is one transaction: lock the keysets, compare, write, and only then take the counter
//! row. Holding that row to the end is what makes revisions visible in their order, so that who
//! follows them misses none.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::{PgConnection, PgPool};
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;

use super::REVISION_CHANNEL;
use super::seed;
use super::write::{self, KeyColumns};
use crate::changeset::{Changeset, KeySteps, KnownKey};
use crate::sql::{
    ClusterRecord, Failure, KnownKeyRecord, SqlTime, as_signed, as_unsigned, bounded, key_id,
    to_uuid, writing,
};
use crate::{ClusterState, Commit, CommitError, Committed, StoreError, trail};

/// How often a commit is tried when the database breaks a deadlock at its cost.
const ATTEMPTS: usize = 4;

/// How many rows one statement forgets.
const PURGE_BATCH: i64 = 1000;

/// Isolation at which a locked row is read as it is, not as it was when the transaction began.
pub(super) const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE";

pub(super) async fn commit(
    pool: &PgPool,
    commit: &Commit,
    chain: &dyn AuditChain,
) -> Result<Committed, CommitError> {
    let changes = Changeset::try_new(commit)?;
    let mut attempt = 1;
    loop {
        match try_commit(pool, &changes, &commit.events, chain).await {
            Ok(committed) => return Ok(committed),
            Err(failure) if failure.is_collision() && attempt < ATTEMPTS => attempt += 1,
            Err(failure) => return Err(failure.into_error(&changes.names())),
        }
    }
}

async fn try_commit(
    pool: &PgPool,
    changes: &Changeset<'_>,
    events: &[AuditEvent],
    chain: &dyn AuditChain,
) -> Result<Committed, Failure> {
    let mut transaction = pool.begin_with(BEGIN).await?;
    let locked = lock(&mut transaction, changes).await?;
    let stamps = apply(&mut transaction, changes, &locked).await?;
    let access_changed = write::access(&mut transaction, &changes.access).await?;
    write::prune(&mut transaction, changes.prune).await?;
    write::hand_over(&mut transaction, changes.hand_over).await?;
    if changes.inserts_keys() {
        changes.check_seeds(seed::held_live(&mut transaction).await?)?;
    }
    // What is deferred is checked here, before the row that everybody waits for is taken.
    sqlx::query("SET CONSTRAINTS ALL IMMEDIATE").execute(&mut *transaction).await?;
    let committed = take_revision(&mut transaction, access_changed, events, chain).await?;
    stamps.write(&mut transaction, committed.revision, changes.at).await?;
    transaction.commit().await?;
    Ok(committed)
}

type Locked = HashMap<String, (i64, Revision, Timestamp)>;

/// Locks what the commit expects to be there, in the order of ids, and compares.
async fn lock(connection: &mut PgConnection, changes: &Changeset<'_>) -> Result<Locked, Failure> {
    let names: Vec<String> = changes.expected().map(|(name, _)| name.to_string()).collect();
    let mut locked = Locked::with_capacity(names.len());
    if !names.is_empty() {
        let rows = sqlx::query!(
            r#"SELECT id, name, revision, next_due AS "next_due: SqlTime" FROM keysets
               WHERE name = ANY($1) AND deleted_at IS NULL ORDER BY id FOR UPDATE"#,
            &names,
        )
        .fetch_all(connection)
        .await?;
        for row in rows {
            let revision = as_unsigned("keysets", "revision", row.revision)?;
            let next_due = row.next_due.read("keysets", "next_due")?;
            locked.insert(row.name, (row.id, Revision::new(revision), next_due));
        }
    }
    changes.check_expected(|name| {
        locked.get(name.as_str()).map(|(_, revision, next_due)| (*revision, *next_due))
    })?;
    Ok(locked)
}

/// What is written once the revision is known.
#[derive(Default)]
struct Stamps {
    published: Vec<i64>,
    digests: Vec<Vec<u8>>,
    deleted: Vec<i64>,
}

impl Stamps {
    async fn write(
        &self,
        connection: &mut PgConnection,
        revision: Revision,
        at: Timestamp,
    ) -> Result<(), Failure> {
        let revision = as_signed(revision.as_u64());
        if !self.published.is_empty() {
            sqlx::query!(
                "UPDATE keysets SET revision = $1, content_digest = new.digest
                 FROM unnest($2::bigint[], $3::bytea[]) AS new (id, digest)
                 WHERE keysets.id = new.id",
                revision,
                &self.published,
                &self.digests,
            )
            .execute(&mut *connection)
            .await?;
        }
        if !self.deleted.is_empty() {
            sqlx::query!(
                "UPDATE keysets SET revision = $1, deleted_revision = $1, deleted_at = $2
                 WHERE id = ANY($3)",
                revision,
                SqlTime::to_postgres(at),
                &self.deleted,
            )
            .execute(&mut *connection)
            .await?;
        }
        Ok(())
    }
}

async fn apply(
    connection: &mut PgConnection,
    changes: &Changeset<'_>,
    locked: &Locked,
) -> Result<Stamps, Failure> {
    let id_of = |name: &KeysetName| locked.get(name.as_str()).map_or(0, |(id, ..)| *id);
    let mut stamps = Stamps::default();
    let mut inserts = KeyColumns::default();
    for create in &changes.creates {
        let id = write::create(connection, create, changes.at).await?;
        create.keys.iter().for_each(|key| inserts.push(id, key));
        stamps.published.push(id);
        stamps.digests.push(create.digest.as_bytes().to_vec());
    }
    let mut updates = vec![];
    for update in &changes.updates {
        let id = id_of(&update.name);
        if let Some(policy) = &update.policy {
            write::policy(connection, id, policy).await?;
        }
        if let Some(digest) = update.publish {
            stamps.published.push(id);
            stamps.digests.push(digest.as_bytes().to_vec());
        }
        updates.push((id, *update, KeySteps::new(&update.steps)));
    }
    settle(connection, &mut updates).await?;
    for (id, _, steps) in &updates {
        steps.inserts.iter().for_each(|key| inserts.push(*id, key));
    }
    stamps.deleted = changes.deletes.iter().map(|(name, _)| id_of(name)).collect();

    write::next_due(connection, updates.iter().map(|(id, update, _)| (*id, update.next_due)))
        .await?;
    write::insert_keys(connection, &inserts).await?;
    write::move_keys(connection, updates.iter().flat_map(|(_, _, steps)| &steps.moves)).await?;
    write::end_keys(connection, changes.at, updates.iter().flat_map(|(_, _, steps)| &steps.ends))
        .await?;
    write::revoke_all(connection, changes.at, &stamps.deleted).await?;
    write::check_live_keys(connection, &inserts).await?;
    Ok(stamps)
}

/// Looks up the keys that steps name, all at once, and lets the steps settle on them.
async fn settle(
    connection: &mut PgConnection,
    updates: &mut [(i64, &crate::KeysetUpdate, KeySteps<'_>)],
) -> Result<(), Failure> {
    let ids: Vec<_> =
        updates.iter().flat_map(|(_, _, steps)| steps.known_ids()).map(to_uuid).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let rows = sqlx::query_as!(
        KnownKeyRecord,
        r#"SELECT id, keyset_id, published_at AS "published_at: SqlTime",
               destroy_by AS "destroy_by: SqlTime", ended_at IS NOT NULL AS "ended!"
           FROM ticket_keys WHERE id = ANY($1)"#,
        &ids,
    )
    .fetch_all(connection)
    .await?;
    let known: HashMap<_, KnownKey> = rows
        .iter()
        .map(|row| Ok(((row.keyset_id, key_id(row.id)), row.known()?)))
        .collect::<Result<_, StoreError>>()?;
    for (keyset_id, update, steps) in updates {
        steps.settle(&update.name, |id| known.get(&(*keyset_id, id)).copied())?;
    }
    Ok(())
}

/// Takes the counter row, which is held until the transaction ends, and writes the trail.
pub(super) async fn take_revision(
    connection: &mut PgConnection,
    access_changed: bool,
    events: &[AuditEvent],
    chain: &dyn AuditChain,
) -> Result<Committed, Failure> {
    let cluster: ClusterState = sqlx::query_as!(
        ClusterRecord,
        "UPDATE cluster SET revision = revision + 1,
             access_revision = CASE WHEN $1 THEN revision + 1 ELSE access_revision END
         RETURNING incarnation, revision, access_revision, audit_sequence, audit_head",
        access_changed,
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(StoreError::NotMigrated)?
    .try_into()?;
    let (rows, head) =
        trail::link(events, cluster.revision, cluster.audit_sequence, cluster.audit_head, chain);
    write::audit(connection, &rows).await?;
    sqlx::query!(
        "UPDATE cluster SET audit_sequence = $1, audit_head = $2",
        as_signed(rows.last().map_or(cluster.audit_sequence, |row| row.sequence)),
        head.as_bytes(),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(REVISION_CHANNEL)
        .bind(cluster.revision.to_string())
        .execute(&mut *connection)
        .await?;
    Ok(Committed { revision: cluster.revision, head })
}

/// Forgets in batches, each within the time-out.
pub(super) async fn purge(
    pool: &PgPool,
    time_out: Duration,
    before: Timestamp,
) -> Result<u64, StoreError> {
    let before = SqlTime::to_postgres(before);
    let mut forgotten = 0;
    loop {
        let batch = bounded(time_out, async {
            sqlx::query!(
                "DELETE FROM ticket_keys WHERE id IN
                     (SELECT id FROM ticket_keys WHERE ended_at < $1 LIMIT $2)",
                before,
                PURGE_BATCH,
            )
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
        sqlx::query!("DELETE FROM keysets WHERE deleted_at < $1", before)
            .execute(pool)
            .await
            .map_err(writing("keysets"))
    })
    .await?;
    Ok(forgotten + tombstones.rows_affected())
}
