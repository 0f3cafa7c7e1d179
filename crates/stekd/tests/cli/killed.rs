//! A manager that is killed at each statement of a commit, on a real PostgreSQL: what it was about
//! to do is done wholly or not at all, and the next manager goes on from there.

use std::time::Duration;

use stek_testpg::Session;

use crate::process::{PATIENCE, stekd};
use crate::site::{Role, Site};

/// Where the manager is stopped: when a trigger fires, on which table, under which condition.
pub(crate) const POINTS: [(&str, &str, &str); 8] = [
    ("BEFORE UPDATE", "keysets", "OLD.next_due IS DISTINCT FROM NEW.next_due"),
    ("BEFORE INSERT", "ticket_keys", "true"),
    ("BEFORE UPDATE", "ticket_keys", "NEW.ended_at IS NOT NULL"),
    ("BEFORE UPDATE", "cluster", "OLD.revision IS DISTINCT FROM NEW.revision"),
    ("BEFORE INSERT", "audit", "true"),
    ("BEFORE UPDATE", "cluster", "OLD.audit_head IS DISTINCT FROM NEW.audit_head"),
    ("BEFORE UPDATE", "keysets", "OLD.revision IS DISTINCT FROM NEW.revision"),
    // After the change is made, and before it is published.
    ("BEFORE INSERT", "audit", AFTERWARDS),
];

/// The line that is written once the new keys are read.
const AFTERWARDS: &str = "NEW.action = 'keys-read'";

/// Whoever fires the trigger waits for the lock that the test holds.
pub(crate) const STOP: &str =
    "CREATE OR REPLACE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    PERFORM pg_advisory_xact_lock_shared(4711); RETURN NEW; END $$";

pub(crate) const WAITING: &str =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";

pub(crate) const CONNECTED: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'stekd'";

pub(crate) const LIVE: &str = "SELECT count(*) FROM ticket_keys WHERE ended_at IS NULL";

pub(crate) fn trigger((when, table, condition): (&str, &str, &str)) -> String {
    format!(
        "CREATE TRIGGER stop {when} ON {table} FOR EACH ROW WHEN ({condition})
         EXECUTE FUNCTION stop()"
    )
}

pub(crate) async fn until(session: &mut Session, query: &str, wanted: impl Fn(i64) -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while !wanted(session.number(query).await.unwrap()) {
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("waited for: {query}"));
}

/// A manager, and the profile that leads to it.
pub(crate) fn start(site: &Site) -> Role {
    let manager = Role::start("manager", &site.path("manager.toml"));
    site.profile("operator", &manager.port("admin"));
    manager
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_killed_at_any_statement_leaves_what_the_next_one_goes_on_from() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let mut manager = start(&site);
    site.stekd("keyset create main --profile DIR/operator.toml");
    let (mut raw, mut gate) =
        (database.connect().await.unwrap(), database.connect().await.unwrap());
    raw.execute(STOP).await.unwrap();
    for point in POINTS {
        let revision = raw.number("SELECT revision FROM keysets").await.unwrap();
        let revoked = "SELECT count(*) FROM ticket_keys WHERE end_cause = 'revoked'";
        let (live, gone) = (raw.number(LIVE).await.unwrap(), raw.number(revoked).await.unwrap());
        gate.execute("SELECT pg_advisory_lock(4711)").await.unwrap();
        raw.execute(&trigger(point)).await.unwrap();
        let revoke = ["keyset", "revoke", "main", "--reason", "leak", "--yes", "--wait", "0s"];
        let mut asking = site.begin(&revoke);
        until(&mut raw, WAITING, |waiting| waiting > 0).await;
        // SIGKILL.
        manager.process.kill().unwrap();
        manager.process.wait().unwrap();
        gate.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
        asking.kill().unwrap();
        asking.wait().unwrap();
        until(&mut raw, CONNECTED, |connected| connected == 0).await;
        raw.execute(&format!("DROP TRIGGER stop ON {}", point.1)).await.unwrap();

        let happened = point.2 == AFTERWARDS;
        let after = raw.number("SELECT revision FROM keysets").await.unwrap();
        assert_eq!(after > revision, happened, "{point:?}");
        let expected = if happened { gone + live } else { gone };
        assert_eq!(raw.number(revoked).await.unwrap(), expected, "{point:?}");

        let read = "SELECT count(*) FROM audit WHERE action = 'keys-read'";
        let reads = raw.number(read).await.unwrap();
        manager = start(&site);
        // It reads what is there, and that is a keyset with a key for now or soon.
        until(&mut raw, read, |count| count > reads).await;
        let supplied = "SELECT count(*) FROM ticket_keys WHERE ended_at IS NULL
                        AND activate_at <= now() + interval '3 min' AND retire_at > now()";
        assert_eq!(raw.number(supplied).await.unwrap(), 1, "{point:?}");
        let profile = site.path("operator.toml");
        let verdict = stekd(&["audit", "verify", "--profile", profile.to_str().unwrap()]);
        assert!(verdict.status.success(), "{point:?}: {verdict:?}");
    }
    drop(manager);
    database.drop_now().await.unwrap();
}
