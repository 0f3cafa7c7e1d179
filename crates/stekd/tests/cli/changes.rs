//! What an operator is told of a change when something fails after it, and of results that nobody
//! reads.

use std::process::{Command, Stdio};

use crate::process::{said, status, terminate};
use crate::site::{Role, Site};

/// A site on SQLite whose manager can be told to stop.
fn site() -> Site {
    Site::with_database("sqlite:keys.db")
}

#[test]
fn what_was_changed_is_shown_though_the_manager_stops_meanwhile() {
    let site = site();
    let mut manager = Role::start("manager", &site.path("manager.toml"));
    let profile = site.profile("operator", &manager.port("admin"));
    site.stekd("keyset create main --profile DIR/operator.toml");
    // Nobody reports, so that it waits for some seconds.
    let asking = Command::new(env!("CARGO_BIN_EXE_stekd"))
        .args(["keyset", "policy", "main", "--ticket-lifetime", "5h", "--wait", "60s"])
        .args(["--output", "json", "--profile"])
        .arg(profile)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    manager.logs("policy-changed");
    terminate(&mut manager.process);
    let output = asking.wait_with_output().unwrap();
    assert_eq!(status(&output), 75, "{}", said(&output));
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&shown["keyset"], &shown["confirmation"]), (&"main".into(), &().into()));
    let said = said(&output);
    assert!(said.contains("the change is made") && said.contains("does not answer"), "{said}");
}

/// Runs the program with a standard output that nobody reads any more.
fn unread(site: &Site, arguments: &str) -> (i32, String) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let filled = arguments.replace("DIR", site.path("").to_str().unwrap());
    let mut command = Command::new(env!("CARGO_BIN_EXE_stekd"));
    let output = command.args(filled.split_whitespace()).stdout(writer).output().unwrap();
    (status(&output), said(&output))
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let site = site();
    for asked in [
        "audit list --offline DIR/manager.toml",
        "audit list --output json --offline DIR/manager.toml",
        "completions bash",
    ] {
        let (status, said) = unread(&site, asked);
        assert_eq!((status, said.as_str()), (0, ""), "{asked}");
    }
    // A token that nobody got is lost.
    let asked = "token create late --role operator --keyset * --offline DIR/manager.toml";
    let (status, said) = unread(&site, asked);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("the token was made and is lost"), "{said}");
}
