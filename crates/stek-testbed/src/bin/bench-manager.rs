//! What the reconcile loop of a manager costs on a real PostgreSQL: a pass over ten thousand keysets
//! that are all due at once, and a pass over none that is, with few and with many keysets. Prints a
//! line for each, writes `target/bench/manager.json`, and ends with status 1 past a limit.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use prometheus::Registry;
use stek_clock::{Clock, ManualClock, SystemClock};
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::id::Incarnation;
use stek_core::keyset::{History, Keyset};
use stek_core::name::KeysetName;
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::time::Timestamp;
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::SystemRandom;
use stek_manager::{EngineParts, Manager, claim_ratchet};
use stek_store::{Change, Commit, KeyStore, MAX_BATCH, PostgresOptions, PostgresStore, WithClock};
use tokio_util::sync::CancellationToken;

const MANY: usize = 10_000;
const FEW: usize = 10;
/// Longer than an idle pass takes.
const LOOK_AFTER: Duration = Duration::from_millis(25);

/// How many idle passes are measured.
const IDLE_PASSES: u64 = 300;
/// The most that a pass over all of [`MANY`] may take, in seconds.
const DUE_LIMIT: f64 = 10.0;
/// How many times an idle pass over [`FEW`] one over [`MANY`] may cost.
const IDLE_LIMIT: f64 = 2.0;
/// How long anything may take before the measurement fails.
const PATIENCE: Duration = Duration::from_secs(300);

#[tokio::main]
async fn main() -> Result<()> {
    let few = measure(FEW).await?;
    let many = measure(MANY).await?;
    // The mints of a rotation; those of the first pass are twice as many.
    line("pass/10000-new/stek", many.first, "s");
    line("pass/10000-due/stek", many.due, "s");
    line("idle/10/stek", few.idle * 1e6, "us");
    line("idle/10000/stek", many.idle * 1e6, "us");
    write(&serde_json::json!({
        "pass/10000-new/stek": { "seconds": many.first },
        "pass/10000-due/stek": { "seconds": many.due, "limit": DUE_LIMIT },
        "idle/10/stek": { "seconds": few.idle },
        "idle/10000/stek": { "seconds": many.idle, "limit": IDLE_LIMIT * few.idle },
    }))?;
    ensure!(many.due <= DUE_LIMIT, "a pass over all took {:.1} s", many.due);
    ensure!(
        many.idle <= IDLE_LIMIT * few.idle,
        "an idle pass costs {:.1} times one with few keysets",
        many.idle / few.idle
    );
    Ok(())
}

#[allow(clippy::print_stdout, reason = "the result")]
fn line(what: &str, value: f64, unit: &str) {
    println!("bench {what} {value:.2} {unit}");
}

