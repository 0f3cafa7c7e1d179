//! Several managers as processes of their own, and a database that was restored from a backup.

use std::process::Output;

use stek_testpg::{PostgresServer, create_database_on};

use crate::process::{Offer, said, shown, status, stekd, terminate, visit};
use crate::site::{LISTEN, Role, Site, reach};

/// How often a command is run before what it should say counts as not coming. A run takes some tens
/// of milliseconds, and what is awaited some seconds.
const RUNS: usize = 3000;

/// Runs a command until it does what is wanted; each run takes its own time.
pub(crate) fn until(site: &Site, arguments: &str, wanted: impl Fn(&Output) -> bool) -> Output {
    let filled = arguments.replace("DIR", site.path("").to_str().unwrap());
    let arguments: Vec<_> = filled.split_whitespace().collect();
    for _ in 0..RUNS {
        let output = stekd(&arguments);
        if wanted(&output) {
            return output;
        }
    }
    panic!("{arguments:?}: {}", said(&stekd(&arguments)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_manager_joins_over_tls_and_seeds_change() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    site.stekd(
        "token create peer --role manager --offline DIR/manager.toml --out DIR/manager-token",
    );
    let mut one = Role::start("manager", &site.path("manager.toml"));
    let admin = one.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");

    let config = format!(
        "[database]\nurl_file = \"database-url\"\n[custody]\ncluster_secret_file = \
         \"cluster-secret\"\nstate_file = \"ratchet-2\"\n[peers]\nurls = \
         [\"https://localhost:{admin}\"]\nroots_files = [\"tls/ca.pem\"]\ntoken_file = \
         \"manager-token\"\n{LISTEN}"
    );
    let mut two = Role::start("manager", &site.write("manager-2.toml", &config));
    two.logs("a peer gave the ratchet's state");
    let other = two.port("admin");

    let show = "ratchet show --output json --profile DIR/operator.toml";
    let ratchet =
        |output: &Output| -> serde_json::Value { serde_json::from_str(&shown(output)).unwrap() };
    let both = |output: &Output| ratchet(output)["replicas"].as_array().unwrap().len() == 2;
    let before = ratchet(&until(&site, show, both))["seeds"][0]["seed"].clone();
    // The second one knows the first as its peer, so it is the first that offers.
    site.stekd("ratchet reseed --profile DIR/operator.toml");
    until(&site, show, |output| {
        let rows = ratchet(output);
        let replicas = rows["replicas"].as_array().unwrap();
        rows["seeds"].as_array().unwrap().len() == 1
            && rows["seeds"][0]["seed"] != before
            && replicas.iter().all(|replica| replica["seed"] == rows["seeds"][0]["seed"])
    });
    site.profile("operator", &other);
    assert!(site.stekd("keyset show main --profile DIR/operator.toml").contains("main"));
    terminate(&mut one.process);
    terminate(&mut two.process);
    database.drop_now().await.unwrap();
}

/// Makes revisions, and a keyset `other`; returns once all of it is published.
fn change_much(site: &Site, admin: &str) {
    for number in 0..5 {
        site.stekd(&format!(
            "grant add token:edge-{number} main --role terminator --profile DIR/operator.toml"
        ));
    }
    site.stekd("keyset create other --profile DIR/operator.toml");
    site.stekd("token create late --role auditor --out DIR/late-token --profile DIR/operator.toml");
    // That this token is known says that what came before it was published.
    site.profile("late", admin);
    until(site, "keyset list --profile DIR/late.toml", |output| status(output) == 0);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute: starts two PostgreSQL servers and four managers"]
async fn a_restored_database_is_refused_until_it_is_accepted() {
    let mut server = PostgresServer::start_throwaway().unwrap();
    let database = create_database_on(server.url()).await.unwrap();
    let site = Site::with_database(database.url());
    let start = || Role::start("manager", &site.path("manager.toml"));
    let admin = site.pin("manager");
    let mut manager = start();
    manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");
    let upstream = reach(&[&admin], "distribution-token");
    let file = site.write("distribution.toml", &format!("{upstream}{LISTEN}"));
    let mut distribution = Role::start("distribution", &file);
    let upstream = reach(&[&distribution.port("distribution")], "terminator-token");
    let file = site.write("edge.toml", &format!("keyset = \"main\"\n{upstream}{LISTEN}"));
    let mut edge = Role::start("terminator", &file);
    let tls = edge.port("tls");
    let (authority, session) = (site.path("tls/ca.pem"), site.path("session"));
    let resumes = |offer| visit(&tls, &authority, &session, offer).0.contains("resumed");
    edge.logs("installed");
    let backup = server.backup("backup").unwrap();
    let state = site.path("ratchet");
    let state_then = std::fs::read(&state).unwrap();
    site.rotate();
    edge.logs("installed");
    assert!(!resumes(Offer::Nothing));
    change_much(&site, &admin);
    let early =
        stekd(&["db", "accept-restore", "--config", site.path("manager.toml").to_str().unwrap()]);
    assert!(said(&early).contains("in use by another process"), "{}", said(&early));
    terminate(&mut manager.process);

    let restored = PostgresServer::start_from_backup(&backup).unwrap();
    let base = restored.url().strip_suffix("/postgres").unwrap();
    site.write("database-url", &format!("{base}/{}", database.name()));
    let mut manager = start();
    let metrics = manager.port("metrics");
    manager.logs("restored from a backup");
    assert_ne!(status(&stekd(&["healthcheck", &format!("127.0.0.1:{metrics}")])), 0);
    assert!(resumes(Offer::Session), "who holds keys goes on with them");
    terminate(&mut manager.process);

    // With a state file of back then nothing tells the manager; those who hold more do not go back.
    let state_now = std::fs::read(&state).unwrap();
    std::fs::write(&state, state_then).unwrap();
    let mut manager = start();
    distribution.logs("has not got as far");
    assert!(resumes(Offer::Session), "an older revision takes no key away");
    terminate(&mut manager.process);
    std::fs::write(&state, state_now).unwrap();

    let accepted = site.stekd("db accept-restore --config DIR/manager.toml");
    assert!(accepted.contains("revoked"), "{accepted}");
    let config = site.path("manager.toml");
    let again = stekd(&["db", "accept-restore", "--config", config.to_str().unwrap()]);
    assert!(status(&again) != 0 && said(&again).contains("not behind"), "{}", said(&again));

    let mut manager = start();
    site.profile("operator", &manager.port("admin"));
    let metrics = manager.port("metrics");
    until(&site, &format!("healthcheck 127.0.0.1:{metrics}"), |output| status(output) == 0);
    let listed = site.stekd("keyset list --profile DIR/operator.toml");
    assert!(listed.contains("main") && !listed.contains("other"), "{listed}");
    // The later lineage, with lower revisions.
    edge.logs("installed");
    assert!(!resumes(Offer::Nothing));
    assert!(resumes(Offer::Session));
    site.rotate();
    edge.logs("installed");
    for role in [&mut edge, &mut distribution, &mut manager] {
        terminate(&mut role.process);
    }
}
