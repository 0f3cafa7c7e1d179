//! Seeds, replicas and wrappings. Every step holds the write lock from its beginning.

use std::collections::BTreeMap;

use async_trait::async_trait;
use sqlx::{FromRow, SqliteConnection};
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::KeyId;
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};
use uuid::Uuid;

use super::SqliteStore;
use super::commit::{BEGIN, take_revision};
use crate::ratchet::SeedWrites;
use crate::sql::{
    Failure, LiveKeyRecord, ReplicaRecord, SeedPhaseRecord, SqlTime, as_signed, bounded, collect,
    key_id, named_keys, not_a_commit, page, reading, to_uuid,
};
use crate::{
    Acceptance, MAX_PAGE, Ratchet, RatchetStore, Replica, Resealed, Rewrapped, SealedRow, Seed,
    SeedChange, StoreError, StoredKey,
};

fn uuid(seed: SeedId) -> Uuid {
    Uuid::from_bytes(*seed.as_bytes())
}

#[derive(FromRow)]
struct NamedKeyRecord {
    name: String,
    #[sqlx(flatten)]
    key: LiveKeyRecord,
}

async fn seeds(connection: &mut SqliteConnection) -> Result<Vec<Seed>, StoreError> {
    let rows = sqlx::query_as::<_, SeedPhaseRecord>(
        "SELECT seed_id, check_value, claimed_at, phase FROM ratchet_seeds
         WHERE phase <> 'ended' ORDER BY claimed_at, seed_id",
    )
    .fetch_all(connection)
    .await
    .map_err(reading("ratchet_seeds"))?;
    collect(rows)
}

/// Whether it could be done.
async fn write(connection: &mut SqliteConnection, writes: &SeedWrites) -> Result<bool, Failure> {
    if let Some(seed) = writes.must_be_unused {
        let used: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT 1 FROM ticket_keys WHERE seed_id = ? AND ended_at IS NULL)",
        )
        .bind(uuid(seed))
        .fetch_one(&mut *connection)
        .await?;
        if used {
            return Ok(false);
        }
    }
    if let Some(row) = &writes.insert {
        sqlx::query(
            "INSERT INTO ratchet_seeds (seed_id, check_value, claimed_at, phase)
             VALUES (?, ?, ?, 'ended')
             ON CONFLICT (seed_id) DO UPDATE SET check_value = excluded.check_value",
        )
        .bind(uuid(row.seed))
        .bind(row.check.as_slice())
        .bind(SqlTime::of(row.claimed_at))
        .execute(&mut *connection)
        .await?;
    }
    for (seed, phase) in &writes.phases {
        sqlx::query("UPDATE ratchet_seeds SET phase = ? WHERE seed_id = ?")
            .bind(phase.as_str())
            .bind(uuid(*seed))
            .execute(&mut *connection)
            .await?;
    }
    Ok(true)
}

