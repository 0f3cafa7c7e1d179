//! What a listener refuses at start, and that health answers when an interface is full.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use crate::process::{PATIENCE, said, shown, status, stekd, terminate};
use crate::refusals::Folder;
use crate::site::Role;

/// `GET path` over HTTP/1.1 on a connection that stays.
fn ask(stream: &mut TcpStream, path: &str) {
    write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").unwrap();
}

/// The status line of the next answer, whose body may follow.
fn answer(stream: &mut TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes).unwrap();
    let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
    text.lines().next().unwrap_or_default().to_owned()
}

fn connect(port: &str) -> TcpStream {
    TcpStream::connect(format!("127.0.0.1:{port}")).unwrap()
}

#[test]
fn health_answers_when_the_interface_is_full() {
    let folder = Folder::sqlite();
    // Who rests keeps his place for as long as this takes.
    let limits = "limits.max_connections = 2\nlimits.header_read_timeout_seconds = 600\n[metrics]";
    folder.edit("[metrics]", limits);
    shown(&folder.run(&["migrate"]));
    let role = Role::start("manager", &folder.path("manager.toml"));
    let (admin, metrics) = (role.port("admin"), role.port("metrics"));
    let mut idle = [connect(&admin), connect(&admin)];
    for stream in &mut idle {
        // Who is refused would not keep a place.
        ask(stream, "/openapi.json");
        assert!(answer(stream).contains("200"), "both are served");
    }
    for _ in 0..3 {
        let mut third = connect(&admin);
        ask(&mut third, "/v1/feed");
        assert!(answer(&mut third).contains("503"), "there is no room for a third");
        let mut health = connect(&metrics);
        ask(&mut health, "/healthz");
        assert!(answer(&mut health).contains("200"));
    }
    drop(idle);
    // The manager hears in its own time that the others have left.
    let is_served = |_| {
        let mut third = connect(&admin);
        ask(&mut third, "/v1/feed");
        let line = answer(&mut third);
        assert!(line.contains("401") || line.contains("503"), "{line}");
        line.contains("401")
    };
    assert!((0..10_000).any(is_served), "and then there is");
}

#[test]
fn what_a_listener_must_not_be_is_refused_at_start() {
    let folder = Folder::sqlite();
    shown(&folder.run(&["migrate"]));
    let here = "[listen]\naddress = \"127.0.0.1:0\"\n";
    for (listen, expected) in [
        ("[listen]\naddress = \"0.0.0.0:0\"\n", "insecure_plain_http_anywhere"),
        ("[listen]\naddress = \"[::]:0\"\n", "loopback"),
        (&format!("{here}client_ca_file = \"ca.pem\"\n"), "client_ca_file needs certificate_file"),
        (&format!("{here}certificate_file = \"server.pem\"\n"), "go together"),
        (&format!("{here}limits.max_waiting = 0\n"), "listen.limits.max_waiting is 0"),
        (&format!("{here}limits.max_wating = 1\n"), "max_wating"),
    ] {
        folder.edit(here, listen);
        let output = folder.run(&["manager"]);
        assert_eq!(status(&output), 64, "{listen}: {}", said(&output));
        assert!(said(&output).contains(expected), "{listen}: {}", said(&output));
        folder.edit(listen, here);
    }
    let insecure = "[listen]\naddress = \"0.0.0.0:0\"\ninsecure_plain_http_anywhere = true\n";
    folder.edit(here, insecure);
    let role = Role::start("manager", &folder.path("manager.toml"));
    let mut stream = connect(&role.port("admin"));
    ask(&mut stream, "/v1/feed");
    assert!(answer(&mut stream).contains("401"));
}

#[test]
fn a_client_without_any_proof_is_refused_at_start() {
    let folder = Folder::sqlite();
    let rest = "[listen]\naddress = \"127.0.0.1:0\"\n[metrics]\naddress = \"127.0.0.1:0\"\n";
    let upstream = "[upstream]\nurls = [\"http://127.0.0.1:1\"]\n";
    let config = folder.path("distribution.toml");
    for (proof, expected) in [
        ("", "upstream.token_file is absent"),
        ("certificate_file = \"edge.pem\"\n", "upstream.certificate_file and private_key_file go"),
        (
            "certificate_file = \"edge.pem\"\nprivate_key_file = \"edge.key\"\n",
            "edge.pem cannot be read",
        ),
    ] {
        std::fs::write(&config, format!("{upstream}{proof}{rest}")).unwrap();
        let output = stekd(&["distribution", "--config", config.to_str().unwrap()]);
        assert_eq!(status(&output), 64, "{proof}: {}", said(&output));
        assert!(said(&output).contains(expected), "{proof}: {}", said(&output));
    }
}

#[test]
fn the_first_grant_is_made_without_a_manager_and_the_rest_with_one() {
    let folder = Folder::sqlite();
    shown(&folder.run(&["migrate"]));
    let (config, token) = (folder.path("manager.toml"), folder.path("operator-token"));
    let (config, token) = (config.to_str().unwrap(), token.to_str().unwrap());
    let offline = ["--role", "operator", "--offline", config];
    let create = [&["token", "create", "ops"], &offline[..], &["--out", token]].concat();
    shown(&stekd(&create));
    shown(&stekd(&[&["grant", "add", "ops.example", "*"], &offline[..]].concat()));
    let role = Role::start("manager", &folder.path("manager.toml"));
    let server = format!("server = \"http://127.0.0.1:{}\"\n", role.port("admin"));
    let profile = folder.path("operator.toml");
    std::fs::write(&profile, format!("{server}token_file = \"operator-token\"\n")).unwrap();
    let grant = |arguments: &[&str]| {
        let reach = ["--profile", profile.to_str().unwrap()];
        stekd(&[&["grant"], arguments, &reach[..]].concat())
    };
    let edge = ["spiffe://td/edge/*", "main", "--role", "terminator"];
    shown(&grant(&[&["add"], &edge[..]].concat()));
    let listed = shown(&grant(&["list"]));
    let rows: Vec<Vec<&str>> =
        listed.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows,
        [
            ["ops.example", "*", "operator"],
            ["spiffe://td/edge/*", "main", "terminator"],
            ["token:ops", "*", "operator"]
        ]
    );
    shown(&grant(&[&["remove"], &edge[..]].concat()));
    let again = grant(&[&["remove"], &edge[..]].concat());
    assert_eq!((status(&again), said(&again).contains("not found")), (1, true));
    assert_eq!(shown(&grant(&["list"])).lines().count(), 3);
    let bad = grant(&["add", "spiffe://td/edge-*", "main", "--role", "terminator"]);
    assert_eq!(status(&bad), 64);
    assert!(said(&bad).contains("a whole segment"), "{}", said(&bad));
}

/// A log is a pipe to somebody, who may go first.
#[test]
fn a_role_whose_log_nobody_reads_any_more_still_ends_well() {
    let folder = Folder::sqlite();
    shown(&folder.run(&["migrate"]));
    let mut manager = Command::new(env!("CARGO_BIN_EXE_stekd"))
        .args(["manager", "--config"])
        .arg(folder.path("manager.toml"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let log = BufReader::new(manager.stderr.take().unwrap());
    let mut listening = log.lines().map(Result::unwrap).filter(|line| line.contains("listening"));
    assert!(listening.next().is_some() && listening.next().is_some(), "admin and metrics");
    drop(listening);
    terminate(&mut manager);
}
