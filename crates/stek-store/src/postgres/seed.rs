//! The claim of the ratchet's seed: a unique row lets one manager win.

use sqlx::{PgConnection, PgPool};
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::wrapped::SeedId;
use uuid::Uuid;

use super::commit::{BEGIN, take_revision};
use crate::changeset::LiveSeed;
use crate::sql::{Failure, SeedRecord, SqlTime, not_a_commit, reading, refused};
use crate::{SeedRow, StoreError};

pub(super) async fn live(connection: &mut PgConnection) -> Result<Option<SeedRow>, StoreError> {
    sqlx::query_as!(
        SeedRecord,
        r#"SELECT seed_id, check_value, claimed_at AS "claimed_at: SqlTime"
           FROM ratchet_seeds WHERE phase = 'live'"#,
    )
    .fetch_optional(connection)
    .await
    .map_err(reading("ratchet_seeds"))?
    .map(SeedRow::try_from)
    .transpose()
}

/// The live seed, which stays so until the transaction ends.
pub(super) async fn held_live(connection: &mut PgConnection) -> Result<LiveSeed, Failure> {
    // Waits for a change of seeds that is under way. A statement does not see what was done while
    // it waited, so which one is live is the next one's to say.
    sqlx::query("SELECT 1 FROM ratchet_seeds WHERE phase <> 'ended' ORDER BY seed_id FOR SHARE")
        .execute(&mut *connection)
        .await?;
    let live =
        sqlx::query_scalar!("SELECT seed_id FROM ratchet_seeds WHERE phase = 'live' FOR SHARE")
            .fetch_optional(&mut *connection)
            .await?;
    if let Some(seed) = live {
        return Ok(LiveSeed::Is(SeedId::from_bytes(seed.into_bytes())));
    }
    let any = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM ratchet_seeds) AS "any!""#);
    let any = any.fetch_one(connection).await?;
    Ok(if any { LiveSeed::Changing } else { LiveSeed::Unclaimed })
}

pub(super) async fn claim(
    pool: &PgPool,
    seed: &SeedRow,
    event: &AuditEvent,
    chain: &dyn AuditChain,
) -> Result<SeedRow, StoreError> {
    try_claim(pool, seed, event, chain).await.map_err(not_a_commit("a claim of the seed"))
}

async fn try_claim(
    pool: &PgPool,
    seed: &SeedRow,
    event: &AuditEvent,
    chain: &dyn AuditChain,
) -> Result<SeedRow, Failure> {
    let mut transaction = pool.begin_with(BEGIN).await?;
    // Waits for a claim that is under way.
    let claimed = sqlx::query!(
        "INSERT INTO ratchet_seeds (seed_id, check_value, claimed_at) VALUES ($1, $2, $3)
         ON CONFLICT DO NOTHING",
        Uuid::from_bytes(*seed.seed.as_bytes()),
        &seed.check,
        SqlTime::to_postgres(seed.claimed_at),
    )
    .execute(&mut *transaction)
    .await?
    .rows_affected();
    if claimed > 0 {
        take_revision(&mut transaction, false, std::slice::from_ref(event), chain).await?;
    }
    let holds = live(&mut transaction).await?;
    transaction.commit().await?;
    holds.ok_or_else(|| {
        refused("a claim of the seed", "its identity was used and is no longer live").into()
    })
}
