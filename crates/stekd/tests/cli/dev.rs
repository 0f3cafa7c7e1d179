//! `stekd dev` and the commands that speak to it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;

use crate::process::{
    Offer, PATIENCE, lines_of, said, show_if_failed, shown, status, stekd, terminate, visit,
};

/// `stekd dev` in a folder of its own, ended by SIGTERM.
pub(crate) struct Dev {
    folder: PathBuf,
    process: Child,
    welcome: Vec<String>,
    log: Receiver<String>,
}

impl Dev {
    pub(crate) fn start_in(folder: &Path) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_stekd"))
            .args(["dev", "--port-base", "0", "--dir", "site"])
            .current_dir(folder)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = lines_of(process.stdout.take().unwrap());
        let log = lines_of(process.stderr.take().unwrap());
        let mut welcome = Vec::new();
        while !welcome.last().is_some_and(|line: &String| line.contains("keyset rotate")) {
            welcome.push(lines.recv_timeout(PATIENCE).expect("stekd dev starts"));
        }
        Self { folder: folder.to_owned(), process, welcome, log }
    }

    pub(crate) fn site(&self) -> PathBuf {
        self.folder.join("site")
    }

    fn keyset(&self, arguments: &[&str]) -> Output {
        let profile = self.site().join("operator.toml");
        stekd(&[&["keyset"], arguments, &["--profile", profile.to_str().unwrap()]].concat())
    }

    pub(crate) fn port(&self, server: &str) -> String {
        let line = self.welcome.iter().find(|line| line.starts_with(server)).unwrap();
        line.rsplit(':').next().unwrap().to_owned()
    }

    /// Waits until both servers are known to hold what is published.
    fn both_hold(&self, keyset: &str) {
        let known = || -> serde_json::Value {
            let shown = shown(&self.keyset(&["terminators", keyset, "--output", "json"]));
            serde_json::from_str(&shown).unwrap()
        };
        // Each question is a process of its own, so these are many seconds.
        let found = (0..500).any(|_| known()["confirmed"] == 2);
        assert!(found, "{}", known());
    }

    fn visit(&self, server: &str, session: &Path, offer: Offer) -> (String, String) {
        visit(&self.port(server), &self.site().join("ca.pem"), session, offer)
    }

    pub(crate) fn end(mut self) {
        terminate(&mut self.process);
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        // Ended already, unless the test failed.
        let _ = self.process.kill();
        let _ = self.process.wait();
        show_if_failed("stekd dev", self.log.iter());
    }
}

#[test]
fn a_rotation_by_hand_reaches_both_servers_and_loses_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    let session = dev.site().join("session");
    let (first, before) = dev.visit("server-a", &session, Offer::Nothing);
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
            let (said, name) = dev.visit(server, &session, Offer::Session);
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
    let gone = shown(&dev.keyset(&["delete", "other", "--yes", "--wait", "0s"]));
    assert!(gone.contains("revoke") && gone.contains("full handshakes"), "{gone}");
    assert_eq!(status(&dev.keyset(&["show", "other"])), 1);
    let refused = dev.keyset(&["delete", "main"]);
    assert!(said(&refused).contains("not confirmed"), "{}", said(&refused));
    dev.end();
}

#[test]
fn operators_see_who_holds_what() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    dev.both_hold("main");
    let table = shown(&dev.keyset(&["terminators", "main"]));
    assert!(table.contains("2 of 2 instances hold revision"), "{table}");
    let port = dev.port("distribution");
    let at = format!("https://localhost:{port}");
    let listed = shown(&dev.keyset(&["terminators", "main", "--distribution", &at]));
    assert!(listed.contains("server-a") && listed.contains("server-b"), "{listed}");
    let refused = dev.keyset(&["terminators", "main", "--distribution", "http://192.0.2.7"]);
    assert!(said(&refused).contains("allowed is https"), "{}", said(&refused));
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

#[test]
fn the_demonstration_of_a_revocation_shows_what_it_says() {
    let shown = shown(&stekd(&["demo-revoke"]));
    for words in ["100/100 in", "have dropped the keys after", "counts its ticket as revoked"] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(shown.trim_end().ends_with("resumes at server-b again."), "{shown}");
}

#[test]
fn a_revocation_is_asked_about_confirmed_and_written_down() {
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start_in(folder.path());
    let session = dev.site().join("session");
    dev.visit("server-a", &session, Offer::Nothing);
    let cost = shown(&dev.keyset(&["revoke", "main", "--reason", "leak", "--dry-run"]));
    assert!(cost.contains("need a full handshake") && cost.contains("pending"), "{cost}");
    // Nobody answers the question.
    let unanswered = dev.keyset(&["revoke", "main", "--reason", "leak"]);
    assert_eq!(status(&unanswered), 1);
    assert!(said(&unanswered).contains("not confirmed; nothing was changed"));
    let bad = dev.keyset(&["revoke", "main", "--reason", "", "--yes"]);
    assert_eq!(status(&bad), 64, "{}", said(&bad));
    let (kept, _) = dev.visit("server-b", &session, Offer::Session);
    assert_eq!(kept, "server-b: resumed handshake");

    // Who is not known yet is not waited for.
    dev.both_hold("main");
    let revoke = ["revoke", "main", "--reason", "leak", "--yes", "--output", "json"];
    let done: serde_json::Value = serde_json::from_str(&shown(&dev.keyset(&revoke))).unwrap();
    let confirmation = &done["confirmation"];
    assert_eq!((&confirmation["instances"], &confirmation["confirmed"]), (&2.into(), &2.into()));
    let (after, _) = dev.visit("server-b", &session, Offer::Session);
    assert_eq!(after, "server-b: full handshake");

    let profile = dev.site().join("operator.toml");
    let audit = |arguments: &[&str]| {
        stekd(&[&["audit"], arguments, &["--profile", profile.to_str().unwrap()]].concat())
    };
    let trail = shown(&audit(&["list", "--keyset", "main", "--since", "1h"]));
    let revoked = trail.lines().filter(|line| line.contains("key-revoked"));
    assert_eq!(revoked.filter(|line| line.contains("token:operator")).count(), 2, "{trail}");
    let verdict = shown(&audit(&["verify", "--output", "json"]));
    let verdict: serde_json::Value = serde_json::from_str(&verdict).unwrap();
    let link = verdict["link"].as_str().unwrap();
    assert!(shown(&audit(&["verify", "--anchor", link])).contains("the anchor is the link of"));
    let cut = audit(&["verify", "--anchor", &"0f".repeat(32)]);
    assert_eq!(status(&cut), 2);
    assert!(said(&cut).contains("it was cut or written anew"), "{}", said(&cut));
    dev.end();
}
