//! A throwaway server from its start to its end, and the databases on it.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;

use anyhow::Context;
use sqlx::{Connection, PgConnection};
use stek_testpg::{PostgresServer, create_database, create_database_on};

fn address_of(url: &str) -> anyhow::Result<SocketAddr> {
    let rest = url.strip_prefix("postgres://postgres@").context("unexpected user")?;
    Ok(rest.strip_suffix("/postgres").context("unexpected database")?.parse()?)
}

async fn text(url: &str, query: &'static str) -> anyhow::Result<String> {
    let mut connection = PgConnection::connect(url).await?;
    let value = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(value)
}

async fn exists(server_url: &str, name: &str) -> anyhow::Result<bool> {
    let mut connection = PgConnection::connect(server_url).await?;
    let query = "SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)";
    Ok(sqlx::query_scalar(query).bind(name).fetch_one(&mut connection).await?)
}

#[tokio::test]
async fn a_cluster_answers_and_is_gone_after_drop() {
    let server = PostgresServer::start_throwaway().unwrap();
    let mut connection = PgConnection::connect(server.url()).await.unwrap();
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await.unwrap();
    assert_eq!(one, 1);
    assert_eq!(text(server.url(), "SHOW server_encoding").await.unwrap(), "UTF8");
    assert_eq!(text(server.url(), "SHOW max_connections").await.unwrap(), "200");
    assert_eq!(text(server.url(), "SHOW fsync").await.unwrap(), "off");

    let address = address_of(server.url()).unwrap();
    let files: PathBuf = text(server.url(), "SHOW data_directory").await.unwrap().into();
    assert!(files.exists());
    drop(server);
    assert!(TcpStream::connect(address).is_err());
    assert!(!files.exists());
    assert!(!files.parent().unwrap().exists());
}

#[tokio::test]
async fn a_crashed_cluster_comes_back_with_what_was_committed() {
    let mut server = PostgresServer::start_throwaway().unwrap();
    let url = server.url().to_owned();
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept AS SELECT 'committed' AS state")
        .execute(&mut connection)
        .await
        .unwrap();

    server.stop_immediate().unwrap();
    assert!(connection.ping().await.is_err());
    assert!(PgConnection::connect(&url).await.is_err());
    assert!(server.stop_immediate().is_err(), "it is not running");

    server.restart().unwrap();
    assert_eq!(server.url(), url);
    assert_eq!(text(&url, "SELECT state FROM kept").await.unwrap(), "committed");
}

#[tokio::test]
async fn two_clusters_live_side_by_side() {
    let (one, other) =
        (PostgresServer::start_throwaway().unwrap(), PostgresServer::start_throwaway().unwrap());
    assert_ne!(one.url(), other.url());
    drop(one);
    assert_eq!(text(other.url(), "SELECT 'alive'").await.unwrap(), "alive");
}

#[tokio::test]
async fn databases_are_empty_distinct_and_dropped() {
    let shared = PostgresServer::shared().unwrap();
    let (dropped_now, forgotten) =
        tokio::try_join!(create_database(), create_database_on(shared)).unwrap();
    assert_ne!(dropped_now.name(), forgotten.name());
    for database in [&dropped_now, &forgotten] {
        let current = text(database.url(), "SELECT current_database()::text").await.unwrap();
        assert_eq!(current, database.name());
        let tables = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'";
        assert_eq!(text(database.url(), tables).await.unwrap(), "0");
    }

    // Connections that a test left open do not keep the database.
    let mut left_open = PgConnection::connect(dropped_now.url()).await.unwrap();
    let name = dropped_now.name().to_owned();
    dropped_now.drop_now().await.unwrap();
    assert!(!exists(shared, &name).await.unwrap());
    assert!(left_open.ping().await.is_err());

    let name = forgotten.name().to_owned();
    assert!(exists(shared, &name).await.unwrap());
    drop(forgotten);
    assert!(!exists(shared, &name).await.unwrap());
}

#[tokio::test]
async fn a_database_outlives_its_server_without_harm() {
    let mut server = PostgresServer::start_throwaway().unwrap();
    let database = create_database_on(server.url()).await.unwrap();
    let orderly = create_database_on(server.url()).await.unwrap();
    server.stop_immediate().unwrap();
    drop(database);
    assert!(orderly.drop_now().await.is_err());
}
