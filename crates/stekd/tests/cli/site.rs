//! A folder with all that the roles of a fleet need, and roles as processes that run from it.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use tempfile::TempDir;

use crate::process::{PATIENCE, lines_of, said, show_if_failed, shown, stekd};

/// A role that runs, and where it listens.
pub(crate) struct Role {
    pub(crate) process: Child,
    log: Receiver<String>,
    /// The lines that came so far, and how many of them were looked at.
    lines: RefCell<Vec<String>>,
    looked_at: Cell<usize>,
}

impl Role {
    pub(crate) fn start(name: &str, config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_stekd"));
        Self::spawn(command.args(["--log-format", "json", name, "--config"]).arg(config))
    }

    /// The role that `command` runs, with its log in JSON.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let log = lines_of(process.stderr.take().unwrap());
        Self { process, log, lines: RefCell::default(), looked_at: Cell::new(0) }
    }

    /// The line of this number, when it comes.
    fn line(&self, number: usize) -> String {
        let mut lines = self.lines.borrow_mut();
        while lines.len() <= number {
            lines.push(self.log.recv_timeout(PATIENCE).expect("the role goes on"));
        }
        lines[number].clone()
    }

    /// The port of a listener, as the role logs it, before or after anything else.
    pub(crate) fn port(&self, listener: &str) -> String {
        let port = (0..).find_map(|number| {
            let entry: serde_json::Value = serde_json::from_str(&self.line(number)).unwrap();
            let fields = &entry["fields"];
            let is_it = fields["message"] == "listening" && fields["listener"] == listener;
            is_it
                .then(|| fields["address"].as_str().unwrap().rsplit(':').next().unwrap().to_owned())
        });
        port.unwrap()
    }

    /// All that the role has logged, to its end: it must have ended.
    #[cfg(feature = "otlp")]
    pub(crate) fn all(&self) -> Vec<String> {
        self.lines.borrow_mut().extend(self.log.iter());
        self.lines.borrow().clone()
    }

    /// The first line of the log that has `message`, before or after anything else.
    pub(crate) fn first_line(&self, message: &str) -> String {
        (0..).map(|number| self.line(number)).find(|line| line.contains(message)).unwrap()
    }

    /// Waits until the role logs `message` once more.
    pub(crate) fn logs(&self, message: &str) {
        self.log_line(message);
    }

    /// The next line of the log that has `message`, when it comes.
    pub(crate) fn log_line(&self, message: &str) -> String {
        loop {
            let line = self.line(self.looked_at.get());
            self.looked_at.set(self.looked_at.get() + 1);
            if line.contains(message) {
                return line;
            }
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let role = format!("process {}", self.process.id());
        show_if_failed(&role, self.lines.take().into_iter().chain(self.log.iter()));
    }
}

/// The folder.
pub(crate) struct Site(TempDir);

impl Site {
    /// A folder with all that a manager needs, a migrated database, and a token for each role.
    pub(crate) fn with_database(url: &str) -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        site.write("database-url", url);
        let config = format!(
            "[database]\nurl_file = \"database-url\"\n[custody]\ncluster_secret_file = \
             \"cluster-secret\"\nstate_file = \"ratchet\"\n{LISTEN}"
        );
        site.write("manager.toml", &config);
        site.stekd("secret DIR/cluster-secret");
        site.stekd("dev-ca DIR/tls --name localhost");
        site.stekd("migrate --config DIR/manager.toml");
        for (role, keyset) in [("operator", "*"), ("distribution", "*"), ("terminator", "main")] {
            site.stekd(&format!(
                "token create {role} --role {role} --keyset {keyset} --offline DIR/manager.toml \
                 --out DIR/{role}-token"
            ));
        }
        site
    }

    /// Rotates `main`; a key seals for a whole second at least, so right after its start not yet.
    pub(crate) fn rotate(&self) {
        let profile = self.path("operator.toml");
        let rotate =
            || stekd(&["keyset", "rotate", "main", "--profile", profile.to_str().unwrap()]);
        let mut rotated = rotate();
        while said(&rotated).contains("just being activated") {
            rotated = rotate();
        }
        shown(&rotated);
    }

    /// Has `role` listen on the same port each time, so that it is found again after its end.
    pub(crate) fn pin(&self, role: &str) -> String {
        let port = stek_testpg::free_port().unwrap().to_string();
        let file = self.path(&format!("{role}.toml"));
        let text = std::fs::read_to_string(&file).unwrap();
        let free = "[listen]\naddress = \"127.0.0.1:0\"";
        assert!(text.contains(free));
        std::fs::write(file, text.replace(free, &free.replace(":0", &format!(":{port}")))).unwrap();
        port
    }

    /// Writes the profile `WHO.toml` of somebody who asks the manager on `port` with `WHO-token`.
    pub(crate) fn profile(&self, who: &str, port: &str) -> PathBuf {
        let server = format!("server = \"https://localhost:{port}\"\n");
        let rest = format!("roots_files = [\"tls/ca.pem\"]\ntoken_file = \"{who}-token\"\n");
        self.write(&format!("{who}.toml"), &format!("{server}{rest}"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    pub(crate) fn stekd(&self, arguments: &str) -> String {
        let filled = arguments.replace("DIR", self.0.path().to_str().unwrap());
        shown(&stekd(&filled.split_whitespace().collect::<Vec<_>>()))
    }
}

impl Site {
    /// Begins a command of the operator, and waits neither for its end nor for a word of it.
    pub(crate) fn begin(&self, command: &[&str]) -> Child {
        let mut program = Command::new(env!("CARGO_BIN_EXE_stekd"));
        program.args(command).arg("--profile").arg(self.path("operator.toml"));
        program.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// The listeners of a role, on free ports.
pub(crate) const LISTEN: &str = "[listen]\naddress = \"127.0.0.1:0\"\ncertificate_file = \"tls/server.pem\"\n\
                      private_key_file = \"tls/server.key\"\n[metrics]\naddress = \"127.0.0.1:0\"\n";

/// Whom a role asks, and as whom.
pub(crate) fn reach(ports: &[&str], token: &str) -> String {
    let urls: Vec<_> = ports.iter().map(|port| format!("https://localhost:{port}")).collect();
    format!(
        "[upstream]\nurls = {urls:?}\nroots_files = [\"tls/ca.pem\"]\ntoken_file = \"{token}\"\n"
    )
}
