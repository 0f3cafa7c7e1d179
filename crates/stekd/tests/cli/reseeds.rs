//! A manager that is killed at each step of a change of seeds, on a real PostgreSQL: the next one
//! ends with one live seed, every key open under it, and nothing left of the old state.

use std::path::Path;
use std::process::Child;
use std::time::Duration;

use stek_testpg::Session;
use tokio::time::timeout;

use crate::killed::{CONNECTED, LIVE, STOP, WAITING, start, trigger, until};
use crate::process::{PATIENCE, stekd};
use crate::site::{Role, Site};

/// Where the manager is stopped: the step, when a trigger fires, on which table, under which
/// condition.
const POINTS: [(Step, (&str, &str, &str)); 11] = [
    (Step::Offer, ("BEFORE INSERT", "ratchet_seeds", "true")),
    (Step::Offer, ("BEFORE INSERT", "audit", "NEW.action = 'seed-offered'")),
    (Step::Confirm, ("BEFORE UPDATE", "ratchet_replicas", CONFIRMS)),
    (Step::Promote, ("BEFORE UPDATE", "ratchet_seeds", "NEW.phase = 'live'")),
    (Step::Promote, ("BEFORE INSERT", "audit", "NEW.action = 'seed-promoted'")),
    (Step::Rewrap, ("BEFORE UPDATE", "ticket_keys", "OLD.seed_id <> NEW.seed_id")),
    (Step::End, ("BEFORE UPDATE", "ratchet_seeds", "NEW.phase = 'ended'")),
    (Step::End, ("BEFORE INSERT", "audit", ENDS)),
    // The seed has ended, and the manager has not heard of it.
    (Step::BeforeSwap, ("BEFORE INSERT", "audit", ENDS)),
    (Step::AfterSwap, ("BEFORE UPDATE", "ratchet_replicas", "OLD.seed_id <> NEW.seed_id")),
    // The first of the two files is written, and the second not yet removed.
    (Step::InSwap, ("BEFORE UPDATE", "ratchet_replicas", "OLD.seed_id <> NEW.seed_id")),
];
const CONFIRMS: &str = "OLD.next_seed_id IS NULL AND NEW.next_seed_id IS NOT NULL";
const ENDS: &str = "NEW.action = 'seed-ended'";

/// How far the change had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Offer,
    Confirm,
    Promote,
    Rewrap,
    End,
    BeforeSwap,
    InSwap,
    AfterSwap,
}

const OTHER_THAN_LIVE: &str =
    "SELECT count(*) FROM ratchet_seeds WHERE phase IN ('offered', 'retiring')";
const ONE_LIVE: &str = "SELECT count(*) FROM ratchet_seeds WHERE phase = 'live'";
/// Keys that the live seed does not open.
const ELSEWHERE: &str = "SELECT count(*) FROM ticket_keys WHERE ended_at IS NULL
    AND seed_id <> (SELECT seed_id FROM ratchet_seeds WHERE phase = 'live')";
/// Whether the one manager says that it holds the live seed, and no other.
const HELD: &str = "SELECT count(*) FROM ratchet_replicas JOIN ratchet_seeds USING (seed_id)
    WHERE phase = 'live' AND next_seed_id IS NULL";
const OFFERS: &str = "SELECT count(*) FROM audit WHERE action = 'seed-promoted'";
/// The manager waits for a table that the test holds.
const LOCKED_OUT: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'
    AND relation = 'ratchet_seeds'::regclass AND mode = 'AccessShareLock'";
const QUEUED: &str = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'relation'
    AND relation = 'ratchet_seeds'::regclass AND mode = 'AccessExclusiveLock'";

/// The secrets in a state file: see the layout of its slots.
fn secrets(file: &Path) -> Vec<Vec<u8>> {
    let bytes = std::fs::read(file).unwrap();
    let starts = bytes.windows(8).enumerate().filter(|(_, window)| window == b"stek-rat");
    let secrets: Vec<_> = starts.map(|(at, _)| bytes[at + 48..at + 80].to_vec()).collect();
    assert!(!secrets.is_empty(), "no slot in {}", file.display());
    secrets
}

