//! `stekd probe` against HAProxy and a server on Go: what it says of sessions that hop, of pairs that
//! do not resume, of hints that are kept and not, and of sessions for single use.

use std::path::Path;

use serde_json::Value;

use crate::golang::GoServer;
use crate::haproxy::Haproxy;
use crate::probe::{Site, document, outcomes, version};
use crate::process::{said, status};

/// Ticket keys as HAProxy wants them: 80 bytes in Base64 on a line, here all the same one. Of three
/// lines it seals with the second and opens with all.
fn ticket_keys(file: &Path, keys: [char; 3]) -> String {
    // 107 digits and one `=` are 80 bytes; the last digit has two bits that stand for nothing.
    let line = |key: char| format!("{}A=\n", key.to_string().repeat(106));
    std::fs::write(file, keys.map(line).concat()).unwrap();
    format!("tls-ticket-keys {}", file.display())
}

fn haproxy(site: &Site, name: &str, keys: [char; 3]) -> Haproxy {
    let dir = site.0.path().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    let bind = ticket_keys(&dir.join("ticket.keys"), keys);
    Haproxy::start(&dir, &site.tls(), "", &bind)
}

fn server<'a>(found: &'a Value, tls: &str, index: usize) -> &'a Value {
    &version(found, tls)["servers"][index]
}

#[test]
fn haproxy_with_one_file_of_keys_resumes_everywhere() {
    let site = Site::new();
    let [a, b] = ["a", "b"].map(|name| haproxy(&site, name, ['a', 'b', 'c']));
    let output = site.probe(&[&a.address(), &b.address(), "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 0, "{found:#}{}", said(&output));
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&found, tls), ["resumed"; 4], "{found:#}");
        assert_eq!(version(&found, tls)["key_names"], "shared", "{found:#}");
        assert_eq!(server(&found, tls, 0)["key_names"], server(&found, tls, 1)["key_names"]);
        assert_eq!(server(&found, tls, 1)["reuse"], "accepted", "{found:#}");
    }
}

#[test]
fn haproxy_that_missed_a_rotation_is_the_one_failing_pair() {
    let site = Site::new();
    // The first has not got the key under which the second seals, and the second has that of the first.
    let behind = haproxy(&site, "behind", ['a', 'b', 'c']);
    let ahead = haproxy(&site, "ahead", ['b', 'd', 'e']);
    let output = site.probe(&[&behind.address(), &ahead.address(), "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 2, "{found:#}");
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&found, tls), ["resumed", "resumed", "full", "resumed"], "{found:#}");
        assert_eq!(version(&found, tls)["key_names"], "different", "{found:#}");
        let named = format!("{} → {} in TLS {tls}: ", ahead.address(), behind.address());
        assert!(said(&output).contains(&named), "{}", said(&output));
    }
    let other = format!("{} → {}", behind.address(), ahead.address());
    assert!(!said(&output).contains(&other), "{}", said(&output));
}

#[test]
fn haproxy_ends_tickets_with_their_hint() {
    let site = Site::new();
    // Long enough for the first offer to be in time on a busy machine.
    let short =
        Haproxy::start(&site.0.path().join("short"), &site.tls(), "tune.ssl.lifetime 8", "");
    let output =
        site.probe(&[&short.address(), "--tls", "1.3", "--ages", "0s,10s", "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 0, "{found:#}{}", said(&output));
    let lifetime = &version(&found, "1.3")["lifetimes"][0];
    assert_eq!(lifetime["lifetime_hint_seconds"], 8, "{found:#}");
    assert_eq!(lifetime["last_resumed_at_seconds"], 0, "{found:#}");
    assert_eq!(lifetime["first_refused_at_seconds"], 10, "{found:#}");
    assert_eq!(lifetime["keeps_its_hint"], true, "{found:#}");
}

#[test]
fn go_with_one_key_resumes_everywhere_and_with_its_own_nowhere_else() {
    let site = Site::new();
    let [a, b] = ["a", "b"].map(|_| GoServer::start(&site.tls(), &["-key", "of the fleet"]));
    let alone = GoServer::start(&site.tls(), &[]);
    let servers = [a.address(), b.address(), alone.address(), "--output", "json"];
    let output = site.probe(&servers);
    let found = document(&output);
    assert_eq!(status(&output), 2, "{found:#}");
    for tls in ["1.3", "1.2"] {
        let rows = [
            ["resumed", "resumed", "full"],
            ["resumed", "resumed", "full"],
            ["full", "full", "resumed"],
        ];
        assert_eq!(outcomes(&found, tls), rows.concat(), "{found:#}");
        assert_eq!(server(&found, tls, 2)["reuse"], "accepted", "{found:#}");
    }
    // In TLS 1.2 Go gives no hint, which RFC 5077 writes as 0.
    assert_eq!(server(&found, "1.3", 0)["lifetime_hint_seconds"], 604_800, "{found:#}");
    assert_eq!(server(&found, "1.2", 0)["lifetime_hint_seconds"], Value::Null, "{found:#}");
    for (from, to) in [(&a, &alone), (&b, &alone), (&alone, &a), (&alone, &b)] {
        let named = format!("{} → {} in TLS 1.3: ", from.address(), to.address());
        assert!(said(&output).contains(&named), "{}", said(&output));
    }
    assert_eq!(said(&output).matches(" → ").count(), 8, "no other pair: {}", said(&output));
}

#[test]
fn servers_of_two_makes_are_told_apart() {
    let site = Site::new();
    let first = haproxy(&site, "first", ['a', 'b', 'c']);
    let second = GoServer::start(&site.tls(), &["-key", "abc"]);
    let output = site.probe(&[&first.address(), second.address(), "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 2, "{found:#}");
    for tls in ["1.3", "1.2"] {
        assert_eq!(outcomes(&found, tls), ["resumed", "full", "full", "resumed"], "{found:#}");
    }
}

#[test]
fn a_ticket_of_go_that_ends_before_its_hint_is_a_fault() {
    let site = Site::new();
    // A week passes in eight seconds, and with it what Go lets a ticket live. Clients go by real time.
    let hasty = GoServer::start(&site.tls(), &["-key", "a", "-haste", "21h"]);
    let output =
        site.probe(&[hasty.address(), "--tls", "1.3", "--ages", "0s,10s", "--output", "json"]);
    let found = document(&output);
    assert_eq!(status(&output), 2, "{found:#}{}", said(&output));
    let lifetime = &version(&found, "1.3")["lifetimes"][0];
    assert_eq!(lifetime["lifetime_hint_seconds"], 604_800, "{found:#}");
    assert_eq!(lifetime["last_resumed_at_seconds"], 0, "{found:#}");
    assert_eq!(lifetime["first_refused_at_seconds"], 10, "{found:#}");
    assert_eq!(lifetime["keeps_its_hint"], false, "{found:#}");
    let named = format!("{} in TLS 1.3: tickets end before their hint of 7d", hasty.address());
    assert!(said(&output).contains(&named), "{}", said(&output));
}
