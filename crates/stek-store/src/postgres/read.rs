//! Reading. Whatever takes more than one query reads in one snapshot.

use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use stek_core::bundle::MAX_ENDED_KEYS;
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use uuid::Uuid;

use crate::sql::{
    AuditRecord, CheckpointRecord, ClusterRecord, Column, EndedKeyRecord, GrantRecord,
    HandOverRecord, KeysetRecord, LiveKeyRecord, SqlTime, TokenRecord, TombstoneRecord, as_signed,
    assemble, collect, page, reading, sift,
};
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClusterState, Keysets, StoreError,
    StoredAccess, StoredKeyset, Unsound,
};

async fn snapshot(pool: &PgPool) -> Result<Transaction<'static, Postgres>, StoreError> {
    pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(reading("snapshot"))
}

async fn end(snapshot: Transaction<'_, Postgres>) -> Result<(), StoreError> {
    snapshot.commit().await.map_err(reading("snapshot"))
}

pub(super) async fn cluster(connection: &mut PgConnection) -> Result<ClusterState, StoreError> {
    sqlx::query_as!(
        ClusterRecord,
        "SELECT incarnation, revision, access_revision, audit_sequence, audit_head FROM cluster",
    )
    .fetch_optional(connection)
    .await
    .map_err(reading("cluster"))?
    .ok_or(StoreError::NotMigrated)?
    .try_into()
}

pub(super) async fn due(
    pool: &PgPool,
    now: Timestamp,
    limit: usize,
) -> Result<Keysets, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let rows = sqlx::query_as!(
        KeysetRecord,
        r#"SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds,
               poll_interval_seconds, clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision, content_digest, next_due AS "next_due: SqlTime",
               created_at AS "created_at: SqlTime"
           FROM keysets WHERE deleted_at IS NULL AND next_due <= $1
           ORDER BY next_due, id LIMIT $2"#,
        SqlTime::to_postgres(now),
        page(limit),
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let keysets = with_keys(&mut snapshot, rows).await?;
    end(snapshot).await?;
    Ok(keysets)
}

pub(super) async fn next_due(pool: &PgPool) -> Result<Option<Timestamp>, StoreError> {
    let next = sqlx::query_scalar!(
        r#"SELECT next_due AS "next_due: SqlTime" FROM keysets WHERE deleted_at IS NULL
           ORDER BY next_due LIMIT 1"#
    )
    .fetch_optional(pool)
    .await
    .map_err(reading("keysets"))?;
    next.map(|next| next.read("keysets", "next_due")).transpose()
}

pub(super) async fn keyset(
    pool: &PgPool,
    name: &KeysetName,
) -> Result<Option<StoredKeyset>, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let rows = sqlx::query_as!(
        KeysetRecord,
        r#"SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds,
               poll_interval_seconds, clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision, content_digest, next_due AS "next_due: SqlTime",
               created_at AS "created_at: SqlTime"
           FROM keysets WHERE deleted_at IS NULL AND name = $1"#,
        name.as_str(),
    )
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
    pool: &PgPool,
    after: Option<&KeysetName>,
    limit: usize,
) -> Result<Keysets, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let rows = sqlx::query_as!(
        KeysetRecord,
        r#"SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds,
               poll_interval_seconds, clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision, content_digest, next_due AS "next_due: SqlTime",
               created_at AS "created_at: SqlTime"
           FROM keysets WHERE deleted_at IS NULL AND name > $1
           ORDER BY name LIMIT $2"#,
        // Every name is after the empty text.
        after.map_or("", KeysetName::as_str),
        page(limit),
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let keysets = with_keys(&mut snapshot, rows).await?;
    end(snapshot).await?;
    Ok(keysets)
}

