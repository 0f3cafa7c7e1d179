//! A cluster for one test: clock, database, secrets and state files, and managers on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use prometheus::Registry;
use prometheus::proto::MetricFamily;
use stek_clock::{Clock, ManualClock};
use stek_core::access::{Grant, KeysetSelector, Role, Token, TokenSecret};
use stek_core::feed::FeedState;
use stek_core::id::{Incarnation, Revision};
use stek_core::keyset::Keyset;
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::principal::PrincipalPattern;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::Custody;
use stek_custody::random::{RandomError, RandomSource, SystemRandom};
use stek_manager::{EngineParts, Manager, NewToken, Operations, RatchetRules, claim_ratchet};
use stek_store::{KeyStore, MemoryStore};
use stek_wire::admin::PolicyDocument;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::FaultyStore;

/// 2026-09-21T13:46:40Z, in milliseconds.
pub(crate) const START_MILLIS: u64 = 1_790_000_000_000;

/// How long anything may take that a test waits for; far more than a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Keys that rotate every ten seconds.
pub(crate) const FAST: PolicyDocument = PolicyDocument {
    rotation_period_seconds: Some(10),
    ticket_lifetime_seconds: Some(10),
    poll_interval_seconds: Some(1),
    clock_skew_seconds: Some(1),
    lead_seconds: Some(10),
    session_lifetime_seconds: Some(60),
    activation_quorum: None,
    activation_deadline_seconds: None,
};

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it should not have taken that long")
}

pub(crate) fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

pub(crate) fn principal(text: &str) -> PrincipalName {
    PrincipalName::try_new(text).unwrap()
}

/// The system's random source, until it breaks.
#[derive(Default)]
pub(crate) struct Random {
    pub(crate) broken: AtomicBool,
}

impl RandomSource for Random {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        if self.broken.load(Ordering::SeqCst) {
            buffer.fill(0);
            return Ok(());
        }
        SystemRandom.fill(buffer)
    }
}

/// What managers share, and what is around them.
pub(crate) struct Site {
    pub(crate) clock: Arc<ManualClock>,
    /// Milliseconds by which the database's clock is ahead.
    pub(crate) database_ahead: Arc<AtomicI64>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) cluster: Arc<ClusterSecret>,
    /// The written form of the first cluster secret.
    pub(crate) text: String,
    pub(crate) random: Arc<Random>,
    dir: TempDir,
}

