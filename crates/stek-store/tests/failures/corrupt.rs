//! Rows that somebody else wrote. They are reported, with their table and without their bytes, and
//! hold up no other keyset.

use std::sync::Arc;

use sqlx::{PgPool, SqlitePool};
use stek_core::access::Role;
use stek_core::id::Revision;
use stek_store::contract::access::{grant, token};
use stek_store::contract::fixture::{commit, create, end, id, key, update};
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
    ("UPDATE ticket_keys SET wrap_nonce = NULL", "ticket_keys", "wrap_nonce has 0 bytes"),
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

/// Two keysets with a live and an ended key each.
async fn fill(store: &Arc<dyn KeyStore>) {
    for (name, first) in [("main", 1), ("other", 3)] {
        let keys = vec![key(first, 0, 10), key(first + 1, 10, 20)];
        let made = commit(store, vec![create(name, keys)]).await.unwrap();
        let step = vec![end(first + 1, stek_core::bundle::EndCause::Revoked)];
        let change = Change::UpdateKeyset(update(name, made.revision, step));
        commit(store, vec![change]).await.unwrap();
    }
    assert_eq!(store.keysets(None, 10).await.unwrap().sound.len(), 2);
}

/// The statement for `main` alone.
fn only_main(statement: &str) -> String {
    let also = if statement.contains(" WHERE ") { "AND" } else { "WHERE" };
    if statement.starts_with("UPDATE keysets") {
        return format!("{statement} {also} name = 'main'");
    }
    format!("{statement} {also} keyset_id = (SELECT id FROM keysets WHERE name = 'main')")
}

async fn assert_set_aside(
    store: &Arc<dyn KeyStore>,
    (statement, table, words): (&str, &str, &str),
) {
    let page = store.keysets(None, 10).await.unwrap();
    let changes = store.changed_since(Revision::ZERO).await.unwrap();
    let due = store.due(stek_core::time::Timestamp::MAX, 10).await.unwrap();
    for (what, sound, unsound) in [
        ("keysets", &page.sound, &page.unsound),
        ("changes", &changes.keysets, &changes.unsound),
        ("due", &due.sound, &due.unsound),
    ] {
        let names: Vec<_> = sound.iter().map(|stored| stored.keyset.name().as_str()).collect();
        assert_eq!(names, ["other"], "{statement}: {what}");
        // A damaged revision may hide the keyset from the feed, an instant may not be due; what is
        // read is seen.
        let hidden = (what == "changes" && statement.contains("SET revision"))
            || (what == "due" && statement.contains("SET next_due"));
        match &unsound[..] {
            [one] => {
                let begins = format!("row of {table} is not sound: ");
                let why = &one.why;
                assert!(why.starts_with(&begins) && why.contains(words), "{statement}: {why}");
            }
            [] if hidden => {}
            other => panic!("{statement}: {what}: {other:?}"),
        }
    }
    if !statement.contains("SET name") {
        let main = stek_store::contract::fixture::name("main");
        let one = store.keyset(&main).await;
        assert!(matches!(one, Err(StoreError::Corrupt { .. })), "{statement}: {one:?}");
    }
}

#[tokio::test]
async fn a_damaged_row_of_postgres_is_set_aside() {
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
        sqlx::query(sqlx::AssertSqlSafe(only_main(case.0))).execute(&raw).await.unwrap();
        assert_set_aside(&store, case).await;
        raw.close().await;
    }
}

#[tokio::test]
async fn a_damaged_row_of_sqlite_is_set_aside() {
    for case in DAMAGE.into_iter().chain(SQLITE_DAMAGE) {
        let (store, directory) = sqlite_store().await;
        let store: Arc<dyn KeyStore> = Arc::new(store);
        fill(&store).await;
        let path = directory.path().join("stek.db");
        let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
        let mut raw = raw.acquire().await.unwrap();
        sqlx::query("PRAGMA ignore_check_constraints = ON").execute(&mut *raw).await.unwrap();
        sqlx::query(sqlx::AssertSqlSafe(only_main(case.0))).execute(&mut *raw).await.unwrap();
        assert_set_aside(&store, case).await;
    }
}

