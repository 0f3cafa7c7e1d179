//! Keysets in one SQLite file, for a laptop or a single node: one process writes, one transaction
//! at a time.

mod commit;
mod ratchet;
mod read;
mod write;

use std::fmt;
use std::fs::{OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, SqliteConnection, SqlitePool};
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::{Incarnation, Revision};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use uuid::Uuid;

use crate::sql::{as_unsigned, bounded, check_schema, migration_error, reading, writing};
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, Changes, ClusterState, Commit, CommitError,
    Committed, DEFAULT_TIME_OUT, KeyStore, Keysets, SCHEMA_VERSION, SeedRow, StoreError,
    StoredAccess, StoredKeyset,
};

/// Readers see the last commit while the one writer works on the next.
const READERS: u32 = 4;

/// How long a migration may take.
const MIGRATION_TIME_OUT: Duration = Duration::from_secs(300);

/// Owner only: the file holds wrapped keys.
const FILE_MODE: u32 = 0o600;

/// A [`KeyStore`] in a SQLite file.
#[derive(Clone)]
pub struct SqliteStore {
    readers: SqlitePool,
    writer: SqlitePool,
    time_out: Duration,
    path: PathBuf,
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SqliteStore({})", self.path.display())
    }
}

impl SqliteStore {
    /// Opens the database in this file and checks that its schema is one that this program can use.
    /// A file that others may read is closed to them.
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`] also if there is no file, [`StoreError::Schema`], or what else
    /// the database or the file system says.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        Self::open_with_time_out(path, DEFAULT_TIME_OUT).await
    }

    /// The same with another time-out than [`DEFAULT_TIME_OUT`] for each operation.
    ///
    /// # Errors
    /// As for [`SqliteStore::open`].
    pub async fn open_with_time_out(
        path: impl AsRef<Path>,
        time_out: Duration,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref().to_owned();
        if !path.exists() {
            return Err(StoreError::NotMigrated);
        }
        restrict(&path)?;
        let options = connect_options(&path, time_out);
        bounded(time_out, async {
            let mut connection = open(&options).await?;
            check(&mut connection).await?;
            connection.close().await.map_err(reading("schema_info"))
        })
        .await?;
        let pool = |connections| {
            SqlitePoolOptions::new().max_connections(connections).acquire_timeout(time_out)
        };
        let readers = pool(READERS).connect_lazy_with(options.clone().pragma("query_only", "ON"));
        Ok(Self { readers, writer: pool(1).connect_lazy_with(options), time_out, path })
    }

    /// Brings the schema up to this program's. A missing file is created, readable by its owner
    /// only, as the lineage `incarnation`; a database that has a lineage keeps it. Does nothing if
    /// the schema is newer and still usable.
    ///
    /// # Errors
    /// What the database or the file system says.
    pub async fn migrate(
        path: impl AsRef<Path>,
        incarnation: Incarnation,
    ) -> Result<(), StoreError> {
        let path = path.as_ref();
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(FILE_MODE)
            .open(path)
            .map_err(file_error)?;
        restrict(path)?;
        let options = connect_options(path, DEFAULT_TIME_OUT);
        let mut connection = bounded(DEFAULT_TIME_OUT, open(&options)).await?;
        match schema(&mut connection).await {
            Ok((version, readable_from)) if version > SCHEMA_VERSION => {
                return check_schema(version, readable_from);
            }
            Ok(_) | Err(StoreError::NotMigrated) => {}
            Err(error) => return Err(error),
        }
        connection.close().await.map_err(reading("schema_info"))?;
        let pool = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(options);
        bounded(MIGRATION_TIME_OUT, async {
            let migrations = sqlx::migrate!("../../migrations/sqlite");
            migrations.run(&pool).await.map_err(migration_error)?;
            sqlx::query(
                "INSERT INTO cluster (only_row, incarnation) VALUES (1, ?) ON CONFLICT DO NOTHING",
            )
            .bind(Uuid::from_bytes(*incarnation.as_bytes()))
            .execute(&pool)
            .await
            .map_err(writing("cluster"))?;
            pool.close().await;
            Ok(())
        })
        .await
    }

    /// Closes the file; what still asks gets [`StoreError::Unreachable`].
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

fn file_error(error: std::io::Error) -> StoreError {
    StoreError::Refused { operation: "its file", source: Box::new(error) }
}

fn restrict(path: &Path) -> Result<(), StoreError> {
    let mode = path.metadata().map_err(file_error)?.permissions().mode();
    if mode & 0o077 != 0 {
        std::fs::set_permissions(path, Permissions::from_mode(FILE_MODE)).map_err(file_error)?;
    }
    Ok(())
}

fn connect_options(path: &Path, time_out: Duration) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit that was answered survives a power failure: a revision is never given twice.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // Erased material is overwritten in the file. Its log and the disk may still hold copies.
        .pragma("secure_delete", "ON")
        .busy_timeout(time_out.div_f64(2.0))
        .disable_statement_logging()
}

async fn open(options: &SqliteConnectOptions) -> Result<SqliteConnection, StoreError> {
    options.connect().await.map_err(reading("connection"))
}

async fn check(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let (version, readable_from) = schema(connection).await?;
    check_schema(version, readable_from)?;
    read::cluster(connection).await.map(drop)
}

async fn schema(connection: &mut SqliteConnection) -> Result<(i64, i64), StoreError> {
    sqlx::query_as("SELECT version, readable_from FROM schema_info")
        .fetch_optional(connection)
        .await
        .map_err(reading("schema_info"))?
        .ok_or(StoreError::NotMigrated)
}

#[async_trait]
impl KeyStore for SqliteStore {
    async fn now_millis(&self) -> Result<u64, StoreError> {
        bounded(self.time_out, async {
            let millis = sqlx::query_scalar(
                "SELECT CAST(round(unixepoch('now', 'subsec') * 1000) AS INTEGER)",
            )
            .fetch_one(&self.readers)
            .await
            .map_err(reading("clock"))?;
            as_unsigned("clock", "unixepoch", millis)
        })
        .await
    }

    async fn cluster(&self) -> Result<ClusterState, StoreError> {
        bounded(self.time_out, async {
            read::cluster(&mut *self.readers.acquire().await.map_err(reading("cluster"))?).await
        })
        .await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Keysets, StoreError> {
        bounded(self.time_out, read::due(&self.readers, now, limit)).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        bounded(self.time_out, read::next_due(&self.readers)).await
    }

    async fn keyset(&self, name: &KeysetName) -> Result<Option<StoredKeyset>, StoreError> {
        bounded(self.time_out, read::keyset(&self.readers, name)).await
    }

    async fn keysets(
        &self,
        after: Option<&KeysetName>,
        limit: usize,
    ) -> Result<Keysets, StoreError> {
        bounded(self.time_out, read::keysets(&self.readers, after, limit)).await
    }

    async fn changed_since(&self, since: Revision) -> Result<Changes, StoreError> {
        bounded(self.time_out, read::changed_since(&self.readers, since)).await
    }

    async fn access(&self) -> Result<StoredAccess, StoreError> {
        bounded(self.time_out, read::access(&self.readers)).await
    }

    async fn commit(
        &self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError> {
        bounded(self.time_out, commit::commit(&self.writer, commit, chain)).await
    }

    async fn seed(&self) -> Result<Option<SeedRow>, StoreError> {
        bounded(self.time_out, async {
            read::seed(&mut *self.readers.acquire().await.map_err(reading("ratchet_seeds"))?).await
        })
        .await
    }

    async fn claim_seed(
        &self,
        seed: &SeedRow,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<SeedRow, StoreError> {
        bounded(self.time_out, commit::claim_seed(&self.writer, seed, event, chain)).await
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        bounded(self.time_out, read::audit(&self.readers, after, limit)).await
    }

    async fn audit_hand_overs(&self) -> Result<Vec<AuditHandOver>, StoreError> {
        bounded(self.time_out, read::audit_hand_overs(&self.readers)).await
    }

    async fn audit_checkpoint(&self) -> Result<Option<AuditCheckpoint>, StoreError> {
        bounded(self.time_out, read::audit_checkpoint(&self.readers)).await
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        commit::purge(&self.writer, self.time_out, before).await
    }
}
