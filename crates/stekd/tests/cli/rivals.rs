//! Two managers on one PostgreSQL, at the same work at the same time, of which one is killed at each
//! statement of a commit in turn: the other goes on with its next pass as if nothing had been.

use std::time::Duration;

use stek_testpg::Session;
use tokio::time::timeout;

use crate::killed::{POINTS, WAITING, trigger, until};
use crate::managers;
use crate::metrics::scrape;
use crate::process::{PATIENCE, status};
use crate::site::{LISTEN, Role, Site};

/// What the managers call themselves towards the database.
const NAMES: [&str; 2] = ["one", "two"];

/// Whoever fires the trigger first waits for the lock that the test holds, and nobody else does.
const STOP_THE_FIRST: &str = "CREATE FUNCTION stop() RETURNS trigger
    LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
    IF pg_try_advisory_xact_lock(4712) THEN PERFORM pg_advisory_xact_lock_shared(4711); END IF;
    RETURN NEW; END $$";

/// What never holds, and how it would be seen.
const NEVER: [(&str, &str); 4] = [
    (
        "two keys seal at one instant",
        "SELECT count(*) FROM ticket_keys one JOIN ticket_keys two USING (keyset_id)
         WHERE one.id < two.id AND tstzrange(one.activate_at, one.retire_at)
             && tstzrange(two.activate_at, two.retire_at)",
    ),
    (
        "a key is minted further ahead than the lead, for somebody else has minted the one before",
        "SELECT count(*) FROM ticket_keys WHERE activate_at > published_at + interval '10 s'",
    ),
    (
        "a key is not in the trail",
        "SELECT count(*) FROM ticket_keys WHERE 1 <> (SELECT count(*) FROM audit
             WHERE action = 'key-minted' AND key_id = ticket_keys.id)",
    ),
    (
        "a key is in the trail alone",
        "SELECT count(*) FROM audit WHERE action = 'key-minted'
             AND key_id NOT IN (SELECT id FROM ticket_keys)",
    ),
];

const SECONDS: &str = "SELECT extract(epoch FROM now())::bigint";
const NEXT_DUE: &str = "SELECT extract(epoch FROM next_due)::bigint FROM keysets";
const SESSIONS: &str = "SELECT session_lifetime_seconds FROM keysets";

/// The connections of a manager, those of them for which `also` holds.
fn connections(manager: usize, also: &str) -> String {
    let name = NAMES[manager];
    format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
         AND application_name = '{name}' AND {also}"
    )
}

/// The way to the database for a manager.
fn url(database: &str, manager: usize) -> String {
    let mark = if database.contains('?') { '&' } else { '?' };
    format!("{database}{mark}application_name={}", NAMES[manager])
}

/// How many passes of a manager have succeeded.
fn passes(manager: &Role) -> u64 {
    let shown = scrape(&manager.port("metrics"));
    let series = "stek_manager_passes_total{outcome=\"succeeded\"} ";
    shown.lines().find_map(|line| line.strip_prefix(series)).unwrap().parse().unwrap()
}

/// Makes `manager` the one that the operator asks, once it answers.
fn ask_of(site: &Site, manager: &Role) {
    site.profile("operator", &manager.port("admin"));
    managers::until(site, "keyset show main --profile DIR/operator.toml", |shown| {
        status(shown) == 0
    });
}

/// Waits until a whole pass of `manager` has succeeded that began after this.
async fn next_pass(manager: &Role) {
    // One may be on its way.
    let enough = passes(manager) + 2;
    let passing = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while passes(manager) < enough {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, passing).await.expect("passes succeed");
}

