//! Each part of the control plane killed in turn while two terminators are visited all the time: no
//! visit may need a full handshake.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stek_testpg::{PostgresServer, create_database_on};
use stekd::dev::visitor::Visitor;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{interval, timeout};

use crate::process::{PATIENCE, status, stekd, terminate};
use crate::site::{LISTEN, Role, Site, reach};

/// How many visits are made while something is away.
const VISITS: u64 = 60;

/// A client that hops between the terminators with the newest ticket, without a rest.
struct Load {
    resumed: watch::Receiver<u64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<String>>,
}

impl Load {
    async fn begin(site: &Site, servers: [(&'static str, SocketAddr); 2]) -> Self {
        let visitor = Visitor::new(&site.path("tls/ca.pem")).unwrap();
        let (name, address) = servers[0];
        assert!(!visitor.connect(name, address).await.unwrap().resumed, "the first visit");
        let (count, resumed) = watch::channel(0);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut missed = Vec::new();
            while !*stopped.borrow() {
                for (name, address) in servers {
                    match visitor.connect(name, address).await {
                        Ok(visit) if visit.resumed => count.send_modify(|count| *count += 1),
                        outcome => missed.push(format!("{name}: {outcome:?}")),
                    }
                }
            }
            missed
        });
        Self { resumed, stop, task }
    }

    /// Returns after so many more visits.
    async fn goes_on(&mut self) {
        let enough = *self.resumed.borrow() + VISITS;
        let more = self.resumed.wait_for(|count| *count >= enough);
        timeout(PATIENCE, more).await.expect("visits go on").unwrap();
    }

    async fn end(self) -> Vec<String> {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }
}

/// Rotates as soon as the manager can, once, and waits until both terminators have the new revision.
async fn rotate(site: &Site, terminators: &[Role]) {
    let profile = site.path("operator.toml");
    let profile = profile.to_str().unwrap();
    let arguments = ["keyset", "rotate", "main", "--wait", "0s", "--profile", profile];
    let mut looks = interval(Duration::from_millis(50));
    let rotated = async {
        while status(&stekd(&arguments)) != 0 {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, rotated).await.expect("the keys can be rotated");
    for terminator in terminators {
        terminator.logs("installed");
    }
}

fn kill(role: &mut Role) {
    // SIGKILL: nothing is drained and nothing is written.
    role.process.kill().unwrap();
    role.process.wait().unwrap();
}

fn distribution(site: &Site, name: &str, admin: &str) -> (Role, String) {
    let upstream = reach(&[admin], "distribution-token");
    let file = site.write(&format!("{name}.toml"), &format!("{upstream}{LISTEN}"));
    let port = site.pin(name);
    let role = Role::start("distribution", &file);
    role.port("distribution");
    (role, port)
}

fn terminator(site: &Site, name: &str, ports: [&str; 2]) -> (Role, SocketAddr) {
    let upstream = reach(&ports, "terminator-token");
    let text = format!("keyset = \"main\"\ninstance = \"{name}\"\n{upstream}{LISTEN}");
    let role = Role::start("terminator", &site.write(&format!("{name}.toml"), &text));
    let address = format!("127.0.0.1:{}", role.port("tls")).parse().unwrap();
    role.logs("installed");
    (role, address)
}

/// A terminator that starts now gets the keys, and resumes what `other` has given; for those that
/// run already ask nothing of anybody while nothing changes.
async fn newcomer_resumes(site: &Site, ports: [&str; 2], other: (&'static str, SocketAddr)) {
    let (mut role, address) = terminator(site, "newcomer", ports);
    let visitor = Visitor::new(&site.path("tls/ca.pem")).unwrap();
    assert!(!visitor.connect(other.0, other.1).await.unwrap().resumed, "the first visit");
    assert!(visitor.connect("newcomer", address).await.unwrap().resumed);
    terminate(&mut role.process);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_resumption_is_missed_while_any_part_of_the_control_plane_is_killed() {
    let start = tokio::task::spawn_blocking(PostgresServer::start_throwaway);
    let mut postgres = start.await.unwrap().unwrap();
    let database = create_database_on(postgres.url()).await.unwrap();
    let site = Arc::new(Site::with_database(database.url()));
    let admin = site.pin("manager");
    let mut manager = Role::start("manager", &site.path("manager.toml"));
    manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");

    let (mut first, first_port) = distribution(&site, "distribution-1", &admin);
    let (mut second, second_port) = distribution(&site, "distribution-2", &admin);
    let mut terminators = Vec::new();
    let mut servers = Vec::new();
    let ports = [first_port.as_str(), second_port.as_str()];
    for (name, ports) in [("edge-1", ports), ("edge-2", [ports[1], ports[0]])] {
        let (role, address) = terminator(&site, name, ports);
        terminators.push(role);
        servers.push((name, address));
    }
    let edge = servers[0];
    let mut load = Load::begin(&site, servers.try_into().unwrap()).await;
    load.goes_on().await;

    kill(&mut manager);
    newcomer_resumes(&site, ports, edge).await;
    load.goes_on().await;
    manager = Role::start("manager", &site.path("manager.toml"));
    rotate(&site, &terminators).await;
    load.goes_on().await;

    postgres.stop_immediate().unwrap();
    newcomer_resumes(&site, ports, edge).await;
    load.goes_on().await;
    postgres.restart().unwrap();
    rotate(&site, &terminators).await;
    load.goes_on().await;

    // Each terminator loses the replica that it asks, and finds the other.
    for (name, role) in [("distribution-1", &mut first), ("distribution-2", &mut second)] {
        kill(role);
        rotate(&site, &terminators).await;
        load.goes_on().await;
        *role = Role::start("distribution", &site.path(&format!("{name}.toml")));
        role.port("distribution");
    }
    let missed = load.end().await;
    assert!(missed.is_empty(), "{} missed, the first: {:?}", missed.len(), missed.first());
    for role in terminators.iter_mut().chain([&mut manager, &mut first, &mut second]) {
        terminate(&mut role.process);
    }
    database.drop_now().await.unwrap();
}
