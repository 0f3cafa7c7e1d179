//! Single columns: instants, numbers, identifiers and bytes of fixed length.

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgTypeInfo, PgValueRef};
use sqlx::sqlite::{SqliteArgumentsBuffer, SqliteTypeInfo, SqliteValueRef};
use sqlx::{Database, Decode, Encode, Postgres, Sqlite, Type};
use stek_core::id::KeyId;
use stek_core::time::Timestamp;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::StoreError;

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts.
const POSTGRES_EPOCH: i64 = 946_684_800;

/// An instant: `timestamptz` in PostgreSQL, whole seconds since the Unix epoch in SQLite.
///
/// One that is no instant of the domain is kept as what is wrong with it, so that it makes its own
/// row unsound and not all that are read with it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SqlTime(Result<Timestamp, &'static str>);

impl SqlTime {
    pub(crate) const fn of(instant: Timestamp) -> Self {
        Self(Ok(instant))
    }

    /// The instant of a column, or the row is corrupt.
    pub(crate) fn read(self, table: &'static str, column: &str) -> Result<Timestamp, StoreError> {
        self.0.map_err(|why| StoreError::Corrupt { table, what: format!("column {column}: {why}") })
    }

    fn from_unix(seconds: i64) -> Self {
        let Ok(unix) = u64::try_from(seconds) else { return Self(Err("before 1970")) };
        let instant = Timestamp::from_unix(unix);
        let fits = as_signed(instant.as_unix()) == seconds;
        Self(if fits { Ok(instant) } else { Err("after the year 9999") })
    }

    /// The same for a parameter of a checked query.
    pub(crate) fn to_postgres(instant: Timestamp) -> OffsetDateTime {
        // A timestamp ends with the year 9999, as does the type.
        OffsetDateTime::from_unix_timestamp(as_signed(instant.as_unix()))
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

impl Type<Postgres> for SqlTime {
    fn type_info() -> PgTypeInfo {
        <OffsetDateTime as Type<Postgres>>::type_info()
    }
}

impl Decode<'_, Postgres> for SqlTime {
    /// From microseconds since the year 2000. The driver's own type panics at infinity.
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let micros = <i64 as Decode<Postgres>>::decode(value)?;
        if micros == i64::MAX || micros == i64::MIN {
            return Ok(Self(Err("an infinite instant")));
        }
        if micros % 1_000_000 != 0 {
            return Ok(Self(Err("a fraction of a second")));
        }
        Ok(Self::from_unix(micros / 1_000_000 + POSTGRES_EPOCH))
    }
}

impl Type<Sqlite> for SqlTime {
    fn type_info() -> SqliteTypeInfo {
        <i64 as Type<Sqlite>>::type_info()
    }
}

impl Decode<'_, Sqlite> for SqlTime {
    fn decode(value: SqliteValueRef<'_>) -> Result<Self, BoxDynError> {
        Ok(Self::from_unix(<i64 as Decode<Sqlite>>::decode(value)?))
    }
}

impl Encode<'_, Sqlite> for SqlTime {
    fn encode_by_ref(&self, buffer: &mut SqliteArgumentsBuffer) -> Result<IsNull, BoxDynError> {
        let instant = self.0?;
        <i64 as Encode<Sqlite>>::encode(as_signed(instant.as_unix()), buffer)
    }
}

/// A column of which nothing is believed before its row is read: one that is null, or that does not
/// decode, is kept as what is wrong with it, so that it makes its own row unsound and not all that
/// are read with it.
#[derive(Debug)]
pub(crate) struct Column<T>(Result<T, String>);

impl<T> Column<T> {
    /// The value, or the row is corrupt.
    pub(crate) fn read(self, table: &'static str, column: &str) -> Result<T, StoreError> {
        self.0.map_err(|why| StoreError::Corrupt { table, what: format!("column {column}: {why}") })
    }
}

impl<DB: Database, T: Type<DB>> Type<DB> for Column<T> {
    fn type_info() -> DB::TypeInfo {
        T::type_info()
    }

    fn compatible(ty: &DB::TypeInfo) -> bool {
        T::compatible(ty)
    }
}

impl<'r, DB: Database, T: Decode<'r, DB>> Decode<'r, DB> for Column<T> {
    fn decode(value: DB::ValueRef<'r>) -> Result<Self, BoxDynError> {
        Ok(Self(T::decode(value).map_err(|error| error.to_string())))
    }
}

/// A number of the domain as a column holds it. None of them comes near 2⁶³; a cursor may.
pub(crate) fn as_signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number of a column, or the row is corrupt.
pub(crate) fn as_unsigned(
    table: &'static str,
    column: &str,
    number: i64,
) -> Result<u64, StoreError> {
    u64::try_from(number)
        .map_err(|_| StoreError::Corrupt { table, what: format!("{column} is {number}") })
}

/// Bytes of a column that must have this length, or the row is corrupt.
pub(crate) fn array<const N: usize>(
    table: &'static str,
    column: &str,
    bytes: &[u8],
) -> Result<[u8; N], StoreError> {
    bytes.try_into().map_err(|_| StoreError::Corrupt {
        table,
        what: format!("{column} has {} bytes, not {N}", bytes.len()),
    })
}

/// The identity as a column holds it.
pub(crate) fn to_uuid(id: KeyId) -> Uuid {
    Uuid::from_bytes(*id.as_bytes())
}

/// The identity in a column.
pub(crate) fn key_id(uuid: Uuid) -> KeyId {
    KeyId::from_bytes(uuid.into_bytes())
}
