//! What the SQL stores share: columns in and out of the domain, and errors by what they mean.

mod column;
mod failure;
mod record;

pub(crate) use column::{Column, SqlTime, as_signed, as_unsigned, key_id, to_uuid};
pub(crate) use failure::{
    Failure, bounded, migration_error, not_a_commit, reading, refused, writing,
};
pub(crate) use record::{
    AuditRecord, CheckpointRecord, ClusterRecord, EndedKeyRecord, GrantRecord, HandOverRecord,
    KeysetRecord, KnownKeyRecord, LiveKeyRecord, ReplicaRecord, SeedPhaseRecord, SeedRecord,
    TokenRecord, TombstoneRecord, assemble, collect, named_keys, sift,
};

use crate::{MAX_PAGE, SCHEMA_VERSION, StoreError};

/// Whether this program can use a schema of this version.
pub(crate) fn check_schema(found: i64, readable_from: i64) -> Result<(), StoreError> {
    if found < SCHEMA_VERSION {
        return Err(StoreError::NotMigrated);
    }
    if readable_from > SCHEMA_VERSION {
        return Err(StoreError::Schema { found, readable_from, ours: SCHEMA_VERSION });
    }
    Ok(())
}

/// The number of rows to ask for.
pub(crate) fn page(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_PAGE)).unwrap_or(i64::MAX)
}
