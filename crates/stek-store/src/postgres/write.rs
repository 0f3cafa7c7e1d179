//! The statements of a commit, each for all keysets of it at once.

use sqlx::PgConnection;
use sqlx::types::time::OffsetDateTime;
use stek_core::bundle::EndCause;
use stek_core::id::KeyId;
use stek_core::keyset::MAX_LIVE_KEYS;
use stek_core::policy::Policy;
use stek_core::schedule::Schedule;
use stek_core::time::{Seconds, Timestamp};
use uuid::Uuid;

use crate::changeset::{AccessChange, Creation, broken, rule};
use crate::sql::{Failure, SqlTime, as_signed, to_uuid};
use crate::{AuditCheckpoint, AuditHandOver, AuditRow, CommitError, StoredKey};

fn seconds(span: Seconds) -> i64 {
    as_signed(span.as_secs())
}

/// Begins a keyset; its revision and digest are stamped later. Returns its id.
pub(super) async fn create(
    connection: &mut PgConnection,
    create: &Creation<'_>,
    at: Timestamp,
) -> Result<i64, Failure> {
    let policy = create.policy;
    sqlx::query_scalar!(
        "INSERT INTO keysets (name, rotation_period_seconds, ticket_lifetime_seconds,
             poll_interval_seconds, clock_skew_seconds, lead_seconds, session_lifetime_seconds,
             activation_quorum, activation_deadline_seconds, content_digest, next_due, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
        create.name.as_str(),
        seconds(policy.rotation_period()),
        seconds(policy.ticket_lifetime()),
        seconds(policy.poll_interval()),
        seconds(policy.clock_skew()),
        seconds(policy.lead()),
        seconds(policy.session_lifetime()),
        policy.activation_quorum().as_str(),
        seconds(policy.activation_deadline()),
        create.digest.as_bytes(),
        SqlTime::to_postgres(create.next_due),
        SqlTime::to_postgres(at),
    )
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
    connection: &mut PgConnection,
    keyset_id: i64,
    policy: &Policy,
) -> Result<(), Failure> {
    sqlx::query!(
        "UPDATE keysets SET rotation_period_seconds = $2, ticket_lifetime_seconds = $3,
             poll_interval_seconds = $4, clock_skew_seconds = $5, lead_seconds = $6,
             session_lifetime_seconds = $7, activation_quorum = $8,
             activation_deadline_seconds = $9
         WHERE id = $1",
        keyset_id,
        seconds(policy.rotation_period()),
        seconds(policy.ticket_lifetime()),
        seconds(policy.poll_interval()),
        seconds(policy.clock_skew()),
        seconds(policy.lead()),
        seconds(policy.session_lifetime()),
        policy.activation_quorum().as_str(),
        seconds(policy.activation_deadline()),
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn next_due(
    connection: &mut PgConnection,
    due: impl Iterator<Item = (i64, Timestamp)>,
) -> Result<(), Failure> {
    let (ids, instants): (Vec<i64>, Vec<OffsetDateTime>) =
        due.map(|(id, instant)| (id, SqlTime::to_postgres(instant))).unzip();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE keysets SET next_due = new.next_due
         FROM unnest($1::bigint[], $2::timestamptz[]) AS new (id, next_due)
         WHERE keysets.id = new.id",
        &ids,
        &instants,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Keys to insert, column by column.
#[derive(Default)]
pub(super) struct KeyColumns {
    id: Vec<Uuid>,
    keyset_id: Vec<i64>,
    format: Vec<i32>,
    kcv: Vec<Vec<u8>>,
    published_at: Vec<OffsetDateTime>,
    activate_at: Vec<OffsetDateTime>,
    retire_at: Vec<OffsetDateTime>,
    destroy_at: Vec<OffsetDateTime>,
    destroy_by: Vec<OffsetDateTime>,
    postponed: Vec<i64>,
    seed_id: Vec<Uuid>,
    epoch: Vec<i64>,
    wrap_nonce: Vec<Vec<u8>>,
    wrap_ciphertext: Vec<Vec<u8>>,
}

impl KeyColumns {
    pub(super) fn push(&mut self, keyset_id: i64, key: &StoredKey) {
        let (record, wrapped) = (&key.record, &key.wrapped);
        let schedule = &record.schedule;
        self.id.push(to_uuid(record.id));
        self.keyset_id.push(keyset_id);
        self.format.push(i32::from(record.format.as_u16()));
        self.kcv.push(record.kcv.as_bytes().to_vec());
        self.published_at.push(SqlTime::to_postgres(schedule.published_at()));
        self.activate_at.push(SqlTime::to_postgres(schedule.activate_at()));
        self.retire_at.push(SqlTime::to_postgres(schedule.retire_at()));
        self.destroy_at.push(SqlTime::to_postgres(schedule.destroy_at()));
        self.destroy_by.push(SqlTime::to_postgres(schedule.destroy_by()));
        self.postponed.push(seconds(schedule.postponed()));
        self.seed_id.push(Uuid::from_bytes(*wrapped.seed.as_bytes()));
        self.epoch.push(as_signed(wrapped.epoch.as_u64()));
        self.wrap_nonce.push(wrapped.nonce.to_vec());
        self.wrap_ciphertext.push(wrapped.ciphertext.to_vec());
    }
}

pub(super) async fn insert_keys(
    connection: &mut PgConnection,
    keys: &KeyColumns,
) -> Result<(), Failure> {
    if keys.id.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "INSERT INTO ticket_keys (id, keyset_id, format, kcv, published_at, activate_at, retire_at,
             destroy_at, destroy_by, postponed_seconds, seed_id, epoch, wrap_nonce, wrap_ciphertext)
         SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::integer[], $4::bytea[],
             $5::timestamptz[], $6::timestamptz[], $7::timestamptz[], $8::timestamptz[],
             $9::timestamptz[], $10::bigint[], $11::uuid[], $12::bigint[], $13::bytea[],
             $14::bytea[])",
        &keys.id,
        &keys.keyset_id,
        &keys.format,
        &keys.kcv,
        &keys.published_at,
        &keys.activate_at,
        &keys.retire_at,
        &keys.destroy_at,
        &keys.destroy_by,
        &keys.postponed,
        &keys.seed_id,
        &keys.epoch,
        &keys.wrap_nonce,
        &keys.wrap_ciphertext,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE keysets SET had_keys = true WHERE id = ANY($1) AND NOT had_keys",
        &keys.keyset_id,
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn move_keys(
    connection: &mut PgConnection,
    moves: impl Iterator<Item = (&KeyId, &Schedule)>,
) -> Result<(), Failure> {
    let mut columns = (vec![], vec![], vec![], vec![], vec![]);
    for (id, schedule) in moves {
        columns.0.push(to_uuid(*id));
        columns.1.push(SqlTime::to_postgres(schedule.activate_at()));
        columns.2.push(SqlTime::to_postgres(schedule.retire_at()));
        columns.3.push(SqlTime::to_postgres(schedule.destroy_at()));
        columns.4.push(seconds(schedule.postponed()));
    }
    if columns.0.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE ticket_keys SET activate_at = new.activate_at, retire_at = new.retire_at,
             destroy_at = new.destroy_at, postponed_seconds = new.postponed_seconds
         FROM unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[],
                 $5::bigint[])
             AS new (id, activate_at, retire_at, destroy_at, postponed_seconds)
         WHERE ticket_keys.id = new.id AND ended_at IS NULL",
        &columns.0,
        &columns.1,
        &columns.2,
        &columns.3,
        &columns.4,
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn end_keys(
    connection: &mut PgConnection,
    at: Timestamp,
    ends: impl Iterator<Item = (&KeyId, &EndCause)>,
) -> Result<(), Failure> {
    let (ids, causes): (Vec<Uuid>, Vec<String>) =
        ends.map(|(id, cause)| (to_uuid(*id), cause.as_str().to_owned())).unzip();
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE ticket_keys SET ended_at = $1, end_cause = gone.cause, wrap_nonce = NULL,
             wrap_ciphertext = NULL
         FROM unnest($2::uuid[], $3::text[]) AS gone (id, cause)
         WHERE ticket_keys.id = gone.id AND ended_at IS NULL",
        SqlTime::to_postgres(at),
        &ids,
        &causes,
    )
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn revoke_all(
    connection: &mut PgConnection,
    at: Timestamp,
    keyset_ids: &[i64],
) -> Result<(), Failure> {
    if keyset_ids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE ticket_keys SET ended_at = $1, end_cause = $2, wrap_nonce = NULL,
             wrap_ciphertext = NULL
         WHERE keyset_id = ANY($3) AND ended_at IS NULL",
        SqlTime::to_postgres(at),
        EndCause::Revoked.as_str(),
        keyset_ids,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Refuses more live keys than a keyset may hold; their number is the one rule without constraint.
pub(super) async fn check_live_keys(
    connection: &mut PgConnection,
    inserted: &KeyColumns,
) -> Result<(), Failure> {
    if inserted.id.is_empty() {
        return Ok(());
    }
    let full = sqlx::query_scalar!(
        "SELECT keysets.name FROM keysets JOIN ticket_keys ON ticket_keys.keyset_id = keysets.id
         WHERE keysets.id = ANY($1) AND ended_at IS NULL
         GROUP BY keysets.id HAVING count(*) > $2 LIMIT 1",
        &inserted.keyset_id,
        as_signed(MAX_LIVE_KEYS as u64),
    )
    .fetch_optional(connection)
    .await?;
    full.map_or(Ok(()), |name| Err(broken(&name, rule::LIVE_KEYS).into()))
}

/// Whether anything changed.
pub(super) async fn access(
    connection: &mut PgConnection,
    changes: &[AccessChange<'_>],
) -> Result<bool, Failure> {
    let mut rows = 0;
    for change in changes {
        let query = match change {
            AccessChange::AddToken(row) => sqlx::query!(
                "INSERT INTO tokens (id, principal, hash, expires_at, seal)
                 VALUES ($1, $2, $3, $4, $5)",
                to_uuid(row.token.id),
                row.token.principal.as_str(),
                row.token.hash.as_bytes(),
                SqlTime::to_postgres(row.token.expires_at),
                &row.seal,
            ),
            AccessChange::RemoveToken(id) => {
                sqlx::query!("DELETE FROM tokens WHERE id = $1", to_uuid(*id))
            }
            AccessChange::AddGrant(row) => sqlx::query!(
                "INSERT INTO grants (principal, keysets, role, seal) VALUES ($1, $2, $3, $4)
                 ON CONFLICT DO NOTHING",
                row.grant.principal.as_str(),
                row.grant.keysets.to_string(),
                row.grant.role.as_str(),
                &row.seal,
            ),
            AccessChange::RemoveGrant(grant) => sqlx::query!(
                "DELETE FROM grants WHERE principal = $1 AND keysets = $2 AND role = $3",
                grant.principal.as_str(),
                grant.keysets.to_string(),
                grant.role.as_str(),
            ),
        };
        rows += query.execute(&mut *connection).await?.rows_affected();
    }
    Ok(rows > 0)
}

pub(super) async fn audit(connection: &mut PgConnection, rows: &[AuditRow]) -> Result<(), Failure> {
    if rows.is_empty() {
        return Ok(());
    }
    let revision = rows.first().map_or(0, |row| as_signed(row.revision.as_u64()));
    let sequences: Vec<_> = rows.iter().map(|row| as_signed(row.sequence)).collect();
    let instants: Vec<_> = rows.iter().map(|row| SqlTime::to_postgres(row.event.at)).collect();
    let actors: Vec<_> = rows.iter().map(|row| row.event.actor.clone()).collect();
    let actions: Vec<_> = rows.iter().map(|row| row.event.action.as_str().to_owned()).collect();
    let keysets: Vec<Option<String>> =
        rows.iter().map(|row| row.event.keyset.as_ref().map(ToString::to_string)).collect();
    let keys: Vec<Option<Uuid>> = rows.iter().map(|row| row.event.key.map(to_uuid)).collect();
    let reasons: Vec<_> = rows.iter().map(|row| row.event.reason.clone()).collect();
    let links: Vec<_> = rows.iter().map(|row| row.link.as_bytes().to_vec()).collect();
    sqlx::query!(
        "INSERT INTO audit (revision, sequence, at, actor, action, keyset, key_id, reason, link)
         SELECT $1, * FROM unnest($2::bigint[], $3::timestamptz[], $4::text[], $5::text[],
             $6::text[], $7::uuid[], $8::text[], $9::bytea[])",
        revision,
        &sequences,
        &instants,
        &actors,
        &actions,
        &keysets as &[Option<String>],
        &keys as &[Option<Uuid>],
        &reasons,
        &links,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the trail up to the checkpoint, unless that lies behind the present one.
pub(super) async fn prune(
    connection: &mut PgConnection,
    checkpoint: Option<&AuditCheckpoint>,
) -> Result<(), Failure> {
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    let sequence = as_signed(checkpoint.sequence);
    let moved = sqlx::query!(
        "INSERT INTO audit_checkpoint (sequence, link, seal) VALUES ($1, $2, $3)
         ON CONFLICT (only_row) DO UPDATE SET sequence = excluded.sequence, link = excluded.link,
             seal = excluded.seal
         WHERE audit_checkpoint.sequence < excluded.sequence",
        sequence,
        checkpoint.link.as_bytes(),
        &checkpoint.seal,
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    if moved == 0 {
        return Err(CommitError::Pruned(checkpoint.sequence).into());
    }
    sqlx::query!("DELETE FROM audit WHERE sequence <= $1", sequence)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("DELETE FROM audit_hand_overs WHERE sequence <= $1", sequence)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes where the trail goes over to another cluster secret.
pub(super) async fn hand_over(
    connection: &mut PgConnection,
    row: Option<&AuditHandOver>,
) -> Result<(), Failure> {
    let Some(AuditHandOver { hand_over, seal }) = row else { return Ok(()) };
    sqlx::query!(
        r#"INSERT INTO audit_hand_overs (sequence, link, "before", seal) VALUES ($1, $2, $3, $4)
           ON CONFLICT (sequence) DO NOTHING"#,
        as_signed(hand_over.sequence),
        hand_over.link.as_bytes(),
        hand_over.before.as_bytes(),
        seal,
    )
    .execute(connection)
    .await?;
    Ok(())
}
