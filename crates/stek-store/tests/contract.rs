//! The contract, kept by each store.

#![allow(clippy::unwrap_used, reason = "a broken expectation is a panic")]

use std::sync::Arc;

use stek_store::{KeyStore, MemoryStore, WithClock};
use stek_testpg::TestDatabase;
use tempfile::TempDir;

mod stores;

mod memory {
    stek_store::contract_tests!(crate::new_memory);
}

mod clocked {
    stek_store::contract_tests!(crate::new_clocked);
}

mod sqlite {
    stek_store::contract_tests!(crate::new_sqlite);
}

mod postgres {
    stek_store::contract_tests!(crate::new_postgres);
}

/// With no more rights than a manager is given.
mod postgres_as_manager {
    stek_store::contract_tests!(crate::new_postgres_as_manager);
}

async fn new_memory() -> (Arc<dyn KeyStore>, ()) {
    (Arc::new(MemoryStore::new(stores::incarnation(), Arc::new(|| 1_800_000_000_000))), ())
}

async fn new_clocked() -> (Arc<dyn KeyStore>, ()) {
    let store = MemoryStore::new(stores::incarnation(), Arc::new(|| 0));
    let store = WithClock::new(store, Arc::new(|| 1_800_000_000_000));
    assert_eq!(store.now_millis().await.unwrap(), 1_800_000_000_000);
    (Arc::new(store), ())
}

async fn new_sqlite() -> (Arc<dyn KeyStore>, TempDir) {
    let (store, directory) = stores::sqlite_store().await;
    (Arc::new(store), directory)
}

async fn new_postgres() -> (Arc<dyn KeyStore>, TestDatabase) {
    let (store, database) = stores::postgres_store().await;
    (Arc::new(store), database)
}

async fn new_postgres_as_manager() -> (Arc<dyn KeyStore>, TestDatabase) {
    let (store, database) = stores::manager_store().await;
    (Arc::new(store), database)
}
