//! A role that cannot start says why in one line: key, value and what is allowed, and each of it once.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::process::{said, shown, status, stekd};

const SECRET: &str = "cluster_secret_file = \"cluster-secret\"";
const STATE: &str = "state_file = \"ratchet\"";
const DATABASE: &str = "url = \"sqlite:stekd.db\"";
const ADDRESS: &str = "[listen]\naddress = \"127.0.0.1:0\"";
const METRICS: &str = "[metrics]\naddress = \"127.0.0.1:0\"";
const TLS: &str = "certificate_file = \"tls/server.pem\"\nprivate_key_file = \"tls/server.key\"";
const TOKEN: &str = "token_file = \"token\"";
const ROOTS: &str = "roots_files = [\"tls/ca.pem\"]";
const URLS: &str = "urls = [\"https://localhost:1\"]";

/// A folder in which each role has what it needs.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let listen = format!("{ADDRESS}\n{TLS}\n{METRICS}\n");
        let reach = format!("[upstream]\n{URLS}\n{ROOTS}\n{TOKEN}\n");
        let database = format!("[database]\n{DATABASE}\n[custody]\n{SECRET}\n{STATE}\n");
        folder.write("manager.toml", &format!("{database}{listen}"));
        folder.write("distribution.toml", &format!("{reach}{listen}"));
        folder.write("terminator.toml", &format!("keyset = \"main\"\n{reach}{listen}"));
        // All that its owner needs.
        folder.write("owner.toml", &format!("[database]\n{DATABASE}\n"));
        folder.write("token", &format!("stek_{}\n", "0a".repeat(32)));
        folder.write("junk", "nothing of use\n");
        folder.write("open", &"5b".repeat(32));
        std::fs::set_permissions(folder.path("open"), PermissionsExt::from_mode(0o644)).unwrap();
        shown(&stekd(&["dev-ca", &folder.name("tls"), "--name", "localhost"]));
        shown(&stekd(&["secret", &folder.name("cluster-secret")]));
        shown(&stekd(&["migrate", "--config", &folder.name("owner.toml")]));
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn name(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// What `role` says, and ends with, where its configuration has `to` in place of `from`.
    fn start(&self, role: &str, from: &str, to: &str) -> (i32, String) {
        let config = std::fs::read_to_string(self.path(&format!("{role}.toml"))).unwrap();
        assert!(config.contains(from), "{config}");
        self.write("changed.toml", &config.replacen(from, to, 1));
        let output = stekd(&["--log-format", "json", role, "--config", &self.name("changed.toml")]);
        let words = said(&output).replace(&format!("{}/", self.0.path().display()), "");
        let error = words.lines().filter(|line| !line.starts_with('{')).collect::<Vec<_>>();
        (status(&output), error.join("\n"))
    }

    /// It ends with `expected` and these words.
    #[track_caller]
    fn refuses(&self, role: &str, from: &str, to: &str, expected: (i32, &str)) {
        let (status, words) = self.start(role, from, to);
        assert_eq!((status, words.as_str()), (expected.0, &*format!("stekd: {}", expected.1)));
        let parts: Vec<_> = words.split(": ").collect();
        for (index, part) in parts.iter().enumerate() {
            assert!(!parts[..index].contains(part), "said twice: {words}");
        }
    }
}

#[test]
fn a_manager_names_the_file_of_custody_that_is_of_no_use() {
    let folder = Folder::new();
    let secret = |to, status, words: &str| {
        let to = format!("cluster_secret_file = \"{to}\"");
        let words = format!("custody.cluster_secret_file: {words}");
        folder.refuses("manager", SECRET, &to, (status, &words));
    };
    let absent = "No such file or directory (os error 2)";
    secret("absent", 64, &format!("cannot read the cluster secret absent: {absent}"));
    let modes = "has mode 0644, allowed are 0400, 0600, 0440 and 0640";
    secret("open", 64, &format!("the cluster secret open {modes}"));
    secret("junk", 64, "the cluster secret junk is refused: not 64 hexadecimal digits");
    secret("tls", 64, "the cluster secret tls is not a file");

    let state = |to, words: &str| {
        folder.refuses("manager", STATE, &format!("state_file = \"{to}\""), (1, words));
    };
    state("tls", "the state file tls is not a regular file with one name");
    state("junk", "the state file junk holds no whole state");
    state("open", "the state file open has mode 0644, allowed is 0600");
    let begun = "the ratchet cannot be begun: cannot create the state file absent/ratchet";
    state("absent/ratchet", &format!("{begun}: {absent}"));
}

