//! A real server on Go's `crypto/tls`, built by the Go on this machine, else by one that is
//! installed now. It ends with the value, and with the test process however that ends.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use crate::installed;
use crate::process::{PATIENCE, lines_of};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/golang/main.go");

/// A running server.
pub(crate) struct GoServer {
    process: Child,
    address: String,
}

impl GoServer {
    /// Serves with the certificate in `tls`; `more` are its further options.
    pub(crate) fn start(tls: &Path, more: &[&str]) -> Self {
        let mut command = Command::new(program());
        command.arg("-tls").arg(tls).args(more);
        // It ends when our end of the pipe closes.
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = lines_of(process.stdout.take().unwrap());
        let address = lines.recv_timeout(PATIENCE).expect("the server on Go starts");
        let port = address.rsplit(':').next().unwrap();
        Self { process, address: format!("localhost:{port}") }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for GoServer {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// The server program, built once for this process; what Go keeps of a build stays in `target`.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let go = installed::program("go", "golang-go");
        let ours = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let built = ours.join("go-server");
        let mut command = Command::new(go);
        command.arg("build").arg("-o").arg(&built).arg(SOURCE).env("GOCACHE", ours.join("go"));
        command.envs([("CGO_ENABLED", "0"), ("GOTOOLCHAIN", "local"), ("GOPROXY", "off")]);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "go build: {said}");
        built
    })
}
