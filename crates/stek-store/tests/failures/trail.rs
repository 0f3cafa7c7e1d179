//! Somebody who may write the database changes a line of the audit trail. Each column of it is
//! covered by the chain: whoever has the chain's secret sees which line it was.

use std::sync::Arc;

use sqlx::{AssertSqlSafe, PgPool, SqlitePool};
use stek_core::audit::{ChainLink, Verifier};
use stek_store::contract::fixture::{PlainChain, commit, create, key};
use stek_store::{KeyStore, StoreError};

use crate::stores::{postgres_store, sqlite_store};

/// The line that is changed.
const LINE: u64 = 3;

/// Every column with another value that could stand there, and the line itself; what is in braces
/// is put in the words of each database.
const CHANGES: [(&str, &str); 12] = [
    ("sequence", "UPDATE audit SET sequence = 999 WHERE sequence = 3"),
    ("revision", "UPDATE audit SET revision = revision + 1 WHERE sequence = 3"),
    ("at", "UPDATE audit SET at = at + {second} WHERE sequence = 3"),
    ("actor", "UPDATE audit SET actor = 'somebody-else' WHERE sequence = 3"),
    ("action", "UPDATE audit SET action = 'key-destroyed' WHERE sequence = 3"),
    ("action", "UPDATE audit SET action = 'boredom' WHERE sequence = 3"),
    ("keyset", "UPDATE audit SET keyset = 'other' WHERE sequence = 3"),
    ("keyset", "UPDATE audit SET keyset = NULL WHERE sequence = 3"),
    ("key_id", "UPDATE audit SET key_id = {uuid} WHERE sequence = 3"),
    ("reason", "UPDATE audit SET reason = reason || '!' WHERE sequence = 3"),
    ("link", "UPDATE audit SET link = {link} WHERE sequence = 3"),
    ("line", "DELETE FROM audit WHERE sequence = 3"),
];

fn in_words_of(statement: &str, second: &str, uuid: &str, link: &str) -> String {
    statement.replace("{second}", second).replace("{uuid}", uuid).replace("{link}", link)
}

async fn fill(store: &Arc<dyn KeyStore>) {
    for (number, name) in (1..).zip(["a", "b", "c", "d", "e"]) {
        commit(store, vec![create(name, vec![key(number, 0, 10)])]).await.unwrap();
    }
    assert_eq!(first_broken(store).await, None);
}

/// The first line at which the chain does not hold.
async fn first_broken(store: &Arc<dyn KeyStore>) -> Option<u64> {
    let mut verifier = Verifier::after(&PlainChain, 0, ChainLink::ORIGIN);
    loop {
        let next = verifier.sequence() + 1;
        let rows = match store.audit(verifier.sequence(), 1).await {
            Ok(rows) => rows,
            Err(StoreError::Corrupt { .. }) => return Some(next),
            Err(error) => panic!("{error}"),
        };
        let row = rows.first()?;
        if let Err(broken) = verifier.next(row.sequence, row.revision, &row.event, &row.link) {
            return Some(broken.sequence());
        }
    }
}

#[tokio::test]
async fn a_changed_line_of_postgres_is_named() {
    let (store, database) = postgres_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    fill(&store).await;
    let raw = PgPool::connect(database.url()).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT * FROM audit").execute(&raw).await.unwrap();
    for (column, statement) in CHANGES {
        let link = format!("decode('{}', 'hex')", "09".repeat(32));
        let statement = in_words_of(statement, "interval '1 s'", "gen_random_uuid()", &link);
        sqlx::query(AssertSqlSafe(statement)).execute(&raw).await.unwrap();
        assert_eq!(first_broken(&store).await, Some(LINE), "{column}");
        sqlx::query("TRUNCATE audit").execute(&raw).await.unwrap();
        sqlx::query("INSERT INTO audit SELECT * FROM kept").execute(&raw).await.unwrap();
        assert_eq!(first_broken(&store).await, None, "{column}");
    }
    let columns: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM information_schema.columns WHERE table_name = 'audit'",
    )
    .fetch_one(&raw)
    .await
    .unwrap();
    let covered: std::collections::BTreeSet<_> = CHANGES.iter().map(|(name, _)| name).collect();
    assert_eq!(i64::try_from(covered.len()).unwrap(), columns + 1, "every column, and the line");
}

#[tokio::test]
async fn a_changed_line_of_sqlite_is_named() {
    let (store, directory) = sqlite_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    fill(&store).await;
    let path = directory.path().join("stek.db");
    let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT * FROM audit").execute(&raw).await.unwrap();
    for (column, statement) in CHANGES {
        let statement = in_words_of(statement, "1", "randomblob(16)", "randomblob(32)");
        sqlx::query(AssertSqlSafe(statement)).execute(&raw).await.unwrap();
        assert_eq!(first_broken(&store).await, Some(LINE), "{column}");
        sqlx::query("DELETE FROM audit").execute(&raw).await.unwrap();
        sqlx::query("INSERT INTO audit SELECT * FROM kept").execute(&raw).await.unwrap();
        assert_eq!(first_broken(&store).await, None, "{column}");
    }
}

/// A change whose line in the trail cannot be written does not happen.
#[tokio::test]
async fn without_its_line_in_the_trail_nothing_changes() {
    let (store, database) = postgres_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    fill(&store).await;
    let before = (store.cluster().await.unwrap(), store.keysets(None, 10).await.unwrap());
    let raw = PgPool::connect(database.url()).await.unwrap();
    let full = "ALTER TABLE audit ADD CONSTRAINT the_disk_is_full CHECK (sequence < 6)";
    sqlx::query(full).execute(&raw).await.unwrap();
    commit(&store, vec![create("f", vec![key(9, 0, 10)])]).await.unwrap_err();
    assert_eq!((store.cluster().await.unwrap(), store.keysets(None, 10).await.unwrap()), before);

    let (store, directory) = sqlite_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    fill(&store).await;
    let before = (store.cluster().await.unwrap(), store.keysets(None, 10).await.unwrap());
    let path = directory.path().join("stek.db");
    let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    let full = "CREATE TRIGGER full BEFORE INSERT ON audit
                BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    sqlx::query(full).execute(&raw).await.unwrap();
    commit(&store, vec![create("f", vec![key(9, 0, 10)])]).await.unwrap_err();
    assert_eq!((store.cluster().await.unwrap(), store.keysets(None, 10).await.unwrap()), before);
}
