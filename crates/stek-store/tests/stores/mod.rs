//! New, empty stores of each kind, and what must outlive the test.

use stek_core::id::Incarnation;
use stek_store::{PostgresOptions, PostgresStore, SqliteStore};
use stek_testpg::TestDatabase;
use tempfile::TempDir;

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
