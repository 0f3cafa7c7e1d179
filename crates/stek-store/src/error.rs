//! What can go wrong with a database, by what the caller can do about it.

use stek_core::name::KeysetName;

/// A read that failed, or a database that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The database does not answer, or not in time: try again later.
    #[error("database is unreachable")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The schema is not there, or older than this program: run `stekd migrate`.
    #[error("database lacks our schema: run `stekd migrate`")]
    NotMigrated,
    /// The schema is one that this program cannot read.
    #[error(
        "database schema {found} can be read from version {readable_from} on, this program has {ours}"
    )]
    Schema {
        /// The version of the schema in the database.
        found: i64,
        /// The oldest program schema that can read it.
        readable_from: i64,
        /// The version this program was made for.
        ours: i64,
    },
    /// A row breaks a rule of the domain: somebody else wrote it, or it is damaged.
    #[error("row of {table} is not sound: {what}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// The rule that it breaks, without secrets.
        what: String,
    },
    /// Anything else that the database says.
    #[error("database refused {operation}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// A commit that was not applied.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The keyset has another revision than it was read at: read it again.
    #[error("keyset {0} has changed since it was read")]
    Conflict(KeysetName),
    /// The audit trail begins at this line or a later one already.
    #[error("the audit trail is pruned to a later line than {0} already")]
    Pruned(u64),
    /// A keyset of this name exists.
    #[error("keyset {0} exists already")]
    Exists(KeysetName),
    /// No keyset of this name exists.
    #[error("no keyset {0}")]
    NotFound(KeysetName),
    /// The change breaks an invariant that the database holds, such as overlapping periods.
    #[error("keyset {keyset} would break {constraint}")]
    Invariant {
        /// The keyset, as far as the database tells.
        keyset: String,
        /// The constraint's name.
        constraint: String,
    },
    /// The database itself.
    #[error(transparent)]
    Store(#[from] StoreError),
}
