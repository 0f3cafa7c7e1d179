//! As whom the server programs run, and where their files may lie so that this user reaches them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context;

/// The longest temporary directory taken. The socket path in it, some 40 bytes longer, has to fit
/// `sun_path` of unix(7): 108 bytes with the final zero on Linux, 104 on the BSDs.
const LONGEST_DIRECTORY: usize = 60;

/// Permission bits of inode(7).
const OTHERS_MAY_ENTER: u32 = 0o001;
const OTHERS_MAY_WRITE: u32 = 0o002;

/// A user other than root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Whom root lends the server programs to, since they refuse root: `postgres` where it exists, else
/// `nobody`.
///
/// # Errors
///
/// Neither exists.
pub(crate) fn for_root() -> anyhow::Result<Account> {
    ["postgres", "nobody"]
        .into_iter()
        .find_map(account_of)
        .context("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`")
}

fn account_of(name: &str) -> Option<Account> {
    Some(Account { uid: id("-u", name)?, gid: id("-g", name)? })
}

/// One number of id(1), which also knows users that are not in `/etc/passwd`.
fn id(which: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([which, name]).stdin(Stdio::null()).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// A fresh directory for a cluster, owned by `account` if one is given. Goes with the value.
///
/// # Errors
///
/// No temporary directory is short enough, and open to the account.
pub(crate) fn temporary_directory(account: Option<Account>) -> anyhow::Result<tempfile::TempDir> {
    let parent = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into()]
        .into_iter()
        .filter_map(|candidate| candidate.canonicalize().ok())
        .find(|candidate| is_suitable(candidate, account))
        .context("no temporary directory that the user of the server programs can write")?;
    let directory = tempfile::Builder::new()
        .prefix("stek-testpg-")
        .tempdir_in(&parent)
        .with_context(|| format!("cannot create a directory in {}", parent.display()))?;
    if let Some(Account { uid, gid }) = account {
        std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))
            .context("cannot hand the directory of the cluster to its user")?;
    }
    Ok(directory)
}

fn is_suitable(candidate: &Path, account: Option<Account>) -> bool {
    candidate.as_os_str().len() <= LONGEST_DIRECTORY
        && (account.is_none()
            || (others_may(candidate, OTHERS_MAY_WRITE) && is_reachable_by_all(candidate)))
}

/// Whether every user may enter the directory and all above it.
pub(crate) fn is_reachable_by_all(directory: &Path) -> bool {
    let resolved = directory.canonicalize().unwrap_or_else(|_| PathBuf::from(directory));
    resolved.ancestors().all(|ancestor| others_may(ancestor, OTHERS_MAY_ENTER))
}

fn others_may(directory: &Path, permission: u32) -> bool {
    directory
        .metadata()
        .is_ok_and(|metadata| metadata.permissions().mode() & permission == permission)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEBODY: Account = Account { uid: 65534, gid: 65534 };

    fn with_mode(mode: u32) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), PermissionsExt::from_mode(mode)).unwrap();
        directory
    }

    #[test]
    fn a_closed_parent_makes_a_directory_unreachable() {
        let closed = with_mode(0o700);
        let inner = closed.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o777)).unwrap();
        assert!(!is_reachable_by_all(&inner));
        assert!(!is_suitable(&inner, Some(SOMEBODY)));
        assert!(is_suitable(&inner, None));
    }

    #[test]
    fn another_user_needs_to_write() {
        assert!(is_suitable(with_mode(0o777).path(), Some(SOMEBODY)));
        assert!(!is_suitable(with_mode(0o755).path(), Some(SOMEBODY)));
    }

    #[test]
    fn a_directory_too_long_for_a_socket_is_passed_over() {
        let long = with_mode(0o777).path().join("d".repeat(LONGEST_DIRECTORY));
        assert!(!is_suitable(&long, None));
    }

    #[test]
    fn unknown_users_have_no_account() {
        assert_eq!(account_of("no-such-user-anywhere"), None);
        assert_eq!(account_of("root"), Some(Account { uid: 0, gid: 0 }));
    }
}