#[test]
fn a_manager_names_the_database_and_what_it_said() {
    let folder = Folder::new();
    let refuses = |to: &str, status, words: &str| {
        folder.refuses("manager", DATABASE, to, (status, words));
    };
    refuses("", 64, "database: give either url or url_file");
    let absent = "No such file or directory (os error 2)";
    refuses("url_file = \"absent\"", 64, &format!("database.url_file absent: {absent}"));
    refuses("url = \"mysql:x\"", 64, "database.url must begin with postgres:// or sqlite:");
    let junk = "the URL in database.url_file must begin with postgres:// or sqlite:";
    refuses("url_file = \"junk\"", 64, junk);
    let parameter = "database.url: database refused its URL: unknown parameter \"foo\"";
    refuses("url = \"postgres://u@h/d?foo=1\"", 64, parameter);
    let migrate = "database lacks our schema: run `stekd migrate`";
    refuses("url = \"sqlite:absent.db\"", 1, &format!("sqlite:absent.db: {migrate}"));
    let junk = "database refused a read: connection: file is not a database (code 26)";
    refuses("url = \"sqlite:junk\"", 1, &format!("sqlite:junk: {junk}"));
    // Without user and password.
    folder.write("url", "postgres://u:hunter2@127.0.0.1:1/none\n");
    let refused = "error communicating with database: Connection refused (os error 111)";
    let away = format!("postgres://127.0.0.1:1/none: database is unreachable: {refused}");
    refuses("url_file = \"url\"", 69, &away);
}

#[test]
fn every_role_names_what_its_listener_lacks() {
    let folder = Folder::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let in_use = format!("cannot listen on 127.0.0.1:{port}: Address already in use (os error 98)");
    for (role, name) in [
        ("manager", "listener admin"),
        ("distribution", "listener distribution"),
        ("terminator", "listener tls"),
    ] {
        let refuses = |from, to: &str, words: &str| folder.refuses(role, from, to, (64, words));
        let files = |certificate, key| {
            format!("certificate_file = \"{certificate}\"\nprivate_key_file = \"{key}\"")
        };
        let absent = "I/O error: No such file or directory (os error 2)";
        let certificate = format!("listen: cannot read certificates from absent: {absent}");
        refuses(TLS, &files("absent", "tls/server.key"), &certificate);
        let none = "listen: no certificate in junk";
        refuses(TLS, &files("junk", "tls/server.key"), none);
        let key = "listen: cannot read a private key from junk: no items found";
        refuses(TLS, &files("tls/server.pem", "junk"), key);
        let (_, words) = folder.start(role, TLS, &files("tls/ca.pem", "tls/server.key"));
        let apart =
            "stekd: listen: certificate tls/ca.pem and private key tls/server.key cannot be used";
        assert!(words.starts_with(apart), "{words}");
        let listen = ADDRESS.replace(":0", &format!(":{port}"));
        folder.refuses(role, ADDRESS, &listen, (1, &format!("{name}: {in_use}")));
        let metrics = METRICS.replace(":0", &format!(":{port}"));
        folder.refuses(role, METRICS, &metrics, (1, &format!("listener metrics: {in_use}")));
        let (status, words) = folder.start(role, ADDRESS, "[listen]\naddress = \"localhost:1\"");
        assert_eq!(status, 64, "{words}");
        assert!(words.contains("address = \"localhost:1\""), "{words}");
    }
}

