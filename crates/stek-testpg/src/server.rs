//! A server for tests, wherever it comes from.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Context, anyhow, bail};

use crate::apt;
use crate::cluster::{Cluster, Recovery};
use crate::container::{Container, IMAGE};
use crate::ladder::{self, DATABASE_URL_VARIABLE, Rung};
use crate::machine::ThisMachine;

/// A PostgreSQL server whose user may create databases. One that was started for this value ends
/// with it, and with this process if that is killed first.
#[derive(Debug)]
pub struct PostgresServer {
    origin: Origin,
    url: String,
    description: String,
}

#[derive(Debug)]
enum Origin {
    Given,
    Cluster(Cluster),
    Container(#[expect(dead_code, reason = "held for its drop")] Container),
}

impl PostgresServer {
    /// Takes the server that [`DATABASE_URL_VARIABLE`] names, which is not contacted here; else
    /// starts one as [`PostgresServer::start_throwaway`] does.
    ///
    /// Blocks for some seconds when a server is started, for longer when it has to be installed.
    ///
    /// # Errors
    ///
    /// There is no PostgreSQL and no way to get one; or what there is does not start.
    pub fn start() -> anyhow::Result<Self> {
        Self::take(ladder::choose(&ThisMachine)?)
    }

    /// Starts a server of our own, whatever [`DATABASE_URL_VARIABLE`] says: a throwaway cluster of
    /// server programs on this machine; else a container; else, as root on Debian or Ubuntu, a
    /// cluster of programs that are installed now. For tests that stop their server.
    ///
    /// # Errors
    ///
    /// There is no PostgreSQL and no way to get one; or what there is does not start.
    pub fn start_throwaway() -> anyhow::Result<Self> {
        Self::take(ladder::choose_throwaway(&ThisMachine)?)
    }

    /// Starts a cluster of our own that archives its write-ahead log, for tests that look at what a
    /// database leaves behind.
    ///
    /// # Errors
    ///
    /// There are no server programs on this machine and none can be installed; or they do not start.
    pub fn start_archiving() -> anyhow::Result<Self> {
        let programs = programs()?;
        Ok(Self::of_cluster(Cluster::start_archiving(&programs)?, &programs))
    }

    /// Starts a cluster of our own on a copy of a base backup.
    ///
    /// # Errors
    ///
    /// As for [`PostgresServer::start_archiving`].
    pub fn start_from_backup(backup: &Path) -> anyhow::Result<Self> {
        let programs = programs()?;
        Ok(Self::of_cluster(Cluster::start_from(&programs, backup)?, &programs))
    }

    /// Starts a cluster of our own on a copy of a base backup, with what is in the archive of the log
    /// replayed up to the restore point `point`.
    ///
    /// # Errors
    ///
    /// As for [`PostgresServer::start_archiving`]; the archive does not come as far as the point; or
    /// the programs are older than PostgreSQL 12.
    pub fn start_from_archive(backup: &Path, archive: &Path, point: &str) -> anyhow::Result<Self> {
        let programs = programs()?;
        let from = Recovery { backup, archive, point };
        Ok(Self::of_cluster(Cluster::recover(&programs, from)?, &programs))
    }

    /// Makes a base backup of the running server, named `name`; returns its folder, which goes with
    /// the server.
    ///
    /// # Errors
    ///
    /// The server is no throwaway cluster, or the backup fails.
    pub fn backup(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        self.cluster()?.backup(name)
    }

    /// The folder of a throwaway cluster, with its data, its archive and its backups.
    ///
    /// # Errors
    ///
    /// The server is no throwaway cluster.
    pub fn files(&mut self) -> anyhow::Result<PathBuf> {
        Ok(self.cluster()?.directory().to_owned())
    }

    /// The URL of the one server of this process, as [`PostgresServer::start`] finds it at the
    /// first call. A server started for this ends with the process.
    ///
    /// # Errors
    ///
    /// Those of [`PostgresServer::start`]; later calls repeat the error of the first.
    pub fn shared() -> anyhow::Result<&'static str> {
        static SHARED: OnceLock<Result<PostgresServer, String>> = OnceLock::new();
        match SHARED.get_or_init(|| Self::start().map_err(|error| format!("{error:#}"))) {
            Ok(server) => Ok(server.url()),
            Err(text) => Err(anyhow!(text.clone())),
        }
    }

    /// The URL of the maintenance database. Stays the same over [`PostgresServer::restart`].
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where the server comes from, for one line of a log. Tells no part of a given URL.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Ends the server as a crash would: connections are cut, nothing is written any more. What
    /// was committed is there again after [`PostgresServer::restart`].
    ///
    /// # Errors
    ///
    /// The server is no throwaway cluster, or is not running.
    pub fn stop_immediate(&mut self) -> anyhow::Result<()> {
        self.cluster()?.stop_immediate()
    }

    /// Starts the server that [`PostgresServer::stop_immediate`] ended, with the same data and
    /// port, and returns when it accepts connections.
    ///
    /// # Errors
    ///
    /// The server is no throwaway cluster, is running, or does not start, for example because its
    /// port was taken meanwhile.
    pub fn restart(&mut self) -> anyhow::Result<()> {
        self.cluster()?.start_again()
    }

    fn cluster(&mut self) -> anyhow::Result<&mut Cluster> {
        match &mut self.origin {
            Origin::Cluster(cluster) => Ok(cluster),
            Origin::Given | Origin::Container(_) => {
                bail!("only a throwaway cluster can be stopped; this is a {}", self.description)
            }
        }
    }

    fn take(rung: Rung) -> anyhow::Result<Self> {
        match rung {
            Rung::Given(url) => {
                let description = format!("server given by {DATABASE_URL_VARIABLE}");
                Ok(Self { origin: Origin::Given, url, description })
            }
            Rung::Programs(programs) => Self::start_cluster(&programs),
            Rung::Container => {
                let container = Container::start(OsStr::new("docker"))?;
                let address = container.address();
                let description = format!("throwaway container of {IMAGE} on {address}");
                Ok(Self::own(Origin::Container(container), address, description))
            }
            Rung::Install => Self::start_cluster(&installed()?),
        }
    }

    fn start_cluster(programs: &Path) -> anyhow::Result<Self> {
        Ok(Self::of_cluster(Cluster::start(programs)?, programs))
    }

    fn of_cluster(cluster: Cluster, programs: &Path) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], cluster.port()));
        let description = format!("throwaway cluster of {} on {address}", programs.display());
        Self::own(Origin::Cluster(cluster), address, description)
    }

    fn own(origin: Origin, address: SocketAddr, description: String) -> Self {
        Self { origin, url: format!("postgres://postgres@{address}/postgres"), description }
    }
}

/// Server programs on this machine, installed if need be.
fn programs() -> anyhow::Result<PathBuf> {
    match ladder::choose_throwaway(&ThisMachine)? {
        Rung::Programs(directory) => Ok(directory),
        Rung::Install => installed(),
        Rung::Given(_) | Rung::Container => bail!("server programs on this machine are needed"),
    }
}

fn installed() -> anyhow::Result<PathBuf> {
    apt::install_postgresql()?;
    ladder::server_programs(&ThisMachine)
        .context("the package `postgresql` brought no server programs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_given_server_is_used_as_it_is_and_cannot_be_stopped() {
        let url = "postgres://tester:secret@db.example/maintenance?sslmode=require";
        let mut server = PostgresServer::take(Rung::Given(url.to_owned())).unwrap();
        assert_eq!(server.url(), url);
        assert!(!server.description().contains("secret"));
        assert!(server.stop_immediate().is_err());
        assert!(server.restart().is_err());
    }
}
