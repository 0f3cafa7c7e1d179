//! Databases that do not answer.

use std::error::Error;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection, SqliteConnection};
use stek_core::id::Revision;
use stek_store::contract::fixture::{commit, create, name, update};
use stek_store::{
    Change, CommitError, KeyStore, PostgresOptions, PostgresStore, SqliteStore, StoreError,
};
use stek_testpg::PostgresServer;
use tokio::sync::watch;

use crate::stores::{incarnation, postgres_store, sqlite_store};

const TIME_OUT: Duration = Duration::from_millis(600);
/// Well past the time-out, and before the default.
const PATIENCE: Duration = Duration::from_secs(9);
/// For what must not fail because the machine is busy.
const AMPLE: Duration = Duration::from_secs(60);

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("an answer within the time-out")
}

fn options(url: &str) -> PostgresOptions {
    PostgresOptions::new(url).unwrap().with_time_out(TIME_OUT)
}

/// Two stores on the database at `url`: one that waits long, and one that gives up soon.
async fn patient_and_hasty(url: &str) -> (Arc<dyn KeyStore>, Arc<dyn KeyStore>) {
    let ample = PostgresOptions::new(url).unwrap().with_time_out(AMPLE);
    let patient = PostgresStore::connect(&ample).await.unwrap();
    let connecting = async {
        loop {
            if let Ok(hasty) = PostgresStore::connect(&options(url)).await {
                return hasty;
            }
        }
    };
    let hasty = tokio::time::timeout(AMPLE, connecting).await.expect("a connection");
    (Arc::new(patient), Arc::new(hasty))
}

fn shown(error: &StoreError) -> String {
    let mut text = format!("{error} / {error:?}");
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(&format!(" / {error} / {error:?}"));
        source = error.source();
    }
    text
}

#[tokio::test]
async fn a_closed_port_is_told_at_once() {
    let options = options("postgres://stek:hunter2@127.0.0.1:1/stek");
    for error in [
        in_time(PostgresStore::connect(&options)).await.unwrap_err(),
        in_time(PostgresStore::migrate(&options, incarnation())).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
        let shown = shown(&error);
        assert!(shown.contains("refused") && !shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let options = options(&format!("postgres://stek:hunter2@127.0.0.1:{port}/stek"));
    let error = in_time(PostgresStore::connect(&options)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    assert!(shown(&error).contains("no answer within 600ms"), "{}", shown(&error));
}

#[tokio::test]
async fn a_database_that_is_not_there_is_refused_without_the_password() {
    let (_, database) = postgres_store().await;
    let url = database.url().replace(database.name(), "no_such_database");
    let options = PostgresOptions::new(&url).unwrap().with_time_out(AMPLE);
    let error = PostgresStore::connect(&options).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    assert!(shown(&error).contains("no_such_database"), "{error:?}");
}

#[tokio::test]
async fn a_store_shows_its_place_and_no_password() {
    let database = stek_testpg::create_database().await.unwrap();
    let (scheme, rest) = database.url().split_once("://").unwrap();
    let (user, place) = rest.rsplit_once('@').unwrap();
    let user = user.split(':').next().unwrap();
    let given = PostgresOptions::new(database.url()).unwrap();
    PostgresStore::migrate(&given, incarnation()).await.unwrap();
    let with_password = options(&format!("{scheme}://{user}:hunter2@{place}"));
    assert!(!format!("{with_password:?}").contains("hunter2"));
    // A server that trusts us does not look at the password; another one refuses it, unseen.
    match PostgresStore::connect(&with_password).await {
        Ok(store) => {
            let shown = format!("{store:?}");
            assert!(shown.contains(database.name()) && !shown.contains("hunter2"), "{shown}");
        }
        Err(error) => assert!(!shown(&error).contains("hunter2"), "{}", shown(&error)),
    }
}

/// The server crashes under a store and comes back.
#[tokio::test]
async fn a_store_survives_its_server() {
    let mut server =
        tokio::task::spawn_blocking(PostgresServer::start_throwaway).await.unwrap().unwrap();
    let options = PostgresOptions::new(server.url()).unwrap();
    PostgresStore::migrate(&options, incarnation()).await.unwrap();
    let (store, hasty) = patient_and_hasty(server.url()).await;
    let made = commit(&store, vec![create("main", vec![])]).await.unwrap();

    server.stop_immediate().unwrap();
    for _ in 0..3 {
        let error = in_time(hasty.cluster()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
        let error = in_time(commit(&hasty, vec![create("other", vec![])])).await.unwrap_err();
        assert!(matches!(error, CommitError::Store(StoreError::Unreachable(_))), "{error:?}");
        let error = in_time(hasty.changed_since(Revision::ZERO)).await.unwrap_err();
        assert!(matches!(error, StoreError::Unreachable(_)), "{error:?}");
    }
    server.restart().unwrap();
    // Each on its own, with the connections of before.
    let keysets = store.keysets(None, 10).await.unwrap().sound;
    assert_eq!((keysets.len(), keysets[0].revision), (1, made.revision));
    commit(&store, vec![create("other", vec![])]).await.unwrap();
    let answers = async { while hasty.cluster().await.is_err() {} };
    tokio::time::timeout(AMPLE, answers).await.expect("it finds its server again");
}

/// A way to the server at `url` whose connections can be made to go nowhere, without being closed.
/// Returns the URL that leads there, and what freezes the connections that there are.
async fn freezable(url: &str) -> (String, watch::Sender<()>) {
    let (head, database) = url.rsplit_once('/').unwrap();
    let (user, server) = head.rsplit_once('@').unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let here = format!("{user}@{}/{database}", listener.local_addr().unwrap());
    let (freeze, server) = (watch::Sender::new(()), server.to_owned());
    let frozen = freeze.clone();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut database = tokio::net::TcpStream::connect(&server).await.unwrap();
            let mut frozen = frozen.subscribe();
            tokio::spawn(async move {
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut client, &mut database) => {}
                    Ok(()) = frozen.changed() => std::future::pending().await,
                }
            });
        }
    });
    (here, freeze)
}

