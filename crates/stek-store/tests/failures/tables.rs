//! What the tables of a database show and hold by themselves.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{PgPool, SqlitePool};
use stek_core::bundle::EndCause;
use stek_store::contract::fixture::{commit, create, end, key, name, update};
use stek_store::{
    Change, CommitError, KeyStore, PostgresOptions, PostgresStore, REVISION_CHANNEL, StoreError,
};

use crate::stores::{postgres_store, sqlite_store};

const MATERIAL: &str = "SELECT count(*) FROM ticket_keys
    WHERE wrap_nonce IS NOT NULL AND wrap_ciphertext IS NOT NULL";
const TRACES: &str = "SELECT count(*) FROM ticket_keys
    WHERE (wrap_nonce IS NOT NULL OR wrap_ciphertext IS NOT NULL) AND ended_at IS NOT NULL";

/// Ends one key, then the keyset; counts what `count` finds of material before, between, after.
async fn erase<F: Future<Output = (i64, i64)>>(store: Arc<dyn KeyStore>, count: impl Fn() -> F) {
    let keys = vec![key(1, 0, 10), key(2, 10, 20), key(3, 20, 30)];
    let made = commit(&store, vec![create("main", keys)]).await.unwrap();
    assert_eq!(count().await, (3, 0));
    let change = update("main", made.revision, vec![end(1, EndCause::Revoked)]);
    let ended = commit(&store, vec![Change::UpdateKeyset(change)]).await.unwrap();
    assert_eq!(count().await, (2, 0));
    let change = Change::DeleteKeyset { name: name("main"), expected: ended.revision };
    commit(&store, vec![change]).await.unwrap();
    assert_eq!(count().await, (0, 0));
}

#[tokio::test]
async fn ended_keys_have_no_material_in_postgres() {
    let (store, database) = postgres_store().await;
    let raw = PgPool::connect(database.url()).await.unwrap();
    erase(Arc::new(store), || async {
        let material = sqlx::query_scalar(MATERIAL).fetch_one(&raw).await.unwrap();
        (material, sqlx::query_scalar(TRACES).fetch_one(&raw).await.unwrap())
    })
    .await;
}

#[tokio::test]
async fn ended_keys_have_no_material_in_sqlite() {
    let (store, directory) = sqlite_store().await;
    let path = directory.path().join("stek.db");
    let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    erase(Arc::new(store), || async {
        let material = sqlx::query_scalar(MATERIAL).fetch_one(&raw).await.unwrap();
        (material, sqlx::query_scalar(TRACES).fetch_one(&raw).await.unwrap())
    })
    .await;
}

/// In milliseconds, and of this century.
#[tokio::test]
async fn databases_tell_the_time() {
    let (postgres, _database) = postgres_store().await;
    let (sqlite, _directory) = sqlite_store().await;
    let (one, other) = (postgres.now_millis().await.unwrap(), sqlite.now_millis().await.unwrap());
    assert!((1_700_000_000_000..4_100_000_000_000).contains(&one), "{one}");
    assert!(one.abs_diff(other) < 60_000, "{one} {other}");
}

/// Whoever writes past the store meets the constraints.
#[tokio::test]
async fn postgres_itself_refuses_what_is_not_sound() {
    let (store, database) = postgres_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    let keys = vec![key(1, 0, 10), key(2, 10, 20)];
    commit(&store, vec![create("main", keys), create("other", vec![])]).await.unwrap();
    let raw = PgPool::connect(database.url()).await.unwrap();
    for (statement, constraint) in [
        (
            "UPDATE ticket_keys SET activate_at = activate_at - interval '1 s'
             WHERE activate_at > published_at",
            "ticket_keys_encrypt_periods_disjoint",
        ),
        (
            "UPDATE ticket_keys SET ended_at = retire_at, end_cause = 'expired'",
            "ticket_keys_erased_if_ended",
        ),
        ("UPDATE ticket_keys SET end_cause = 'expired'", "ticket_keys_ended_together"),
        ("UPDATE ticket_keys SET wrap_nonce = NULL", "ticket_keys_erased_if_ended"),
        ("UPDATE ticket_keys SET wrap_nonce = '\\x00'", "ticket_keys_wrap_nonce_length"),
        (
            "UPDATE ticket_keys SET destroy_at = destroy_by + interval '1 s'",
            "ticket_keys_schedule_order",
        ),
        (
            "UPDATE ticket_keys SET destroy_by = destroy_by + interval '1 ms'",
            "ticket_keys_whole_seconds",
        ),
        (
            "UPDATE keysets SET lead_seconds = 3 * rotation_period_seconds + 1",
            "keysets_lead_limits",
        ),
        ("UPDATE keysets SET activation_quorum = 'most'", "keysets_activation_quorum"),
        (
            "UPDATE keysets SET activation_deadline_seconds = lead_seconds + 1",
            "keysets_activation_deadline_limits",
        ),
        ("UPDATE keysets SET name = 'Main'", "keysets_name_form"),
        ("UPDATE keysets SET name = 'same'", "keysets_name_unique"),
        ("UPDATE keysets SET deleted_at = created_at", "keysets_deleted_together"),
        ("INSERT INTO cluster (incarnation) VALUES (gen_random_uuid())", "cluster_pkey"),
        ("UPDATE cluster SET access_revision = revision + 1", "cluster_revisions"),
    ] {
        let error = sqlx::query(statement).execute(&raw).await.unwrap_err();
        let found = error.as_database_error().and_then(|error| error.constraint());
        assert_eq!(found, Some(constraint), "{statement}: {error}");
    }
}

