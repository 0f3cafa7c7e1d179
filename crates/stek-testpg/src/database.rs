//! Fresh databases, one per test, so that tests share a server and nothing else.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::server::PostgresServer;

/// How long an operation on a server may take before it counts as failed.
const TIME_OUT: Duration = Duration::from_secs(60);

/// The same for the drop of a forgotten database, which nobody waits for.
const BEST_EFFORT_TIME_OUT: Duration = Duration::from_secs(10);

/// A database that was created empty for one test. Dropping the value drops the database, blocking
/// and without an error when that fails; [`TestDatabase::drop_now`] is the orderly way.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    url: String,
    /// The maintenance database; `None` once this database has been dropped.
    server_url: Option<String>,
}

impl TestDatabase {
    /// The URL of the database.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The name of the database, unique over processes and machines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection of its own, for what a test does past the program.
    ///
    /// # Errors
    ///
    /// The server does not answer.
    pub async fn connect(&self) -> anyhow::Result<Session> {
        Ok(Session(PgConnection::connect(&self.url).await?))
    }

    /// Drops the database now, and cuts what is still connected to it.
    ///
    /// # Errors
    ///
    /// The server does not answer or refuses.
    pub async fn drop_now(mut self) -> anyhow::Result<()> {
        match self.server_url.take() {
            Some(server_url) => drop_database(&server_url, &self.name, TIME_OUT).await,
            None => Ok(()),
        }
    }
}

/// A connection to a [`TestDatabase`].
#[derive(Debug)]
pub struct Session(PgConnection);

impl Session {
    /// Runs statements; returns how many rows they changed.
    ///
    /// # Errors
    ///
    /// The server refuses them.
    pub async fn execute(&mut self, statements: &str) -> anyhow::Result<u64> {
        let done = sqlx::raw_sql(AssertSqlSafe(statements.to_owned())).execute(&mut self.0).await?;
        Ok(done.rows_affected())
    }

    /// The one number that a query gives.
    ///
    /// # Errors
    ///
    /// The server refuses it, or it gives something else.
    pub async fn number(&mut self, query: &str) -> anyhow::Result<i64> {
        let query = sqlx::query_scalar(AssertSqlSafe(query.to_owned()));
        Ok(query.fetch_one(&mut self.0).await?)
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(server_url) = self.server_url.take() else { return };
        let name = std::mem::take(&mut self.name);
        // A thread of its own, since this may run inside a runtime that must not be entered twice.
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(drop_database(&server_url, &name, BEST_EFFORT_TIME_OUT))
        });
        let _ = dropping.join();
    }
}

/// Creates a database on the server of [`PostgresServer::shared`].
///
/// # Errors
///
/// There is no server, it does not answer, or its user may not create databases.
pub async fn create_database() -> anyhow::Result<TestDatabase> {
    // Starting a server blocks for seconds.
    let url = tokio::task::spawn_blocking(PostgresServer::shared).await??;
    create_database_on(url).await
}

/// Creates a database on the server with this URL, from the pristine `template0`.
///
/// # Errors
///
/// The server does not answer, or its user may not create databases.
pub async fn create_database_on(server_url: &str) -> anyhow::Result<TestDatabase> {
    let name = unique_name()?;
    execute(server_url, format!("CREATE DATABASE {name} TEMPLATE template0"), TIME_OUT)
        .await
        .context("cannot create a test database")?;
    let url = with_database(server_url, &name);
    Ok(TestDatabase { name, url, server_url: Some(server_url.to_owned()) })
}

async fn drop_database(server_url: &str, name: &str, time_out: Duration) -> anyhow::Result<()> {
    execute(server_url, format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"), time_out)
        .await
        .with_context(|| format!("cannot drop the test database {name}"))
}

async fn execute(server_url: &str, statement: String, time_out: Duration) -> anyhow::Result<()> {
    let work = async {
        let mut connection = PgConnection::connect(server_url).await?;
        // Safe: the only variable part is a name of `unique_name`.
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await
    };
    Ok(tokio::time::timeout(time_out, work).await.context("the server takes too long")??)
}

/// Letters, digits and underscores only, at most 55 of the 63 bytes that PostgreSQL keeps.
fn unique_name() -> anyhow::Result<String> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut random = [0; 8];
    getrandom::fill(&mut random).context("no random source")?;
    let random = u64::from_ne_bytes(random);
    Ok(format!("stek_test_{}_{count}_{random:016x}", std::process::id()))
}

/// The same URL with another database: in the path, and without the parameter that overrides it.
fn with_database(server_url: &str, name: &str) -> String {
    let (base, query) = server_url.split_once('?').unwrap_or((server_url, ""));
    let authority = base.find("://").map_or(0, |scheme| scheme + "://".len());
    let path = base[authority..].find('/').map_or(base.len(), |slash| authority + slash);
    let kept: Vec<&str> = query
        .split('&')
        .filter(|parameter| !parameter.is_empty() && !parameter.starts_with("dbname="))
        .collect();
    let mark = if kept.is_empty() { "" } else { "?" };
    format!("{}/{name}{mark}{}", &base[..path], kept.join("&"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn only_the_database_of_a_url_is_replaced() {
        for (server, expected) in [
            ("postgres://u@h:5/postgres", "postgres://u@h:5/new"),
            ("postgres://u:p%2F@h", "postgres://u:p%2F@h/new"),
            ("postgres://h/", "postgres://h/new"),
            ("postgres:///old?host=/run/pg", "postgres:///new?host=/run/pg"),
            ("postgres://h/old?dbname=old&sslmode=require", "postgres://h/new?sslmode=require"),
            ("postgresql://h?dbname=old", "postgresql://h/new"),
        ] {
            assert_eq!(with_database(server, "new"), expected, "{server}");
        }
    }

    #[test]
    fn names_are_unique_and_need_no_quotes() {
        let names: BTreeSet<String> = (0..100).map(|_| unique_name().unwrap()).collect();
        assert_eq!(names.len(), 100);
        for name in names {
            assert!(name.len() <= 63, "{name}");
            assert!(
                name.bytes().all(|b| b == b'_' || b.is_ascii_digit() || b.is_ascii_lowercase())
            );
        }
    }
}
