//! Two at once.

use std::sync::Arc;

use stek_core::wrapped::SeedId;
use tokio::task::JoinSet;

use super::fixture::{PlainChain, at, commit, create, event, key, name, update};
use crate::{Change, CommitError, Committed, KeyStep, KeyStore, SeedRow};

const RUNNERS: u64 = 8;
const ROUNDS: u64 = 10;

type Outcome = Result<Committed, CommitError>;

async fn race(store: &Arc<dyn KeyStore>, changes: impl Fn(u64) -> Vec<Change>) -> Vec<Outcome> {
    let mut runners = JoinSet::new();
    for runner in 0..RUNNERS {
        let (store, changes) = (Arc::clone(store), changes(runner));
        runners.spawn(async move { commit(&store, changes).await });
    }
    runners.join_all().await
}

/// Of those who read one revision, one changes it and the others are told.
pub async fn one_of_two_changes_wins(store: Arc<dyn KeyStore>) {
    let mut last = commit(&store, vec![create("main", vec![])]).await.unwrap();
    for round in 0..ROUNDS {
        let outcomes = race(&store, |runner| {
            let start = 1000 * round + runner;
            let number = 1 + round * RUNNERS + runner;
            let insert = vec![KeyStep::Insert(key(number, start, 1000 * (round + 1)))];
            vec![Change::UpdateKeyset(update("main", last.revision, insert))]
        })
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{lost:?}");
        assert!(lost.iter().all(|e| matches!(e, Err(CommitError::Conflict(_)))), "{lost:?}");
        last = won.into_iter().next().unwrap().unwrap();
    }
    let main = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!(main.keys.len(), usize::try_from(ROUNDS).unwrap());
    assert_eq!(main.revision, last.revision);
}

/// Of those who create one name, one does.
pub async fn one_of_two_creations_wins(store: Arc<dyn KeyStore>) {
    for round in 0..ROUNDS {
        let keyset = format!("k{round}");
        let outcomes = race(&store, |_| vec![create(&keyset, vec![])]).await;
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{lost:?}");
        assert!(lost.iter().all(|e| matches!(e, Err(CommitError::Exists(_)))), "{lost:?}");
    }
}

/// Batches over the same keysets in different orders end; what fails is a conflict, never a
/// deadlock.
pub async fn opposite_batches_do_not_block_each_other(store: Arc<dyn KeyStore>) {
    let names: Vec<_> = (0..10).map(|number| format!("k{number}")).collect();
    let create_all = names.iter().map(|name| create(name, vec![])).collect();
    let mut last = commit(&store, create_all).await.unwrap();
    for round in 0..ROUNDS {
        let outcomes = race(&store, |runner| {
            let change = |name: &String| Change::UpdateKeyset(update(name, last.revision, vec![]));
            let fresh = |number: u64| create(&format!("r{round}-{number}"), vec![]);
            let mut changes: Vec<_> = names.iter().map(change).collect();
            changes.extend((0..3).map(fresh));
            if runner % 2 == 0 {
                changes.reverse();
            }
            changes
        })
        .await;
        let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
        assert_eq!(won.len(), 1, "{lost:?}");
        assert!(lost.iter().all(|e| matches!(e, Err(CommitError::Conflict(_)))), "{lost:?}");
        last = won.into_iter().next().unwrap().unwrap();
    }
}

/// Of those who claim the seed, one does; all learn which, and one event says so.
pub async fn one_seed_is_claimed(store: Arc<dyn KeyStore>) {
    let mut runners = JoinSet::new();
    for runner in 0..u8::try_from(RUNNERS).unwrap() {
        let store = Arc::clone(&store);
        runners.spawn(async move {
            let seed = SeedRow {
                seed: SeedId::from_bytes([runner; 16]),
                check: [runner; 8],
                claimed_at: at(u64::from(runner)),
            };
            store.claim_seed(&seed, &event("main"), &PlainChain).await.unwrap()
        });
    }
    let told = runners.join_all().await;
    let holds = store.seed().await.unwrap().unwrap();
    assert!(told.iter().all(|seed| *seed == holds), "{told:?}");
    assert_eq!(holds.check, [holds.seed.as_bytes()[0]; 8]);
    let cluster = store.cluster().await.unwrap();
    assert_eq!((cluster.revision.as_u64(), cluster.audit_sequence), (1, 1));
    assert_eq!(store.audit(0, 10).await.unwrap().len(), 1);
}
