//! The statements of a commit. They cost no round trip, so each does one thing.

use sqlx::SqliteConnection;
use stek_core::bundle::EndCause;
use stek_core::id::{ContentDigest, KeyId, Revision};
use stek_core::keyset::MAX_LIVE_KEYS;
use stek_core::policy::Policy;
use stek_core::schedule::Schedule;
use stek_core::time::{Seconds, Timestamp};
use uuid::Uuid;

use super::read::list;
use crate::changeset::{AccessChange, Creation, broken, rule};
use crate::sql::{Failure, SqlTime, as_signed, to_uuid};
use crate::{AuditCheckpoint, AuditHandOver, AuditRow, CommitError, StoredKey};

fn seconds(span: Seconds) -> i64 {
    as_signed(span.as_secs())
}

/// Begins a keyset; its revision is stamped later. Returns its id.
pub(super) async fn create(
    connection: &mut SqliteConnection,
    create: &Creation<'_>,
    at: Timestamp,
) -> Result<i64, Failure> {
    let policy = create.policy;
    sqlx::query_scalar(
        "INSERT INTO keysets (name, rotation_period_seconds, ticket_lifetime_seconds,
             poll_interval_seconds, clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, content_digest, next_due, created_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
    )
    .bind(create.name.as_str())
    .bind(seconds(policy.rotation_period()))
    .bind(seconds(policy.ticket_lifetime()))
    .bind(seconds(policy.poll_interval()))
    .bind(seconds(policy.clock_skew()))
    .bind(seconds(policy.lead()))
    .bind(seconds(policy.session_lifetime()))
    .bind(policy.activation_quorum().as_str())
    .bind(seconds(policy.activation_deadline()))
    .bind(create.digest.as_bytes().as_slice())
    .bind(SqlTime::of(create.next_due))
    .bind(SqlTime::of(at))
    .fetch_one(connection)
    .await
    .map_err(|error| match Failure::from(error) {
        failure if failure.constraint() == Some("keysets_name_unique") => {
            CommitError::Exists(create.name.clone()).into()
        }
        failure => failure,
    })
}