impl SqliteStore {
    async fn try_change(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, Failure> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let Some(writes) = change.writes(&seeds(&mut transaction).await?) else {
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
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let gone = sqlx::query(
            "DELETE FROM ratchet_replicas AS gone
             WHERE replica_id = ? AND seen_at = ? AND NOT EXISTS (
                 SELECT 1 FROM ticket_keys
                 WHERE proven_at IS NULL AND ticket_keys.seed_id IN (gone.seed_id, gone.next_seed_id)
                     AND gone.epoch <= ticket_keys.epoch)",
        )
        .bind(Uuid::from_bytes(*replica.id.as_bytes()))
        .bind(SqlTime::of(replica.seen_at))
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

    async fn try_rewrap(&self, keys: &[Rewrapped]) -> Result<u64, Failure> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let mut changed = 0;
        for Rewrapped { key, old, new } in keys {
            changed += sqlx::query(
                "UPDATE ticket_keys SET seed_id = ?, epoch = ?, wrap_nonce = ?, wrap_ciphertext = ?
                 WHERE id = ? AND wrap_nonce = ?",
            )
            .bind(uuid(new.seed))
            .bind(as_signed(new.epoch.as_u64()))
            .bind(new.nonce.as_slice())
            .bind(new.ciphertext.as_slice())
            .bind(to_uuid(*key))
            .bind(old.nonce.as_slice())
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        }
        transaction.commit().await?;
        Ok(changed)
    }

    async fn try_reseal(&self, rows: &[Resealed]) -> Result<u64, Failure> {
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let mut changed = 0;
        for Resealed { row, old, new } in rows {
            let query = match row {
                SealedRow::Token(id) => {
                    sqlx::query("UPDATE tokens SET seal = ? WHERE id = ? AND seal = ?")
                        .bind(new.as_slice())
                        .bind(to_uuid(*id))
                        .bind(old.as_slice())
                }
                SealedRow::Grant(grant) => sqlx::query(
                    "UPDATE grants SET seal = ?
                     WHERE principal = ? AND keysets = ? AND role = ? AND seal = ?",
                )
                .bind(new.as_slice())
                .bind(grant.principal.as_str())
                .bind(grant.keysets.to_string())
                .bind(grant.role.as_str())
                .bind(old.as_slice()),
                SealedRow::Checkpoint(sequence) => sqlx::query(
                    "UPDATE audit_checkpoint SET seal = ? WHERE sequence = ? AND seal = ?",
                )
                .bind(new.as_slice())
                .bind(as_signed(*sequence))
                .bind(old.as_slice()),
                SealedRow::HandOver(sequence) => sqlx::query(
                    "UPDATE audit_hand_overs SET seal = ? WHERE sequence = ? AND seal = ?",
                )
                .bind(new.as_slice())
                .bind(as_signed(*sequence))
                .bind(old.as_slice()),
            };
            changed += query.execute(&mut *transaction).await?.rows_affected();
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
        let mut transaction = self.writer.begin_with(BEGIN).await?;
        let seeds = seeds(&mut transaction).await?;
        if let Some(row) = acceptance.seed {
            write(&mut transaction, &SeedChange::restoring(row, &seeds)).await?;
        }
        let accepted = sqlx::query("UPDATE cluster SET incarnation = ? WHERE incarnation = ?")
            .bind(Uuid::from_bytes(*acceptance.to.as_bytes()))
            .bind(Uuid::from_bytes(*acceptance.from.as_bytes()))
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
impl RatchetStore for SqliteStore {
    async fn ratchet(&self) -> Result<Ratchet, StoreError> {
        bounded(self.time_out, async {
            let begun = self.readers.begin().await;
            let mut snapshot = begun.map_err(reading("snapshot"))?;
            let seeds = seeds(&mut snapshot).await?;
            let rows = sqlx::query_as::<_, ReplicaRecord>(
                "SELECT replica_id, seed_id, next_seed_id, epoch, seen_at FROM ratchet_replicas
                 ORDER BY replica_id LIMIT ?",
            )
            .bind(page(MAX_PAGE))
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
            sqlx::query(
                "INSERT INTO ratchet_replicas (replica_id, seed_id, next_seed_id, epoch, seen_at)
                 VALUES (?, ?, ?, ?, ?)
                 ON CONFLICT (replica_id) DO UPDATE SET seed_id = excluded.seed_id,
                     next_seed_id = excluded.next_seed_id, epoch = excluded.epoch,
                     seen_at = excluded.seen_at",
            )
            .bind(Uuid::from_bytes(*replica.id.as_bytes()))
            .bind(uuid(replica.seed))
            .bind(replica.next_seed.map(uuid))
            .bind(as_signed(replica.epoch.as_u64()))
            .bind(SqlTime::of(replica.seen_at))
            .execute(&self.writer)
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
            let rows = sqlx::query_as::<_, NamedKeyRecord>(
                "SELECT name, ticket_keys.id, keyset_id, format, kcv, published_at, activate_at,
                     retire_at, destroy_at, destroy_by, postponed_seconds, seed_id, epoch, wrap_nonce, wrap_ciphertext
                 FROM ticket_keys JOIN keysets ON keysets.id = keyset_id
                 WHERE ended_at IS NULL AND seed_id <> ? ORDER BY ticket_keys.id LIMIT ?",
            )
            .bind(uuid(seed))
            .bind(page(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(reading("ticket_keys"))?;
            let names = rows.iter().map(|row| (row.key.keyset_id, row.name.clone())).collect();
            named_keys(rows.into_iter().map(|row| row.key).collect(), &names)
        })
        .await
    }

    async fn rewrap(&self, keys: &[Rewrapped]) -> Result<u64, StoreError> {
        bounded(self.time_out, async {
            self.try_rewrap(keys).await.map_err(not_a_commit("an exchange of wrappings"))
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
        let mut still_held = String::from("0");
        for _ in held {
            still_held.push_str(" OR (seed_id = ? AND epoch >= ?)");
        }
        let statement = format!(
            "UPDATE ticket_keys SET proven_at = ?
             WHERE ended_at IS NOT NULL AND proven_at IS NULL AND NOT ({still_held})"
        );
        bounded(self.time_out, async {
            // Safe: what varies is how often one clause is repeated.
            let mut query = sqlx::query(sqlx::AssertSqlSafe(statement)).bind(SqlTime::of(at));
            for (seed, epoch) in held {
                query = query.bind(uuid(*seed)).bind(as_signed(epoch.as_u64()));
            }
            let done = query.execute(&self.writer).await;
            done.map(|done| done.rows_affected()).map_err(reading("ticket_keys"))
        })
        .await
    }

    async fn proofs(&self, keyset: &KeysetName) -> Result<BTreeMap<KeyId, Timestamp>, StoreError> {
        bounded(self.time_out, async {
            let rows: Vec<(Uuid, SqlTime)> = sqlx::query_as(
                "SELECT ticket_keys.id, proven_at FROM ticket_keys
                 JOIN keysets ON keysets.id = keyset_id
                 WHERE name = ? AND deleted_at IS NULL AND proven_at IS NOT NULL",
            )
            .bind(keyset.as_str())
            .fetch_all(&self.readers)
            .await
            .map_err(reading("ticket_keys"))?;
            let read = |at: SqlTime| at.read("ticket_keys", "proven_at");
            rows.into_iter().map(|(id, at)| Ok((key_id(id), read(at)?))).collect()
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
