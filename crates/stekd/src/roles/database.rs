//! The database that a configuration names: PostgreSQL by its URL or SQLite by its path. A password
//! is taken from a file only, and never repeated.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use stek_clock::{Clock, SystemClock};
use stek_core::id::Incarnation;
use stek_custody::random::{RandomSource, SystemRandom};
use stek_store::{KeyStore, PostgresOptions, PostgresStore, SqliteStore, StoreError};

use crate::Refused;
use crate::config::DatabaseSection;

/// A database by its URL.
enum Place {
    Postgres(Box<PostgresOptions>),
    Sqlite(PathBuf),
}

/// As errors name it: without user, password and parameters.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(options) => write!(f, "postgres://{}", options.place()),
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
        }
    }
}

fn place(section: &DatabaseSection) -> Result<Place> {
    let url = match (&section.url, &section.url_file) {
        (Some(url), None) => {
            if holds_password(url) {
                let need = "database.url holds a password: put the URL into a file and name it in \
                            database.url_file";
                return Err(Refused(need.into()).into());
            }
            url.clone()
        }
        (None, Some(file)) => std::fs::read_to_string(file)
            .map_err(|error| Refused(format!("database.url_file {}: {error}", file.display())))?
            .trim_end()
            .to_owned(),
        _ => return Err(Refused("database: give either url or url_file".into()).into()),
    };
    let key = if section.url.is_some() { "database.url" } else { "the URL in database.url_file" };
    if let Some(path) = url.strip_prefix("sqlite:") {
        // As every path, relative to the folder of the file that it stands in. That of `url` is
        // anchored already.
        let folder = section.url_file.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        Ok(Place::Sqlite(folder.join(path)))
    } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
        let options = PostgresOptions::new(&url)
            .map_err(|error| Refused(format!("{key}: {:#}", anyhow::Error::new(error))))?;
        Ok(Place::Postgres(Box::new(options)))
    } else {
        // The value is not repeated, for it may hold a password.
        Err(Refused(format!("{key} must begin with postgres:// or sqlite:")).into())
    }
}

fn holds_password(url: &str) -> bool {
    let authority = url.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    authority.is_some_and(|(user, _)| user.contains(':')) || url.contains("password=")
}

/// Opens the database; its schema must be there.
pub(crate) async fn open(section: &DatabaseSection) -> Result<Arc<dyn KeyStore>> {
    let place = place(section)?;
    let named = place.to_string();
    let opened: Result<Arc<dyn KeyStore>, StoreError> = match place {
        Place::Postgres(options) => {
            PostgresStore::connect(&options).await.map(|store| Arc::new(store) as _)
        }
        Place::Sqlite(path) => SqliteStore::open(&path).await.map(|store| Arc::new(store) as _),
    };
    opened.context(named)
}

/// Brings the database's schema up to this program's.
pub(crate) async fn migrate(section: &DatabaseSection) -> Result<()> {
    let mut random = [0; 10];
    SystemRandom.fill(&mut random)?;
    let incarnation = Incarnation::new(SystemClock.wall_millis(), &random);
    let place = place(section)?;
    let named = place.to_string();
    let migrated = match place {
        Place::Postgres(options) => PostgresStore::migrate(&options, incarnation).await,
        Place::Sqlite(path) => SqliteStore::migrate(&path, incarnation).await,
    };
    migrated.context(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{self, ManagerConfig};

    fn sqlite_path(folder: &Path, database: &str) -> std::path::PathBuf {
        let file = folder.join("manager.toml");
        let rest = "[custody]\ncluster_secret_file = \"s\"\nstate_file = \"r\"\n[listen]\n\
                    address = \"127.0.0.1:0\"\n[metrics]\naddress = \"127.0.0.1:0\"\n";
        std::fs::write(&file, format!("[database]\n{database}\n{rest}")).unwrap();
        let config: ManagerConfig = config::read(&file).unwrap();
        match place(&config.database).unwrap() {
            Place::Sqlite(path) => path,
            Place::Postgres(_) => panic!("not SQLite"),
        }
    }

    #[test]
    fn a_relative_path_belongs_to_the_folder_of_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path();
        assert_eq!(sqlite_path(here, "url = \"sqlite:keys.db\""), here.join("keys.db"));
        std::fs::create_dir(here.join("database")).unwrap();
        std::fs::write(here.join("database/url"), "sqlite:keys.db\n").unwrap();
        let there = here.join("database/keys.db");
        assert_eq!(sqlite_path(here, "url_file = \"database/url\""), there);
        std::fs::write(here.join("database/url"), "sqlite:/var/lib/keys.db").unwrap();
        let absolute = Path::new("/var/lib/keys.db");
        assert_eq!(sqlite_path(here, "url_file = \"database/url\""), absolute);
    }
}
