//! Manager, distribution and two terminators as processes of their own, configured by files, on a
//! real PostgreSQL.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use crate::process::{Offer, said, status, stekd, terminate, visit};
use crate::site::{LISTEN, Role, Site, reach};

/// It leaves no core file, and its memory is locked unless it says that it is not.
fn keeps_its_memory_out_of_files(role: &Role) {
    let process = format!("/proc/{}", role.process.id());
    let limits = std::fs::read_to_string(format!("{process}/limits")).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
    role.first_line("core files are off");
    let said = role.first_line("memory is ");
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let locked = status.lines().find_map(|line| line.strip_prefix("VmLck:")).unwrap();
    assert_eq!(said.contains("memory is locked"), locked.trim() != "0 kB", "{said}, {locked}");
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_of_their_own_share_keys_and_rotate() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let mut manager = Role::start("manager", &site.path("manager.toml"));
    let admin = manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");

    let config = format!("{}{LISTEN}", reach(&[&admin], "distribution-token"));
    let mut distribution = Role::start("distribution", &site.write("distribution.toml", &config));
    let bundles = distribution.port("distribution");

    let mut terminators = Vec::new();
    for name in ["edge-1", "edge-2"] {
        let upstream = reach(&[&bundles], "terminator-token");
        let text = format!("keyset = \"main\"\ninstance = \"{name}\"\n{upstream}{LISTEN}");
        let role = Role::start("terminator", &site.write(&format!("{name}.toml"), &text));
        let port = role.port("tls");
        role.logs("installed");
        terminators.push((role, port));
    }

    for role in [&manager, &distribution].into_iter().chain(terminators.iter().map(|one| &one.0)) {
        keeps_its_memory_out_of_files(role);
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

#[test]
fn a_role_that_is_not_ready_yet_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = std::thread::spawn(move || {
        for status in ["503 Starting", "503 Starting", "200 OK"] {
            let (mut connection, _) = listener.accept().unwrap();
            let mut request = BufReader::new(connection.try_clone().unwrap()).lines();
            assert!(request.by_ref().any(|line| line.unwrap().is_empty()));
            write!(
                connection,
                "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            .unwrap();
        }
    });
    let once = stekd(&["healthcheck", &address]);
    assert_eq!(status(&once), 1, "{}", said(&once));
    assert!(said(&once).contains("is not ready"), "{}", said(&once));
    let waited = stekd(&["healthcheck", &address, "--wait", "10m"]);
    assert_eq!((status(&waited), said(&waited).as_str()), (0, ""));
    serving.join().unwrap();
}