/// As behind a firewall that has forgotten the connection.
#[tokio::test]
async fn word_comes_again_after_the_connection_for_it_has_led_nowhere() {
    let (store, database) = postgres_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    let (url, freeze) = freezable(database.url()).await;
    let (_, listening) = patient_and_hasty(&url).await;
    let connected = async { while !matches!(listening.notified().await, Ok(None)) {} };
    tokio::time::timeout(AMPLE, connected).await.expect("a connection");
    freeze.send_replace(());
    let lost = tokio::time::timeout(AMPLE, listening.notified()).await;
    assert!(matches!(lost.expect("the loss is noticed"), Ok(None)));
    // Each commit sends word once, and what is sent while nobody listens is lost.
    let heard = async {
        for number in 0.. {
            let made = commit(&store, vec![create(&format!("k{number}"), vec![])]).await.unwrap();
            if matches!(listening.notified().await, Ok(Some(word)) if word == made.revision) {
                break;
            }
        }
    };
    tokio::time::timeout(AMPLE, heard).await.expect("word");
}

/// Somebody holds the row; the commit gives up in time, applies nothing and leaves no lock.
#[tokio::test]
async fn a_commit_does_not_wait_for_ever_in_postgres() {
    let (_, database) = postgres_store().await;
    let (store, hasty) = patient_and_hasty(database.url()).await;
    let made = commit(&store, vec![create("main", vec![])]).await.unwrap();
    let change = || vec![Change::UpdateKeyset(update("main", made.revision, vec![]))];

    for held in ["SELECT FROM keysets FOR UPDATE", "SELECT FROM cluster FOR UPDATE"] {
        let mut other = PgConnection::connect(database.url()).await.unwrap();
        let mut holding = other.begin().await.unwrap();
        sqlx::query(held).execute(&mut *holding).await.unwrap();
        for _ in 0..2 {
            let error = in_time(commit(&hasty, change())).await.unwrap_err();
            assert!(matches!(error, CommitError::Store(StoreError::Unreachable(_))), "{error:?}");
        }
        assert_eq!(store.cluster().await.unwrap().revision, made.revision);
        holding.rollback().await.unwrap();
    }
    commit(&store, change()).await.unwrap();
}

#[tokio::test]
async fn a_commit_does_not_wait_for_ever_in_sqlite() {
    let (_, directory) = sqlite_store().await;
    let path = directory.path().join("stek.db");
    let open = |time_out| SqliteStore::open_with_time_out(&path, time_out);
    let store: Arc<dyn KeyStore> = Arc::new(open(AMPLE).await.unwrap());
    let opening = async {
        loop {
            if let Ok(hasty) = open(TIME_OUT).await {
                return hasty;
            }
        }
    };
    let hasty = tokio::time::timeout(AMPLE, opening).await.expect("it opens");
    let hasty: Arc<dyn KeyStore> = Arc::new(hasty);
    let mut other = SqliteConnection::connect(path.to_str().unwrap()).await.unwrap();
    let holding = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    for _ in 0..2 {
        let error = in_time(commit(&hasty, vec![create("main", vec![])])).await.unwrap_err();
        assert!(matches!(error, CommitError::Store(StoreError::Unreachable(_))), "{error:?}");
    }
    assert_eq!(store.keyset(&name("main")).await.unwrap(), None);
    holding.rollback().await.unwrap();
    commit(&store, vec![create("main", vec![])]).await.unwrap();
}
