//! Databases that are empty, older, newer, or migrated twice.

use sqlx::{PgPool, SqlitePool};
use stek_core::id::Incarnation;
use stek_store::{KeyStore, PostgresOptions, PostgresStore, SqliteStore, StoreError};

use crate::stores::{incarnation, postgres_store, sqlite_store};

const FUTURE: &str = "UPDATE schema_info SET version = 9, readable_from = 9";
const NEWER: &str = "UPDATE schema_info SET version = 9, readable_from = 1";

fn later() -> Incarnation {
    Incarnation::new(1_900_000_000_000, &[4; 10])
}

fn assert_future<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(error @ StoreError::Schema { found: 9, readable_from: 9, ours: 1 }) => assert_eq!(
            error.to_string(),
            "database schema 9 can be read from version 9 on, this program has 1"
        ),
        other => panic!("{other:?}"),
    }
}

fn assert_not_migrated<T: std::fmt::Debug>(result: Result<T, StoreError>) {
    match result {
        Err(error @ StoreError::NotMigrated) => {
            assert_eq!(error.to_string(), "database lacks our schema: run `stekd migrate`");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn postgres_without_or_with_another_schema() {
    let database = stek_testpg::create_database().await.unwrap();
    let options = PostgresOptions::new(database.url()).unwrap();
    assert_not_migrated(PostgresStore::connect(&options).await);
    PostgresStore::migrate(&options, incarnation()).await.unwrap();
    PostgresStore::migrate(&options, later()).await.unwrap();
    let store = PostgresStore::connect(&options).await.unwrap();
    assert_eq!(store.cluster().await.unwrap().incarnation, incarnation());

    let raw = PgPool::connect(database.url()).await.unwrap();
    sqlx::query(NEWER).execute(&raw).await.unwrap();
    PostgresStore::connect(&options).await.unwrap();
    PostgresStore::migrate(&options, later()).await.unwrap();
    sqlx::query(FUTURE).execute(&raw).await.unwrap();
    assert_future(PostgresStore::connect(&options).await);
    assert_future(PostgresStore::migrate(&options, later()).await);
}

#[tokio::test]
async fn sqlite_without_or_with_another_schema() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("stek.db");
    assert_not_migrated(SqliteStore::open(&path).await);
    assert!(!path.exists(), "opening creates nothing");
    std::fs::write(&path, b"").unwrap();
    assert_not_migrated(SqliteStore::open(&path).await);
    SqliteStore::migrate(&path, incarnation()).await.unwrap();
    SqliteStore::migrate(&path, later()).await.unwrap();
    let store = SqliteStore::open(&path).await.unwrap();
    assert_eq!(store.cluster().await.unwrap().incarnation, incarnation());

    let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query(NEWER).execute(&raw).await.unwrap();
    SqliteStore::open(&path).await.unwrap();
    SqliteStore::migrate(&path, later()).await.unwrap();
    sqlx::query(FUTURE).execute(&raw).await.unwrap();
    assert_future(SqliteStore::open(&path).await);
    assert_future(SqliteStore::migrate(&path, later()).await);
}

/// Two managers that start together both migrate.
#[tokio::test]
async fn migrations_may_run_side_by_side() {
    let database = stek_testpg::create_database().await.unwrap();
    let options = PostgresOptions::new(database.url()).unwrap();
    let one = tokio::spawn({
        let options = options.clone();
        async move { PostgresStore::migrate(&options, incarnation()).await }
    });
    let (one, other) = tokio::join!(one, PostgresStore::migrate(&options, later()));
    one.unwrap().unwrap();
    other.unwrap();
    PostgresStore::connect(&options).await.unwrap();
}

/// A lineage that was lost is not made up.
#[tokio::test]
async fn a_database_without_its_lineage_is_refused() {
    let (store, database) = postgres_store().await;
    let raw = PgPool::connect(database.url()).await.unwrap();
    sqlx::query("DELETE FROM cluster").execute(&raw).await.unwrap();
    let options = PostgresOptions::new(database.url()).unwrap();
    assert_not_migrated(PostgresStore::connect(&options).await);
    assert_not_migrated(store.cluster().await);

    let (store, directory) = sqlite_store().await;
    let path = directory.path().join("stek.db");
    let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("DELETE FROM cluster").execute(&raw).await.unwrap();
    assert_not_migrated(SqliteStore::open(&path).await);
    assert_not_migrated(store.cluster().await);
}
