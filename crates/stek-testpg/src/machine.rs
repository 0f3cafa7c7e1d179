//! This machine, as the ladder asks about it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::account;
use crate::ladder::{DATABASE_URL_VARIABLE, Machine, newest_first};

/// The machine that this process runs on.
pub(crate) struct ThisMachine;

impl Machine for ThisMachine {
    fn database_url(&self) -> Option<String> {
        std::env::var(DATABASE_URL_VARIABLE).ok()
    }

    fn program_directories(&self) -> Vec<PathBuf> {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        pg_config_bindir()
            .into_iter()
            .chain(std::env::split_paths(&on_path).filter(|directory| directory.is_absolute()))
            .chain(newest_first(versioned_directories(Path::new("/usr/lib/postgresql"))))
            .chain([PathBuf::from("/usr/local/pgsql/bin")])
            .collect()
    }

    fn has_server_programs(&self, directory: &Path) -> bool {
        // Client packages bring `pg_config` and `psql`, but none of these.
        let complete =
            ["initdb", "pg_ctl", "postgres"].iter().all(|name| directory.join(name).is_file());
        // Root runs them as somebody else, who has to get at them.
        complete && (!self.is_root() || account::is_reachable_by_all(directory))
    }

    fn docker_answers(&self) -> bool {
        // `docker version` fails when only the client is there.
        let mut command = Command::new("docker");
        command.args(["version", "--format", "{{.Server.Version}}"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }

    fn is_root(&self) -> bool {
        rustix::process::geteuid().is_root()
    }

    fn os_release(&self) -> String {
        std::fs::read_to_string("/etc/os-release").unwrap_or_default()
    }
}

fn pg_config_bindir() -> Option<PathBuf> {
    let output = Command::new("pg_config")
        .arg("--bindir")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let directory = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(directory.trim_end()))
}

/// The `bin` directories below `root/VERSION`.
fn versioned_directories(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten();
    entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect()
}
