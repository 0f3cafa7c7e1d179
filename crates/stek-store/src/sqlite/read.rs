//! Reading. Whatever takes more than one query reads in one snapshot, which the write-ahead log
//! gives to every read transaction.

use sqlx::{Sqlite, SqliteConnection, SqlitePool, Transaction};
use stek_core::bundle::MAX_ENDED_KEYS;
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;

use crate::sql::{
    AuditRecord, CheckpointRecord, ClusterRecord, EndedKeyRecord, GrantRecord, HandOverRecord,
    KeysetRecord, LiveKeyRecord, SeedRecord, SqlTime, TokenRecord, TombstoneRecord, as_signed,
    assemble, collect, page, reading, sift,
};
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClusterState, Keysets, SeedRow, StoreError,
    StoredAccess, StoredKeyset, Unsound,
};

async fn snapshot(pool: &SqlitePool) -> Result<Transaction<'static, Sqlite>, StoreError> {
    pool.begin().await.map_err(reading("snapshot"))
}

async fn end(snapshot: Transaction<'_, Sqlite>) -> Result<(), StoreError> {
    snapshot.commit().await.map_err(reading("snapshot"))
}

/// Numbers as a JSON array, which one parameter can hold.
pub(super) fn list(numbers: impl IntoIterator<Item = i64>) -> String {
    let numbers: Vec<_> = numbers.into_iter().map(|number| number.to_string()).collect();
    format!("[{}]", numbers.join(","))
}

pub(super) async fn cluster(connection: &mut SqliteConnection) -> Result<ClusterState, StoreError> {
    sqlx::query_as::<_, ClusterRecord>(
        "SELECT incarnation, revision, access_revision, audit_sequence, audit_head FROM cluster",
    )
    .fetch_optional(connection)
    .await
    .map_err(reading("cluster"))?
    .ok_or(StoreError::NotMigrated)?
    .try_into()
}

pub(super) async fn due(
    pool: &SqlitePool,
    now: Timestamp,
    limit: usize,
) -> Result<Keysets, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let rows = sqlx::query_as::<_, KeysetRecord>(
        "SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds, poll_interval_seconds,
             clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision,
             content_digest, next_due, created_at
         FROM keysets WHERE deleted_at IS NULL AND next_due <= ? ORDER BY next_due, id LIMIT ?",
    )
    .bind(SqlTime::of(now))
    .bind(page(limit))
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let keysets = with_keys(&mut snapshot, rows).await?;
    end(snapshot).await?;
    Ok(keysets)
}

pub(super) async fn next_due(pool: &SqlitePool) -> Result<Option<Timestamp>, StoreError> {
    let next = sqlx::query_scalar::<_, SqlTime>(
        "SELECT next_due FROM keysets WHERE deleted_at IS NULL ORDER BY next_due LIMIT 1",
    )
    .fetch_optional(pool)
    .await
    .map_err(reading("keysets"))?;
    next.map(|next| next.read("keysets", "next_due")).transpose()
}

pub(super) async fn keyset(
    pool: &SqlitePool,
    name: &KeysetName,
) -> Result<Option<StoredKeyset>, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let rows = sqlx::query_as::<_, KeysetRecord>(
        "SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds, poll_interval_seconds,
             clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision,
             content_digest, next_due, created_at
         FROM keysets WHERE deleted_at IS NULL AND name = ?",
    )
    .bind(name.as_str())
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let mut keysets = with_keys(&mut snapshot, rows).await?;
    end(snapshot).await?;
    if let Some(Unsound { why, .. }) = keysets.unsound.pop() {
        return Err(StoreError::Corrupt { table: "keysets", what: why });
    }
    Ok(keysets.sound.pop())
}

pub(super) async fn keysets(
    pool: &SqlitePool,
    after: Option<&KeysetName>,
    limit: usize,
) -> Result<Keysets, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let rows = sqlx::query_as::<_, KeysetRecord>(
        "SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds, poll_interval_seconds,
             clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision,
             content_digest, next_due, created_at
         FROM keysets WHERE deleted_at IS NULL AND name > ? ORDER BY name LIMIT ?",
    )
    // Every name is after the empty text.
    .bind(after.map_or("", KeysetName::as_str))
    .bind(page(limit))
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let keysets = with_keys(&mut snapshot, rows).await?;
    end(snapshot).await?;
    Ok(keysets)
}

pub(super) async fn changed_since(
    pool: &SqlitePool,
    since: Revision,
) -> Result<Changes, StoreError> {
    let since = as_signed(since.as_u64());
    let mut snapshot = snapshot(pool).await?;
    let cluster = cluster(&mut snapshot).await?;
    let rows = sqlx::query_as::<_, KeysetRecord>(
        "SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds, poll_interval_seconds,
             clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision,
             content_digest, next_due, created_at
         FROM keysets WHERE deleted_at IS NULL AND revision > ? ORDER BY name",
    )
    .bind(since)
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let keysets = with_keys(&mut snapshot, rows).await?;
    // With max() the other columns are those of the row that has it (SQLite, "bare columns").
    let tombstones = sqlx::query_as::<_, TombstoneRecord>(
        "SELECT name, max(deleted_revision) AS deleted_revision, deleted_at FROM keysets AS gone
         WHERE deleted_at IS NOT NULL AND revision > ?
           AND NOT EXISTS (SELECT 1 FROM keysets AS again
                           WHERE again.name = gone.name AND again.deleted_at IS NULL)
         GROUP BY name ORDER BY name",
    )
    .bind(since)
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    end(snapshot).await?;
    let Keysets { sound: keysets, unsound } = keysets;
    // A deletion that cannot be read is as if it had been purged.
    let (tombstones, _) = sift(tombstones);
    Ok(Changes { cluster, keysets, unsound, tombstones })
}

