//! `stekd db …`: what is done to the database while a manager is stopped.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_clock::SystemClock;
use stek_custody::custody::Custody;
use stek_custody::random::SystemRandom;
use stek_manager::accept_restore;

use crate::cli::{DbArgs, DbCommand};
use crate::commands::table;
use crate::config::{self, ManagerConfig};
use crate::roles::database;
use crate::roles::manager::read_cluster_secret;

/// Does what was asked and prints what came of it.
pub(crate) async fn run(asked: DbArgs) -> Result<()> {
    match asked.command {
        DbCommand::AcceptRestore(with) => accept(&with.config).await,
    }
}

async fn accept(config: &Path) -> Result<()> {
    let config: ManagerConfig = config::read(config)?;
    let cluster = Arc::new(read_cluster_secret(&config.custody)?);
    let custody = Custody::open(&config.custody.state_file, Arc::clone(&cluster)).context(
        "a manager that published before the restore must be stopped, and its state used",
    )?;
    let store = database::open(&config.database).await?;
    let (random, clock) = (SystemRandom, SystemClock);
    let incarnation = accept_restore(store.as_ref(), &cluster, &custody, &random, &clock).await?;
    table::line(&format!(
        "The database is now {incarnation}; start the manager. What was done since the backup is \
         undone: keys and tokens that were revoked since then hold again until they are revoked \
         again, and changes of policies and keysets have to be made again."
    ))
}
