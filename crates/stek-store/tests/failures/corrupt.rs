//! Rows that somebody else wrote. They are reported, with their table and without their bytes.

use std::sync::Arc;

use sqlx::{PgPool, SqlitePool};
use stek_core::id::Revision;
use stek_store::contract::fixture::{commit, create, end, key, update};
use stek_store::{Change, KeyStore, StoreError};

use crate::stores::{postgres_store, sqlite_store};

/// Statement, table named, words of the message.
const DAMAGE: [(&str, &str, &str); 8] = [
    ("UPDATE keysets SET name = 'Not A Name'", "keysets", "keyset name"),
    ("UPDATE keysets SET rotation_period_seconds = 1", "keysets", "rotation_period is 1s"),
    ("UPDATE keysets SET lead_seconds = -1", "keysets", "lead_seconds is -1"),
    ("UPDATE keysets SET revision = -7", "keysets", "revision is -7"),
    ("UPDATE ticket_keys SET format = 77", "ticket_keys", "format is 77"),
    ("UPDATE ticket_keys SET retire_at = destroy_at", "ticket_keys", "retire_at must be before"),
    ("UPDATE ticket_keys SET epoch = -1", "ticket_keys", "epoch is -1"),
    ("UPDATE ticket_keys SET end_cause = 'boredom'", "ticket_keys", "end_cause is unknown"),
];

/// In the words of each database.
const POSTGRES_DAMAGE: [(&str, &str, &str); 7] = [
    ("UPDATE ticket_keys SET wrap_nonce = NULL", "ticket_keys", "unexpected null"),
    ("UPDATE keysets SET content_digest = '\\x00'", "keysets", "content_digest has 1 bytes"),
    ("UPDATE keysets SET next_due = '1969-01-01Z'", "keysets", "before 1970"),
    ("UPDATE keysets SET next_due = next_due + interval '1 ms'", "keysets", "fraction"),
    ("UPDATE keysets SET next_due = 'infinity'", "keysets", "infinite"),
    (
        "UPDATE ticket_keys SET kcv = '\\x00' WHERE ended_at IS NULL",
        "ticket_keys",
        "kcv has 1 bytes",
    ),
    ("UPDATE ticket_keys SET wrap_ciphertext = '\\x01'", "ticket_keys", "wrap_ciphertext has 1"),
];
const SQLITE_DAMAGE: [(&str, &str, &str); 7] = [
    ("UPDATE ticket_keys SET wrap_nonce = NULL", "ticket_keys", "wrap_nonce has 0 bytes"),
    ("UPDATE keysets SET content_digest = x'00'", "keysets", "content_digest has 1 bytes"),
    ("UPDATE keysets SET next_due = -1", "keysets", "before 1970"),
    ("UPDATE keysets SET next_due = 253402300800", "keysets", "after the year 9999"),
    ("UPDATE ticket_keys SET kcv = x'00' WHERE ended_at IS NULL", "ticket_keys", "kcv has 1 bytes"),
    ("UPDATE ticket_keys SET wrap_ciphertext = x'01'", "ticket_keys", "wrap_ciphertext has 1"),
    ("UPDATE ticket_keys SET seed_id = x'01'", "ticket_keys", "seed_id"),
];

/// A keyset with a live and an ended key, and that keyset read.
async fn fill(store: &Arc<dyn KeyStore>) {
    let made = commit(store, vec![create("main", vec![key(1, 0, 10), key(2, 10, 20)])]).await;
    let step = vec![end(2, stek_core::bundle::EndCause::Revoked)];
    let change = Change::UpdateKeyset(update("main", made.unwrap().revision, step));
    commit(store, vec![change]).await.unwrap();
    assert_eq!(store.keysets(None, 10).await.unwrap().len(), 1);
}

async fn assert_corrupt(store: &Arc<dyn KeyStore>, case: (&str, &str, &str)) {
    for result in [
        store.keysets(None, 10).await.map(drop),
        // A damaged revision may hide the keyset from the feed; everything else is seen there.
        store.changed_since(Revision::ZERO).await.map(drop),
    ] {
        let (statement, expected, words) = case;
        match result {
            Err(error @ StoreError::Corrupt { .. }) => {
                let text = error.to_string();
                let begins = format!("row of {expected} is not sound: ");
                assert!(text.starts_with(&begins) && text.contains(words), "{statement}: {text}");
            }
            Ok(()) if statement.contains("SET revision") => {}
            other => panic!("{statement}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_damaged_row_of_postgres_is_reported() {
    for case in DAMAGE.into_iter().chain(POSTGRES_DAMAGE) {
        let (store, database) = postgres_store().await;
        let store: Arc<dyn KeyStore> = Arc::new(store);
        fill(&store).await;
        let raw = PgPool::connect(database.url()).await.unwrap();
        let drop_checks = "DO $$ DECLARE it record; BEGIN
            FOR it IN SELECT conname, conrelid::regclass AS relation FROM pg_constraint
                      WHERE contype = 'c' AND conrelid <> 0 LOOP
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', it.relation, it.conname);
            END LOOP; END $$";
        sqlx::query(drop_checks).execute(&raw).await.unwrap();
        sqlx::query(case.0).execute(&raw).await.unwrap();
        assert_corrupt(&store, case).await;
        raw.close().await;
    }
}

#[tokio::test]
async fn a_damaged_row_of_sqlite_is_reported() {
    for case in DAMAGE.into_iter().chain(SQLITE_DAMAGE) {
        let (store, directory) = sqlite_store().await;
        let store: Arc<dyn KeyStore> = Arc::new(store);
        fill(&store).await;
        let path = directory.path().join("stek.db");
        let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
        let mut raw = raw.acquire().await.unwrap();
        sqlx::query("PRAGMA ignore_check_constraints = ON").execute(&mut *raw).await.unwrap();
        sqlx::query(case.0).execute(&mut *raw).await.unwrap();
        assert_corrupt(&store, case).await;
    }
}
