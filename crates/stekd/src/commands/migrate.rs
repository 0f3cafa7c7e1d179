//! `stekd migrate`.

use std::path::Path;

use anyhow::Result;

use crate::commands::progress;
use crate::config::{self, DatabaseConfig};
use crate::roles::database;

/// Brings the schema up to date.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let config: DatabaseConfig = config::read(path)?;
    let words = || "bringing the schema up to date".to_owned();
    progress::show(words, database::migrate(&config.database)).await?;
    tracing::info!("the schema is up to date");
    Ok(())
}
