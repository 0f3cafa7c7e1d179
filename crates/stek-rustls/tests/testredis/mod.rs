//! A real Redis for tests: the server that `STEK_TEST_REDIS_URL` names, else a throwaway one of the
//! `redis-server` on this machine, else of one that is installed now. What was started for a test
//! ends with the test process, however that process ends.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;

pub mod awaited;
pub mod proxy;

/// The environment variable that names a server to use.
pub const URL_VARIABLE: &str = "STEK_TEST_REDIS_URL";

/// Ends the server when our end of the pipe closes, which it does whatever ends this process.
const WATCHDOG: &str = r#""$@" >/dev/null & server=$!; read -r _; kill -9 $server; wait"#;

/// A server of our own.
#[derive(Debug)]
pub struct TestRedis {
    program: PathBuf,
    directory: TempDir,
    watchdog: Option<Child>,
}

/// The URL of a Redis for the tests, and what keeps it alive.
///
/// # Errors
/// There is none and no way to get one.
pub fn any() -> anyhow::Result<(String, Option<TestRedis>)> {
    if let Some(url) = std::env::var(URL_VARIABLE).ok().filter(|url| !url.is_empty()) {
        return Ok((url, None));
    }
    let own = TestRedis::start()?;
    Ok((own.url(), Some(own)))
}

impl TestRedis {
    /// Starts a server of our own, whatever [`URL_VARIABLE`] says, on a socket in a temporary
    /// directory. It keeps nothing on disk.
    ///
    /// # Errors
    /// There is no `redis-server` and no way to get one; or it does not start.
    pub fn start() -> anyhow::Result<Self> {
        let program = program()?;
        let directory = tempfile::Builder::new().prefix("stek-redis-").tempdir_in("/tmp")?;
        let mut redis = Self { program, directory, watchdog: None };
        redis.start_again()?;
        Ok(redis)
    }

    /// Where it listens. Stays the same when it is started again.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The same as a URL.
    pub fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut watchdog) = self.watchdog.take() {
            drop(watchdog.stdin.take());
            watchdog.wait().unwrap();
        }
    }

    /// Starts what was killed, empty, and returns when it answers.
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.kill();
        let _ = std::fs::remove_file(self.socket());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", WATCHDOG, "stek-redis-watchdog"]).arg(&self.program);
        command.args(["--port", "0", "--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--dir").arg(self.directory.path()).arg("--unixsocket").arg(self.socket());
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
        let watchdog = self.watchdog.insert(child);
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
        while !answers(&self.directory.path().join("redis.sock")) {
            ensure!(tokio::time::Instant::now() < end, "redis-server does not answer");
            ensure!(watchdog.try_wait()?.is_none(), "redis-server does not start");
            std::thread::yield_now();
        }
        Ok(())
    }
}

impl Drop for TestRedis {
    fn drop(&mut self) {
        self.kill();
    }
}

fn answers(socket: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(socket) else { return false };
    let mut pong = [0; 7];
    stream.write_all(b"PING\r\n").and_then(|()| stream.read_exact(&mut pong)).is_ok()
        && pong == *b"+PONG\r\n"
}

/// The server program, installed if need be and if that can be done.
fn program() -> anyhow::Result<PathBuf> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    if let Some(program) = on_this_machine() {
        return Ok(program);
    }
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = os_release
        .lines()
        .any(|line| line.starts_with("ID") && (line.contains("debian") || line.contains("ubuntu")));
    if !(debian && rustix::process::geteuid().is_root()) {
        bail!(
            "no Redis for the tests: install `redis-server` (Debian and Ubuntu: `apt-get install \
             redis-server`), or set {URL_VARIABLE} to the URL of a server"
        );
    }
    let lock = ["-o", "DPkg::Lock::Timeout=300"];
    for order in [&["update"][..], &["install", "-y", "--no-install-recommends", "redis-server"]] {
        let mut command = Command::new("apt-get");
        command.args(lock).args(order).env("DEBIAN_FRONTEND", "noninteractive");
        let status = command.stdin(Stdio::null()).stdout(std::io::stderr()).status();
        let status = status.context("cannot run apt-get")?;
        ensure!(status.success(), "`apt-get {}` failed: {status}", order.join(" "));
    }
    on_this_machine().context("the package `redis-server` brought no redis-server")
}

fn on_this_machine() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).chain(["/usr/bin".into()]);
    let programs = directories
        .flat_map(|directory| [directory.join("redis-server"), directory.join("valkey-server")]);
    programs.into_iter().find(|program| program.is_file())
}
