//! `stekd manager`.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_clock::{Clock, SystemClock};
use stek_core::id::Incarnation;
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::{RandomSource, SystemRandom};
use stek_distribution::Distribution;
use stek_manager::{EngineParts, Manager, claim_ratchet};
use stek_store::{KeyStore, PostgresOptions, PostgresStore, SqliteStore};
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::{self, CustodySection, DatabaseSection, ManagerConfig};
use crate::roles::listener::{self, Listeners};

/// Runs a manager until a signal.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let config: ManagerConfig = config::read(path)?;
    let shutdown = CancellationToken::new();
    let registry = listener::registry()?;
    let parts = assemble(&config.database, &config.custody).await?;
    let manager = Manager::start(parts, &registry, shutdown.clone())?;
    let feed = Distribution::start(manager.feed(), manager.fleet(), &registry, shutdown.clone())?;
    let router = manager.admin_router().merge(feed.feed_router());
    let mut listeners = Listeners::new(registry, shutdown)?;
    listeners.interface("admin", &config.listen, router).await?;
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
    let cluster = ClusterSecret::read(&custody.cluster_secret_file).map_err(anyhow::Error::new)?;
    let cluster = Arc::new(cluster);
    let store = open_store(database).await.context("database")?;
    let (random, clock) = (SystemRandom, SystemClock);
    let ratchet =
        claim_ratchet(store.as_ref(), &cluster, &custody.state_file, &random, &clock).await?;
    Ok(EngineParts {
        store,
        custody: Arc::new(ratchet),
        cluster,
        random: Arc::new(random),
        clock: Arc::new(clock),
    })
}

/// A database by its URL.
enum Place {
    Postgres(PostgresOptions),
    Sqlite(std::path::PathBuf),
}

fn place(section: &DatabaseSection) -> Result<Place> {
    let url = match (&section.url, &section.url_file) {
        (Some(url), None) => {
            let credentials = url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
            if credentials.is_some_and(|(user, _)| user.contains(':')) {
                let need = "database.url holds a password: put the URL into a file and name it in \
                            database.url_file";
                return Err(Refused(need.into()).into());
            }
            url.clone()
        }
        (None, Some(file)) => std::fs::read_to_string(file)
            .with_context(|| format!("database.url_file {}", file.display()))?
            .trim_end()
            .to_owned(),
        _ => return Err(Refused("database: give either url or url_file".into()).into()),
    };
    if let Some(path) = url.strip_prefix("sqlite:") {
        Ok(Place::Sqlite(path.into()))
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        Ok(Place::Postgres(PostgresOptions::new(&url)?))
    } else {
        // The value is not repeated, for it may hold a password.
        Err(Refused("database URL must begin with postgres:// or sqlite:".into()).into())
    }
}

/// Opens the database; its schema must be there.
pub(crate) async fn open_store(section: &DatabaseSection) -> Result<Arc<dyn KeyStore>> {
    Ok(match place(section)? {
        Place::Postgres(options) => Arc::new(PostgresStore::connect(&options).await?),
        Place::Sqlite(path) => Arc::new(SqliteStore::open(&path).await?),
    })
}

/// Brings the database's schema up to this program's.
pub(crate) async fn migrate_store(section: &DatabaseSection) -> Result<()> {
    let mut random = [0; 10];
    SystemRandom.fill(&mut random)?;
    let incarnation = Incarnation::new(SystemClock.wall_millis(), &random);
    match place(section)? {
        Place::Postgres(options) => PostgresStore::migrate(&options, incarnation).await?,
        Place::Sqlite(path) => SqliteStore::migrate(&path, incarnation).await?,
    }
    Ok(())
}
