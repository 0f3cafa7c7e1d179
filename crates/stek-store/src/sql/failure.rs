//! What a database says when something fails, by what the caller can do. Only code, message and
//! constraint are kept: PostgreSQL repeats whole rows in its details.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use sqlx::error::DatabaseError;
use sqlx::migrate::MigrateError;

use crate::changeset::broken;
use crate::{CommitError, StoreError};

/// A commit that failed on its way.
#[derive(Debug)]
pub(crate) enum Failure {
    Sql(sqlx::Error),
    Decided(CommitError),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl From<CommitError> for Failure {
    fn from(error: CommitError) -> Self {
        Self::Decided(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Decided(error.into())
    }
}

impl Failure {
    /// The constraint that the database names.
    pub(crate) fn constraint(&self) -> Option<&str> {
        let Self::Sql(error) = self else { return None };
        constraint_of(error.as_database_error()?)
    }

    /// Whether the same may succeed at once, nothing of it having happened.
    pub(crate) fn is_collision(&self) -> bool {
        let Self::Sql(error) = self else { return false };
        let code = error.as_database_error().and_then(|error| error.code());
        matches!(code.as_deref(), Some("40001" | "40P01"))
    }

    /// The error for the caller; `keysets` are those that the commit names.
    pub(crate) fn into_error(self, keysets: &str) -> CommitError {
        if let Some(constraint) = self.constraint() {
            return broken(keysets, constraint);
        }
        match self {
            Self::Sql(error) => writing("a commit")(error).into(),
            Self::Decided(error) => error,
        }
    }
}

fn constraint_of(error: &dyn DatabaseError) -> Option<&str> {
    if let Some(name) = error.constraint() {
        return Some(name);
    }
    // SQLite names a CHECK by its name and a key by its columns.
    let (_, what) = error.message().split_once(" constraint failed: ")?;
    Some(match what {
        "keysets.name" => "keysets_name_unique",
        "ticket_keys.id" => "ticket_keys_pkey",
        "ticket_keys.keyset_id, ticket_keys.kcv" => "ticket_keys_kcv_unique",
        "tokens.id" => "tokens_pkey",
        "tokens.hash" => "tokens_hash_unique",
        name => name,
    })
}

/// What a database said, without the rows it said it about.
struct Said {
    about: &'static str,
    code: String,
    message: String,
}

impl Said {
    fn new(about: &'static str, error: &dyn DatabaseError) -> Self {
        let code = error.code().unwrap_or_default().into_owned();
        Self { about, code, message: error.message().to_owned() }
    }
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (code {})", self.about, self.message, self.code)
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Said {}

/// Maps what went wrong while reading `table`.
pub(crate) fn reading(table: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| classify("a read", table, error)
}

/// Maps what went wrong while writing `about`.
pub(crate) fn writing(about: &'static str) -> impl Fn(sqlx::Error) -> StoreError {
    move |error| classify("a write", about, error)
}

fn classify(operation: &'static str, table: &'static str, error: sqlx::Error) -> StoreError {
    match error {
        sqlx::Error::Database(error) => {
            let said = Said::new(table, &*error);
            match meaning(&said) {
                Meaning::NoSchema => StoreError::NotMigrated,
                Meaning::Later => StoreError::Unreachable(Box::new(said)),
                Meaning::Refused => StoreError::Refused { operation, source: Box::new(said) },
            }
        }
        sqlx::Error::ColumnDecode { index, source } => {
            let column = index.trim_matches('"');
            StoreError::Corrupt { table, what: format!("column {column}: {source}") }
        }
        sqlx::Error::Decode(source) => StoreError::Corrupt { table, what: source.to_string() },
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreError::Unreachable(Box::new(error)),
        other => StoreError::Refused { operation, source: Box::new(other) },
    }
}

enum Meaning {
    NoSchema,
    Later,
    Refused,
}

/// Codes of PostgreSQL have five characters (its manual, appendix A), those of SQLite are numbers
/// with the primary code in the low byte.
fn meaning(said: &Said) -> Meaning {
    if said.code.len() == 5 {
        return match said.code.as_str() {
            // Undefined table or schema.
            "42P01" | "3F000" => Meaning::NoSchema,
            // Collisions, too many connections, a standby, time-outs, a shutdown.
            "40001" | "40P01" | "53300" | "25006" | "25P03" | "55P03" | "57014" => Meaning::Later,
            code if code.starts_with("08") || code.starts_with("57P") => Meaning::Later,
            _ => Meaning::Refused,
        };
    }
    match said.code.parse::<u32>().map(|code| code & 0xff) {
        Ok(1) if said.message.starts_with("no such table") => Meaning::NoSchema,
        // Busy, locked.
        Ok(5 | 6) => Meaning::Later,
        _ => Meaning::Refused,
    }
}

/// Maps what went wrong while migrating.
pub(crate) fn migration_error(error: MigrateError) -> StoreError {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
            writing("migration")(error)
        }
        other => refused("a migration", other.to_string()),
    }
}

/// An error of our own words about something that no database is asked for.
pub(crate) fn refused(operation: &'static str, why: impl Into<String>) -> StoreError {
    StoreError::Refused { operation, source: why.into().into() }
}

/// The error of a transaction that changes no keyset.
pub(crate) fn not_a_commit(operation: &'static str) -> impl FnOnce(Failure) -> StoreError {
    move |failure| match failure.into_error("") {
        CommitError::Store(error) => error,
        other => refused(operation, other.to_string()),
    }
}

/// Waits for `work` no longer than `time_out`.
pub(crate) async fn bounded<T, E: From<StoreError>>(
    time_out: Duration,
    work: impl Future<Output = Result<T, E>> + Send,
) -> Result<T, E> {
    match tokio::time::timeout(time_out, work).await {
        Ok(result) => result,
        Err(_) => {
            Err(StoreError::Unreachable(format!("no answer within {time_out:?}").into()).into())
        }
    }
}