/// Two tokens and two grants, of which one each is about to be damaged.
async fn let_in(store: &Arc<dyn KeyStore>) {
    let tokens = [1, 2].map(|number| Change::AddToken(token(number)));
    let grants = ["a", "b"].map(|who| Change::AddGrant(grant(who, "*", Role::Terminator)));
    commit(store, tokens.into_iter().chain(grants).collect()).await.unwrap();
    assert_eq!(store.access().await.unwrap().unsound, 0);
}

/// Those that are not damaged still count.
async fn assert_others_count(store: &Arc<dyn KeyStore>, damaged: &str) {
    let stored = store.access().await.unwrap();
    let tokens: Vec<_> = stored.tokens.iter().map(|row| row.token.id).collect();
    let grants: Vec<_> = stored.grants.iter().map(|row| row.grant.principal.as_str()).collect();
    let of_tokens = usize::from(damaged.contains("tokens"));
    assert_eq!(tokens, [id(1), id(2)][of_tokens..], "{damaged}");
    assert_eq!(grants, ["a", "b"][1 - of_tokens..], "{damaged}");
    assert_eq!(stored.unsound, 1, "{damaged}");
}

/// A token or grant of which nothing can be decoded shuts nobody else out.
#[tokio::test]
async fn a_token_or_grant_of_postgres_that_is_null_is_left_out() {
    for column in
        ["tokens.id", "tokens.principal", "tokens.hash", "tokens.expires_at", "tokens.seal"]
            .into_iter()
            .chain(["grants.principal", "grants.keysets", "grants.role", "grants.seal"])
    {
        let (store, database) = postgres_store().await;
        let store: Arc<dyn KeyStore> = Arc::new(store);
        let_in(&store).await;
        let raw = PgPool::connect(database.url()).await.unwrap();
        let (table, column) = column.split_once('.').unwrap();
        let first = match table {
            "tokens" => "id = (SELECT id FROM tokens ORDER BY id LIMIT 1)",
            _ => "principal = 'a'",
        };
        for statement in [
            format!("ALTER TABLE {table} DROP CONSTRAINT {table}_pkey"),
            format!("ALTER TABLE {table} ALTER COLUMN {column} DROP NOT NULL"),
            format!("UPDATE {table} SET {column} = NULL WHERE {first}"),
        ] {
            sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&raw).await.unwrap();
        }
        assert_others_count(&store, &format!("{table}.{column}")).await;
        raw.close().await;
    }
}

#[tokio::test]
async fn a_token_or_grant_of_sqlite_that_cannot_be_decoded_is_left_out() {
    for damage in [
        "UPDATE tokens SET id = x'01' WHERE id = (SELECT min(id) FROM tokens)",
        "UPDATE tokens SET principal = 'a b' WHERE id = (SELECT min(id) FROM tokens)",
        "UPDATE tokens SET expires_at = -1 WHERE id = (SELECT min(id) FROM tokens)",
        "UPDATE grants SET role = CAST(x'ff' AS TEXT) WHERE principal = 'a'",
        "UPDATE grants SET seal = x'01' WHERE principal = 'a'",
    ] {
        let (store, directory) = sqlite_store().await;
        let store: Arc<dyn KeyStore> = Arc::new(store);
        let_in(&store).await;
        let path = directory.path().join("stek.db");
        let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
        let mut raw = raw.acquire().await.unwrap();
        sqlx::query("PRAGMA ignore_check_constraints = ON").execute(&mut *raw).await.unwrap();
        sqlx::query(damage).execute(&mut *raw).await.unwrap();
        assert_others_count(&store, damage).await;
    }
}
