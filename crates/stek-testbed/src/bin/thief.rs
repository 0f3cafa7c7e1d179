//! What a thief does with files: reads every wrapped key out of base backups, and tries the cluster
//! secret and a state of the ratchet on it. Prints the keys that open, in hexadecimal. Knows nothing
//! else of the fleet.

#![allow(clippy::print_stdout, reason = "what it stole is its output")]

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::Custody;
use stek_store::{KeyStore, MAX_PAGE, PostgresOptions, PostgresStore};
use stek_testpg::PostgresServer;

/// `thief CLUSTER_SECRET STATE DATABASE BACKUP…`
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [secret, state, database, backups @ ..] = arguments.as_slice() else {
        anyhow::bail!("which files?");
    };
    let cluster = Arc::new(ClusterSecret::read(Path::new(secret))?);
    let custody = Custody::open(Path::new(state), cluster)?;
    for backup in backups {
        let server = PostgresServer::start_from_backup(Path::new(backup))?;
        let base = server.url().strip_suffix("/postgres").context("the URL of a cluster")?;
        let store =
            PostgresStore::connect(&PostgresOptions::new(&format!("{base}/{database}"))?).await?;
        let mut seen = 0;
        for stored in store.keysets(None, MAX_PAGE).await?.sound {
            for key in &stored.keys {
                seen += 1;
                let opened = custody.unwrap(stored.keyset.name(), &key.record, &key.wrapped);
                if let Ok(material) = opened {
                    let bytes = material.expose_secret().iter();
                    println!("{}", bytes.map(|byte| format!("{byte:02x}")).collect::<String>());
                }
            }
        }
        eprintln_seen(backup, seen);
        store.close().await;
    }
    Ok(())
}

#[allow(clippy::print_stderr, reason = "so that a test that finds nothing says why")]
fn eprintln_seen(backup: &str, seen: usize) {
    eprintln!("{backup}: {seen} wrapped keys");
}
