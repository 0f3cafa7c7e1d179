//! The program as an operator runs it: a real process, its files, its exit status and its words.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use tempfile::TempDir;

/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

fn stekd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_stekd"))
        .args(arguments)
        .env_remove("STEKD_PROFILE")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn shown(output: &Output) -> String {
    assert_eq!(status(output), 0, "{}", said(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder with the files of a manager on SQLite.
struct Folder(TempDir);

impl Folder {
    fn new(database: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let secret = folder.path("cluster-secret");
        shown(&stekd(&["secret", secret.to_str().unwrap()]));
        let config = format!(
            "[database]\n{database}\n[custody]\ncluster_secret_file = \"cluster-secret\"\n\
             state_file = \"ratchet\"\n[listen]\naddress = \"127.0.0.1:0\"\n[metrics]\n\
             address = \"127.0.0.1:0\"\n"
        );
        std::fs::write(folder.path("manager.toml"), config).unwrap();
        folder
    }

    fn sqlite() -> Self {
        let folder = Self::new("");
        let url = format!("url = \"sqlite:{}\"", folder.path("stekd.db").display());
        let config = std::fs::read_to_string(folder.path("manager.toml")).unwrap();
        let config = config.replace("[database]\n", &format!("[database]\n{url}\n"));
        std::fs::write(folder.path("manager.toml"), config).unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, command: &[&str]) -> Output {
        let config = self.path("manager.toml");
        let arguments = [command, &["--config", config.to_str().unwrap()]].concat();
        stekd(&arguments)
    }
}

#[test]
fn a_wrong_key_is_refused_by_name() {
    let folder = Folder::new("url = \"sqlite:x.db\"\nurll = 1");
    let output = folder.run(&["manager"]);
    assert_eq!(status(&output), 64);
    assert!(
        said(&output).contains("urll") && said(&output).contains("manager.toml"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_password_in_the_configuration_is_refused_and_not_repeated() {
    let folder = Folder::new("url = \"postgres://stekd:hunter2@localhost/stekd\"");
    let output = folder.run(&["manager"]);
    assert_eq!(status(&output), 64);
    assert!(said(&output).contains("url_file"), "{}", said(&output));
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));
}

#[test]
fn an_unreachable_database_is_said_so() {
    let folder = Folder::new("url_file = \"url\"");
    std::fs::write(folder.path("url"), "postgres://u:hunter2@127.0.0.1:1/none\n").unwrap();
    for command in ["manager", "migrate"] {
        let output = folder.run(&[command]);
        assert_eq!(status(&output), 69, "{}", said(&output));
        assert!(said(&output).contains("unreachable"), "{}", said(&output));
        assert!(!said(&output).contains("hunter2"), "{}", said(&output));
    }
}

#[test]
fn a_database_without_schema_says_what_to_run() {
    let folder = Folder::sqlite();
    let output = folder.run(&["manager"]);
    assert_eq!(status(&output), 1);
    assert!(said(&output).contains("stekd migrate"), "{}", said(&output));
}

#[test]
fn arguments_that_are_not_allowed_end_with_64() {
    for (arguments, expected) in [
        (&["keyset", "create", "Bad Name"][..], "1 to 63"),
        (&["keyset", "rotate", "main", "--profile", "/nowhere/operator.toml"], "/nowhere"),
        (&["dev", "--rotation-period", "soon"], "span of time"),
        (&["token", "revoke", "x"], "UUID"),
        (&["nonsense"], "nonsense"),
    ] {
        let output = stekd(arguments);
        assert_eq!(status(&output), 64, "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(status(&stekd(&["--help"])), 0);
}

#[test]
fn the_first_operator_is_made_without_a_manager() {
    let folder = Folder::sqlite();
    shown(&folder.run(&["migrate"]));
    let (config, token) = (folder.path("manager.toml"), folder.path("operator-token"));
    let create = |name: &str| {
        let (config, token) = (config.to_str().unwrap(), token.to_str().unwrap());
        let offline = ["--role", "operator", "--offline", config, "--out", token];
        stekd(&[&["token", "create", name], &offline[..]].concat())
    };
    shown(&create("root"));
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&token).unwrap();
    assert!(text.starts_with("stek_"), "a token is written");
    // A file that is there is not overwritten.
    let again = create("root");
    assert_eq!(status(&again), 1);
    assert_eq!(std::fs::read_to_string(&token).unwrap(), text);
    assert!(!said(&again).contains(&text[5..20]), "the token is in no message");
}

/// `stekd dev` in a folder of its own, ended by SIGTERM.
struct Dev {
    folder: PathBuf,
    process: Child,
    welcome: Vec<String>,
}

impl Dev {
    fn start_in(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_stekd"))
            .args(["dev", "--port-base", "0", "--dir", "site"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line)));
        });
        let mut welcome = Vec::new();
        while !welcome.last().is_some_and(|line: &String| line.contains("keyset rotate")) {
            welcome.push(lines.recv_timeout(PATIENCE).expect("stekd dev starts"));
        }
        Self { folder: folder.to_owned(), process, welcome }
    }

    fn site(&self) -> PathBuf {
        self.folder.join("site")
    }

    fn keyset(&self, arguments: &[&str]) -> Output {
        let profile = self.site().join("operator.toml");
        stekd(&[&["keyset"], arguments, &["--profile", profile.to_str().unwrap()]].concat())
    }

    fn port(&self, server: &str) -> String {
        let line = self.welcome.iter().find(|line| line.starts_with(server)).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    }

    /// Connects with OpenSSL; returns what the server said and the key name of the ticket.
    fn visit(&self, server: &str, session: &Path, offer: bool) -> (String, String) {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-tls1_3", "-ign_eof", "-connect"]);
        command.arg(format!("localhost:{}", self.port(server)));
        command.arg("-CAfile").arg(self.site().join("ca.pem")).arg("-sess_out").arg(session);
        if offer {
            command.arg("-sess_in").arg(session);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"GET / HTTP/1.0\r\n\r\n")
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = text.lines().rev().find(|line| line.contains(" handshake")).unwrap_or(&text);
        let shown = Command::new("openssl")
            .args(["sess_id", "-noout", "-text", "-in"])
            .arg(session)
            .output()
            .unwrap();
        let ticket = String::from_utf8_lossy(&shown.stdout).into_owned();
        let name = ticket.lines().find_map(|line| line.trim().strip_prefix("0000 - ")).unwrap();
        (said.trim().to_owned(), name[..47].to_owned())
    }

    fn end(mut self) {
        let id = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_rotation_by_hand_reaches_both_servers_and_loses_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    let session = dev.site().join("session");
    let (first, before) = dev.visit("server-a", &session, false);
    assert_eq!(first, "server-a: full handshake");
    // A key seals for a whole second at least, so right after the start it is too soon.
    let mut rotated = dev.keyset(&["rotate", "main"]);
    while said(&rotated).contains("just being activated") {
        rotated = dev.keyset(&["rotate", "main"]);
    }
    let effect = shown(&rotated);
    assert!(effect.contains("activate") && effect.contains("retire"), "{effect}");
    for server in ["server-b", "server-a"] {
        // Each connection offers the session and gets a ticket; the new key has its name in one.
        let new = (0..200).find_map(|_| {
            let (said, name) = dev.visit(server, &session, true);
            assert_eq!(said, format!("{server}: resumed handshake"));
            (name != before).then_some(name)
        });
        assert!(new.is_some(), "{server} seals under the new key");
    }
    dev.end();
}

#[test]
fn operators_are_told_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    let unknown = dev.keyset(&["show", "nope"]);
    assert_eq!(status(&unknown), 1);
    assert!(
        said(&unknown).contains("nope") && said(&unknown).contains("not found"),
        "{}",
        said(&unknown)
    );
    let short = dev.keyset(&["policy", "main", "--lead", "1s"]);
    assert_eq!(status(&short), 1);
    let words = said(&short);
    assert!(words.contains("lead") && words.contains("1s") && words.contains("6m"), "{words}");
    let twice = dev.keyset(&["create", "main"]);
    assert!(said(&twice).contains("exists already"), "{}", said(&twice));
    let nothing = dev.keyset(&["policy", "main"]);
    assert_eq!(status(&nothing), 64);
    // Nothing was changed by any of it.
    let list = shown(&dev.keyset(&["list", "--output", "json"]));
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["keysets"].as_array().unwrap().len(), 1);
    assert_eq!(list["keysets"][0]["policy"]["lead_seconds"], 21600);

    let made = shown(&dev.keyset(&["create", "other", "--rotation-period", "1h"]));
    assert!(made.contains("rotation 1h"), "{made}");
    let plan = shown(&dev.keyset(&["plan", "other", "--until", "3h"]));
    assert!(plan.contains("mint"), "{plan}");
    let gone = shown(&dev.keyset(&["delete", "other", "--yes"]));
    assert!(gone.contains("revoke") && gone.contains("full handshakes"), "{gone}");
    assert_eq!(status(&dev.keyset(&["show", "other"])), 1);
    let refused = dev.keyset(&["delete", "main"]);
    assert!(said(&refused).contains("not confirmed"), "{}", said(&refused));
    dev.end();
}

#[test]
fn a_development_folder_is_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    let before = shown(&dev.keyset(&["show", "main"]));
    dev.end();
    let again = Dev::start_in(folder.path());
    assert_eq!(keys(&before), keys(&shown(&again.keyset(&["show", "main"]))));
    again.end();
}

fn keys(table: &str) -> Vec<&str> {
    table.lines().filter(|line| line.contains("active") || line.contains("pending")).collect()
}