pub(super) async fn changed_since(pool: &PgPool, since: Revision) -> Result<Changes, StoreError> {
    let since = as_signed(since.as_u64());
    let mut snapshot = snapshot(pool).await?;
    let cluster = cluster(&mut snapshot).await?;
    let rows = sqlx::query_as!(
        KeysetRecord,
        r#"SELECT id, name, rotation_period_seconds, ticket_lifetime_seconds,
               poll_interval_seconds, clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, had_keys, revision, content_digest, next_due AS "next_due: SqlTime",
               created_at AS "created_at: SqlTime"
           FROM keysets WHERE deleted_at IS NULL AND revision > $1
           ORDER BY name"#,
        since,
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("keysets"))?;
    let keysets = with_keys(&mut snapshot, rows).await?;
    let tombstones = sqlx::query_as!(
        TombstoneRecord,
        r#"SELECT DISTINCT ON (name) name, deleted_revision AS "deleted_revision!",
               deleted_at AS "deleted_at!: SqlTime"
           FROM keysets AS gone
           WHERE deleted_at IS NOT NULL AND revision > $1
             AND NOT EXISTS (SELECT FROM keysets AS again
                             WHERE again.name = gone.name AND again.deleted_at IS NULL)
           ORDER BY name, deleted_revision DESC"#,
        since,
    )
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
    connection: &mut PgConnection,
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
    connection: &mut PgConnection,
    rows: &[KeysetRecord],
) -> Result<(Vec<LiveKeyRecord>, Vec<EndedKeyRecord>), StoreError> {
    if rows.is_empty() {
        return Ok((vec![], vec![]));
    }
    let ids: Vec<i64> = rows.iter().map(|row| row.id).collect();
    let live = sqlx::query_as!(
        LiveKeyRecord,
        r#"SELECT id, keyset_id, format, kcv, published_at AS "published_at: SqlTime",
               activate_at AS "activate_at: SqlTime", retire_at AS "retire_at: SqlTime",
               destroy_at AS "destroy_at: SqlTime", destroy_by AS "destroy_by: SqlTime",
               postponed_seconds, seed_id, epoch, wrap_nonce, wrap_ciphertext
           FROM ticket_keys WHERE keyset_id = ANY($1) AND ended_at IS NULL"#,
        &ids,
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading("ticket_keys"))?;
    let ended = sqlx::query_as!(
        EndedKeyRecord,
        r#"SELECT ended.id, ended.keyset_id, ended.kcv, ended.ended_at AS "ended_at!: SqlTime",
               ended.end_cause AS "end_cause!"
           FROM unnest($1::bigint[]) AS wanted (id)
           CROSS JOIN LATERAL (
               SELECT id, keyset_id, kcv, ended_at, end_cause FROM ticket_keys
               WHERE keyset_id = wanted.id AND ended_at IS NOT NULL
               ORDER BY ended_at DESC, id DESC LIMIT $2
           ) AS ended
           ORDER BY ended.ended_at DESC, ended.id DESC"#,
        &ids,
        as_signed(MAX_ENDED_KEYS as u64),
    )
    .fetch_all(&mut *connection)
    .await
    .map_err(reading("ticket_keys"))?;
    Ok((live, ended))
}

pub(super) async fn access(pool: &PgPool) -> Result<StoredAccess, StoreError> {
    let mut snapshot = snapshot(pool).await?;
    let tokens = sqlx::query_as!(
        TokenRecord,
        r#"SELECT id AS "id: Column<Uuid>", principal AS "principal: Column<String>",
               hash AS "hash: Column<Vec<u8>>", expires_at AS "expires_at: Column<SqlTime>",
               seal AS "seal: Column<Vec<u8>>"
           FROM tokens ORDER BY id"#,
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("tokens"))?;
    let grants = sqlx::query_as!(
        GrantRecord,
        r#"SELECT principal AS "principal: Column<String>", keysets AS "keysets: Column<String>",
               role AS "role: Column<String>", seal AS "seal: Column<Vec<u8>>"
           FROM grants ORDER BY principal, keysets, role"#,
    )
    .fetch_all(&mut *snapshot)
    .await
    .map_err(reading("grants"))?;
    end(snapshot).await?;
    let ((tokens, bad_tokens), (grants, bad_grants)) = (sift(tokens), sift(grants));
    Ok(StoredAccess { tokens, grants, unsound: bad_tokens + bad_grants })
}

pub(super) async fn audit(
    pool: &PgPool,
    after: u64,
    limit: usize,
) -> Result<Vec<AuditRow>, StoreError> {
    let rows = sqlx::query_as!(
        AuditRecord,
        r#"SELECT sequence, revision, at AS "at: SqlTime", actor, action, keyset, key_id, reason,
               link
           FROM audit WHERE sequence > $1 ORDER BY sequence LIMIT $2"#,
        as_signed(after),
        page(limit),
    )
    .fetch_all(pool)
    .await
    .map_err(reading("audit"))?;
    collect(rows)
}

pub(super) async fn audit_checkpoint(pool: &PgPool) -> Result<Option<AuditCheckpoint>, StoreError> {
    let row =
        sqlx::query_as!(CheckpointRecord, "SELECT sequence, link, seal FROM audit_checkpoint",)
            .fetch_optional(pool)
            .await
            .map_err(reading("audit_checkpoint"))?;
    row.map(AuditCheckpoint::try_from).transpose()
}

pub(super) async fn audit_hand_overs(pool: &PgPool) -> Result<Vec<AuditHandOver>, StoreError> {
    let rows = sqlx::query_as!(
        HandOverRecord,
        r#"SELECT sequence, link, "before", seal FROM audit_hand_overs ORDER BY sequence"#,
    )
    .fetch_all(pool)
    .await
    .map_err(reading("audit_hand_overs"))?;
    collect(rows)
}
