//! What a thief does with files: reads every wrapped key out of base backups, also as they become by
//! what was archived of the log since, and tries the cluster secret and a state of the ratchet on it,
//! as it is and relabelled as one of an earlier epoch and of the seed that the key names. Prints the
//! keys that open, in hexadecimal. Knows nothing else of the fleet.

#![allow(clippy::print_stdout, reason = "what it stole is its output")]

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_core::name::KeysetName;
use stek_core::secret::KeyMaterial;
use stek_core::wrapped::{Epoch, ReplicaId};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::Custody;
use stek_custody::ratchet::RatchetState;
use stek_store::{KeyStore, MAX_PAGE, PostgresOptions, PostgresStore, StoredKey};
use stek_testpg::PostgresServer;

/// `thief CLUSTER_SECRET STATE DATABASE BACKUP[,ARCHIVE,POINT]…`
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [secret, state, database, backups @ ..] = arguments.as_slice() else {
        anyhow::bail!("which files?");
    };
    let cluster = Arc::new(ClusterSecret::read(Path::new(secret))?);
    let thefts = Thefts { state: std::fs::read(state)?, cluster, dir: tempfile::tempdir()? };
    let custody = Custody::open(Path::new(state), Arc::clone(&thefts.cluster))?;
    for backup in backups {
        let server = restore(backup)?;
        let base = server.url().strip_suffix("/postgres").context("the URL of a cluster")?;
        let store =
            PostgresStore::connect(&PostgresOptions::new(&format!("{base}/{database}"))?).await?;
        let mut seen = 0;
        for stored in store.keysets(None, MAX_PAGE).await?.sound {
            for key in &stored.keys {
                seen += 1;
                let name = stored.keyset.name();
                let honest = custody.unwrap(name, &key.record, &key.wrapped).ok();
                let opened = match honest {
                    Some(material) => Some(material),
                    None => thefts.relabelled(name, key)?,
                };
                if let Some(material) = opened {
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

/// A server on a base backup, or on one with the log replayed up to a restore point.
fn restore(from: &str) -> Result<PostgresServer> {
    match from.split(',').collect::<Vec<_>>()[..] {
        [backup] => PostgresServer::start_from_backup(Path::new(backup)),
        [backup, archive, point] => {
            PostgresServer::start_from_archive(Path::new(backup), Path::new(archive), point)
        }
        _ => anyhow::bail!("which files?"),
    }
}

/// How many epochs back a state is relabelled: more than a key's life with its envelope.
const EPOCHS: u64 = 48;

struct Thefts {
    /// The state file, of which bytes 48 to 79 are S_e.
    state: Vec<u8>,
    cluster: Arc<ClusterSecret>,
    dir: tempfile::TempDir,
}

impl Thefts {
    /// The key, if the bytes of today's state open it under any label.
    fn relabelled(&self, keyset: &KeysetName, key: &StoredKey) -> Result<Option<KeyMaterial>> {
        let x = key.wrapped.epoch.as_u64();
        for epoch in (x.saturating_sub(EPOCHS)..=x).map(Epoch::new) {
            let mut secret = self.state[48..80].try_into()?;
            let state = RatchetState::try_new(key.wrapped.seed, epoch, &mut secret)?;
            let path = self.dir.path().join("relabelled");
            let replica = ReplicaId::from_bytes([0; 16]);
            let custody = Custody::join(&path, Arc::clone(&self.cluster), state, replica)?;
            let opened = custody.unwrap(keyset, &key.record, &key.wrapped);
            custody.erase()?;
            if let Ok(material) = opened {
                return Ok(Some(material));
            }
        }
        Ok(None)
    }
}

#[allow(clippy::print_stderr, reason = "so that a test that finds nothing says why")]
fn eprintln_seen(backup: &str, seen: usize) {
    eprintln!("{backup}: {seen} wrapped keys");
}
