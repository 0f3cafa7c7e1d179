//! Server programs of other makes: those on this machine, else those that are installed now.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;

/// A script for `sh` that runs a server and ends it when our end of the pipe closes, which it does
/// whatever ends this process.
pub(crate) const WATCHDOG: &str = r#""$@" & server=$!; read -r _; kill -9 $server; wait"#;

/// The program `name`, which comes with Debian's `package` if it is not there and that can be done.
pub(crate) fn program(name: &str, package: &str) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(program) = on_this_machine(name) {
        return program;
    }
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = os_release
        .lines()
        .any(|line| line.starts_with("ID") && (line.contains("debian") || line.contains("ubuntu")));
    assert!(
        debian && rustix::process::geteuid().is_root(),
        "no {name} for the tests: install it (Debian and Ubuntu: `apt-get install {package}`)"
    );
    let lock = ["-o", "DPkg::Lock::Timeout=300"];
    for order in [&["update"][..], &["install", "-y", "--no-install-recommends", package]] {
        let mut command = Command::new("apt-get");
        command.args(lock).args(order).env("DEBIAN_FRONTEND", "noninteractive");
        // A package would start a service of its own, such as one at port 80.
        command.env("RUNLEVEL", "1").stdin(Stdio::null()).stdout(std::io::stderr());
        let status = command.status().unwrap();
        assert!(status.success(), "`apt-get {}` failed: {status}", order.join(" "));
    }
    on_this_machine(name).unwrap_or_else(|| panic!("{package} brings no {name}"))
}

fn on_this_machine(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
}
