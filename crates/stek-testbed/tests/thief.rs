//! Yesterday's backup and log, today's secrets: what a thief of all files can and cannot open. On a
//! PostgreSQL that archives its log, and with the thief as a program of its own that is given files
//! alone. Takes about a minute, so `make test-long` runs it.

#![allow(clippy::unwrap_used, reason = "a broken expectation is a panic")]

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_clock::{Clock, ManualClock, SystemClock};
use stek_core::feed::FeedState;
use stek_core::id::Incarnation;
use stek_core::name::KeysetName;
use stek_core::schedule::Schedule;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::Epoch;
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::Custody;
use stek_custody::random::SystemRandom;
use stek_manager::{EngineParts, Manager, RatchetRules, claim_ratchet};
use stek_store::{
    Change, Commit, KeyStep, KeyStore, KeysetUpdate, PostgresOptions, PostgresStore, StoredKeyset,
    WithClock,
};
use stek_testpg::{PostgresServer, TestDatabase, create_database_on};
use stek_wire::admin::PolicyDocument;
use tokio_util::sync::CancellationToken;

use crate::thief::scan::{Sought, plant};

mod thief {
    pub(crate) mod scan;
}

const HOUR: u64 = 3600;

/// How long anything that is awaited may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

type Keys = BTreeSet<String>;

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A manager on a database that archives, and the folder with its files.
struct Fleet {
    clock: Arc<ManualClock>,
    custody: Arc<Custody>,
    cluster: Arc<ClusterSecret>,
    store: Arc<dyn KeyStore>,
    manager: Manager,
    shutdown: CancellationToken,
    database: TestDatabase,
    server: PostgresServer,
    dir: tempfile::TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let server = PostgresServer::start_archiving().unwrap();
        let database = create_database_on(server.url()).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
        let secret = dir.path().join("cluster-secret");
        fs::write(&secret, text.as_bytes()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&secret, mode).unwrap();
        let cluster = Arc::new(ClusterSecret::read(&secret).unwrap());
        let clock = Arc::new(ManualClock::at_unix_millis(SystemClock.wall_millis()));
        let options = PostgresOptions::new(database.url()).unwrap();
        let lineage = Incarnation::new(clock.wall_millis(), &[7; 10]);
        PostgresStore::migrate(&options, lineage).await.unwrap();
        let postgres = PostgresStore::connect(&options).await.unwrap();
        let now = Arc::clone(&clock);
        let store: Arc<dyn KeyStore> =
            Arc::new(WithClock::new(postgres, Arc::new(move || now.wall_millis())));
        let path = dir.path().join("ratchet");
        let claimed =
            claim_ratchet(store.as_ref(), &cluster, &path, &SystemRandom, clock.as_ref()).await;
        let custody = Arc::new(claimed.unwrap());
        let parts = EngineParts {
            store: Arc::clone(&store),
            custody: Arc::clone(&custody),
            cluster: Arc::clone(&cluster),
            random: Arc::new(SystemRandom),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            rules: RatchetRules::default(),
            audit_retention: None,
        };
        let shutdown = CancellationToken::new();
        let manager = Manager::start(parts, &Registry::new(), shutdown.clone()).unwrap();
        Self { clock, custody, cluster, store, manager, shutdown, database, server, dir }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.clock.wall_millis() / 1000)
    }

    /// Lets time go on a little at a time until `condition` holds.
    async fn until(&self, what: &str, condition: impl AsyncFn() -> bool) {
        let looking = async {
            // A look, not a guess at how long it takes.
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            while !condition().await {
                looks.tick().await;
                self.clock.advance(Duration::from_millis(50));
            }
        };
        tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("no {what}"));
    }

    async fn published(&self, wanted: impl Fn(&FeedState) -> bool) -> Arc<FeedState> {
        let feed = self.manager.feed();
        self.until("publication", async || feed.borrow().as_ref().is_some_and(|f| wanted(f))).await;
        feed.borrow().clone().unwrap()
    }

    /// Creates a keyset; returns its keys.
    async fn create(&self, keyset: &str) -> Keys {
        let operations = self.manager.operations();
        operations.create(&name(keyset), PolicyDocument::default(), "test").await.unwrap();
        let feed = self.published(|feed| feed.keysets.contains_key(&name(keyset))).await;
        let keys = feed.keysets[&name(keyset)].keys();
        keys.iter().map(|key| hex(key.material.expose_secret())).collect()
    }

    async fn stored(&self, keyset: &str) -> StoredKeyset {
        self.store.keyset(&name(keyset)).await.unwrap().unwrap()
    }

    /// Moves the last key of a keyset to the end of its envelope; returns it, and when it would have
    /// ended.
    async fn postpone(&self, keyset: &str) -> (String, Timestamp) {
        let stored = self.stored(keyset).await;
        let key = stored.keys.last().unwrap();
        let old = &key.record.schedule;
        let (published, by) = (old.published_at(), old.destroy_by());
        let later = old.retire_at() + by.since(old.destroy_at());
        let schedule = Schedule::try_new(published, old.activate_at(), later, by, by).unwrap();
        let update = KeysetUpdate {
            name: name(keyset),
            expected: stored.revision,
            expected_due: None,
            policy: None,
            steps: vec![KeyStep::Move { id: key.record.id, schedule }],
            publish: Some(stored.digest),
            next_due: stored.next_due,
        };
        let changes = vec![Change::UpdateKeyset(update)];
        let commit = Commit { at: self.now(), changes, events: vec![] };
        self.store.commit(&commit, &self.cluster.audit_key()).await.unwrap();
        let opened = self.custody.unwrap(&name(keyset), &key.record, &key.wrapped).unwrap();
        (hex(opened.expose_secret()), old.destroy_at())
    }

    /// What is wrapped in the database now, and the last epoch in which any of it opens.
    async fn wrapped(&self, keysets: &[&str]) -> (Vec<Vec<u8>>, Epoch) {
        let (mut wrapped, mut last) = (Vec::new(), Epoch::new(0));
        for keyset in keysets {
            for key in self.stored(keyset).await.keys {
                last = last.max(key.wrapped.epoch);
                wrapped.push(key.wrapped.ciphertext.to_vec());
            }
        }
        (wrapped, last)
    }

    /// Marks this instant in the log of the database; returns once the archive has it.
    async fn mark(&self, point: &str) {
        let mut session = self.database.connect().await.unwrap();
        let marking = format!(
            "SELECT pg_create_restore_point('{point}');
             CREATE TEMP TABLE switched AS SELECT pg_walfile_name(pg_switch_wal()) AS file"
        );
        session.execute(&marking).await.unwrap();
        let archiving = async {
            let query = "SELECT count(*) FROM pg_stat_archiver, switched
                         WHERE last_archived_wal >= file";
            let mut looks = tokio::time::interval(Duration::from_millis(5));
            while session.number(query).await.unwrap() == 0 {
                looks.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, archiving).await.expect("the log is archived");
    }

    /// Lets time go on until the last half hour of an epoch.
    async fn until_the_end_of(&self, epoch: Epoch) {
        let turned = async |to| {
            self.until("turn of the ratchet", async || self.custody.epoch() >= to).await;
        };
        let end = epoch.end();
        while self.now() + Seconds::from_hours(12) < end {
            self.clock.advance(Duration::from_secs(6 * HOUR));
            turned(Epoch::of(self.now())).await;
        }
        self.clock.advance(end.since(self.now()).to_std() - Duration::from_secs(HOUR / 2));
        turned(Epoch::of(self.now())).await;
        assert_eq!(self.custody.epoch(), epoch);
    }

    /// Keeps what the state file holds now, as whoever exports it would.
    fn export(&self, file: &str) -> PathBuf {
        let kept = self.dir.path().join(file);
        fs::copy(self.dir.path().join("ratchet"), &kept).unwrap();
        kept
    }

    /// What the thief opens with a state and backups, as they are or as [`recovered`].
    fn steal(&self, state: &Path, backups: &[&OsStr]) -> Keys {
        let mut thief = Command::new(env!("CARGO_BIN_EXE_thief"));
        thief.arg(self.dir.path().join("cluster-secret")).arg(state).arg(self.database.name());
        let output = thief.args(backups).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains(": 0 wrapped keys"), "it had nothing to open: {said}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digits).collect()
}

/// A backup with the archived log in `files` replayed up to `point`, as the thief is told of it.
fn recovered(backup: &Path, files: &Path, point: &str) -> OsString {
    let archive = files.join("archive");
    format!("{},{},{point}", backup.display(), archive.display()).into()
}

/// Looks for the keys in all files, in whatever form; and for one of them that is left there.
fn none_lies_in_the_clear(keys: &Keys, places: [&Path; 2]) {
    let keys: Vec<_> = keys.iter().map(|key| unhex(key)).collect();
    let sought = Sought::secrets(keys.iter().map(Vec::as_slice));
    for place in places {
        assert_eq!(sought.holders(place), Vec::<PathBuf>::new(), "a key lies there in the clear");
        let planted = plant(&keys[0], place);
        assert_eq!(sought.holders(place), planted, "the control: a key in the clear is found");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "about a minute: starts a PostgreSQL for each theft"]
async fn a_destroyed_key_stays_destroyed_whatever_was_kept() {
    let mut fleet = Fleet::start().await;
    let plain = fleet.create("plain").await;
    let postponed = fleet.create("postponed").await;
    let revoked = fleet.create("revoked").await;
    let (moved, before_the_move) = fleet.postpone("postponed").await;
    let backed_up: Keys = [plain, postponed, revoked].into_iter().flatten().collect();
    let then = fleet.server.backup("then").unwrap();
    let export = fleet.export("export");
    // Of these the archived log alone knows.
    let late = fleet.create("late").await;
    fleet.mark("minted").await;
    let files = fleet.server.files().unwrap();
    let minted = recovered(&then, &files, "minted");
    let (then, minted) = (then.as_os_str(), minted.as_os_str());
    let all = &backed_up | &late;
    assert_eq!((backed_up.len(), all.len()), (6, 8));
    let keysets = ["plain", "postponed", "revoked", "late"];
    let (wrapped, last) = fleet.wrapped(&keysets).await;
    fleet.manager.operations().delete(&name("revoked"), "test").await.unwrap();

    // While the epoch of a key lasts a backup opens, also of a key that was revoked since.
    let soon = fleet.export("soon");
    assert_eq!(fleet.steal(&soon, &[then]), backed_up, "the control");
    assert_eq!(fleet.steal(&soon, &[minted]), all, "the control: the log is replayed");

    fleet.until_the_end_of(last).await;
    let latest = fleet.steal(&fleet.export("last-moment"), &[minted]);
    assert!(latest.is_subset(&all), "the control at the end of the epoch");
    assert!(fleet.now() >= before_the_move && latest.contains(&moved), "the control: postponed");
    fleet.clock.advance(Duration::from_secs(HOUR / 2));
    fleet.until("turn of the ratchet", async || fleet.custody.epoch() > last).await;
    fleet
        .until("end of the keys", async || {
            fleet.stored("plain").await.keys.iter().all(|key| key.wrapped.epoch > last)
        })
        .await;

    let now = fleet.server.backup("now").unwrap();
    let state = fleet.export("of-now");
    let today = fleet.steal(&state, &[then, minted, now.as_os_str()]);
    assert!(today.is_disjoint(&all), "destroyed keys opened");
    assert!(!today.is_empty(), "the control: the keys of today do open");
    assert_eq!(
        fleet.steal(&export, &[minted]),
        all,
        "an export that was kept opens, as documented"
    );

    // Data, backups and archived log; cluster secret and states.
    none_lies_in_the_clear(&(&all | &today), [&files, fleet.dir.path()]);
    let copies = Sought::new(wrapped).holders(&files);
    let under = |folder: &str| copies.iter().any(|path| path.starts_with(files.join(folder)));
    assert!(under("then") && under("archive"), "the control: wrapped keys are found: {copies:?}");

    fleet.shutdown.cancel();
    fleet.manager.stopped().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "about a minute: starts a PostgreSQL for each theft"]
async fn a_change_of_seeds_destroys_what_was_revoked_before_its_time() {
    let mut fleet = Fleet::start().await;
    let revoked = fleet.create("revoked").await;
    let kept = fleet.create("kept").await;
    let then = fleet.server.backup("then").unwrap();
    let export = fleet.export("export");
    fleet.manager.operations().delete(&name("revoked"), "test").await.unwrap();
    let before = fleet.steal(&fleet.export("before"), &[then.as_os_str()]);
    assert!(before.is_superset(&revoked), "until the seed changes the backup still opens");

    let old = fleet.custody.seed_id();
    fleet.manager.operations().reseed("test").await.unwrap();
    fleet.until("change of seeds", async || fleet.custody.seed_id() != old).await;
    let now = fleet.server.backup("now").unwrap();
    let state = fleet.export("after");
    assert_eq!(
        fleet.steal(&state, &[then.as_os_str()]),
        Keys::new(),
        "nothing of that backup opens any more"
    );
    assert_eq!(
        fleet.steal(&state, &[now.as_os_str()]),
        kept,
        "the control: what is live was re-wrapped"
    );
    assert!(fleet.steal(&export, &[then.as_os_str()]).is_superset(&revoked), "a kept export opens");

    fleet.shutdown.cancel();
    fleet.manager.stopped().await;
}
