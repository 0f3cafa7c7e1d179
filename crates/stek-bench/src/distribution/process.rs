//! A server as a process of its own, on the servers' core, gone when it is dropped.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// How long a server may take to say where it listens.
const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs.
pub(crate) struct Process {
    child: Child,
    log: Receiver<String>,
}

impl Process {
    /// Starts `program` on `core`.
    pub(crate) fn start(core: usize, program: &Path, arguments: &[&str]) -> Result<Self> {
        let mut child = Command::new("taskset")
            .args(["--cpu-list", &core.to_string()])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {} by taskset", program.display()))?;
        let stderr = child.stderr.take().context("standard error is piped")?;
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            // Reads to the end, or the server would wait for its log to be read.
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Ok(Self { child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The port of a listener, as a role logs it.
    pub(crate) fn port(&self, listener: &str) -> Result<u16> {
        loop {
            let line = self.log.recv_timeout(PATIENCE).context("the role does not listen")?;
            let Ok(entry) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            let fields = &entry["fields"];
            if fields["message"] == "listening" && fields["listener"] == listener {
                let port = fields["address"].as_str().and_then(|at| at.rsplit(':').next());
                return port.context("an address without a port")?.parse().context("a port");
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The release build of `stekd`, beside this program.
pub(crate) fn stekd() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("stekd");
    ensure!(path.exists(), "{} is not there; make bench-distribution builds it", path.display());
    Ok(path)
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(program: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} {arguments:?}: {said}", program.display());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
