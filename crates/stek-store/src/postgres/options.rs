//! How to reach a database. The URL may hold a password, so nothing here shows it.

use std::fmt;
use std::time::Duration;

use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use crate::sql::refused;
use crate::{DEFAULT_TIME_OUT, StoreError};

/// The parameters that a URL may have. The driver would log others with their values.
const PARAMETERS: [&str; 20] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "options[search_path]",
    "options[role]",
];

/// How to reach PostgreSQL, and how long to wait for it.
#[derive(Clone)]
pub struct PostgresOptions {
    connect: PgConnectOptions,
    pub(super) time_out: Duration,
    pub(super) max_connections: u32,
}

impl fmt::Debug for PostgresOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresOptions")
            .field("place", &self.place())
            .field("time_out", &self.time_out)
            .field("max_connections", &self.max_connections)
            .finish()
    }
}

impl PostgresOptions {
    /// Reads `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=…`.
    /// `sslmode` decides about TLS; what is left out comes from the variables and the password file
    /// of libpq.
    ///
    /// # Errors
    /// [`StoreError::Refused`] if it is no such URL, or has a parameter that is unknown. Only the
    /// parameter's name is repeated.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        const OPERATION: &str = "its URL";
        let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
        let rest = rest.ok_or_else(|| refused(OPERATION, "it does not begin with postgres://"))?;
        // Else the end of a password passes for a path or a parameter, and is shown.
        let tail = rest.find(['/', '?', '#']).map_or("", |end| &rest[end..]);
        if tail.contains(['@', '#']) {
            let why = "after the host '@' and '#' are written %40 and %23, and in a password '/', \
                       '?' and '#' are written %2F, %3F and %23";
            return Err(refused(OPERATION, why));
        }
        let (_, query) = url.split_once('?').unwrap_or((url, ""));
        let names = query.split('&').map(|pair| pair.split_once('=').map_or(pair, |pair| pair.0));
        if let Some(name) = names.filter(|name| !name.is_empty()).find(|name| !is_known(name)) {
            return Err(refused(OPERATION, format!("unknown parameter {name:?}")));
        }
        let connect: PgConnectOptions =
            url.parse().map_err(|_| refused(OPERATION, "it is not well-formed"))?;
        Ok(Self { connect, time_out: DEFAULT_TIME_OUT, max_connections: 8 })
    }

    /// How long one operation may take, waiting for a connection included; 10 s unless set.
    #[must_use]
    pub fn with_time_out(mut self, time_out: Duration) -> Self {
        self.time_out = time_out;
        self
    }

    /// How many connections the store may hold; 8 unless set, at least 1.
    #[must_use]
    pub fn with_max_connections(mut self, max_connections: u32) -> Self {
        self.max_connections = max_connections.max(1);
        self
    }

    /// Host, port and database, for messages.
    pub fn place(&self) -> String {
        let host = match self.connect.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.connect.get_host().to_owned(),
        };
        let database = self.connect.get_database().unwrap_or("");
        format!("{host}:{}/{database}", self.connect.get_port())
    }

    /// With limits that the server holds too, should this program be gone: no statement and no idle
    /// transaction outlasts `time_out`, and no wait for a lock half of it.
    pub(super) fn connect_options(&self, time_out: Duration) -> PgConnectOptions {
        let whole = time_out.as_millis().max(1);
        let connect = match self.connect.get_application_name() {
            Some(_) => self.connect.clone(),
            None => self.connect.clone().application_name("stekd"),
        };
        connect.disable_statement_logging().options([
            ("statement_timeout", whole),
            ("lock_timeout", whole.div_ceil(2)),
            ("idle_in_transaction_session_timeout", whole),
        ])
    }
}

fn is_known(name: &str) -> bool {
    PARAMETERS.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_shows_the_password() {
        let url = "postgres://stek:hunter2@db.example.org:5433/keys?password=hunter2";
        let options = PostgresOptions::new(url).unwrap();
        assert_eq!(options.place(), "db.example.org:5433/keys");
        assert!(!format!("{options:?}").contains("hunter2"), "{options:?}");
        for bad in [
            "mysql://stek:hunter2@db/keys",
            "postgres://stek:hunter2@db:port/keys",
            "postgres://db/keys?sslmode=hunter2",
            "postgres://db/keys?pasword=hunter2",
            "postgres://stek:a?hunter2@db/keys",
            "postgres://stek:a?hunter2=1@db/keys",
            "postgres://stek:12/hunter2@db/keys",
            "postgres://stek:12#hunter2@db/keys",
            "hunter2",
        ] {
            let error = PostgresOptions::new(bad).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            let shown = format!("{error} {error:?} {source}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
