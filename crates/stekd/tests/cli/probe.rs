//! `stekd probe` against servers of several makes, as an operator runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::dev::Dev;
use crate::nginx::Nginx;
use crate::process::{PATIENCE, lines_of, said, shown, status, stekd};

/// A folder with a certificate for `localhost`.
pub(crate) struct Site(pub(crate) TempDir);

impl Site {
    pub(crate) fn new() -> Self {
        let site = Self(tempfile::tempdir().unwrap());
        shown(&stekd(&["dev-ca", site.tls().to_str().unwrap(), "--name", "localhost"]));
        site
    }

    pub(crate) fn tls(&self) -> PathBuf {
        self.0.path().join("tls")
    }

    fn openssl(&self, more: &[&str]) -> OpenSsl {
        OpenSsl::start(&self.tls(), more)
    }

    fn nginx(&self, name: &str, more: &str) -> Nginx {
        Nginx::start(&self.0.path().join(name), &self.tls(), more)
    }

    pub(crate) fn probe(&self, arguments: &[&str]) -> Output {
        probe(&self.tls().join("ca.pem"), arguments)
    }
}

fn probe(roots: &Path, arguments: &[&str]) -> Output {
    stekd(&[&["probe", "--roots", roots.to_str().unwrap()], arguments].concat())
}

pub(crate) fn document(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{}", said(output)))
}

/// The outcomes of all pairs in one version of TLS, in order.
pub(crate) fn outcomes(document: &Value, tls: &str) -> Vec<String> {
    let pairs = version(document, tls)["pairs"].as_array().unwrap();
    pairs.iter().map(|pair| pair["outcome"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn version<'a>(document: &'a Value, tls: &str) -> &'a Value {
    let versions = document["versions"].as_array().unwrap();
    versions.iter().find(|version| version["tls"] == tls).unwrap()
}

/// `openssl s_server`, ended with the value.
struct OpenSsl {
    process: Child,
    address: String,
}

impl OpenSsl {
    fn start(tls: &Path, more: &[&str]) -> Self {
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert"])
            .arg(tls.join("server.pem"))
            .arg("-key")
            .arg(tls.join("server.key"))
            .args(more)
            // Without -www it ends with its standard input.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = lines_of(process.stdout.take().unwrap());
        let address = loop {
            let line = lines.recv_timeout(PATIENCE).expect("openssl s_server starts");
            if let Some(address) = line.strip_prefix("ACCEPT ") {
                break format!("localhost:{}", address.rsplit(':').next().unwrap());
            }
        };
        Self { process, address }
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn openssl_with_tickets_resumes_at_itself() {
    let site = Site::new();
    let server = site.openssl(&["-num_tickets", "3"]);
    let output = site.probe(&[&server.address, "--output", "json"]);
    let document = document(&output);
    assert_eq!(status(&output), 0, "{document:#}");
    assert_eq!(document["ok"], true);
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&document, tls), ["resumed"], "{document:#}");
        let server = &version(&document, tls)["servers"][0];
        assert_eq!(server["lifetime_hint_seconds"], 7200, "{document:#}");
        assert_eq!(server["key_names"].as_array().unwrap().len(), 1, "{document:#}");
        assert_eq!(server["reuse"], "accepted", "{document:#}");
    }
    // On a busy machine it may pause between two of them, and that is taken for the end.
    let sessions =
        |found: &Value| version(found, "1.3")["servers"][0]["sessions_per_handshake"].clone();
    let again = |_| sessions(&self::document(&site.probe(&[&server.address, "--output", "json"])));
    assert!([sessions(&document)].into_iter().chain((0..20).map(again)).any(|count| count == 3));
}

#[test]
fn sessions_that_openssl_keeps_are_told_from_tickets() {
    let site = Site::new();
    let server = site.openssl(&["-no_ticket"]);
    let output = site.probe(&[&server.address, "--output", "json"]);
    let document = document(&output);
    assert_eq!(status(&output), 0, "{document:#}");
    assert_eq!(version(&document, "1.3")["servers"][0]["ticket_bytes"], 32, "{document:#}");
    assert_eq!(version(&document, "1.2")["servers"][0]["ticket_bytes"], Value::Null);
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&document, tls), ["resumed"], "{document:#}");
        assert_eq!(version(&document, tls)["servers"][0]["key_names"], Value::Null);
    }
}

#[test]
fn sessions_of_openssl_for_early_data_are_for_single_use() {
    let site = Site::new();
    let server = site.openssl(&["-tls1_3", "-early_data"]);
    let output = site.probe(&[&server.address, "--tls", "1.3", "--output", "json"]);
    let document = document(&output);
    assert_eq!(status(&output), 0, "{document:#}");
    assert_eq!(outcomes(&document, "1.3"), ["resumed"], "{document:#}");
    assert_eq!(version(&document, "1.3")["servers"][0]["reuse"], "refused", "{document:#}");
}

#[test]
fn a_server_that_gives_nothing_is_a_fault() {
    let site = Site::new();
    let server = site.openssl(&["-tls1_3", "-num_tickets", "0"]);
    let output = site.probe(&[&server.address]);
    assert_eq!(status(&output), 2, "{}", said(&output));
    let words = said(&output);
    assert!(words.contains("nothing to resume with"), "{words}");
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("no-ticket") && !table.contains('\x1b'), "{table}");
    // The version that nobody speaks is a fault only for who asks for it.
    assert!(!words.contains("TLS 1.2"), "{words}");
    let output = site.probe(&[&server.address, "--tls", "1.2"]);
    assert_eq!(status(&output), 69, "{}", said(&output));
}

