//! The key-manager: keeps every keyset supplied with keys by the planner's rules, publishes what
//! distribution serves, answers operators and shows them how it goes. The only part with database
//! credentials and key-encryption secrets. Rules are `stek-core`'s, rows `stek-store`'s, wrapping `stek-custody`'s.

mod admin;
mod bootstrap;
mod confirmations;
mod draft;
mod engine;
mod forecast;
mod listen;
mod metrics;
mod operations;
mod page;
mod publisher;
mod ratchet;
mod readiness;
mod reconcile;
mod trail;

pub use bootstrap::{BootstrapError, Newcomer, claim_ratchet, join_ratchet};
pub use confirmations::Confirmations;
pub use engine::{ClockError, DatabaseBehind, Engine, EngineParts};
pub use operations::{
    AcceptError, KeysetChange, MAX_GRANTS, MAX_TOKENS, NewToken, OperationError, Operations,
    TokenRow, accept_restore, add_grant_offline, add_token_offline, replace_lost_seed,
};
pub use ratchet::{NoPeers, PeerError, Peers, RatchetError, RatchetRules};

pub use trail::{TrailQuery, list_offline, verify_offline};

use std::sync::Arc;

use axum::Router;
use prometheus::Registry;
use stek_clock::FleetClock;
use stek_core::feed::FeedState;
use stek_http::TlsFiles;
use stek_http::api::Api;
use stek_http::health::Readiness;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::ManagerMetrics;
use crate::reconcile::Reconciler;

/// A running key-manager.
pub struct Manager {
    operations: Arc<Operations>,
    feed: watch::Receiver<Option<Arc<FeedState>>>,
    readiness: Arc<readiness::ManagerReadiness>,
    page: Arc<page::Page>,
    task: JoinHandle<()>,
}

impl Manager {
    /// Starts the reconcile loop, which goes on until `shutdown`, whatever fails.
    ///
    /// # Errors
    /// If metrics of these names are registered already.
    pub fn start(
        parts: EngineParts,
        registry: &Registry,
        shutdown: CancellationToken,
    ) -> Result<Self, prometheus::Error> {
        let metrics = Arc::new(ManagerMetrics::register(registry)?);
        let engine = Arc::new(Engine::new(parts));
        let readiness = Arc::new(readiness::ManagerReadiness::new(Arc::clone(&engine)));
        let (sender, feed) = watch::channel(None);
        metrics::unconfirmed::register(registry, feed.clone(), engine.confirmations.clone())?;
        let operations = Arc::new(Operations::new(Arc::clone(&engine), feed.clone()));
        let page = page::Page::new(
            Arc::clone(&operations),
            Arc::clone(&metrics),
            Arc::clone(&readiness),
            shutdown.clone(),
        );
        tokio::spawn(listen::run(Arc::clone(&engine), feed.clone(), shutdown.clone()));
        let patrol =
            trail::patrol::run(Arc::clone(&engine), Arc::clone(&metrics), shutdown.clone());
        tokio::spawn(patrol);
        let reconciler = Reconciler::new(engine, sender, metrics, Arc::clone(&readiness));
        let task = tokio::spawn(reconciler.run(shutdown));
        Ok(Self { operations, feed, readiness, page: Arc::new(page), task })
    }

    /// What is published; `None` until the first pass.
    pub fn feed(&self) -> watch::Receiver<Option<Arc<FeedState>>> {
        self.feed.clone()
    }

    /// Fleet time: the database's clock as of the last pass, kept going on boot time.
    pub fn fleet(&self) -> Arc<FleetClock> {
        Arc::clone(self.operations.engine().fleet())
    }

    /// What the fleet has confirmed; whoever hears of it puts it there.
    pub fn confirmations(&self) -> Arc<Confirmations> {
        Arc::clone(&self.operations.engine().confirmations)
    }

    /// What operators ask for, as methods.
    pub fn operations(&self) -> &Arc<Operations> {
        &self.operations
    }

    /// The admin API, below `/admin/v1`.
    pub fn admin_api(&self) -> Api {
        admin::api(Arc::clone(&self.operations))
    }

    /// The status page at `/status`, for the same listener.
    pub fn page_router(&self) -> Router {
        page::router(Arc::clone(&self.page))
    }

    /// Has the status page tell when the certificate of its listener is about to end.
    pub fn watch_certificate(&self, files: Arc<TlsFiles>) {
        self.page.watch(files);
    }

    /// Whether this manager should be sent traffic.
    pub fn readiness(&self) -> Arc<dyn Readiness> {
        Arc::clone(&self.readiness) as Arc<dyn Readiness>
    }

    /// Waits for the loop to end after `shutdown`.
    pub async fn stopped(self) {
        // The loop holds no lock and catches its own panics; there is nothing to hand on.
        let _ = self.task.await;
    }
}
