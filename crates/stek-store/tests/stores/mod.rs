//! New, empty stores of each kind, and what must outlive the test.

use std::sync::OnceLock;

use sqlx::{Connection, PgConnection};
use stek_core::id::Incarnation;
use stek_store::{PostgresOptions, PostgresStore, SqliteStore};
use stek_testpg::{PostgresServer, TestDatabase};
use tempfile::TempDir;
use tokio::sync::Mutex;

pub(crate) fn incarnation() -> Incarnation {
    Incarnation::new(1_800_000_000_000, &[3; 10])
}

pub(crate) async fn sqlite_store() -> (SqliteStore, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stek.db");
    SqliteStore::migrate(&path, incarnation()).await.unwrap();
    (SqliteStore::open(&path).await.unwrap(), directory)
}

pub(crate) async fn postgres_store() -> (PostgresStore, TestDatabase) {
    let database = stek_testpg::create_database().await.unwrap();
    let options = PostgresOptions::new(database.url()).unwrap();
    PostgresStore::migrate(&options, incarnation()).await.unwrap();
    (PostgresStore::connect(&options).await.unwrap(), database)
}

/// A store that is `stekd_manager`, in a database made as `deploy/postgres` says: its roles, the
/// schema by `stekd_owner`, then the grants. On a server of its own, whose roles are nobody else's.
pub(crate) async fn manager_store() -> (PostgresStore, TestDatabase) {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    // Roles belong to the whole server, and two programs cannot make one role at once.
    static ROLES: Mutex<()> = Mutex::const_new(());
    let start = || SERVER.get_or_init(|| PostgresServer::start_throwaway().unwrap());
    let server = tokio::task::spawn_blocking(start).await.unwrap();
    let database = stek_testpg::create_database_on(server.url()).await.unwrap();
    let roles = include_str!("../../../../deploy/postgres/roles.sql");
    let grants = include_str!("../../../../deploy/postgres/grants.sql");
    {
        let _guard = ROLES.lock().await;
        execute(database.url(), roles).await;
    }
    let owner = url_as(&database, "stekd_owner");
    PostgresStore::migrate(&PostgresOptions::new(&owner).unwrap(), incarnation()).await.unwrap();
    execute(&owner, grants).await;
    let manager = PostgresOptions::new(&url_as(&database, "stekd_manager")).unwrap();
    (PostgresStore::connect(&manager).await.unwrap(), database)
}

/// The URL of `database` for another role; the server trusts whoever it is.
pub(crate) fn url_as(database: &TestDatabase, role: &str) -> String {
    let (_, place) = database.url().split_once('@').unwrap();
    format!("postgres://{role}@{place}")
}

/// Runs what psql is given, without the lines that are for psql itself.
async fn execute(url: &str, script: &'static str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let statements: Vec<_> = script.lines().filter(|line| !line.starts_with('\\')).collect();
    let statements = sqlx::AssertSqlSafe(statements.join("\n"));
    sqlx::raw_sql(statements).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
