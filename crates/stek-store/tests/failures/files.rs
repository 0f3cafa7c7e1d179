//! The files of SQLite: who may read them, and what is left in them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use sqlx::SqlitePool;
use stek_core::bundle::EndCause;
use stek_store::contract::fixture::{commit, create, end, key, update};
use stek_store::{Change, KeyStore, SqliteStore, StoreError};

use crate::stores::{incarnation, sqlite_store};

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn only_the_owner_reads_the_files() {
    let (store, directory) = sqlite_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    commit(&store, vec![create("main", vec![])]).await.unwrap();
    let files: Vec<_> = directory.path().read_dir().unwrap().map(|it| it.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    drop(store);

    let path = directory.path().join("stek.db");
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    SqliteStore::open(&path).await.unwrap();
    assert_eq!(mode(&path), 0o600);
}

#[tokio::test]
async fn a_file_that_is_something_else_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "not a database, but long enough to look like one".repeat(100)).unwrap();
    let error = SqliteStore::open(&path).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    let error = SqliteStore::migrate(&path, incarnation()).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
    let nowhere = directory.path().join("none/stek.db");
    let error = SqliteStore::migrate(&nowhere, incarnation()).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
}

/// `secure_delete`: once the log has gone into the file, no byte of the material is left there.
#[tokio::test]
async fn erased_material_is_overwritten() {
    const KEYS: u64 = 60;
    let (store, directory) = sqlite_store().await;
    let store: Arc<dyn KeyStore> = Arc::new(store);
    let path = directory.path().join("stek.db");
    let raw = SqlitePool::connect(path.to_str().unwrap()).await.unwrap();
    let found = async || {
        let checkpoint = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)");
        checkpoint.execute(&raw).await.unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let in_file = |number: &u64| {
            let ciphertext = key(*number, 0, 1).wrapped.ciphertext;
            bytes.windows(ciphertext.len()).any(|window| window == ciphertext)
        };
        (1..=KEYS).filter(in_file).collect::<Vec<_>>()
    };
    let keys = (1..=KEYS).map(|number| key(number, number, number + 1));
    let made = commit(&store, vec![create("main", keys.collect())]).await.unwrap();
    assert_eq!(found().await, (1..=KEYS).collect::<Vec<_>>());
    let (ended, kept): (Vec<u64>, Vec<u64>) = (1..=KEYS).partition(|number| number % 3 == 0);
    let steps = ended.iter().map(|number| end(*number, EndCause::Revoked));
    let change = update("main", made.revision, steps.collect());
    commit(&store, vec![Change::UpdateKeyset(change)]).await.unwrap();
    assert_eq!(found().await, kept);
}
