//! A throwaway cluster of server programs that lie on this machine.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use tempfile::TempDir;

use crate::account;
use crate::watchdog::Watchdog;

/// How many ports are tried. Another process may take a port between our look and the server's.
const PORTS_TRIED: u32 = 8;

/// Which ports are chosen from.
const PORTS: Range<u16> = 20_000..32_000;

/// How many of the last lines of a log an error repeats.
const LOG_LINES: usize = 12;

/// A cluster with one port for its whole life. Dropping it stops the server and removes the files.
#[derive(Debug)]
pub(crate) struct Cluster {
    // Dropped first: its script removes what the directory's own drop then no longer finds.
    watchdog: Watchdog,
    directory: TempDir,
    port: u16,
}

/// What a cluster begins with.
#[derive(Debug, Clone, Copy)]
enum Beginning<'a> {
    Empty,
    Archiving,
    Backup(&'a Path),
    Archive(Recovery<'a>),
}

/// What a cluster is recovered from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recovery<'a> {
    /// A base backup.
    pub(crate) backup: &'a Path,
    /// Where the log since then is archived.
    pub(crate) archive: &'a Path,
    /// The restore point to which it is replayed.
    pub(crate) point: &'a str,
}

impl Cluster {
    /// Creates a cluster with the programs in `programs` and starts it.
    ///
    /// # Errors
    ///
    /// A program fails; the end of its log is in the text.
    pub(crate) fn start(programs: &Path) -> anyhow::Result<Self> {
        Self::start_on(programs, Beginning::Empty, free_port)
    }

    /// [`Cluster::start`], archiving what it logs in [`Cluster::archive`].
    pub(crate) fn start_archiving(programs: &Path) -> anyhow::Result<Self> {
        Self::start_on(programs, Beginning::Archiving, free_port)
    }

    /// [`Cluster::start`] on a copy of this base backup.
    pub(crate) fn start_from(programs: &Path, backup: &Path) -> anyhow::Result<Self> {
        Self::start_on(programs, Beginning::Backup(backup), free_port)
    }

    /// [`Cluster::start`] on what [`Recovery`] leads to; needs PostgreSQL 12 or later.
    pub(crate) fn recover(programs: &Path, from: Recovery<'_>) -> anyhow::Result<Self> {
        Self::start_on(programs, Beginning::Archive(from), free_port)
    }

    /// [`Cluster::start`] on the first port of `pick_port` that is really free.
    fn start_on(
        programs: &Path,
        beginning: Beginning<'_>,
        mut pick_port: impl FnMut() -> anyhow::Result<u16>,
    ) -> anyhow::Result<Self> {
        let account =
            if rustix::process::geteuid().is_root() { Some(account::for_root()?) } else { None };
        let directory = account::temporary_directory(account)?;
        let script = include_str!("cluster.sh");
        let arguments = [programs.as_os_str(), directory.path().as_os_str()];
        let watchdog = Watchdog::start(script, &arguments, account)?;
        let mut cluster = Self { watchdog, directory, port: 0 };

        match beginning {
            Beginning::Empty | Beginning::Archiving => {
                cluster.order("initialise", "control.log")?;
            }
            Beginning::Backup(backup) | Beginning::Archive(Recovery { backup, .. }) => {
                cluster.order(&format!("adopt {}", backup.display()), "control.log")?;
            }
        }
        match beginning {
            Beginning::Archiving => {
                std::fs::create_dir(cluster.archive()).context("cannot make the archive")?;
                hand_over(&cluster.archive(), account)?;
            }
            Beginning::Archive(_) => {
                let signal = cluster.directory().join("data/recovery.signal");
                std::fs::write(&signal, "").context("cannot ask for a recovery")?;
                hand_over(&signal, account)?;
            }
            Beginning::Empty | Beginning::Backup(_) => {}
        }
        cluster.write_settings(beginning).context("cannot write the settings of the cluster")?;
        if let Beginning::Archive(_) = beginning {
            cluster.order("recover", "control.log")?;
        }
        for _ in 0..PORTS_TRIED {
            cluster.port = pick_port()?;
            match cluster.start_again() {
                Ok(()) => return Ok(cluster),
                Err(_) if cluster.log("server.log").contains("could not bind") => {}
                Err(error) => return Err(error),
            }
        }
        bail!("{PORTS_TRIED} ports were free, and taken before the server could bind them")
    }