/// The keysets of these rows. What cannot even be decoded is searched for by halves, so that it is
/// set aside alone.
async fn with_keys(
    connection: &mut SqliteConnection,
    rows: Vec<KeysetRecord>,
) -> Result<Keysets, StoreError> {
    let mut all = Keysets::default();
    let mut parts = vec![rows];
    while let Some(mut part) = parts.pop() {
        match keys_of(connection, &part).await {
            Ok((live, ended)) => {
                let Keysets { sound, unsound } = assemble(part, live, ended);
                all.sound.extend(sound);
                all.unsound.extend(unsound);
            }
            Err(error @ StoreError::Corrupt { .. }) if part.len() == 1 => {
                let name = part.remove(0).name;
                all.unsound.push(Unsound { name, why: error.to_string() });
            }
            Err(StoreError::Corrupt { .. }) => {
                parts.push(part.split_off(part.len() / 2));
                parts.push(part);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// The keys of these keysets, with two queries however many they are.
async fn keys_of(
    connection: &mut SqliteConnection,
    rows: &[KeysetRecord],
) -> Result<(Vec<LiveKeyRecord>, Vec<EndedKeyRecord>), StoreError> {
    if rows.is_empty() {
        return Ok((vec![], vec![]));
    }
    let ids = list(rows.iter().map(|row| row.id));
    let live = sqlx::query_as::<_, LiveKeyRecord>(
        "SELECT id, keyset_id, format, kcv, published_at, activate_at, retire_at, destroy_at,
             destroy_by, postponed_seconds, seed_id, epoch, wrap_nonce, wrap_ciphertext
         FROM ticket_keys
         WHERE keyset_id IN (SELECT value FROM json_each(?)) AND ended_at IS NULL",
    )
    .bind(&ids)
    .fetch_all(&mut *connection)
    .await
    .map_err(reading("ticket_keys"))?;
    let ended = sqlx::query_as::<_, EndedKeyRecord>(
        "SELECT id, keyset_id, kcv, ended_at, end_cause FROM (
             SELECT id, keyset_id, kcv, ended_at, end_cause, row_number() OVER
                 (PARTITION BY keyset_id ORDER BY ended_at DESC, id DESC) AS place
             FROM ticket_keys
             WHERE keyset_id IN (SELECT value FROM json_each(?)) AND ended_at IS NOT NULL)
         WHERE place <= ? ORDER BY ended_at DESC, id DESC",
    )
    .bind(&ids)
    .bind(as_signed(MAX_ENDED_KEYS as u64))
    .fetch_all(&mut *connection)
    .await
    .map_err(reading("ticket_keys"))?;
    Ok((live, ended))
}

pub(super) async fn access(pool: &SqlitePool) -> Result<StoredAccess, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let tokens = sqlx::query_as::<_, TokenRecord>(
        "SELECT id, principal, hash, expires_at, seal FROM tokens ORDER BY id",
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("tokens"))?;
    let grants = sqlx::query_as::<_, GrantRecord>(
        "SELECT principal, keysets, role, seal FROM grants ORDER BY principal, keysets, role",
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("grants"))?;
    end(snapshot).await?;
    let ((tokens, bad_tokens), (grants, bad_grants)) = (sift(tokens), sift(grants));
    Ok(StoredAccess { tokens, grants, unsound: bad_tokens + bad_grants })
}

pub(super) async fn seed(connection: &mut SqliteConnection) -> Result<Option<SeedRow>, StoreError> {
    sqlx::query_as::<_, SeedRecord>(
        "SELECT seed_id, check_value, claimed_at FROM ratchet_seeds WHERE phase = 'live'",
    )
    .fetch_optional(connection)
    .await
    .map_err(reading("ratchet_seeds"))?
    .map(SeedRow::try_from)
    .transpose()
}

pub(super) async fn audit(
    pool: &SqlitePool,
    after: u64,
    limit: usize,
) -> Result<Vec<AuditRow>, StoreError> {
    let rows = sqlx::query_as::<_, AuditRecord>(
        "SELECT sequence, revision, at, actor, action, keyset, key_id, reason, link
         FROM audit WHERE sequence > ? ORDER BY sequence LIMIT ?",
    )
    .bind(as_signed(after))
    .bind(page(limit))
    .fetch_all(pool)
    .await
    .map_err(reading("audit"))?;
    collect(rows)
}

pub(super) async fn audit_checkpoint(
    pool: &SqlitePool,
) -> Result<Option<AuditCheckpoint>, StoreError> {
    let row =
        sqlx::query_as::<_, CheckpointRecord>("SELECT sequence, link, seal FROM audit_checkpoint")
            .fetch_optional(pool)
            .await
            .map_err(reading("audit_checkpoint"))?;
    row.map(AuditCheckpoint::try_from).transpose()
}

pub(super) async fn audit_hand_overs(pool: &SqlitePool) -> Result<Vec<AuditHandOver>, StoreError> {
    let rows = sqlx::query_as::<_, HandOverRecord>(
        r#"SELECT sequence, link, "before", seal FROM audit_hand_overs ORDER BY sequence"#,
    )
    .fetch_all(pool)
    .await
    .map_err(reading("audit_hand_overs"))?;
    collect(rows)
}
