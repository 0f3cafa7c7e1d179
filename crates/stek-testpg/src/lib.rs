//! A real PostgreSQL for tests: the server that `STEK_TEST_DATABASE_URL` names, else a throwaway
//! cluster of the server programs on this machine, else a container, else freshly installed
//! programs. What was started for a test ends with the test process, however that process ends.
//!
//! A throwaway cluster trusts every local connection: it holds test data and nothing else.

mod account;
mod apt;
mod cluster;
mod container;
#[cfg(feature = "databases")]
mod database;
mod ladder;
mod machine;
mod server;
mod watchdog;

pub use cluster::free_port;
#[cfg(feature = "databases")]
pub use database::{Session, TestDatabase, create_database, create_database_on};
pub use ladder::DATABASE_URL_VARIABLE;
pub use server::PostgresServer;
