//! Seeds, replicas and wrappings. Steps lock the seeds before they look at them, so that two
//! managers take them one after the other.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::PgConnection;
use stek_core::access::Grant;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::KeyId;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};
use uuid::Uuid;

use super::PostgresStore;
use super::commit::{BEGIN, take_revision};
use crate::ratchet::SeedWrites;
use crate::sql::{
    Failure, LiveKeyRecord, ReplicaRecord, SeedPhaseRecord, SqlTime, as_signed, bounded, collect,
    key_id, named_keys, not_a_commit, reading, to_uuid,
};
use crate::{
    Acceptance, MAX_PAGE, Ratchet, RatchetStore, Replica, Resealed, Rewrapped, SealedRow, Seed,
    SeedChange, StoreError, StoredKey,
};

fn uuid(seed: SeedId) -> Uuid {
    Uuid::from_bytes(*seed.as_bytes())
}

async fn seeds(connection: &mut PgConnection) -> Result<Vec<Seed>, StoreError> {
    let rows = sqlx::query_as!(
        SeedPhaseRecord,
        r#"SELECT seed_id, check_value, claimed_at AS "claimed_at: SqlTime", phase
           FROM ratchet_seeds WHERE phase <> 'ended' ORDER BY claimed_at, seed_id"#,
    )
    .fetch_all(connection)
    .await
    .map_err(reading("ratchet_seeds"))?;
    collect(rows)
}

/// The seeds, which nobody else changes until the transaction ends.
async fn locked_seeds(connection: &mut PgConnection) -> Result<Vec<Seed>, Failure> {
    sqlx::query("SELECT 1 FROM ratchet_seeds WHERE phase <> 'ended' ORDER BY seed_id FOR UPDATE")
        .execute(&mut *connection)
        .await?;
    // Read by a statement of its own, which sees what was done before the lock was had.
    Ok(seeds(connection).await?)
}

/// Whether it could be done.
async fn write(connection: &mut PgConnection, writes: &SeedWrites) -> Result<bool, Failure> {
    if let Some(seed) = writes.must_be_unused {
        let used = sqlx::query_scalar!(
            r#"SELECT EXISTS (SELECT FROM ticket_keys WHERE seed_id = $1 AND ended_at IS NULL)
               AS "used!""#,
            uuid(seed),
        )
        .fetch_one(&mut *connection)
        .await?;
        if used {
            return Ok(false);
        }
    }
    if let Some(row) = &writes.insert {
        sqlx::query!(
            "INSERT INTO ratchet_seeds (seed_id, check_value, claimed_at, phase)
             VALUES ($1, $2, $3, 'ended')
             ON CONFLICT (seed_id) DO UPDATE SET check_value = excluded.check_value",
            uuid(row.seed),
            &row.check,
            SqlTime::to_postgres(row.claimed_at),
        )
        .execute(&mut *connection)
        .await?;
    }
    for (seed, phase) in &writes.phases {
        sqlx::query!(
            "UPDATE ratchet_seeds SET phase = $2 WHERE seed_id = $1",
            uuid(*seed),
            phase.as_str(),
        )
        .execute(&mut *connection)
        .await?;
    }
    Ok(true)
}