#[test]
fn nginx_with_one_key_resumes_everywhere_and_without_nowhere_else() {
    let site = Site::new();
    let key = site.0.path().join("ticket.key");
    // Any 80 bytes are a key for nginx.
    std::fs::write(&key, std::array::from_fn::<u8, 80, _>(|n| u8::try_from(n * 3).unwrap()))
        .unwrap();
    let shared = format!("ssl_session_ticket_key {};", key.display());
    let [a, b] = ["a", "b"].map(|name| site.nginx(name, &shared));
    let output = site.probe(&[&a.address(), &b.address(), "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 0, "{found:#}");
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&found, tls), ["resumed"; 4], "{found:#}");
        assert_eq!(version(&found, tls)["key_names"], "shared");
        let server = &version(&found, tls)["servers"][0];
        assert_eq!(server["lifetime_hint_seconds"], 300);
        assert_eq!(server["key_names"][0], "000306090c0f1215181b1e2124272a2d");
    }

    let [c, d] = ["c", "d"].map(|name| site.nginx(name, ""));
    let output = site.probe(&[&c.address(), &d.address(), "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 2, "{found:#}");
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&found, tls), ["resumed", "full", "full", "resumed"], "{found:#}");
        assert_eq!(version(&found, tls)["key_names"], "different");
    }
    let faults = said(&output);
    for (from, to) in [(&c, &d), (&d, &c)] {
        let named = format!("{} → {} in TLS 1.3", from.address(), to.address());
        assert!(faults.contains(&named) && faults.contains("different keys"), "{faults}");
    }
}

#[test]
fn nginx_ends_tickets_with_their_hint() {
    let site = Site::new();
    // Long enough for the first offer to be in time on a busy machine.
    let server = site.nginx("short", "ssl_session_timeout 8s;");
    let output =
        site.probe(&[&server.address(), "--tls", "1.3", "--ages", "0s,10s", "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 0, "{found:#}{}", said(&output));
    let lifetime = &version(&found, "1.3")["lifetimes"][0];
    assert_eq!(lifetime["lifetime_hint_seconds"], 8);
    assert_eq!(lifetime["last_resumed_at_seconds"], 0);
    assert_eq!(lifetime["first_refused_at_seconds"], 10);
    assert_eq!(lifetime["keeps_its_hint"], true);
    assert!(said(&output).contains("a ticket 10s old: full"), "{}", said(&output));
}

#[test]
fn our_own_terminators_resume_at_one_another() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    let servers = ["server-a", "server-b"].map(|name| format!("localhost:{}", dev.port(name)));
    let roots = dev.site().join("ca.pem");
    let output = probe(&roots, &[&servers[0], &servers[1], "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 0, "{found:#}");
    assert_eq!(outcomes(&found, "1.3"), ["resumed"; 4], "{found:#}");
    assert_eq!(version(&found, "1.3")["key_names"], "shared", "{found:#}");
    let hint = version(&found, "1.3")["servers"][0]["lifetime_hint_seconds"].as_u64().unwrap();
    assert!((21_500..=21_600).contains(&hint), "{hint}");
    dev.end();
}

#[test]
fn servers_that_ask_for_a_certificate_get_one() {
    let site = Site::new();
    // It demands a certificate and does not mind by whom it is signed.
    let server = site.openssl(&["-Verify", "1"]);
    let output = site.probe(&[&server.address]);
    assert_eq!(status(&output), 69, "{}", said(&output));
    assert!(said(&output).contains("CertificateRequired"), "{}", said(&output));
    let [chain, key] = ["server.pem", "server.key"].map(|name| site.tls().join(name));
    let identity = ["--client-certificate", chain.to_str().unwrap(), "--client-key"];
    let more = [key.to_str().unwrap(), &server.address, "--output", "json"];
    let output = site.probe(&[&identity[..], &more].concat());
    let found = document(&output);
    assert_eq!(status(&output), 0, "{found:#}{}", said(&output));
    assert_eq!(outcomes(&found, "1.3"), ["resumed"], "{found:#}");
}

#[test]
fn what_cannot_be_probed_is_refused_or_said() {
    let site = Site::new();
    for (arguments, expected) in [
        (&["localhost"][..], "HOST:PORT"),
        (&["a.example:443", "b.example:443"], "--server-name"),
        (&["localhost:443", "--ages", "9d"], "8d"),
        (&["localhost:443", "--timeout", "0s"], "1s"),
        (&["localhost:443", "--client-key", "x"], "--client-certificate"),
    ] {
        let output = site.probe(arguments);
        assert_eq!(status(&output), 64, "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
    let output = stekd(&["probe", "localhost:443", "--roots", "/nowhere.pem"]);
    assert_eq!(status(&output), 64);
    let output = site.probe(&["localhost:1"]);
    assert_eq!(status(&output), 69, "{}", said(&output));
    // An authority that did not sign the certificate.
    let server = site.openssl(&[]);
    let stranger = Site::new();
    let output = stranger.probe(&[&server.address]);
    assert_eq!(status(&output), 69, "{}", said(&output));
    assert!(said(&output).contains("certificate"), "{}", said(&output));
    let output = stekd(&["probe", "--dangerously-trust-anyone", &server.address]);
    assert_eq!(status(&output), 0, "{}", said(&output));
}
