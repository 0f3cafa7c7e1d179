//! Manager, distribution and two terminators as processes of their own, configured by files, on a
//! real PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::Receiver;

use tempfile::TempDir;

use crate::process::{Offer, PATIENCE, lines_of, said, shown, stekd, terminate, visit};

/// A role that runs, and where it listens.
pub(crate) struct Role {
    pub(crate) process: Child,
    log: Receiver<String>,
}

impl Role {
    pub(crate) fn start(name: &str, config: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_stekd"))
            .args(["--log-format", "json", name, "--config"])
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = lines_of(process.stderr.take().unwrap());
        Self { process, log }
    }

    /// The port of a listener, as the role logs it.
    pub(crate) fn port(&self, listener: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE).expect("the role logs where it listens");
            let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
            let fields = &entry["fields"];
            if fields["message"] == "listening" && fields["listener"] == listener {
                let address = fields["address"].as_str().unwrap();
                return address.rsplit(':').next().unwrap().to_owned();
            }
        }
    }

    /// Waits until the role logs `message`.
    pub(crate) fn logs(&self, message: &str) {
        while !self.log.recv_timeout(PATIENCE).expect("the role goes on").contains(message) {}
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

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
    fn rotate(&self) {
        let profile = self.path("operator.toml");
        let rotate =
            || stekd(&["keyset", "rotate", "main", "--profile", profile.to_str().unwrap()]);
        let mut rotated = rotate();
        while said(&rotated).contains("just being activated") {
            rotated = rotate();
        }
        shown(&rotated);
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

pub(crate) const LISTEN: &str = "[listen]\naddress = \"127.0.0.1:0\"\ncertificate_file = \"tls/server.pem\"\n\
                      private_key_file = \"tls/server.key\"\n[metrics]\naddress = \"127.0.0.1:0\"\n";

fn upstream(port: &str, token: &str) -> String {
    format!(
        "[upstream]\nurls = [\"https://localhost:{port}\"]\nroots_files = [\"tls/ca.pem\"]\n\
         token_file = \"{token}\"\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_their_own_share_keys_and_rotate() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let mut manager = Role::start("manager", &site.path("manager.toml"));
    let admin = manager.port("admin");
    let profile = format!(
        "server = \"https://localhost:{admin}\"\nroots_files = [\"tls/ca.pem\"]\ntoken_file = \
         \"operator-token\"\n"
    );
    site.write("operator.toml", &profile);
    site.stekd("keyset create main --profile DIR/operator.toml");

    let config = format!("{}{LISTEN}", upstream(&admin, "distribution-token"));
    let mut distribution = Role::start("distribution", &site.write("distribution.toml", &config));
    let bundles = distribution.port("distribution");

    let mut terminators = Vec::new();
    for name in ["edge-1", "edge-2"] {
        let upstream = upstream(&bundles, "terminator-token");
        let text = format!("keyset = \"main\"\ninstance = \"{name}\"\n{upstream}{LISTEN}");
        let role = Role::start("terminator", &site.write(&format!("{name}.toml"), &text));
        let port = role.port("tls");
        role.logs("installed");
        terminators.push((role, port));
    }

    let (authority, session) = (site.path("tls/ca.pem"), site.path("session"));
    let visit = |port: &str, offer| visit(port, &authority, &session, offer);
    let (first, before) = visit(&terminators[0].1, Offer::Nothing);
    assert_eq!(first, "edge-1: full handshake");
    assert_eq!(visit(&terminators[1].1, Offer::Session).0, "edge-2: resumed handshake");

    // A rotation travels through all of them, and the session with it.
    site.stekd("keyset create other --profile DIR/operator.toml");
    site.rotate();
    for (index, (role, port)) in terminators.iter().enumerate() {
        role.logs("installed");
        let (said, name) = visit(port, Offer::Session);
        assert_eq!(said, format!("edge-{}: resumed handshake", index + 1));
        assert_ne!(name, before, "sealed under the new key");
    }

    // The control plane goes; the edge goes on.
    terminate(&mut manager.process);
    terminate(&mut distribution.process);
    for (index, (_, port)) in terminators.iter().enumerate() {
        assert_eq!(visit(port, Offer::Session).0, format!("edge-{}: resumed handshake", index + 1));
    }
    for (role, _) in &mut terminators {
        terminate(&mut role.process);
    }
    database.drop_now().await.unwrap();
}