fn write(results: &serde_json::Value) -> Result<()> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..");
    let folder = root.join("target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("manager.json"), format!("{results:#}\n"))?;
    Ok(())
}

struct Measured {
    /// The first pass: two keys for each keyset, in seconds.
    first: f64,
    /// A pass in which each keyset gets a key.
    due: f64,
    /// The middle of the idle passes.
    idle: f64,
}

async fn measure(keysets: usize) -> Result<Measured> {
    let database = stek_testpg::create_database().await?;
    let clock = Arc::new(ManualClock::at_unix_millis(SystemClock.wall_millis()));
    let options = PostgresOptions::new(database.url())?;
    PostgresStore::migrate(&options, Incarnation::new(clock.wall_millis(), &[7; 10])).await?;
    let process = Arc::clone(&clock);
    let store = PostgresStore::connect(&options).await?;
    let store: Arc<dyn KeyStore> =
        Arc::new(WithClock::new(store, Arc::new(move || process.wall_millis())));
    let cluster = Arc::new(ClusterSecret::parse(&ClusterSecret::generate_text(&SystemRandom)?)?);
    let folder = tempfile::tempdir()?;
    let state = folder.path().join("ratchet");
    let custody = claim_ratchet(store.as_ref(), &cluster, &state, &SystemRandom, &*clock).await?;
    fill(store.as_ref(), &cluster, &clock, keysets).await?;

    let (registry, shutdown) = (Registry::new(), CancellationToken::new());
    let parts = EngineParts {
        store: Arc::clone(&store),
        custody: Arc::new(custody),
        cluster,
        random: Arc::new(SystemRandom),
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        audit_retention: None,
        rules: stek_manager::RatchetRules::default(),
    };
    let begun = SystemClock.boot();
    let manager = Manager::start(parts, &registry, shutdown.clone())?;
    let run = Run { clock, store, registry, manager, keysets };
    run.until_supplied(2).await?;
    let first = since(begun);
    // Four hours are before the next key is due, and behind the boundary after six it is.
    run.clock.advance(Duration::from_secs(6 * 3600));
    let begun = SystemClock.boot();
    run.until_supplied(3).await?;
    let due = since(begun);
    let idle = run.idle_pass().await?;
    shutdown.cancel();
    run.manager.stopped().await;
    drop(run.store);
    database.drop_now().await?;
    Ok(Measured { first, due, idle })
}

fn since(begun: Duration) -> f64 {
    SystemClock.boot().saturating_sub(begun).as_secs_f64()
}

/// Keysets without keys, all due.
async fn fill(
    store: &dyn KeyStore,
    cluster: &ClusterSecret,
    clock: &ManualClock,
    keysets: usize,
) -> Result<()> {
    let policy = Policy::try_new(&PolicyRequest::default())?;
    let now = Timestamp::from_unix(clock.wall_millis() / 1000);
    let names: Vec<usize> = (0..keysets).collect();
    for batch in names.chunks(MAX_BATCH) {
        let mut changes = Vec::new();
        for number in batch {
            let name = KeysetName::try_new(&format!("k{number:05}"))?;
            let empty = Keyset::without_keys(name.clone(), policy, History::Fresh);
            let digest = empty.content_digest();
            changes.push(Change::CreateKeyset {
                name,
                policy,
                keys: vec![],
                digest,
                next_due: now,
            });
        }
        let event = AuditEvent {
            at: now,
            actor: "bench".into(),
            action: AuditAction::KeysetCreated,
            keyset: None,
            key: None,
            reason: format!("{} keysets", changes.len()),
        };
        let commit = Commit { at: now, changes, events: vec![event] };
        store.commit(&commit, &cluster.audit_key()).await?;
    }
    Ok(())
}

struct Run {
    clock: Arc<ManualClock>,
    store: Arc<dyn KeyStore>,
    registry: Registry,
    manager: Manager,
    keysets: usize,
}

impl Run {
    /// Waits until each keyset is published with so many keys and nothing is due.
    async fn until_supplied(&self, keys: usize) -> Result<()> {
        let mut feed = self.manager.feed();
        let supplied = feed.wait_for(|state| {
            state.as_ref().is_some_and(|state| {
                state.keysets.len() == self.keysets
                    && state.keysets.values().all(|bundle| bundle.keys().len() >= keys)
            })
        });
        tokio::time::timeout(PATIENCE, supplied).await.context("not all were supplied")??;
        let now = Timestamp::from_unix(self.clock.wall_millis() / 1000);
        let next = self.store.next_due().await?;
        ensure!(next.is_some_and(|due| due > now), "something is still due");
        Ok(())
    }

    /// The middle of the times that passes took in which nothing was due.
    async fn idle_pass(&self) -> Result<f64> {
        let mut times = Vec::new();
        let mut last = self.passes()?;
        while times.len() < IDLE_PASSES as usize {
            self.clock.advance(Duration::from_secs(5));
            let waited = SystemClock.boot();
            loop {
                // Looking collects the metrics of all keysets, so it comes when the pass is over.
                tokio::time::sleep(LOOK_AFTER).await;
                let now = self.passes()?;
                if now.0 > last.0 {
                    times.push((now.1 - last.1) / (now.0 - last.0) as f64);
                    last = now;
                    break;
                }
                ensure!(SystemClock.boot().saturating_sub(waited) < PATIENCE, "no pass ended");
            }
        }
        times.sort_by(f64::total_cmp);
        Ok(times[times.len() / 2])
    }

    /// How many passes succeeded, and what they took together.
    fn passes(&self) -> Result<(u64, f64)> {
        let families = self.registry.gather();
        let family = families
            .iter()
            .find(|family| family.name() == "stek_manager_pass_duration_seconds")
            .context("no such metric")?;
        let histogram = family.get_metric().first().context("no value")?.get_histogram();
        Ok((histogram.get_sample_count(), histogram.get_sample_sum()))
    }
}