fn kill(child: &mut Child) {
    // SIGKILL: nothing is drained and nothing is written.
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What holds once a change of seeds is through.
async fn settled(raw: &mut Session, site: &Site, step: Step, old: &[Vec<u8>]) {
    let gone = async {
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        while site.path("ratchet.next").exists() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, gone).await.unwrap_or_else(|_| panic!("{step:?}: the second state stays"));
    until(raw, HELD, |held| held == 1).await;
    until(raw, ELSEWHERE, |keys| keys == 0).await;
    assert_eq!(raw.number(ONE_LIVE).await.unwrap(), 1, "{step:?}");
    assert_eq!(raw.number(OTHER_THAN_LIVE).await.unwrap(), 0, "{step:?}");
    let file = std::fs::read(site.path("ratchet")).unwrap();
    for secret in old {
        let is_there = file.windows(secret.len()).any(|window| window == secret);
        assert!(!is_there, "{step:?}: the old state is erased");
    }
}

/// Stops the manager at `point`, kills it there, and takes what stopped it away.
async fn kill_at(
    database: &stek_testpg::TestDatabase,
    site: &Site,
    manager: &mut Role,
    (step, point): (Step, (&str, &str, &str)),
) {
    let mut raw = database.connect().await.unwrap();
    let (mut gate, mut table) =
        (database.connect().await.unwrap(), database.connect().await.unwrap());
    gate.execute("SELECT pg_advisory_lock(4711)").await.unwrap();
    raw.execute(&trigger(point)).await.unwrap();
    let mut asking = site.begin(&["ratchet", "reseed"]);
    until(&mut raw, WAITING, |waiting| waiting > 0).await;
    if step == Step::BeforeSwap {
        // Next in line for the table, before the manager looks at it again.
        let locking = tokio::spawn(async move {
            table
                .execute("BEGIN; LOCK TABLE ratchet_seeds IN ACCESS EXCLUSIVE MODE")
                .await
                .unwrap();
            table
        });
        until(&mut raw, QUEUED, |queued| queued > 0).await;
        gate.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
        table = locking.await.unwrap();
        until(&mut raw, LOCKED_OUT, |waiting| waiting > 0).await;
        kill(&mut manager.process);
        table.execute("ROLLBACK").await.unwrap();
    } else {
        kill(&mut manager.process);
        gate.execute("SELECT pg_advisory_unlock(4711)").await.unwrap();
    }
    kill(&mut asking);
    until(&mut raw, CONNECTED, |connected| connected == 0).await;
    raw.execute(&format!("DROP TRIGGER stop ON {}", point.1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_killed_at_any_step_of_a_change_of_seeds_ends_with_one_live_seed() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let mut manager = start(&site);
    site.stekd("keyset create main --profile DIR/operator.toml");
    let mut raw = database.connect().await.unwrap();
    raw.execute(STOP).await.unwrap();
    let (state, next) = (site.path("ratchet"), site.path("ratchet.next"));
    for (step, point) in POINTS {
        let (live, changes) = (raw.number(LIVE).await.unwrap(), raw.number(OFFERS).await.unwrap());
        let old = secrets(&state);
        kill_at(&database, &site, &mut manager, (step, point)).await;
        assert_eq!(raw.number(ONE_LIVE).await.unwrap(), 1, "{step:?}");
        let both = !matches!(step, Step::AfterSwap | Step::InSwap);
        assert_eq!(next.exists(), both, "{step:?}: both states, until the old one is replaced");
        assert_eq!(secrets(&state)[..1] != old[..1] && !both, !both, "{step:?}");
        if step == Step::InSwap {
            std::fs::copy(&state, &next).unwrap();
        }

        manager = start(&site);
        if step == Step::Offer {
            // Nobody has heard of it: it came to nothing, and is asked for again.
            settled(&mut raw, &site, step, &[]).await;
            assert_eq!(raw.number(OFFERS).await.unwrap(), changes, "{step:?}");
            site.stekd("ratchet reseed --profile DIR/operator.toml");
        }
        until(&mut raw, OFFERS, |count| count > changes).await;
        settled(&mut raw, &site, step, &old).await;
        assert_eq!(raw.number(LIVE).await.unwrap(), live, "{step:?}: no key was lost");
        assert_eq!(raw.number(OFFERS).await.unwrap(), changes + 1, "{step:?}: one change");
        let profile = site.path("operator.toml");
        let verdict = stekd(&["audit", "verify", "--profile", profile.to_str().unwrap()]);
        assert!(verdict.status.success(), "{step:?}: {verdict:?}");
    }
    // Every key opens with the one state that is left: a new manager process publishes them all.
    kill(&mut manager.process);
    let read = "SELECT count(*) FROM audit WHERE action = 'keys-read'";
    let reads = raw.number(read).await.unwrap();
    manager = start(&site);
    until(&mut raw, read, |count| count > reads).await;
    let shown = "SELECT (regexp_match(reason, '^[0-9]+'))[1]::bigint FROM audit
                 WHERE action = 'keys-read' ORDER BY sequence DESC LIMIT 1";
    assert_eq!(raw.number(shown).await.unwrap(), raw.number(LIVE).await.unwrap());
    drop(manager);
    database.drop_now().await.unwrap();
}