/// A site with two managers, and a keyset that both of them have to look after every few seconds.
fn begin(database: &str) -> (Site, [Role; 2]) {
    let site = Site::with_database(&url(database, 0));
    site.stekd(
        "token create peer --role manager --offline DIR/manager.toml --out DIR/manager-token",
    );
    let one = Role::start("manager", &site.path("manager.toml"));
    let admin = one.port("admin");
    site.profile("operator", &admin);
    site.stekd(
        "keyset create main --rotation-period 10s --ticket-lifetime 10s --poll-interval 1s \
         --clock-skew 1s --lead 10s --session-lifetime 60s --activation-quorum off \
         --profile DIR/operator.toml",
    );
    site.write("database-url-two", &url(database, 1));
    let config = format!(
        "[database]\nurl_file = \"database-url-two\"\n[custody]\ncluster_secret_file = \
         \"cluster-secret\"\nstate_file = \"ratchet-two\"\n[peers]\nurls = \
         [\"https://localhost:{admin}\"]\nroots_files = [\"tls/ca.pem\"]\ntoken_file = \
         \"manager-token\"\n{LISTEN}"
    );
    let two = Role::start("manager", &site.write("manager-two.toml", &config));
    two.logs("a peer gave the ratchet's state");
    (site, [one, two])
}

async fn holds(raw: &mut Session, site: &Site, point: (&str, &str, &str)) {
    for (what, query) in NEVER {
        assert_eq!(raw.number(query).await.unwrap(), 0, "{point:?}: {what}");
    }
    site.stekd("audit verify --profile DIR/operator.toml");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute: waits for a rotation at each statement of a commit"]
async fn a_manager_killed_inside_a_commit_leaves_its_rival_to_do_the_work_once() {
    let database = stek_testpg::create_database().await.unwrap();
    let (site, mut managers) = begin(database.url());
    let (mut raw, mut gate) =
        (database.connect().await.unwrap(), database.connect().await.unwrap());
    raw.execute(STOP_THE_FIRST).await.unwrap();
    let mut sessions = 60;
    for point in POINTS {
        managers.iter().for_each(|manager| ask_of(&site, manager));
        gate.execute("SELECT pg_advisory_lock(4711)").await.unwrap();
        raw.execute(&trigger(point)).await.unwrap();
        until(&mut raw, WAITING, |waiting| waiting > 0).await;
        let is_two = raw.number(&connections(1, "wait_event = 'advisory'")).await.unwrap();
        let (victim, rival) = if is_two == 0 { (0, 1) } else { (1, 0) };

        // Its rival wants the same rows, for what is due and for this. It waits, or has it done.
        site.profile("operator", &managers[rival].port("admin"));
        sessions += 1;
        let span = format!("{sessions}s");
        let policy =
            ["keyset", "policy", "main", "--session-lifetime", &span, "--yes", "--wait", "0s"];
        let mut asking = site.begin(&policy);
        let waits = connections(rival, "wait_event_type = 'Lock'");
        let done =
            format!("SELECT count(*) FROM keysets WHERE session_lifetime_seconds = {sessions}");
        until(&mut raw, &format!("SELECT ({waits}) + ({done})"), |count| count > 0).await;
        // SIGKILL.
        managers[victim].process.kill().unwrap();
        managers[victim].process.wait().unwrap();
        gate.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
        until(&mut raw, &connections(victim, "true"), |connected| connected == 0).await;
        let died_at = raw.number(SECONDS).await.unwrap();
        raw.execute(&format!("DROP TRIGGER stop ON {}", point.1)).await.unwrap();

        next_pass(&managers[rival]).await;
        let due = raw.number(NEXT_DUE).await.unwrap();
        assert!(due > died_at, "{point:?}: what was due at {died_at} is still due, since {due}");
        // On a slow machine the rival may have waited for longer than it does.
        if !asking.wait().unwrap().success() {
            site.stekd(&format!("{} --profile DIR/operator.toml", policy.join(" ")));
        }
        next_pass(&managers[rival]).await;
        assert_eq!(raw.number(SESSIONS).await.unwrap(), sessions, "{point:?}: the change is lost");
        holds(&mut raw, &site, point).await;

        let config = site.path(["manager.toml", "manager-two.toml"][victim]);
        managers[victim] = Role::start("manager", &config);
    }
    drop(managers);
    database.drop_now().await.unwrap();
}