pub(super) async fn policy(
    connection: &mut SqliteConnection,
    id: i64,
    policy: &Policy,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE keysets SET rotation_period_seconds = ?, ticket_lifetime_seconds = ?,
             poll_interval_seconds = ?, clock_skew_seconds = ?, lead_seconds = ?,
             session_lifetime_seconds = ?, activation_quorum = ?,
             activation_deadline_seconds = ?
         WHERE id = ?",
    )
    .bind(seconds(policy.rotation_period()))
    .bind(seconds(policy.ticket_lifetime()))
    .bind(seconds(policy.poll_interval()))
    .bind(seconds(policy.clock_skew()))
    .bind(seconds(policy.lead()))
    .bind(seconds(policy.session_lifetime()))
    .bind(policy.activation_quorum().as_str())
    .bind(seconds(policy.activation_deadline()))
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn next_due(
    connection: &mut SqliteConnection,
    id: i64,
    next_due: Timestamp,
) -> Result<(), Failure> {
    sqlx::query("UPDATE keysets SET next_due = ? WHERE id = ?")
        .bind(SqlTime::of(next_due))
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn insert_keys(
    connection: &mut SqliteConnection,
    keyset_id: i64,
    keys: impl Iterator<Item = &StoredKey>,
) -> Result<(), Failure> {
    for key in keys {
        let schedule = &key.record.schedule;
        sqlx::query(
            "INSERT INTO ticket_keys (id, keyset_id, format, kcv, published_at, activate_at,
                 retire_at, destroy_at, destroy_by, postponed_seconds, seed_id, epoch, wrap_nonce,
                 wrap_ciphertext)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(to_uuid(key.record.id))
        .bind(keyset_id)
        .bind(i32::from(key.record.format.as_u16()))
        .bind(key.record.kcv.as_bytes().as_slice())
        .bind(SqlTime::of(schedule.published_at()))
        .bind(SqlTime::of(schedule.activate_at()))
        .bind(SqlTime::of(schedule.retire_at()))
        .bind(SqlTime::of(schedule.destroy_at()))
        .bind(SqlTime::of(schedule.destroy_by()))
        .bind(seconds(schedule.postponed()))
        .bind(Uuid::from_bytes(*key.wrapped.seed.as_bytes()))
        .bind(as_signed(key.wrapped.epoch.as_u64()))
        .bind(key.wrapped.nonce.as_slice())
        .bind(key.wrapped.ciphertext.as_slice())
        .execute(&mut *connection)
        .await?;
        sqlx::query("UPDATE keysets SET had_keys = 1 WHERE id = ? AND had_keys = 0")
            .bind(keyset_id)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

pub(super) async fn move_key(
    connection: &mut SqliteConnection,
    id: KeyId,
    schedule: &Schedule,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE ticket_keys SET activate_at = ?, retire_at = ?, destroy_at = ?,
             postponed_seconds = ?
         WHERE id = ? AND ended_at IS NULL",
    )
    .bind(SqlTime::of(schedule.activate_at()))
    .bind(SqlTime::of(schedule.retire_at()))
    .bind(SqlTime::of(schedule.destroy_at()))
    .bind(seconds(schedule.postponed()))
    .bind(to_uuid(id))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn end_key(
    connection: &mut SqliteConnection,
    id: KeyId,
    cause: EndCause,
    at: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE ticket_keys SET ended_at = ?, end_cause = ?, wrap_nonce = NULL,
             wrap_ciphertext = NULL
         WHERE id = ? AND ended_at IS NULL",
    )
    .bind(SqlTime::of(at))
    .bind(cause.as_str())
    .bind(to_uuid(id))
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn revoke_all(
    connection: &mut SqliteConnection,
    keyset_id: i64,
    at: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE ticket_keys SET ended_at = ?, end_cause = ?, wrap_nonce = NULL,
             wrap_ciphertext = NULL
         WHERE keyset_id = ? AND ended_at IS NULL",
    )
    .bind(SqlTime::of(at))
    .bind(EndCause::Revoked.as_str())
    .bind(keyset_id)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn publish(
    connection: &mut SqliteConnection,
    id: i64,
    digest: ContentDigest,
    revision: Revision,
) -> Result<(), Failure> {
    sqlx::query("UPDATE keysets SET revision = ?, content_digest = ? WHERE id = ?")
        .bind(as_signed(revision.as_u64()))
        .bind(digest.as_bytes().as_slice())
        .bind(id)
        .execute(connection)
        .await?;
    Ok(())
}

pub(super) async fn delete(
    connection: &mut SqliteConnection,
    id: i64,
    at: Timestamp,
    revision: Revision,
) -> Result<(), Failure> {
    sqlx::query(
        "UPDATE keysets SET revision = ?1, deleted_revision = ?1, deleted_at = ?2 WHERE id = ?3",
    )
    .bind(as_signed(revision.as_u64()))
    .bind(SqlTime::of(at))
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Refuses overlapping encrypt periods and more live keys than a keyset may hold, once all steps
/// are done.
pub(super) async fn check_keys(
    connection: &mut SqliteConnection,
    keyset_ids: &[i64],
) -> Result<(), Failure> {
    let ids = list(keyset_ids.iter().copied());
    let overlapping: Option<String> = sqlx::query_scalar(
        "SELECT keysets.name FROM ticket_keys AS one
         JOIN ticket_keys AS other ON other.keyset_id = one.keyset_id AND other.id > one.id
             AND other.activate_at < one.retire_at AND one.activate_at < other.retire_at
         JOIN keysets ON keysets.id = one.keyset_id
         WHERE one.keyset_id IN (SELECT value FROM json_each(?))
             AND one.ended_at IS NULL AND other.ended_at IS NULL
         LIMIT 1",
    )
    .bind(&ids)
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(name) = overlapping {
        return Err(broken(&name, rule::DISJOINT).into());
    }
    let full: Option<String> = sqlx::query_scalar(
        "SELECT keysets.name FROM keysets JOIN ticket_keys ON ticket_keys.keyset_id = keysets.id
         WHERE keysets.id IN (SELECT value FROM json_each(?)) AND ended_at IS NULL
         GROUP BY keysets.id HAVING count(*) > ? LIMIT 1",
    )
    .bind(&ids)
    .bind(as_signed(MAX_LIVE_KEYS as u64))
    .fetch_optional(connection)
    .await?;
    full.map_or(Ok(()), |name| Err(broken(&name, rule::LIVE_KEYS).into()))
}

/// Whether anything changed.
pub(super) async fn access(
    connection: &mut SqliteConnection,
    changes: &[AccessChange<'_>],
) -> Result<bool, Failure> {
    let mut rows = 0;
    for change in changes {
        let query = match change {
            AccessChange::AddToken(row) => sqlx::query(
                "INSERT INTO tokens (id, principal, hash, expires_at, seal)
                 VALUES (?, ?, ?, ?, ?)",
            )
            .bind(to_uuid(row.token.id))
            .bind(row.token.principal.as_str())
            .bind(row.token.hash.as_bytes().as_slice())
            .bind(SqlTime::of(row.token.expires_at))
            .bind(row.seal.as_slice()),
            AccessChange::RemoveToken(id) => {
                sqlx::query("DELETE FROM tokens WHERE id = ?").bind(to_uuid(*id))
            }
            AccessChange::AddGrant(row) => sqlx::query(
                "INSERT INTO grants (principal, keysets, role, seal) VALUES (?, ?, ?, ?)
                 ON CONFLICT DO NOTHING",
            )
            .bind(row.grant.principal.as_str())
            .bind(row.grant.keysets.to_string())
            .bind(row.grant.role.as_str())
            .bind(row.seal.as_slice()),
            AccessChange::RemoveGrant(grant) => {
                sqlx::query("DELETE FROM grants WHERE principal = ? AND keysets = ? AND role = ?")
                    .bind(grant.principal.as_str())
                    .bind(grant.keysets.to_string())
                    .bind(grant.role.as_str())
            }
        };
        rows += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(rows > 0)
}

pub(super) async fn audit(
    connection: &mut SqliteConnection,
    rows: &[AuditRow],
) -> Result<(), Failure> {
    for row in rows {
        sqlx::query(
            "INSERT INTO audit (revision, sequence, at, actor, action, keyset, key_id, reason, link)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(as_signed(row.revision.as_u64()))
        .bind(as_signed(row.sequence))
        .bind(SqlTime::of(row.event.at))
        .bind(row.event.actor.as_str())
        .bind(row.event.action.as_str())
        .bind(row.event.keyset.as_ref().map(ToString::to_string))
        .bind(row.event.key.map(to_uuid))
        .bind(row.event.reason.as_str())
        .bind(row.link.as_bytes().as_slice())
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

/// Removes the trail up to the checkpoint, unless that lies behind the present one.
pub(super) async fn prune(
    connection: &mut SqliteConnection,
    checkpoint: Option<&AuditCheckpoint>,
) -> Result<(), Failure> {
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    let sequence = as_signed(checkpoint.sequence);
    let moved = sqlx::query(
        "INSERT INTO audit_checkpoint (only_row, sequence, link, seal) VALUES (1, ?, ?, ?)
         ON CONFLICT (only_row) DO UPDATE SET sequence = excluded.sequence, link = excluded.link,
             seal = excluded.seal
         WHERE audit_checkpoint.sequence < excluded.sequence",
    )
    .bind(sequence)
    .bind(checkpoint.link.as_bytes().as_slice())
    .bind(checkpoint.seal.as_slice())
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if moved == 0 {
        return Err(CommitError::Pruned(checkpoint.sequence).into());
    }
    for statement in [
        "DELETE FROM audit WHERE sequence <= ?",
        "DELETE FROM audit_hand_overs WHERE sequence <= ?",
    ] {
        sqlx::query(statement).bind(sequence).execute(&mut *connection).await?;
    }
    Ok(())
}

/// Notes where the trail goes over to another cluster secret.
pub(super) async fn hand_over(
    connection: &mut SqliteConnection,
    row: Option<&AuditHandOver>,
) -> Result<(), Failure> {
    let Some(AuditHandOver { hand_over, seal }) = row else { return Ok(()) };
    sqlx::query(
        r#"INSERT INTO audit_hand_overs (sequence, link, "before", seal) VALUES (?, ?, ?, ?)
           ON CONFLICT (sequence) DO NOTHING"#,
    )
    .bind(as_signed(hand_over.sequence))
    .bind(hand_over.link.as_bytes().as_slice())
    .bind(hand_over.before.as_bytes().as_slice())
    .bind(seal.as_slice())
    .execute(connection)
    .await?;
    Ok(())
}
