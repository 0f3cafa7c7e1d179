//! Two managers on one database, each with connections of its own.

use std::sync::Arc;

use stek_core::wrapped::SeedId;
use stek_store::contract::fixture::{PlainChain, at, commit, create, event, key, name, update};
use stek_store::{
    Change, CommitError, KeyStep, KeyStore, PostgresOptions, PostgresStore, SeedChange, SeedRow,
    SqliteStore,
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

/// A commit that waits for a change of seeds takes no key under the one that was live before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_key_is_taken_under_a_seed_that_retires_meanwhile() {
    let (_, database) = postgres_store().await;
    // It waits for a lock no longer than half of its time-out.
    let options = PostgresOptions::new(database.url()).unwrap().with_time_out(4 * PATIENCE);
    let store: Arc<dyn KeyStore> = Arc::new(PostgresStore::connect(&options).await.unwrap());
    let wrapped_under = key(1, 0, 10).wrapped.seed;
    let row = |seed| SeedRow { seed, check: [1; 8], claimed_at: at(0) };
    store.claim_seed(&row(wrapped_under), &event("main"), &PlainChain).await.unwrap();
    let offer = SeedChange::Offer(row(SeedId::from_bytes([8; 16])));
    assert!(store.change_seeds(&offer, &[event("main")], &PlainChain).await.unwrap());

    let raw = sqlx::PgPool::connect(database.url()).await.unwrap();
    let mut promotion = raw.begin().await.unwrap();
    for step in ["'ended' WHERE phase = 'live'", "'live' WHERE phase = 'offered'"] {
        let step = format!("UPDATE ratchet_seeds SET phase = {step}");
        sqlx::query(sqlx::AssertSqlSafe(step)).execute(&mut *promotion).await.unwrap();
    }
    let change = create("main", vec![key(1, 0, 10)]);
    let waiting = tokio::spawn(async move { commit(&store, vec![change]).await });
    let is_waiting = "SELECT count(*) FROM pg_stat_activity
                      WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let waits = async {
        while sqlx::query_scalar::<_, i64>(is_waiting).fetch_one(&raw).await.unwrap() == 0 {}
    };
    tokio::time::timeout(PATIENCE, waits).await.expect("it does not wait");
    promotion.commit().await.unwrap();
    let refused = waiting.await.unwrap();
    assert!(matches!(refused, Err(CommitError::Conflict(_))), "{refused:?}");
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