impl Site {
    pub(crate) fn new() -> Self {
        let clock = Arc::new(ManualClock::at_unix_millis(START_MILLIS));
        let database_ahead = Arc::new(AtomicI64::new(0));
        let (process, ahead) = (Arc::clone(&clock), Arc::clone(&database_ahead));
        let database = Arc::new(move || {
            process.wall_millis().saturating_add_signed(ahead.load(Ordering::SeqCst))
        });
        let incarnation = Incarnation::new(START_MILLIS, &[7; 10]);
        let secret = ClusterSecret::generate_text(&SystemRandom).unwrap();
        Self {
            clock,
            database_ahead,
            store: Arc::new(FaultyStore::new(MemoryStore::new(incarnation, database))),
            cluster: Arc::new(ClusterSecret::parse(&secret).unwrap()),
            text: secret.to_string(),
            random: Arc::default(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    pub(crate) fn clock_millis(&self) -> u64 {
        self.clock.wall_millis()
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.clock.wall_millis() / 1000)
    }

    pub(crate) async fn claim(&self, file: &str) -> Arc<Custody> {
        let (store, clock) = (self.store.as_ref(), self.clock.as_ref());
        let path = self.path(file);
        let random = self.random.as_ref();
        Arc::new(claim_ratchet(store, &self.cluster, &path, random, clock).await.unwrap())
    }

    pub(crate) fn parts(&self, custody: Arc<Custody>) -> EngineParts {
        EngineParts {
            store: Arc::clone(&self.store) as Arc<dyn KeyStore>,
            custody,
            cluster: Arc::clone(&self.cluster),
            random: Arc::clone(&self.random) as Arc<dyn RandomSource + Send + Sync>,
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            audit_retention: Some(Seconds::from_days(400)),
            rules: RatchetRules::default(),
        }
    }

    /// A manager with the ratchet of `custody`.
    pub(crate) fn start_with(&self, custody: Arc<Custody>) -> Running {
        Self::start_of(self.parts(custody))
    }

    /// A manager of these parts.
    pub(crate) fn start_of(parts: EngineParts) -> Running {
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let manager = Manager::start(parts, &registry, shutdown.clone()).unwrap();
        let feed = manager.feed();
        Running { manager, feed, registry, shutdown }
    }

    /// A manager with a ratchet of its own, after its first pass.
    pub(crate) async fn start(&self) -> Running {
        let running = self.start_with(self.claim("ratchet").await);
        running.until(|_| true).await;
        running
    }

    /// Lets time pass until a pass has succeeded after that; a second at the least.
    pub(crate) async fn advance(&self, running: &Running, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
        self.settle(running).await;
    }

    /// Lets five seconds pass, and a pass end, however it does.
    pub(crate) async fn tick(&self, running: &Running) {
        let before = running.all_passes();
        self.clock.advance(Duration::from_secs(5));
        eventually(|| running.all_passes() > before).await;
    }

    /// Lets time pass until `condition` holds, for an hour at most.
    pub(crate) async fn tick_until(&self, running: &Running, condition: impl Fn() -> bool) {
        for _ in 0..720 {
            if condition() {
                return;
            }
            self.tick(running).await;
        }
        panic!("it has not come about in an hour");
    }

    /// Lets time pass until `revision` is out.
    pub(crate) async fn advance_to(&self, running: &Running, revision: Revision) -> Arc<FeedState> {
        self.tick_until(running, || running.published().revision >= revision).await;
        running.published()
    }

    /// Waits until a pass has succeeded at the present time.
    pub(crate) async fn settle(&self, running: &Running) {
        let now = i64::try_from(self.now().as_unix()).unwrap();
        let settled = || running.gauge("stek_manager_last_pass_timestamp_seconds") as i64 == now;
        eventually(settled).await;
    }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// One manager.
pub(crate) struct Running {
    pub(crate) manager: Manager,
    pub(crate) feed: watch::Receiver<Option<Arc<FeedState>>>,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
}

impl Running {
    pub(crate) fn operations(&self) -> &Operations {
        self.manager.operations()
    }

    /// What is published now.
    pub(crate) fn published(&self) -> Arc<FeedState> {
        self.feed.borrow().clone().unwrap()
    }

    /// The published keyset of this name.
    pub(crate) fn keyset(&self, text: &str) -> Keyset {
        self.published().keysets[&name(text)].keyset().clone()
    }

    /// Waits until what is published is as `wanted`.
    pub(crate) async fn until(&self, wanted: impl Fn(&FeedState) -> bool) -> Arc<FeedState> {
        let mut feed = self.feed.clone();
        let wait = feed.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
        soon(wait).await.unwrap().clone().unwrap()
    }

    pub(crate) async fn create(&self, text: &str, policy: PolicyDocument) {
        self.operations().create(&name(text), policy, "test").await.unwrap();
        self.until(|feed| feed.keysets.contains_key(&name(text))).await;
    }

    fn metric(&self, family: &str, label: Option<&str>) -> f64 {
        let families = self.registry.gather();
        let found = families.iter().find(|one| one.name() == family).unwrap();
        value(found, label)
    }

    pub(crate) fn gauge(&self, family: &str) -> f64 {
        self.metric(family, None)
    }

    /// A counter, or that of one label value.
    pub(crate) fn counter(&self, family: &str, label: Option<&str>) -> u64 {
        self.metric(family, label) as u64
    }

    pub(crate) fn passes(&self, outcome: &str) -> u64 {
        self.counter("stek_manager_passes_total", Some(outcome))
    }

    pub(crate) fn all_passes(&self) -> u64 {
        self.counter("stek_manager_passes_total", None)
    }

    /// The checks that do not hold.
    pub(crate) fn unready(&self) -> Vec<String> {
        let checks = serde_json::to_value(self.manager.readiness().checks()).unwrap();
        let failed = checks.as_array().unwrap().iter().filter(|check| check["ok"] == false);
        failed.map(|check| check["detail"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        soon(self.manager.stopped()).await;
    }

    /// A token of `who` with these grants.
    pub(crate) async fn token(&self, who: &str, grants: &[(Role, &str)]) -> (TokenSecret, Token) {
        let mut bytes = [0; 32];
        SystemRandom.fill(&mut bytes).unwrap();
        let secret = TokenSecret::take_from(&mut bytes);
        let grants = grants.iter().map(|(role, keysets)| Grant {
            principal: PrincipalPattern::exactly(&principal(who)).unwrap(),
            keysets: KeysetSelector::parse(keysets).unwrap(),
            role: *role,
        });
        let new = NewToken {
            principal: principal(who),
            hash: secret.hash(),
            expires_at: Timestamp::from_unix(START_MILLIS / 1000) + Seconds::from_days(365),
            grants: grants.collect(),
        };
        let token = self.operations().add_token(new, "test").await.unwrap();
        self.until(|feed| feed.access.tokens().contains(&token)).await;
        (secret, token)
    }
}

fn value(family: &MetricFamily, label: Option<&str>) -> f64 {
    let metrics = family.get_metric().iter();
    let of_label = metrics.filter(|metric| {
        label.is_none_or(|wanted| metric.get_label().iter().any(|pair| pair.value() == wanted))
    });
    of_label.map(|metric| metric.get_gauge().get_value() + metric.get_counter().get_value()).sum()
}
