//! What the roles of `deploy/postgres` may not do. That a manager may do all that it must is shown
//! by the contract, which runs as that role too.

use std::sync::Arc;

use sqlx::error::DatabaseError;
use sqlx::{Connection, PgConnection};
use stek_core::bundle::EndCause;
use stek_store::contract::fixture::{commit, create, end, key, update};
use stek_store::{Change, KeyStore, PostgresOptions, PostgresStore};

use crate::stores::{incarnation, manager_store, url_as};

/// SQLSTATE insufficient_privilege.
const FORBIDDEN: &str = "42501";

async fn assert_forbidden(url: &str, statements: &'static [&'static str]) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in statements {
        let error = sqlx::query(*statement).execute(&mut connection).await.unwrap_err();
        let code = error.as_database_error().and_then(DatabaseError::code);
        assert_eq!(code.as_deref(), Some(FORBIDDEN), "{statement}: {error}");
    }
}

#[tokio::test]
async fn a_manager_cannot_rewrite_what_is_settled() {
    let (_, database) = manager_store().await;
    assert_forbidden(
        &url_as(&database, "stekd_manager"),
        &[
            "UPDATE audit SET reason = 'another'",
            "TRUNCATE audit",
            "DELETE FROM audit_checkpoint",
            "INSERT INTO cluster (incarnation) VALUES (gen_random_uuid())",
            "DELETE FROM cluster",
            "UPDATE ticket_keys SET destroy_by = destroy_by + interval '1 day'",
            "UPDATE ticket_keys SET kcv = '\\x0000000000000000'",
            "UPDATE tokens SET expires_at = expires_at + interval '1 day'",
            "UPDATE tokens SET hash = decode(repeat('00', 32), 'hex')",
            "UPDATE grants SET role = 'operator'",
            "UPDATE ratchet_seeds SET claimed_at = now()",
            "DELETE FROM ratchet_seeds",
            "UPDATE schema_info SET version = 2",
            "SELECT FROM _sqlx_migrations",
            "ALTER TABLE keysets DROP CONSTRAINT keysets_name_form",
            "CREATE TABLE mine (it text)",
            "CREATE TEMPORARY TABLE mine (it text)",
            "CREATE SCHEMA mine",
            "SET ROLE stekd_owner",
        ],
    )
    .await;
}

/// Reads the trail and the schedules, and nothing that opens a ticket or lets anyone in.
#[tokio::test]
async fn an_auditor_reads_what_is_not_secret_and_writes_nothing() {
    let (store, database) = manager_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    let made = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let ended = update("main", made.revision, vec![end(1, EndCause::Revoked)]);
    commit(&store, vec![Change::UpdateKeyset(ended)]).await.unwrap();

    let auditor = url_as(&database, "stekd_auditor");
    let mut connection = PgConnection::connect(&auditor).await.unwrap();
    let (trail, keys): (i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM audit), (SELECT count(kcv) FROM ticket_keys
             WHERE end_cause = 'revoked' AND destroy_by > published_at)",
    )
    .fetch_one(&mut connection)
    .await
    .unwrap();
    assert!(trail >= 2, "{trail}");
    assert_eq!(keys, 1);
    assert_forbidden(
        &auditor,
        &[
            "SELECT wrap_ciphertext FROM ticket_keys",
            "SELECT * FROM ticket_keys",
            "SELECT hash FROM tokens",
            "SELECT seal FROM tokens",
            "INSERT INTO audit SELECT * FROM audit",
            "UPDATE keysets SET next_due = now()",
            "DELETE FROM keysets",
            "SELECT FROM keysets FOR UPDATE",
            "SET ROLE stekd_manager",
        ],
    )
    .await;
}

/// Whoever else may log in to the server does not come into the database.
#[tokio::test]
async fn others_do_not_come_in() {
    let (_, database) = manager_store().await;
    let mut administrator = PgConnection::connect(database.url()).await.unwrap();
    sqlx::raw_sql("CREATE ROLE stranger LOGIN").execute(&mut administrator).await.unwrap();
    let error = PgConnection::connect(&url_as(&database, "stranger")).await.unwrap_err();
    let code = error.as_database_error().and_then(DatabaseError::code);
    assert_eq!(code.as_deref(), Some(FORBIDDEN), "{error}");
}

#[tokio::test]
async fn a_manager_does_not_migrate() {
    let (_, database) = manager_store().await;
    let manager = PostgresOptions::new(&url_as(&database, "stekd_manager")).unwrap();
    PostgresStore::migrate(&manager, incarnation()).await.unwrap_err();
}
