//! `stekd manager`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_clock::SystemClock;
use stek_core::time::Seconds;
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::SystemRandom;
use stek_custody::state_file::{HighWater, StateFile, StateFileError};
use stek_distribution::Distribution;
use stek_manager::{EngineParts, Manager, Newcomer, RatchetRules, join_ratchet};
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::{self, CustodySection, DatabaseSection, ManagerConfig, PeersSection};
use crate::memory;
use crate::roles::distribution::instance_name;
use crate::roles::listener::{self, Listeners, Prepared};
use crate::roles::peers::HttpPeers;
use crate::roles::{confirmations, database, interface};

/// Runs a manager until a signal.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let config: ManagerConfig = config::read(path)?;
    let listen = Prepared::new(&config.listen)?;
    memory::lock();
    let shutdown = CancellationToken::new();
    let registry = listener::registry()?;
    let retention = config.audit.retention()?;
    let assembled = assemble(&config.database, &config.custody, config.peers.as_ref()).await?;
    let parts = EngineParts { audit_retention: retention, ..assembled };
    let manager = Manager::start(parts, &registry, shutdown.clone())?;
    let feed = Distribution::start(manager.feed(), manager.fleet(), &registry, shutdown.clone())?;
    confirmations::follow(&manager, &feed, instance_name(None)?);
    if let Some(files) = listen.tls() {
        manager.watch_certificate(files);
    }
    let router = interface::admin(&manager, &feed);
    let mut listeners = Listeners::new(registry, shutdown)?;
    listeners.interface("admin", listen, router).await?;
    listeners.metrics(config.metrics.address, manager.readiness()).await?;
    listeners.run().await?;
    manager.stopped().await;
    feed.stopped().await;
    Ok(())
}

/// Opens the database and custody of a manager; joins its peers if it has no state.
pub(crate) async fn assemble(
    database: &DatabaseSection,
    custody: &CustodySection,
    peers: Option<&PeersSection>,
) -> Result<EngineParts> {
    let cluster = Arc::new(read_cluster_secret(custody)?);
    let rules = rules(custody, peers)?;
    let store = database::open(database).await?;
    let (random, clock) = (SystemRandom, SystemClock);
    let ratchet = join_ratchet(&Newcomer {
        store: store.as_ref(),
        cluster: &cluster,
        path: &custody.state_file,
        random: &random,
        clock: &clock,
        peers: rules.peers.as_ref(),
    })
    .await?;
    Ok(EngineParts {
        store,
        custody: Arc::new(ratchet),
        cluster,
        random: Arc::new(random),
        clock: Arc::new(clock),
        audit_retention: None,
        rules,
    })
}

fn rules(custody: &CustodySection, peers: Option<&PeersSection>) -> Result<RatchetRules> {
    let mut rules = RatchetRules::default();
    if let Some(hours) = custody.reseed_hours {
        if !(1..=8760).contains(&hours) {
            let need = format!("custody.reseed_hours is {hours}, allowed is 1 to 8760");
            return Err(Refused(need).into());
        }
        rules.reseed_after = Seconds::from_hours(hours);
    }
    if let Some(section) = peers {
        rules.peers = Arc::new(HttpPeers::new(section)?);
    }
    Ok(rules)
}

/// The cluster secret, with the one before it if one is named; a file that cannot be one is a
/// configuration that is not allowed.
pub(crate) fn read_cluster_secret(custody: &CustodySection) -> Result<ClusterSecret> {
    let read = |key: &str, path: &Path| -> Result<ClusterSecret> {
        ClusterSecret::read(path).map_err(|error| {
            Refused(format!("custody.{key}: {:#}", anyhow::Error::new(error))).into()
        })
    };
    let current = read("cluster_secret_file", &custody.cluster_secret_file)?;
    Ok(match &custody.previous_cluster_secret_file {
        Some(path) => current.with_previous(read("previous_cluster_secret_file", path)?),
        None => current,
    })
}

/// The highest revision published that the state file knows of, which a manager may have open; none
/// where there is no such file.
pub(crate) fn read_high_water(custody: &CustodySection) -> Result<Option<HighWater>> {
    match StateFile::read_high_water(&custody.state_file) {
        Err(StateFileError::Missing { .. }) => Ok(None),
        read => read.context("whether the database was restored from a backup cannot be told"),
    }
}
