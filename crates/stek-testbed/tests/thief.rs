//! Yesterday's backup and log, today's secrets: what a thief of all files can and cannot open. On a
//! PostgreSQL that archives its log, and with the thief as a program of its own that is given files
//! alone. Takes about a minute, so `make test-long` runs it.

#![allow(clippy::unwrap_used, reason = "a broken expectation is a panic")]

use std::collections::BTreeSet;
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
use stek_core::time::Timestamp;
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

const HOUR: u64 = 3600;

/// How long anything that is awaited may take.
const PATIENCE: Duration = Duration::from_secs(120);

fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

type Keys = BTreeSet<String>;

fn hex(bytes: &[u8]) -> String {
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

    /// Moves the last key of a keyset to the end of its envelope.
    async fn postpone(&self, keyset: &str) {
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
    }

    /// Keeps what the state file holds now, as whoever exports it would.
    fn export(&self, file: &str) -> PathBuf {
        let kept = self.dir.path().join(file);
        fs::copy(self.dir.path().join("ratchet"), &kept).unwrap();
        kept
    }

    /// What the thief opens with a state and backups.
    fn steal(&self, state: &Path, backups: &[&Path]) -> Keys {
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

/// The files under `folder` that hold one of these byte strings.
fn holding(folder: &Path, sought: &[Vec<u8>]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().map_while(Result::ok) {
            let path = entry.path();
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(path),
                // A file of the running server may go while it is looked for.
                Ok(kind) if kind.is_file() => {
                    let content = fs::read(&path).unwrap_or_default();
                    if sought.iter().any(|one| contains(&content, one)) {
                        found.push(path);
                    }
                }
                _ => {}
            }
        }
    }
    found
}

fn contains(content: &[u8], sought: &[u8]) -> bool {
    let first = sought[0];
    let starts = content.iter().enumerate().filter(|(_, byte)| **byte == first);
    starts.map(|(at, _)| &content[at..]).any(|rest| rest.starts_with(sought))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "about a minute: starts a PostgreSQL for each theft"]
async fn a_destroyed_key_stays_destroyed_whatever_was_kept() {
    let mut fleet = Fleet::start().await;
    let plain = fleet.create("plain").await;
    let postponed = fleet.create("postponed").await;
    let revoked = fleet.create("revoked").await;
    fleet.postpone("postponed").await;
    let all: Keys = [&plain, &postponed, &revoked].into_iter().flatten().cloned().collect();
    assert_eq!(all.len(), 6);
    let mut last = Epoch::new(0);
    let mut wrapped = Vec::new();
    for keyset in ["plain", "postponed", "revoked"] {
        for key in fleet.stored(keyset).await.keys {
            last = last.max(key.wrapped.epoch);
            wrapped.push(key.wrapped.ciphertext.to_vec());
        }
    }
    let then = fleet.server.backup("then").unwrap();
    let export = fleet.export("export");
    fleet.manager.operations().delete(&name("revoked"), "test").await.unwrap();

    // While the epoch of a key lasts a backup opens, also of a key that was revoked since.
    assert_eq!(fleet.steal(&fleet.export("soon"), &[&then]), all, "the control");

    // The last half hour of the epoch, of which no look takes more than its share, and the next one.
    let end = last.end();
    while fleet.now() + stek_core::time::Seconds::from_hours(12) < end {
        fleet.clock.advance(Duration::from_secs(6 * HOUR));
        let epoch = Epoch::of(fleet.now());
        fleet.until("turn of the ratchet", async || fleet.custody.epoch() >= epoch).await;
    }
    fleet.clock.advance(end.since(fleet.now()).to_std() - Duration::from_secs(HOUR / 2));
    let epoch = Epoch::of(fleet.now());
    fleet.until("turn of the ratchet", async || fleet.custody.epoch() >= epoch).await;
    assert_eq!(fleet.custody.epoch(), last);
    let latest = fleet.steal(&fleet.export("last-moment"), &[&then]);
    assert!(!latest.is_empty() && latest.is_subset(&all), "the control at the end of the epoch");
    fleet.clock.advance(Duration::from_secs(HOUR / 2));
    fleet.until("turn of the ratchet", async || fleet.custody.epoch() > last).await;
    fleet
        .until("end of the keys", async || {
            fleet.stored("plain").await.keys.iter().all(|key| key.wrapped.epoch > last)
        })
        .await;

    let now = fleet.server.backup("now").unwrap();
    let state = fleet.export("of-now");
    let today = fleet.steal(&state, &[&then, &now]);
    assert!(today.is_disjoint(&all), "destroyed keys opened");
    assert!(!today.is_empty(), "the control: the keys of today do open");
    assert_eq!(fleet.steal(&export, &[&then]), all, "an export that was kept opens, as documented");
    drop(state);

    let files = fleet.server.files().unwrap();
    assert!(fs::read_dir(files.join("archive")).unwrap().count() > 0, "the log is archived");
    let plain_bytes: Vec<_> = all.iter().map(|key| unhex(key)).collect();
    assert_eq!(
        holding(&files, &plain_bytes),
        Vec::<PathBuf>::new(),
        "a key lies there in the clear"
    );
    let copies = holding(&files, &wrapped);
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
    let before = fleet.steal(&fleet.export("before"), &[&then]);
    assert!(before.is_superset(&revoked), "until the seed changes the backup still opens");

    let old = fleet.custody.seed_id();
    fleet.manager.operations().reseed("test").await.unwrap();
    fleet.until("change of seeds", async || fleet.custody.seed_id() != old).await;
    let now = fleet.server.backup("now").unwrap();
    let state = fleet.export("after");
    assert_eq!(fleet.steal(&state, &[&then]), Keys::new(), "nothing of that backup opens any more");
    assert_eq!(fleet.steal(&state, &[&now]), kept, "the control: what is live was re-wrapped");
    assert!(fleet.steal(&export, &[&then]).is_superset(&revoked), "a kept export opens");

    fleet.shutdown.cancel();
    fleet.manager.stopped().await;
}
