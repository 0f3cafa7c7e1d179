//! Serves bundles to terminators and the feed to further distribution replicas, from whatever feeds
//! it: a manager in the same process or the feed of another. Stateless: keys are in memory only.
//! What is published is not decided here.

mod api;
mod census;
mod check_ins;
mod children;
mod feed_shelf;
mod feed_view;
mod freshness;
mod horizon;
mod metrics;
mod readiness;
mod reports;
mod routes;
mod shelf;
mod visitor;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_clock::FleetClock;
use stek_core::check_in::Census;
use stek_core::feed::FeedState;
use stek_core::name::InstanceName;
use stek_http::api::Api;
use stek_http::health::Readiness;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::census::News;
use crate::check_ins::CheckIns;
use crate::children::Children;
use crate::feed_shelf::FeedShelf;
use crate::freshness::Lapses;
use crate::horizon::Horizon;
use crate::metrics::DistributionMetrics;
use crate::reports::Turns;
use crate::shelf::Shelf;

/// The longest time that a long-poll may ask for, a little under a minute, which is when proxies
/// and load balancers commonly give up on a silent connection.
pub const LONGEST_WAIT: Duration = Duration::from_secs(55);

/// A source of published content: `None` until the first.
pub type Feed = watch::Receiver<Option<Arc<FeedState>>>;

/// A running distribution replica.
pub struct Distribution {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What every request needs.
pub(crate) struct Shared {
    pub(crate) feed: Feed,
    pub(crate) fleet: Arc<FleetClock>,
    pub(crate) shelf: Shelf,
    pub(crate) feeds: FeedShelf,
    pub(crate) lapses: Lapses,
    pub(crate) horizon: Horizon,
    pub(crate) check_ins: CheckIns,
    pub(crate) children: Children,
    pub(crate) turns: Turns,
    pub(crate) news: News,
    pub(crate) metrics: DistributionMetrics,
    pub(crate) shutdown: CancellationToken,
}

impl Distribution {
    /// Starts to follow `feed`, on the fleet time that comes with it, until `shutdown`.
    ///
    /// # Errors
    /// If metrics of these names are registered already.
    pub fn start(
        feed: Feed,
        fleet: Arc<FleetClock>,
        registry: &Registry,
        shutdown: CancellationToken,
    ) -> Result<Self, prometheus::Error> {
        let metrics = DistributionMetrics::register(registry)?;
        let shared = Arc::new(Shared {
            feed,
            fleet,
            shelf: Shelf::default(),
            feeds: FeedShelf::default(),
            lapses: Lapses::default(),
            horizon: Horizon::default(),
            check_ins: CheckIns::default(),
            children: Children::default(),
            turns: Turns::default(),
            news: News::default(),
            metrics,
            shutdown,
        });
        tokio::spawn(freshness::keep(Arc::clone(&shared)));
        let task = tokio::spawn(shelf::keep(Arc::clone(&shared)));
        Ok(Self { shared, task })
    }

    /// `GET /v1/keysets/{keyset}` for terminators, and the list of them for operators.
    pub fn bundle_api(&self) -> Api {
        routes::bundles(Arc::clone(&self.shared))
    }

    /// `GET /v1/feed` for distribution replicas, and `POST /v1/check-ins` for what they report.
    pub fn feed_api(&self) -> Api {
        routes::feeds(Arc::clone(&self.shared))
    }

    /// Begins to count who holds what, until `shutdown`: here, in the name of `replica`, and at the
    /// replicas that report here. A count every two seconds, and within 100 ms of a check-in while a
    /// revision is younger than 30 s.
    pub fn census(&self, replica: InstanceName) -> watch::Receiver<Arc<Census>> {
        let (counts, receiver) = watch::channel(Arc::default());
        tokio::spawn(census::keep(Arc::clone(&self.shared), replica, counts));
        receiver
    }

    /// Whether this replica should be sent traffic.
    pub fn readiness(&self) -> Arc<dyn Readiness> {
        Arc::new(readiness::DistributionReadiness(Arc::clone(&self.shared)))
    }

    /// Waits for the follower to end after `shutdown`.
    pub async fn stopped(self) {
        // The task keeps no state that could be lost; a panic of it is logged where it happened.
        let _ = self.task.await;
    }
}
