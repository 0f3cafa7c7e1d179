//! Managers that know each other by their certificates: who is given the ratchet's state, who is not,
//! and what comes of two that begin together.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use stek_testpg::Session;
use tokio::time::timeout;

use crate::killed::{STOP, WAITING, trigger, until};
use crate::managers;
use crate::mutual::{Authority, authority, certify};
use crate::process::{PATIENCE, status, terminate};
use crate::site::{LISTEN, Role, Site};

/// The first line that the manager at `port` answers to a request for its state that nothing can be
/// given for, shown the certificate of `who` if there is one; none if the connection fails.
fn ask(site: &Site, port: &str, who: Option<&str>) -> Option<String> {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-connect"]).arg(format!("localhost:{port}"));
    command.arg("-CAfile").arg(site.path("tls/ca.pem"));
    if let Some(who) = who {
        command.arg("-cert").arg(site.path(&format!("{who}.pem")));
        command.arg("-key").arg(site.path(&format!("{who}.key")));
    }
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let request = "POST /admin/v1/ratchet/join HTTP/1.1\r\nhost: localhost\r\n\
                   connection: close\r\ncontent-length: 2\r\n\r\n{}";
    // Who is not let in may find the pipe closed.
    let _ = child.stdin.as_mut().unwrap().write_all(request.as_bytes());
    let answer = child.wait_with_output().unwrap().stdout;
    String::from_utf8_lossy(&answer).lines().next().map(str::to_owned)
}

/// Writes the configuration `manager-WHO.toml`: a manager on port `own`, with a state file of its own,
/// that shows its peer on port `other` the certificate of `who`.
fn configure(site: &Site, who: &str, own: &str, other: &str) {
    let listen = LISTEN.replacen("127.0.0.1:0", &format!("127.0.0.1:{own}"), 1);
    let listen = listen.replace("[metrics]", "client_ca_file = \"clients.pem\"\n[metrics]");
    let config = format!(
        "[database]\nurl_file = \"database-url\"\n[custody]\ncluster_secret_file = \
         \"cluster-secret\"\nstate_file = \"ratchet-{who}\"\n[peers]\nurls = \
         [\"https://localhost:{other}\"]\nroots_files = [\"tls/ca.pem\"]\ncertificate_file = \
         \"{who}.pem\"\nprivate_key_file = \"{who}.key\"\n{listen}"
    );
    site.write(&format!("manager-{who}.toml"), &config);
}

/// The manager `who`.
fn start(site: &Site, who: &str) -> Role {
    Role::start("manager", &site.path(&format!("manager-{who}.toml")))
}

/// A site whose managers may join by certificate, if they have one of this authority.
fn site(database: &str) -> (Site, Authority) {
    let site = Site::with_database(database);
    let ours = authority();
    site.write("clients.pem", &ours.pem());
    for (who, number) in [("one", 1), ("two", 2)] {
        certify(&site, &ours, who, &format!("spiffe://td/manager/{number}"));
    }
    site.stekd("grant add spiffe://td/manager/* * --role manager --offline DIR/manager.toml");
    (site, ours)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_is_given_the_state_for_its_certificate() {
    let database = stek_testpg::create_database().await.unwrap();
    let (site, ours) = site(database.url());
    certify(&site, &ours, "edge", "spiffe://td/edge/1");
    certify(&site, &authority(), "stranger", "spiffe://td/manager/3");
    configure(&site, "one", "0", "1");
    let mut one = start(&site, "one");
    let admin = one.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");

    // The request is read only for who may join.
    let answer = |who| ask(&site, &admin, who);
    assert!(answer(Some("two")).unwrap().contains("400"), "{:?}", answer(Some("two")));
    assert!(answer(Some("edge")).unwrap().contains("403"), "{:?}", answer(Some("edge")));
    assert!(answer(None).unwrap().contains("401"), "{:?}", answer(None));
    assert_eq!(answer(Some("stranger")), None, "the handshake fails");

    ["two", "edge", "stranger"].iter().for_each(|who| configure(&site, who, "0", &admin));
    // It has never had the state, and then it has lost it.
    for joined in 1..=2 {
        let mut two = start(&site, "two");
        two.logs("a peer gave the ratchet's state");
        site.profile("operator", &two.port("admin"));
        assert!(site.stekd("keyset show main --profile DIR/operator.toml").contains("main"));
        let trail = site.stekd("audit list --output json --profile DIR/operator.toml");
        let lines = trail.matches("manager-joined").count();
        assert_eq!((lines, trail.matches("spiffe://td/manager/2").count()), (joined, joined));
        terminate(&mut two.process);
        std::fs::remove_file(site.path("ratchet-two")).unwrap();
    }
    for (who, why) in [("edge", "may not do this"), ("stranger", "error sending request")] {
        let refused = start(&site, who);
        let line = refused.log_line("waiting for a peer");
        assert!(line.contains(why), "{line}");
        assert!(!site.path(&format!("ratchet-{who}")).exists(), "{who} has a state");
    }
    terminate(&mut one.process);
    database.drop_now().await.unwrap();
}

/// Two managers that have both found no seed, and both try to claim one of their own.
async fn meet(site: &Site, raw: &mut Session) -> [Role; 2] {
    loop {
        let mut managers = ["one", "two"].map(|who| start(site, who));
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        // The database lets nobody wait for long; on a slow machine the first may be gone by then.
        while managers.iter_mut().all(|manager| manager.process.try_wait().unwrap().is_none()) {
            looks.tick().await;
            if raw.number(WAITING).await.unwrap() == 2 {
                return managers;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_managers_that_are_the_first_together_hold_one_seed() {
    let database = stek_testpg::create_database().await.unwrap();
    let (site, _) = site(database.url());
    let ports = [(); 2].map(|()| stek_testpg::free_port().unwrap().to_string());
    configure(&site, "one", &ports[0], &ports[1]);
    configure(&site, "two", &ports[1], &ports[0]);
    let (mut raw, mut gate) =
        (database.connect().await.unwrap(), database.connect().await.unwrap());
    raw.execute(STOP).await.unwrap();
    raw.execute(&trigger(("BEFORE INSERT", "ratchet_seeds", "true"))).await.unwrap();
    gate.execute("SELECT pg_advisory_lock(4711)").await.unwrap();
    let mut managers = timeout(PATIENCE, meet(&site, &mut raw)).await.expect("they meet");
    gate.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    for (manager, keyset) in managers.iter().zip(["main", "other"]) {
        site.profile("operator", &manager.port("admin"));
        site.stekd(&format!("keyset create {keyset} --profile DIR/operator.toml"));
    }
    for (count, query) in [
        (1, "SELECT count(*) FROM ratchet_seeds"),
        (1, "SELECT count(*) FROM audit WHERE action = 'seed-claimed'"),
        (1, "SELECT count(*) FROM audit WHERE action = 'manager-joined'"),
        (2, "SELECT count(*) FROM ratchet_replicas JOIN ratchet_seeds USING (seed_id)"),
    ] {
        until(&mut raw, query, |counted| counted == count).await;
    }
    // Each opens what the other has wrapped.
    for (manager, keyset) in managers.iter().zip(["other", "main"]) {
        site.profile("operator", &manager.port("admin"));
        let show = format!("keyset show {keyset} --profile DIR/operator.toml");
        managers::until(&site, &show, |shown| status(shown) == 0);
    }
    managers.iter_mut().for_each(|manager| terminate(&mut manager.process));
    database.drop_now().await.unwrap();
}
