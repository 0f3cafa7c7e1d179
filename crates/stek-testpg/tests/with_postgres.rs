//! The program `with-postgres`: what its command gets, and that nothing stays behind.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::{interval, timeout};

const VARIABLE: &str = "STEK_TEST_DATABASE_URL";
const TIME_OUT: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Tells its URL, then lasts until its input ends.
const TELL_AND_WAIT: &str = r#"echo "$STEK_TEST_DATABASE_URL"; exec cat"#;

fn with_postgres(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_with-postgres"));
    command.args(arguments).env_remove(VARIABLE).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A running `with-postgres` whose server keeps its files in a directory of ours.
struct Running {
    program: Child,
    /// What the command waits on. Not left in `program`, whose `wait` would close it.
    input: Option<ChildStdin>,
    server: SocketAddr,
    files: TempDir,
}

impl Running {
    async fn start() -> anyhow::Result<Self> {
        let files = tempfile::tempdir()?;
        std::fs::set_permissions(files.path(), PermissionsExt::from_mode(0o1777))?;
        let mut program = with_postgres(&["--", "sh", "-c", TELL_AND_WAIT])
            .env("TMPDIR", files.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // No terminal: then signals are forwarded.
            .stderr(Stdio::null())
            .spawn()?;
        let output = program.stdout.take().context("no output")?;
        let mut url = String::new();
        timeout(TIME_OUT, BufReader::new(output).read_line(&mut url)).await??;
        let rest = url.trim_end().strip_prefix("postgres://postgres@");
        let server = rest.and_then(|rest| rest.strip_suffix("/postgres")).context(url.clone())?;
        let input = program.stdin.take();
        let running = Self { program, input, server: server.parse()?, files };
        ensure!(running.answers().await, "{} refuses", running.server);
        Ok(running)
    }

    async fn answers(&self) -> bool {
        TcpStream::connect(self.server).await.is_ok()
    }

    fn has_files(&self) -> anyhow::Result<bool> {
        Ok(self.files.path().read_dir()?.next().is_some())
    }

    fn send(&self, signal: Signal) -> anyhow::Result<()> {
        let id = self.program.id().context("the program has ended")?;
        let pid = Pid::from_raw(i32::try_from(id)?).context("process id 0")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Until the server refuses connections and its files are gone.
    async fn until_gone(&self) -> anyhow::Result<()> {
        let gone = async {
            let mut poll = interval(POLL_INTERVAL);
            while self.answers().await || self.has_files()? {
                poll.tick().await;
            }
            anyhow::Ok(())
        };
        timeout(TIME_OUT, gone).await.context("the server is still there")?
    }
}

#[tokio::test]
async fn the_command_gets_a_server_that_ends_with_it() {
    let mut running = Running::start().await.unwrap();
    drop(running.input.take());
    let status = timeout(TIME_OUT, running.program.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    // No polling: the program ends after its server.
    assert!(!running.answers().await);
    assert!(!running.has_files().unwrap());
}

#[tokio::test]
async fn sigkill_leaves_nothing_behind() {
    let mut running = Running::start().await.unwrap();
    assert!(running.has_files().unwrap());
    running.program.kill().await.unwrap();
    running.until_gone().await.unwrap();
}

#[tokio::test]
async fn signals_reach_the_command_and_then_the_server_goes() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let mut running = Running::start().await.unwrap();
        running.send(signal).unwrap();
        let status = timeout(TIME_OUT, running.program.wait()).await.unwrap().unwrap();
        assert_eq!(status.code(), Some(code), "{signal:?}");
        assert!(!running.answers().await, "{signal:?}");
        assert!(!running.has_files().unwrap(), "{signal:?}");
    }
}

#[tokio::test]
async fn a_given_url_is_passed_on() {
    let given = "postgres://tester:secret@127.0.0.1:1/maintenance";
    let output = with_postgres(&["--", "sh", "-c", r#"printf %s "$STEK_TEST_DATABASE_URL""#])
        .env(VARIABLE, given)
        .output()
        .await
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), given);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(message, "postgres: server given by STEK_TEST_DATABASE_URL\n");
}

#[tokio::test]
async fn the_status_of_the_command_is_returned() {
    for (arguments, code) in [
        (&["--", "sh", "-c", "exit 7"][..], 7),
        (&["sh", "-c", "kill -KILL $$"], 137),
        (&["--", "/no/such/program"], 127),
        (&[], 64),
    ] {
        let mut command = with_postgres(arguments);
        command.env(VARIABLE, "postgres://127.0.0.1:1/postgres");
        let output = command.output().await.unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}");
    }
}

#[tokio::test]
async fn one_line_says_where_the_server_comes_from() {
    let output = with_postgres(&["--", "true"]).output().await.unwrap();
    assert!(output.status.success());
    let message = String::from_utf8(output.stderr).unwrap();
    assert!(message.starts_with("postgres: throwaway "), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
}
