//! Two managers on one database, each with connections of its own.

use std::sync::Arc;

use stek_store::contract::fixture::{commit, create, key, name, update};
use stek_store::{
    Change, CommitError, KeyStep, KeyStore, PostgresOptions, PostgresStore, SqliteStore,
};
use tokio::task::JoinSet;

use crate::stores::{postgres_store, sqlite_store};

const ROUNDS: u64 = 20;

/// Each adds the same next key, time and again; only one of them ever does.
async fn compete(managers: [Arc<dyn KeyStore>; 2]) {
    let mut last = commit(&managers[0], vec![create("main", vec![])]).await.unwrap();
    for round in 0..ROUNDS {
        let mut running = JoinSet::new();
        for (number, manager) in (1..).zip(&managers) {
            let manager = Arc::clone(manager);
            let insert = KeyStep::Insert(key(2 * round + number, 10 * round, 10 * round + 10));
            let change = Change::UpdateKeyset(update("main", last.revision, vec![insert]));
            running.spawn(async move { commit(&manager, vec![change]).await });
        }
        let (won, lost): (Vec<_>, Vec<_>) =
            running.join_all().await.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{lost:?}");
        assert!(matches!(lost[..], [Err(CommitError::Conflict(_))]), "{lost:?}");
        last = won.into_iter().next().unwrap().unwrap();
    }
    for manager in managers {
        let main = manager.keyset(&name("main")).await.unwrap().unwrap();
        assert_eq!((main.keys.len() as u64, main.revision), (ROUNDS, last.revision));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_managers_share_postgres() {
    let (one, database) = postgres_store().await;
    let options = PostgresOptions::new(database.url()).unwrap();
    let other = PostgresStore::connect(&options).await.unwrap();
    compete([Arc::new(one), Arc::new(other)]).await;
}

/// Such as the server and a command beside it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_programs_share_a_file() {
    let (one, directory) = sqlite_store().await;
    let other = SqliteStore::open(directory.path().join("stek.db")).await.unwrap();
    compete([Arc::new(one), Arc::new(other)]).await;
}

/// How long word may take before the test fails.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

async fn word(store: &PostgresStore) -> Option<stek_core::id::Revision> {
    tokio::time::timeout(PATIENCE, store.notified()).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_manager_hears_of_the_commits_of_another() {
    let (one, database) = postgres_store().await;
    let options = PostgresOptions::new(database.url()).unwrap();
    let other: Arc<dyn KeyStore> = Arc::new(PostgresStore::connect(&options).await.unwrap());
    assert_eq!(word(&one).await, None, "what was sent before is not known");
    let first = commit(&other, vec![create("first", vec![])]).await.unwrap();
    assert_eq!(word(&one).await, Some(first.revision));

    // The connection is lost: that is said, and after that there is word again.
    let raw = sqlx::PgPool::connect(database.url()).await.unwrap();
    let ended = sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE query LIKE 'LISTEN%' AND datname = current_database()",
    );
    assert_eq!(ended.fetch_all(&raw).await.unwrap().len(), 1);
    assert_eq!(word(&one).await, None, "lost");
    let mut heard = word(&one).await;
    let second = commit(&other, vec![create("second", vec![])]).await.unwrap();
    if heard.is_none() {
        heard = word(&one).await;
    }
    assert_eq!(heard, Some(second.revision));
}
