//! What an operator is told of a change when something fails after it, and of results that nobody
//! reads.

use std::process::{Command, Stdio};

use crate::managers::until;
use crate::process::{said, status, terminate};
use crate::site::{LISTEN, Role, Site, reach};

/// A site on SQLite whose manager can be told to stop.
fn site() -> Site {
    Site::with_database("sqlite:keys.db")
}

/// The same with a distribution, and a terminator that stands still once it is known.
fn site_with_a_laggard() -> (Site, Role, [Role; 2]) {
    let site = site();
    let manager = Role::start("manager", &site.path("manager.toml"));
    let admin = manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");
    let upstream = reach(&[&admin], "distribution-token");
    let file = site.write("distribution.toml", &format!("{upstream}{LISTEN}"));
    let distribution = Role::start("distribution", &file);
    let upstream = reach(&[&distribution.port("distribution")], "terminator-token");
    let named = format!("keyset = \"main\"\ninstance = \"edge-7\"\n{upstream}{LISTEN}");
    let edge = Role::start("terminator", &site.write("edge.toml", &named));
    until(&site, "keyset terminators main --profile DIR/operator.toml", |output| {
        String::from_utf8_lossy(&output.stdout).contains("1 of 1 instances")
    });
    let id = edge.process.id().to_string();
    assert!(Command::new("kill").args(["-STOP", &id]).status().unwrap().success());
    (site, manager, [distribution, edge])
}

#[test]
fn who_has_not_confirmed_is_named_and_is_no_success() {
    let (site, mut manager, _others) = site_with_a_laggard();
    // Each revokes anew, until the distribution has told who lags within the wait.
    let revoke = "keyset revoke main --reason leak --yes --wait 1s --profile DIR/operator.toml";
    until(&site, revoke, |output| {
        assert_eq!(status(output), 75, "{}", said(output));
        let said = said(output);
        said.contains("1 of 1 instances had not confirmed") && said.contains("edge-7")
    });
    terminate(&mut manager.process);
}

#[test]
fn what_was_changed_is_shown_though_the_manager_stops_meanwhile() {
    let (site, mut manager, _others) = site_with_a_laggard();
    let profile = site.path("operator.toml");
    // One never confirms, so that it waits.
    let asking = Command::new(env!("CARGO_BIN_EXE_stekd"))
        .args(["keyset", "policy", "main", "--ticket-lifetime", "5h", "--wait", "10m"])
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
