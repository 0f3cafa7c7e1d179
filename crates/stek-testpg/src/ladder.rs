//! Decides where PostgreSQL comes from, given what a machine offers. Looks at nothing itself: the
//! machine is an argument, and carrying out the decision is left to the server module.

use std::path::{Path, PathBuf};

use anyhow::bail;

#[cfg(test)]
mod tests;

/// The environment variable that names a server to use: a PostgreSQL URL whose user may create
/// databases. Unset or empty means that a server has to be found.
pub const DATABASE_URL_VARIABLE: &str = "STEK_TEST_DATABASE_URL";

/// What the decision depends on. Asked lazily and in the order of the ladder, since some answers
/// cost the start of a program.
pub(crate) trait Machine {
    /// The value of [`DATABASE_URL_VARIABLE`].
    fn database_url(&self) -> Option<String>;
    /// Where server programs may lie, best first.
    fn program_directories(&self) -> Vec<PathBuf>;
    /// Whether the directory holds server programs that can be run.
    fn has_server_programs(&self, directory: &Path) -> bool;
    /// Whether a Docker daemon answers.
    fn docker_answers(&self) -> bool;
    /// Whether this process may install packages and change its user.
    fn is_root(&self) -> bool;
    /// The text of `/etc/os-release`, empty where there is none.
    fn os_release(&self) -> String;
}

/// One rung of the ladder.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Rung {
    /// The server of this URL, which is not ours to stop.
    Given(String),
    /// A throwaway cluster of the server programs in this directory.
    Programs(PathBuf),
    /// A throwaway container.
    Container,
    /// Install the server programs with apt, then [`Rung::Programs`].
    Install,
}

/// The first rung that holds.
///
/// # Errors
///
/// None does; the text says what to install.
pub(crate) fn choose(machine: &dyn Machine) -> anyhow::Result<Rung> {
    match machine.database_url().filter(|url| !url.is_empty()) {
        Some(url) => Ok(Rung::Given(url)),
        None => choose_throwaway(machine),
    }
}

/// The first rung that holds and gives a server of our own.
///
/// # Errors
///
/// None does; the text says what to install.
pub(crate) fn choose_throwaway(machine: &dyn Machine) -> anyhow::Result<Rung> {
    if let Some(directory) = server_programs(machine) {
        return Ok(Rung::Programs(directory));
    }
    if machine.docker_answers() {
        return Ok(Rung::Container);
    }
    if machine.is_root() && is_debian_like(&machine.os_release()) {
        return Ok(Rung::Install);
    }
    bail!(
        "no PostgreSQL for the tests: install the server (Debian and Ubuntu: `apt-get install \
         postgresql`) so that `initdb`, `pg_ctl` and `postgres` are on the PATH or where \
         `pg_config --bindir` says, or start a Docker daemon, or set {DATABASE_URL_VARIABLE} to \
         the URL of a server whose user may create databases"
    )
}

/// The first directory that holds server programs.
pub(crate) fn server_programs(machine: &dyn Machine) -> Option<PathBuf> {
    machine
        .program_directories()
        .into_iter()
        .find(|directory| machine.has_server_programs(directory))
}

/// Whether `ID` or `ID_LIKE` of os-release(5) names Debian or Ubuntu.
fn is_debian_like(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or_else(|| line.strip_prefix("ID_LIKE=")))
        .flat_map(|value| value.trim_matches(['"', '\'']).split_ascii_whitespace())
        .any(|id| matches!(id, "debian" | "ubuntu"))
}

/// Orders `/usr/lib/postgresql/VERSION/bin` directories by version, newest first.
pub(crate) fn newest_first(mut directories: Vec<PathBuf>) -> Vec<PathBuf> {
    directories.sort_by_key(|directory| std::cmp::Reverse(version_of(directory)));
    directories
}

/// The numbers of `15` or `9.6` in `…/15/bin`; empty, thus last, for any other name.
fn version_of(directory: &Path) -> Vec<u32> {
    let name = directory.parent().and_then(Path::file_name).and_then(|name| name.to_str());
    name.and_then(|name| name.split('.').map(|part| part.parse().ok()).collect())
        .unwrap_or_default()
}