/// An error of the database comes without the row, which it repeats in its details.
#[tokio::test]
async fn errors_do_not_repeat_rows() {
    let (store, database) = postgres_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    let raw = PgPool::connect(database.url()).await.unwrap();
    let not_this = "ALTER TABLE ticket_keys ALTER COLUMN end_cause SET NOT NULL";
    sqlx::query(not_this).execute(&raw).await.unwrap();
    let error = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap_err();
    let CommitError::Store(StoreError::Refused { source, .. }) = &error else {
        panic!("{error:?}");
    };
    let shown = format!("{error} {error:?} {source} {source:?}");
    assert!(shown.contains("end_cause"), "{shown}");
    assert!(!shown.contains("5a5a5a") && !shown.contains("Failing row"), "{shown}");
}

#[tokio::test]
async fn every_commit_notifies_its_revision() {
    let (store, database) = postgres_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    let mut listener = PgListener::connect(database.url()).await.unwrap();
    listener.listen(REVISION_CHANNEL).await.unwrap();
    commit(&store, vec![create("main", vec![])]).await.unwrap();
    commit(&store, vec![create("main", vec![])]).await.unwrap_err();
    commit(&store, vec![]).await.unwrap();
    for expected in ["1", "2"] {
        let notified = tokio::time::timeout(Duration::from_secs(60), listener.recv()).await;
        assert_eq!(notified.unwrap().unwrap().payload(), expected);
    }
}

#[tokio::test]
async fn every_table_and_column_is_commented() {
    let (_, database) = postgres_store().await;
    let raw = PgPool::connect(database.url()).await.unwrap();
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s.%s', relname, coalesce(attname, '')) FROM pg_class
         LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
           AND relname <> '_sqlx_migrations'
           AND (obj_description(pg_class.oid, 'pg_class') IS NULL
                OR col_description(pg_class.oid, attnum) IS NULL)",
    )
    .fetch_all(&raw)
    .await
    .unwrap();
    assert!(bare.is_empty(), "{bare:?}");
}

/// Names order by bytes whatever the language of the database.
#[tokio::test]
async fn names_have_the_collation_of_bytes() {
    let (_, database) = postgres_store().await;
    let raw = PgPool::connect(database.url()).await.unwrap();
    let collations: Vec<Option<String>> = sqlx::query_scalar(
        "SELECT collation_name::text FROM information_schema.columns
         WHERE (table_name, column_name) IN (('keysets', 'name'), ('grants', 'principal'))",
    )
    .fetch_all(&raw)
    .await
    .unwrap();
    assert_eq!(collations, [Some("C".to_owned()), Some("C".to_owned())]);
}

/// The limits that the server itself holds, should a client be gone.
#[tokio::test]
async fn connections_carry_their_limits() {
    let (_, database) = postgres_store().await;
    let ours = PostgresOptions::new(database.url()).unwrap();
    let store = PostgresStore::connect(&ours.with_time_out(Duration::from_secs(3))).await.unwrap();
    let store: Arc<dyn KeyStore> = Arc::new(store);
    // A trigger that reports the settings of whoever commits.
    let raw = PgPool::connect(database.url()).await.unwrap();
    let report = "CREATE FUNCTION report() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            RAISE EXCEPTION '% % % %', current_setting('application_name'),
                current_setting('statement_timeout'), current_setting('lock_timeout'),
                current_setting('idle_in_transaction_session_timeout');
        END $$";
    sqlx::query(report).execute(&raw).await.unwrap();
    let trigger = "CREATE TRIGGER report BEFORE INSERT ON keysets EXECUTE FUNCTION report()";
    sqlx::query(trigger).execute(&raw).await.unwrap();
    let error = commit(&store, vec![create("main", vec![])]).await.unwrap_err();
    let CommitError::Store(StoreError::Refused { source, .. }) = &error else {
        panic!("{error:?}");
    };
    assert!(source.to_string().contains("stekd 3s 1500ms 3s"), "{source}");
}