async fn reseal_tokens(
    connection: &mut PgConnection,
    tokens: &[(KeyId, &Resealed)],
) -> Result<u64, Failure> {
    let ids: Vec<_> = tokens.iter().map(|(id, _)| to_uuid(*id)).collect();
    let (old, new): (Vec<_>, Vec<_>) = tokens.iter().map(|(_, one)| seals(one)).unzip();
    let done = sqlx::query!(
        "UPDATE tokens SET seal = one.new
         FROM unnest($1::uuid[], $2::bytea[], $3::bytea[]) AS one (id, old, new)
         WHERE tokens.id = one.id AND seal = one.old",
        &ids,
        &old,
        &new,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

async fn reseal_grants(
    connection: &mut PgConnection,
    grants: &[(&Grant, &Resealed)],
) -> Result<u64, Failure> {
    let text = |of: fn(&Grant) -> String| grants.iter().map(move |(grant, _)| of(grant)).collect();
    let principals: Vec<String> = text(|grant| grant.principal.as_str().to_owned());
    let keysets: Vec<String> = text(|grant| grant.keysets.to_string());
    let roles: Vec<String> = text(|grant| grant.role.as_str().to_owned());
    let (old, new): (Vec<_>, Vec<_>) = grants.iter().map(|(_, one)| seals(one)).unzip();
    let done = sqlx::query!(
        "UPDATE grants SET seal = one.new
         FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[])
             AS one (principal, keysets, role, old, new)
         WHERE grants.principal = one.principal AND grants.keysets = one.keysets
             AND grants.role = one.role AND seal = one.old",
        &principals,
        &keysets,
        &roles,
        &old,
        &new,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected())
}

/// The checkpoint or a hand-over of the audit trail.
async fn reseal_anchor(connection: &mut PgConnection, one: &Resealed) -> Result<u64, Failure> {
    let (old, new) = seals(one);
    let query = match &one.row {
        SealedRow::Checkpoint(sequence) => sqlx::query!(
            "UPDATE audit_checkpoint SET seal = $3 WHERE sequence = $1 AND seal = $2",
            as_signed(*sequence),
            old,
            new,
        ),
        SealedRow::HandOver(sequence) => sqlx::query!(
            "UPDATE audit_hand_overs SET seal = $3 WHERE sequence = $1 AND seal = $2",
            as_signed(*sequence),
            old,
            new,
        ),
        SealedRow::Token(_) | SealedRow::Grant(_) => return Ok(0),
    };
    Ok(query.execute(connection).await?.rows_affected())
}

/// The seal that a row must still have, and the one in its place.
fn seals(one: &Resealed) -> (Vec<u8>, Vec<u8>) {
    (one.old.to_vec(), one.new.to_vec())
}

impl PostgresStore {
    async fn try_change(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, Failure> {
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        let Some(writes) = change.writes(&locked_seeds(&mut transaction).await?) else {
            return Ok(false);
        };
        if !write(&mut transaction, &writes).await? {
            return Ok(false);
        }
        take_revision(&mut transaction, false, events, chain).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn try_forget(
        &self,
        replica: &Replica,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, Failure> {
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        let gone = sqlx::query!(
            "DELETE FROM ratchet_replicas AS gone
             WHERE replica_id = $1 AND seen_at = $2 AND NOT EXISTS (
                 SELECT FROM ticket_keys
                 WHERE proven_at IS NULL AND ticket_keys.seed_id IN (gone.seed_id, gone.next_seed_id)
                     AND gone.epoch <= ticket_keys.epoch)",
            Uuid::from_bytes(*replica.id.as_bytes()),
            SqlTime::to_postgres(replica.seen_at),
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if gone == 0 {
            return Ok(false);
        }
        take_revision(&mut transaction, false, std::slice::from_ref(event), chain).await?;
        transaction.commit().await?;
        Ok(true)
    }

    async fn try_reseal(&self, rows: &[Resealed]) -> Result<u64, Failure> {
        let (mut tokens, mut grants, mut anchors) = (Vec::new(), Vec::new(), Vec::new());
        for one in rows {
            match &one.row {
                SealedRow::Token(id) => tokens.push((*id, one)),
                SealedRow::Grant(grant) => grants.push((grant, one)),
                SealedRow::Checkpoint(_) | SealedRow::HandOver(_) => anchors.push(one),
            }
        }
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        let mut changed = 0;
        for tokens in tokens.chunks(MAX_PAGE) {
            changed += reseal_tokens(&mut transaction, tokens).await?;
        }
        for grants in grants.chunks(MAX_PAGE) {
            changed += reseal_grants(&mut transaction, grants).await?;
        }
        for anchor in anchors {
            changed += reseal_anchor(&mut transaction, anchor).await?;
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn try_accept(
        &self,
        acceptance: &Acceptance,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, Failure> {
        let mut transaction = self.pool.begin_with(BEGIN).await?;
        let seeds = locked_seeds(&mut transaction).await?;
        if let Some(row) = acceptance.seed {
            write(&mut transaction, &SeedChange::restoring(row, &seeds)).await?;
        }
        let accepted = sqlx::query!(
            "UPDATE cluster SET incarnation = $2 WHERE incarnation = $1",
            Uuid::from_bytes(*acceptance.from.as_bytes()),
            Uuid::from_bytes(*acceptance.to.as_bytes()),
        )
        .execute(&mut *transaction)
        .await?
        .rows_affected();
        if accepted == 0 {
            return Ok(false);
        }
        take_revision(&mut transaction, false, std::slice::from_ref(event), chain).await?;
        transaction.commit().await?;
        Ok(true)
    }
}

#[async_trait]
impl RatchetStore for PostgresStore {
    async fn ratchet(&self) -> Result<Ratchet, StoreError> {
        bounded(self.time_out, async {
            let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
            let mut snapshot = self.pool.begin_with(begin).await.map_err(reading("snapshot"))?;
            let seeds = seeds(&mut snapshot).await?;
            let rows = sqlx::query_as!(
                ReplicaRecord,
                r#"SELECT replica_id, seed_id, next_seed_id, epoch, seen_at AS "seen_at: SqlTime"
                   FROM ratchet_replicas ORDER BY replica_id LIMIT $1"#,
                as_signed(MAX_PAGE as u64),
            )
            .fetch_all(&mut *snapshot)
            .await
            .map_err(reading("ratchet_replicas"))?;
            snapshot.commit().await.map_err(reading("snapshot"))?;
            Ok(Ratchet { seeds, replicas: collect(rows)? })
        })
        .await
    }

    async fn change_seeds(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        bounded(self.time_out, async {
            self.try_change(change, events, chain).await.map_err(not_a_commit("a change of seeds"))
        })
        .await
    }

    async fn report_replica(&self, replica: &Replica) -> Result<(), StoreError> {
        bounded(self.time_out, async {
            sqlx::query!(
                "INSERT INTO ratchet_replicas (replica_id, seed_id, next_seed_id, epoch, seen_at)
                 VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (replica_id) DO UPDATE SET seed_id = excluded.seed_id,
                     next_seed_id = excluded.next_seed_id, epoch = excluded.epoch,
                     seen_at = excluded.seen_at",
                Uuid::from_bytes(*replica.id.as_bytes()),
                uuid(replica.seed),
                replica.next_seed.map(uuid),
                as_signed(replica.epoch.as_u64()),
                SqlTime::to_postgres(replica.seen_at),
            )
            .execute(&self.pool)
            .await
            .map_err(reading("ratchet_replicas"))
        })
        .await
        .map(drop)
    }

    async fn forget_replica(
        &self,
        replica: &Replica,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        bounded(self.time_out, async {
            let forgotten = self.try_forget(replica, event, chain).await;
            forgotten.map_err(not_a_commit("the removal of a replica"))
        })
        .await
    }

    async fn wrapped_elsewhere(
        &self,
        seed: SeedId,
        limit: usize,
    ) -> Result<Vec<(KeysetName, StoredKey)>, StoreError> {
        bounded(self.time_out, async {
            let rows = sqlx::query_as!(
                LiveKeyRecord,
                r#"SELECT id, keyset_id, format, kcv, published_at AS "published_at: SqlTime",
                       activate_at AS "activate_at: SqlTime", retire_at AS "retire_at: SqlTime",
                       destroy_at AS "destroy_at: SqlTime", destroy_by AS "destroy_by: SqlTime",
                       postponed_seconds, seed_id, epoch, wrap_nonce AS "wrap_nonce!",
                       wrap_ciphertext AS "wrap_ciphertext!"
                   FROM ticket_keys WHERE ended_at IS NULL AND seed_id <> $1 ORDER BY id LIMIT $2"#,
                uuid(seed),
                as_signed(limit.min(MAX_PAGE) as u64),
            )
            .fetch_all(&self.pool)
            .await
            .map_err(reading("ticket_keys"))?;
            let ids: Vec<i64> = rows.iter().map(|row| row.keyset_id).collect();
            let names = sqlx::query!("SELECT id, name FROM keysets WHERE id = ANY($1)", &ids)
                .fetch_all(&self.pool)
                .await
                .map_err(reading("keysets"))?;
            named_keys(rows, &names.into_iter().map(|row| (row.id, row.name)).collect())
        })
        .await
    }

    async fn rewrap(&self, keys: &[Rewrapped]) -> Result<u64, StoreError> {
        let ids: Vec<_> = keys.iter().map(|one| to_uuid(one.key)).collect();
        let old: Vec<_> = keys.iter().map(|one| one.old.nonce.to_vec()).collect();
        let seeds: Vec<_> = keys.iter().map(|one| uuid(one.new.seed)).collect();
        let epochs: Vec<_> = keys.iter().map(|one| as_signed(one.new.epoch.as_u64())).collect();
        let nonces: Vec<_> = keys.iter().map(|one| one.new.nonce.to_vec()).collect();
        let texts: Vec<_> = keys.iter().map(|one| one.new.ciphertext.to_vec()).collect();
        bounded(self.time_out, async {
            let done = sqlx::query!(
                "UPDATE ticket_keys SET seed_id = new.seed_id, epoch = new.epoch,
                     wrap_nonce = new.nonce, wrap_ciphertext = new.ciphertext
                 FROM unnest($1::uuid[], $2::bytea[], $3::uuid[], $4::bigint[], $5::bytea[],
                     $6::bytea[]) AS new (id, old_nonce, seed_id, epoch, nonce, ciphertext)
                 WHERE ticket_keys.id = new.id AND wrap_nonce = new.old_nonce",
                &ids,
                &old,
                &seeds,
                &epochs,
                &nonces,
                &texts,
            )
            .execute(&self.pool)
            .await;
            done.map(|done| done.rows_affected()).map_err(reading("ticket_keys"))
        })
        .await
    }

    async fn reseal(&self, rows: &[Resealed]) -> Result<u64, StoreError> {
        bounded(self.time_out, async {
            self.try_reseal(rows).await.map_err(not_a_commit("an exchange of seals"))
        })
        .await
    }

    async fn prove_destroyed(
        &self,
        held: &[(SeedId, Epoch)],
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        let (seeds, epochs): (Vec<Uuid>, Vec<i64>) =
            held.iter().map(|(seed, epoch)| (uuid(*seed), as_signed(epoch.as_u64()))).unzip();
        bounded(self.time_out, async {
            let done = sqlx::query!(
                "UPDATE ticket_keys SET proven_at = $1
                 WHERE ended_at IS NOT NULL AND proven_at IS NULL AND NOT EXISTS (
                     SELECT FROM unnest($2::uuid[], $3::bigint[]) AS held (seed_id, epoch)
                     WHERE held.seed_id = ticket_keys.seed_id AND held.epoch <= ticket_keys.epoch)",
                SqlTime::to_postgres(at),
                &seeds,
                &epochs,
            )
            .execute(&self.pool)
            .await;
            done.map(|done| done.rows_affected()).map_err(reading("ticket_keys"))
        })
        .await
    }

    async fn proofs(&self, keyset: &KeysetName) -> Result<BTreeMap<KeyId, Timestamp>, StoreError> {
        bounded(self.time_out, async {
            let rows = sqlx::query!(
                r#"SELECT ticket_keys.id, proven_at AS "proven_at!: SqlTime" FROM ticket_keys
                   JOIN keysets ON keysets.id = keyset_id
                   WHERE name = $1 AND deleted_at IS NULL AND proven_at IS NOT NULL"#,
                keyset.as_str(),
            )
            .fetch_all(&self.pool)
            .await
            .map_err(reading("ticket_keys"))?;
            let read = |at: SqlTime| at.read("ticket_keys", "proven_at");
            rows.into_iter().map(|row| Ok((key_id(row.id), read(row.proven_at)?))).collect()
        })
        .await
    }

    async fn accept_restore(
        &self,
        acceptance: &Acceptance,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        bounded(self.time_out, async {
            let accepted = self.try_accept(acceptance, event, chain).await;
            accepted.map_err(not_a_commit("the acceptance of a restore"))
        })
        .await
    }
}
