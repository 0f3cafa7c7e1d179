//! One database and any number of managers on it, on a clock that the test moves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use prometheus::Registry;
use stek_clock::{Clock, ManualClock};
use stek_core::feed::FeedState;
use stek_core::id::Incarnation;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::Custody;
use stek_custody::random::SystemRandom;
use stek_custody::share::{JoinRequest, SealedState};
use stek_manager::{
    EngineParts, Manager, Newcomer, PeerError, Peers, RatchetRules, claim_ratchet, join_ratchet,
};
use stek_store::{KeyStore, PostgresOptions, PostgresStore, WithClock};
use stek_testpg::TestDatabase;
use stek_wire::admin::PolicyDocument;
use tokio_util::sync::CancellationToken;

const START_MILLIS: u64 = 1_790_000_000_000;

/// How long anything may take that a test waits for.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Keys that rotate every ten seconds.
pub(super) const FAST: PolicyDocument = PolicyDocument {
    rotation_period_seconds: Some(10),
    ticket_lifetime_seconds: Some(10),
    poll_interval_seconds: Some(1),
    clock_skew_seconds: Some(1),
    lead_seconds: Some(10),
    session_lifetime_seconds: Some(60),
    activation_quorum: None,
    activation_deadline_seconds: None,
};

pub(super) fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

pub(super) struct Site {
    pub(super) clock: Arc<ManualClock>,
    pub(super) database: TestDatabase,
    pub(super) cluster: Arc<ClusterSecret>,
    /// The written form of the first cluster secret.
    pub(super) text: String,
    dir: tempfile::TempDir,
}

impl Site {
    pub(super) async fn new() -> Self {
        let database = stek_testpg::create_database().await.unwrap();
        let options = PostgresOptions::new(database.url()).unwrap();
        let lineage = Incarnation::new(START_MILLIS, &[7; 10]);
        PostgresStore::migrate(&options, lineage).await.unwrap();
        let secret = ClusterSecret::generate_text(&SystemRandom).unwrap();
        Self {
            text: secret.to_string(),
            clock: Arc::new(ManualClock::at_unix_millis(START_MILLIS)),
            database,
            cluster: Arc::new(ClusterSecret::parse(&secret).unwrap()),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Gives managers that begin from now on another cluster secret, with the one before it.
    pub(super) fn new_secret(&mut self, before: &str) -> String {
        let text = ClusterSecret::generate_text(&SystemRandom).unwrap().to_string();
        let previous = ClusterSecret::parse(before).unwrap();
        self.cluster = Arc::new(ClusterSecret::parse(&text).unwrap().with_previous(previous));
        text
    }

    pub(super) fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.clock.wall_millis() / 1000)
    }

    /// A pool of connections of its own, on the test's clock.
    pub(super) async fn store(&self) -> Arc<dyn KeyStore> {
        self.store_at(self.database.url()).await
    }

    async fn store_at(&self, url: &str) -> Arc<dyn KeyStore> {
        let options = PostgresOptions::new(url).unwrap();
        let clock = Arc::clone(&self.clock);
        let store = PostgresStore::connect(&options).await.unwrap();
        Arc::new(WithClock::new(store, Arc::new(move || clock.wall_millis())))
    }

    /// Managers that hold one ratchet.
    pub(super) async fn managers<const N: usize>(&self) -> [Running; N] {
        let first = self.custody().await;
        let mut running = Vec::new();
        for number in 1..N {
            running.push(self.join(&first, number).await);
        }
        running.push(self.start(first).await);
        running.try_into().unwrap_or_else(|_| unreachable!())
    }

    /// The ratchet that the database names, or a new one.
    pub(super) async fn custody(&self) -> Custody {
        let store = self.store().await;
        let path = self.dir.path().join("0");
        let (cluster, clock) = (&self.cluster, self.clock.as_ref());
        claim_ratchet(store.as_ref(), cluster, &path, &SystemRandom, clock).await.unwrap()
    }

    /// A manager with the ratchet of `peer`; each with a number of its own.
    pub(super) async fn join(&self, peer: &Custody, number: usize) -> Running {
        self.join_at(self.database.url(), peer, number).await
    }

    /// The same, reaching the database at `url`.
    pub(super) async fn join_at(&self, url: &str, peer: &Custody, number: usize) -> Running {
        let path = self.dir.path().join(number.to_string());
        let cluster = Arc::clone(&self.cluster);
        let (store, clock) = (self.store_at(url).await, self.clock.as_ref());
        let newcomer = Newcomer {
            store: store.as_ref(),
            cluster: &cluster,
            path: &path,
            random: &SystemRandom,
            clock,
            peers: &Peer(peer),
        };
        let custody = join_ratchet(&newcomer).await.unwrap();
        self.start_on(store, custody).await
    }

    pub(super) async fn start(&self, custody: Custody) -> Running {
        self.start_on(self.store().await, custody).await
    }

    async fn start_on(&self, store: Arc<dyn KeyStore>, custody: Custody) -> Running {
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let parts = EngineParts {
            store,
            custody: Arc::new(custody),
            cluster: Arc::clone(&self.cluster),
            random: Arc::new(SystemRandom),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            audit_retention: Some(Seconds::from_days(3)),
            rules: RatchetRules::default(),
        };
        let manager = Manager::start(parts, &registry, shutdown.clone()).unwrap();
        let running = Running { manager, registry, shutdown };
        running.until(|_| true).await;
        running
    }
}

/// The one other manager, without a network between.
struct Peer<'a>(&'a Custody);

#[async_trait]
impl Peers for Peer<'_> {
    async fn ask(&self, request: &JoinRequest) -> Result<SealedState, PeerError> {
        self.0.share(request).map_err(|_| PeerError::None)
    }
}

pub(super) struct Running {
    pub(super) manager: Manager,
    registry: Registry,
    shutdown: CancellationToken,
}

impl Running {
    /// The value of a counter or gauge.
    pub(super) fn metric(&self, name: &str) -> u64 {
        let families = self.registry.gather();
        let family = families.iter().find(|one| one.name() == name).unwrap();
        let values = family.get_metric().iter();
        let values = values.map(|one| one.get_gauge().get_value() + one.get_counter().get_value());
        values.sum::<f64>() as u64
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.manager.stopped()).await.unwrap();
    }

    /// Waits until what is published is as `wanted`.
    pub(super) async fn until(&self, wanted: impl Fn(&FeedState) -> bool) -> Arc<FeedState> {
        let mut feed = self.manager.feed();
        let wait = feed.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
        tokio::time::timeout(PATIENCE, wait).await.unwrap().unwrap().clone().unwrap()
    }
}