#[test]
fn who_is_asked_and_who_asks_is_named_by_the_key_of_the_section() {
    let folder = Folder::new();
    let server = "server = \"https://localhost:1\"";
    folder.write("operator.toml", &format!("{server}\n{ROOTS}\n{TOKEN}\n"));
    let manager = std::fs::read_to_string(folder.path("manager.toml")).unwrap();
    folder.write("manager.toml", &format!("{manager}[peers]\n{URLS}\n{ROOTS}\n{TOKEN}\n"));
    let absent = "cannot be read: No such file or directory (os error 2)";
    let pem = "it must hold PEM certificates of at most 4 MiB, it holds none";
    let allowed = "https://host[:port], or http://host[:port] for 127.0.0.0/8, [::1] and localhost, \
                   without path, query or credentials";
    let digits = "it must hold stek_ and 64 hexadecimal digits on one line";
    let common = [
        (ROOTS, "roots_files = [\"absent\"]", format!("roots_files: roots file absent {absent}")),
        (
            ROOTS,
            "roots_files = [\"junk\"]",
            format!("roots_files: roots file junk is not allowed: {pem}"),
        ),
        (
            ROOTS,
            "",
            "roots_files is empty, allowed is at least one PEM file when an upstream is https"
                .into(),
        ),
        (TOKEN, "token_file = \"absent\"", format!("token_file: token file absent {absent}")),
        (
            TOKEN,
            "token_file = \"junk\"",
            format!("token_file: token file junk is not allowed: {digits}"),
        ),
        (
            TOKEN,
            "certificate_file = \"absent\"\nprivate_key_file = \"tls/server.key\"",
            format!("certificate_file: absent {absent}"),
        ),
        (
            TOKEN,
            "certificate_file = \"tls/server.pem\"",
            "certificate_file and private_key_file go together".into(),
        ),
    ];
    let own = [
        (URLS, "urls = []", "urls is a list of 0, allowed is 1 to 16 of them".to_owned()),
        (URLS, "urls = [\"ftp://x\"]", format!("urls is ftp://x, allowed is {allowed}")),
    ];
    for (role, section) in
        [("manager", "peers."), ("distribution", "upstream."), ("terminator", "upstream.")]
    {
        for (from, to, words) in common.iter().chain(&own) {
            folder.refuses(role, from, to, (64, &format!("{section}{words}")));
        }
    }
    let own = (server, "server = \"ftp://x\"", format!("server is ftp://x, allowed is {allowed}"));
    for (from, to, words) in common.iter().chain([&own]) {
        let profile = std::fs::read_to_string(folder.path("operator.toml")).unwrap();
        folder.write("profile.toml", &profile.replacen(from, to, 1));
        let output = stekd(&["keyset", "list", "--profile", &folder.name("profile.toml")]);
        let here = format!("{}/", folder.0.path().display());
        let expected = format!("stekd: profile profile.toml: {words}\n");
        assert_eq!((status(&output), said(&output).replace(&here, "")), (64, expected));
    }
}

/// This is tried where the program is built as it is by default.
#[cfg(not(feature = "otlp"))]
#[test]
fn without_the_exporter_of_spans_a_collector_is_refused_and_variables_are_ignored() {
    let folder = Folder::new();
    let need = "traces: this program was built without the feature otlp";
    let traces = format!("[traces]\nendpoint = \"http://localhost:4318\"\n{METRICS}");
    for role in ["manager", "distribution", "terminator"] {
        folder.refuses(role, METRICS, &traces, (64, need));
    }
    assert!(!folder.path("ratchet").exists(), "nothing was begun");
    // They are often there for all programs of a machine.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_stekd"));
    command.args(["--log-format", "json", "manager", "--config"]).arg(folder.path("manager.toml"));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4318");
    let mut manager = crate::site::Role::spawn(&mut command);
    manager.port("admin");
    crate::process::terminate(&mut manager.process);
}
