//! Keysets in PostgreSQL, shared by any number of managers. Row locks and the counter row order
//! the commits; an exclusion constraint holds what no two managers may do to one keyset.

mod commit;
mod listen;
mod options;
mod ratchet;
mod read;
mod seed;
mod write;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::{Incarnation, Revision};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use uuid::Uuid;

use self::listen::Listener;
pub use options::PostgresOptions;

use crate::sql::{as_unsigned, bounded, check_schema, migration_error, reading, writing};
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClusterState, Commit, CommitError,
    Committed, KeyStore, Keysets, SCHEMA_VERSION, SeedRow, StoreError, StoredAccess, StoredKeyset,
};

/// The channel on which every commit notifies its revision.
pub const REVISION_CHANNEL: &str = "stek_revision";

/// How long a migration may take. It may wait for another program's, and rewrite tables.
const MIGRATION_TIME_OUT: Duration = Duration::from_secs(300);

/// A [`KeyStore`] in PostgreSQL.
#[derive(Clone)]
pub struct PostgresStore {
    pool: PgPool,
    time_out: Duration,
    place: String,
    listener: Arc<Listener>,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PostgresStore({})", self.place)
    }
}

impl PostgresStore {
    /// Checks that the database answers and that its schema is one that this program can use.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`] within the time-out, [`StoreError::NotMigrated`],
    /// [`StoreError::Schema`], or what else the database says.
    pub async fn connect(options: &PostgresOptions) -> Result<Self, StoreError> {
        let connect = options.connect_options(options.time_out);
        bounded(options.time_out, async {
            // Not through the pool, which would go on trying and then not say why.
            let mut connection = open(&connect).await?;
            check(&mut connection).await?;
            connection.close().await.map_err(reading("schema_info"))
        })
        .await?;
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections)
            .acquire_timeout(options.time_out)
            .connect_lazy_with(connect);
        let (time_out, place) = (options.time_out, options.place());
        Ok(Self { pool, time_out, place, listener: Arc::default() })
    }

    /// Brings the schema up to this program's, in a new database as the lineage `incarnation`; one
    /// that has a lineage keeps it. Does nothing if the schema is newer and still usable.
    ///
    /// # Errors
    /// As for [`PostgresStore::connect`], but for a schema that is missing or old.
    pub async fn migrate(
        options: &PostgresOptions,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        let connect = options.connect_options(MIGRATION_TIME_OUT);
        let found = bounded(options.time_out, async {
            let mut connection = open(&connect).await?;
            let found = schema(&mut connection).await;
            connection.close().await.map_err(reading("schema_info"))?;
            found
        });
        match found.await {
            Ok((version, readable_from)) if version > SCHEMA_VERSION => {
                return check_schema(version, readable_from);
            }
            Ok(_) | Err(StoreError::NotMigrated) => {}
            Err(error) => return Err(error),
        }
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(connect);
        bounded(MIGRATION_TIME_OUT, async {
            let migrations = sqlx::migrate!("../../migrations/postgres");
            migrations.run(&pool).await.map_err(migration_error)?;
            sqlx::query!(
                "INSERT INTO cluster (incarnation) VALUES ($1) ON CONFLICT DO NOTHING",
                Uuid::from_bytes(*incarnation.as_bytes()),
            )
            .execute(&pool)
            .await
            .map_err(writing("cluster"))?;
            pool.close().await;
            Ok(())
        })
        .await
    }

    /// Closes the connections; what still asks gets [`StoreError::Unreachable`].
    pub async fn close(&self) {
        self.listener.close();
        self.pool.close().await;
    }
}

async fn open(options: &PgConnectOptions) -> Result<PgConnection, StoreError> {
    PgConnection::connect_with(options).await.map_err(reading("connection"))
}

async fn check(connection: &mut PgConnection) -> Result<(), StoreError> {
    let (version, readable_from) = schema(connection).await?;
    check_schema(version, readable_from)?;
    let lineages = sqlx::query_scalar!(r#"SELECT count(*) AS "count!" FROM cluster"#)
        .fetch_one(connection)
        .await
        .map_err(reading("cluster"))?;
    if lineages == 0 { Err(StoreError::NotMigrated) } else { Ok(()) }
}

async fn schema(connection: &mut PgConnection) -> Result<(i64, i64), StoreError> {
    sqlx::query!("SELECT version, readable_from FROM schema_info")
        .fetch_optional(connection)
        .await
        .map_err(reading("schema_info"))?
        .map(|row| (row.version, row.readable_from))
        .ok_or(StoreError::NotMigrated)
}

#[async_trait]
impl KeyStore for PostgresStore {
    async fn now_millis(&self) -> Result<u64, StoreError> {
        bounded(self.time_out, async {
            let millis = sqlx::query_scalar!(
                r#"SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint AS "now!""#
            )
            .fetch_one(&self.pool)
            .await
            .map_err(reading("clock"))?;
            as_unsigned("clock", "clock_timestamp", millis)
        })
        .await
    }

    async fn cluster(&self) -> Result<ClusterState, StoreError> {
        bounded(self.time_out, async {
            read::cluster(&mut *self.pool.acquire().await.map_err(reading("cluster"))?).await
        })
        .await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Keysets, StoreError> {
        bounded(self.time_out, read::due(&self.pool, now, limit)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        bounded(self.time_out, read::next_due(&self.pool)).await
    }

    async fn keyset(&self, name: &KeysetName) -> Result<Option<StoredKeyset>, StoreError> {
        bounded(self.time_out, read::keyset(&self.pool, name)).await
    }

    async fn keysets(
        &self,
        after: Option<&KeysetName>,
        limit: usize,
    ) -> Result<Keysets, StoreError> {
        bounded(self.time_out, read::keysets(&self.pool, after, limit)).await
    }

    async fn changed_since(&self, since: Revision) -> Result<Changes, StoreError> {
        bounded(self.time_out, read::changed_since(&self.pool, since)).await
    }

    async fn access(&self) -> Result<StoredAccess, StoreError> {
        bounded(self.time_out, read::access(&self.pool)).await
    }

    async fn commit(
        &self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError> {
        bounded(self.time_out, commit::commit(&self.pool, commit, chain)).await
    }

    async fn seed(&self) -> Result<Option<SeedRow>, StoreError> {
        bounded(self.time_out, async {
            seed::live(&mut *self.pool.acquire().await.map_err(reading("ratchet_seeds"))?).await
        })
        .await
    }

    async fn claim_seed(
        &self,
        seed: &SeedRow,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<SeedRow, StoreError> {
        bounded(self.time_out, seed::claim(&self.pool, seed, event, chain)).await
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        bounded(self.time_out, read::audit(&self.pool, after, limit)).await
    }

    async fn notified(&self) -> Result<Option<Revision>, StoreError> {
        self.listener.notified(&self.pool, self.time_out).await
    }

    async fn audit_hand_overs(&self) -> Result<Vec<AuditHandOver>, StoreError> {
        bounded(self.time_out, read::audit_hand_overs(&self.pool)).await
    }

    async fn audit_checkpoint(&self) -> Result<Option<AuditCheckpoint>, StoreError> {
        bounded(self.time_out, read::audit_checkpoint(&self.pool)).await
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        commit::purge(&self.pool, self.time_out, before).await
    }
}
