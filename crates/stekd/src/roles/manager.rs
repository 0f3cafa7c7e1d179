//! `stekd manager`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_clock::SystemClock;
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::SystemRandom;
use stek_distribution::Distribution;
use stek_manager::{EngineParts, Manager, claim_ratchet};
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::{self, CustodySection, DatabaseSection, ManagerConfig};
use crate::roles::distribution::instance_name;
use crate::roles::listener::{self, Listeners, Prepared};
use crate::roles::{confirmations, database};

/// Runs a manager until a signal.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let config: ManagerConfig = config::read(path)?;
    let listen = Prepared::new(&config.listen)?;
    let shutdown = CancellationToken::new();
    let registry = listener::registry()?;
    let retention = config.audit.retention()?;
    let assembled = assemble(&config.database, &config.custody).await?;
    let parts = EngineParts { audit_retention: retention, ..assembled };
    let manager = Manager::start(parts, &registry, shutdown.clone())?;
    let feed = Distribution::start(manager.feed(), manager.fleet(), &registry, shutdown.clone())?;
    confirmations::follow(&manager, &feed, instance_name(None)?);
    let router = manager.admin_router().merge(manager.page_router()).merge(feed.feed_router());
    let mut listeners = Listeners::new(registry, shutdown)?;
    listeners.interface("admin", listen, router).await?;
    listeners.metrics(config.metrics.address, manager.readiness()).await?;
    listeners.run().await?;
    manager.stopped().await;
    feed.stopped().await;
    Ok(())
}

/// Opens the database and custody of a manager.
pub(crate) async fn assemble(
    database: &DatabaseSection,
    custody: &CustodySection,
) -> Result<EngineParts> {
    let cluster = Arc::new(read_cluster_secret(&custody.cluster_secret_file)?);
    let store = database::open(database).await.context("database")?;
    let (random, clock) = (SystemRandom, SystemClock);
    let ratchet =
        claim_ratchet(store.as_ref(), &cluster, &custody.state_file, &random, &clock).await?;
    Ok(EngineParts {
        store,
        custody: Arc::new(ratchet),
        cluster,
        random: Arc::new(random),
        clock: Arc::new(clock),
        audit_retention: None,
    })
}

/// The cluster secret; a file that cannot be one is a configuration that is not allowed.
pub(crate) fn read_cluster_secret(path: &Path) -> Result<ClusterSecret> {
    ClusterSecret::read(path)
        .map_err(|error| Refused(format!("{:#}", anyhow::Error::new(error))).into())
}