    /// The port on 127.0.0.1.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where data, archive and backups lie.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Where the log is archived, if it is.
    pub(crate) fn archive(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    /// Makes a base backup of the running server; returns where it is.
    pub(crate) fn backup(&mut self, name: &str) -> anyhow::Result<PathBuf> {
        self.order(&format!("backup {} {name}", self.port), "control.log")?;
        Ok(self.directory.path().join(name))
    }

    /// Ends the server as a crash would: no checkpoint, connections cut.
    pub(crate) fn stop_immediate(&mut self) -> anyhow::Result<()> {
        self.order("stop", "control.log")
    }

    /// Starts the stopped server on its old port and data, and waits until it accepts connections.
    pub(crate) fn start_again(&mut self) -> anyhow::Result<()> {
        self.order(&format!("start {}", self.port), "server.log")
    }

    fn order(&mut self, order: &str, log: &str) -> anyhow::Result<()> {
        let outcome = self.watchdog.order(order);
        outcome.map(drop).with_context(|| {
            let text = self.log(log);
            let lines: Vec<&str> = text.lines().collect();
            let end = &lines[lines.len().saturating_sub(LOG_LINES)..];
            format!("the throwaway PostgreSQL cluster fails; its log ends:\n{}", end.join("\n"))
        })
    }

    fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.path().join(name)).unwrap_or_default()
    }

    /// Commits stay synchronous: what was committed has to survive [`Cluster::stop_immediate`],
    /// for which the page cache of the operating system suffices.
    fn write_settings(&self, beginning: Beginning<'_>) -> anyhow::Result<()> {
        let socket_directory = quoted(self.directory.path());
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{socket_directory}'\n\
             max_connections = 200\nfsync = off\n"
        );
        // A backup has the settings of the server that it is of.
        let archiving = match beginning {
            Beginning::Archiving => {
                let archive = quoted(&self.archive());
                format!("archive_mode = on\narchive_command = 'cp \"%p\" \"{archive}/%f\"'\n")
            }
            Beginning::Archive(Recovery { archive, point, .. }) => {
                let archive = quoted(archive);
                format!(
                    "archive_mode = off\nrestore_command = 'cp \"{archive}/%f\" \"%p\"'\n\
                     recovery_target_name = '{point}'\nrecovery_target_action = promote\n"
                )
            }
            Beginning::Empty | Beginning::Backup(_) => "archive_mode = off\n".to_owned(),
        };
        let file = PathBuf::from(self.directory.path()).join("data/postgresql.conf");
        let mut file = std::fs::OpenOptions::new().append(true).open(file)?;
        Ok(file.write_all((settings + &archiving).as_bytes())?)
    }
}

/// A path within the single quotes of a setting.
fn quoted(path: &Path) -> String {
    path.display().to_string().replace('\'', "''")
}

/// Gives what was made for the cluster to whom its programs run as.
fn hand_over(path: &Path, account: Option<account::Account>) -> anyhow::Result<()> {
    let Some(account::Account { uid, gid }) = account else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .with_context(|| format!("cannot hand {} to the user of the cluster", path.display()))
}

/// A port of 127.0.0.1 that is free at this moment, below those that the system gives to whoever
/// asks for any, so that a server which stops for a while finds it again.
///
/// # Errors
/// None of those that were tried is free.
pub fn free_port() -> anyhow::Result<u16> {
    for _ in 0..PORTS_TRIED {
        // As random as the keys of hash maps.
        let random = RandomState::new().build_hasher().finish();
        let port = PORTS.start + u16::try_from(random % PORTS.len() as u64)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("none of {PORTS_TRIED} ports is free")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ladder::server_programs;
    use crate::machine::ThisMachine;

    #[test]
    fn a_port_taken_in_between_is_replaced() {
        let Some(programs) = server_programs(&ThisMachine) else {
            eprintln!("skipped: no server programs on this machine");
            return;
        };
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken_port = taken.local_addr().unwrap().port();
        let mut picks = 0;
        let cluster = Cluster::start_on(&programs, Beginning::Empty, || {
            picks += 1;
            if picks == 1 { Ok(taken_port) } else { free_port() }
        })
        .unwrap();
        assert!(picks >= 2);
        assert_ne!(cluster.port(), taken_port);
    }

    #[test]
    fn failing_programs_are_reported() {
        let empty = tempfile::tempdir().unwrap();
        let error = format!("{:#}", Cluster::start(empty.path()).unwrap_err());
        assert!(error.contains("`initialise` failed with status"), "{error}");
        assert!(error.contains("initdb"), "{error}");
    }
}
