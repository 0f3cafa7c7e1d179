//! The tasks of a follower and their life: one polls, one erases. What they follow is the type
//! parameter's business.

use std::sync::Arc;

use prometheus::Registry;
use stek_clock::{Clock, FleetClock};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::certificate::CertificateError;
use crate::config::ClientConfig;
use crate::content::{Content, Source};
use crate::erase::erase_when_due;
use crate::installed::Installed;
use crate::jitter::Jitter;
use crate::metrics::Metrics;
use crate::poll::{Poller, Shared};
use crate::status::{Status, StatusCell};
use crate::transport::Transport;
use crate::upstream::Upstreams;

/// A follower that cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The registry has the series already: it serves another follower of the same.
    #[error("metrics cannot be registered")]
    Metrics(#[source] prometheus::Error),
    /// The TLS library does not do what is asked of it.
    #[error("tls cannot be set up")]
    Tls(#[source] rustls::Error),
    /// The files of the client certificate have changed since they were checked.
    #[error("client certificate cannot be used")]
    Certificate(#[source] CertificateError),
    /// The HTTP library does not do what is asked of it.
    #[error("http client cannot be set up")]
    Http(#[source] reqwest::Error),
    /// The instance name does not fit into a header.
    #[error("instance name does not fit into a header")]
    Instance(#[source] reqwest::header::InvalidHeaderValue),
    /// The operating system gives no random bytes.
    #[error("no random bytes from the operating system")]
    Random(#[source] getrandom::Error),
}

/// The follower was cancelled before anything was installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("follower was stopped before anything was installed")]
pub struct Stopped;

/// Follows content of one kind until it is dropped.
pub(crate) struct Follower<C> {
    shared: Arc<Shared<C>>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl<C: Content> Follower<C> {
    /// Starts both tasks on the current run time.
    pub(crate) fn start(
        config: &ClientConfig,
        source: Source,
        default_max_body: usize,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let transport =
            Transport::try_new(config, source.path(), default_max_body, Arc::clone(&clock))?;
        let jitter = Jitter::from_os().map_err(StartError::Random)?;
        let wait = source.wait(config.wait());
        let upstreams = Upstreams::new(config.upstreams().to_vec());
        let shared = Arc::new(Shared {
            installed: Installed::new(),
            fleet: Arc::new(FleetClock::new(clock)),
            metrics: Metrics::register(registry, &source).map_err(StartError::Metrics)?,
            status: StatusCell::new(upstreams.current().clone()),
            rearm: tokio::sync::Notify::new(),
            source,
        });
        let poller =
            Poller::<C>::new(Arc::clone(&shared), transport, upstreams, Backoff::new(jitter), wait);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let cancel = cancel.clone();
            async move {
                cancel.run_until_cancelled(poller.run()).await;
            }
        });
        tasks.spawn({
            let (shared, cancel) = (Arc::clone(&shared), cancel.clone());
            async move {
                let Shared { installed, fleet, metrics, source, rearm, .. } = &*shared;
                let erasing = erase_when_due(installed, fleet, rearm, metrics, source);
                cancel.run_until_cancelled(erasing).await;
            }
        });
        Ok(Self { shared, cancel, tasks })
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<C>>> {
        self.shared.installed.subscribe()
    }

    pub(crate) fn fleet(&self) -> Arc<FleetClock> {
        Arc::clone(&self.shared.fleet)
    }

    pub(crate) async fn ready(&self) -> Result<Arc<C>, Stopped> {
        let mut contents = self.subscribe();
        tokio::select! {
            content = contents.wait_for(Option::is_some) => {
                content.ok().and_then(|content| content.clone()).ok_or(Stopped)
            }
            () = self.cancel.cancelled() => Err(Stopped),
        }
    }

    pub(crate) fn status(&self) -> Status {
        self.shared.status.read()
    }

    pub(crate) fn status_reader(&self) -> impl Fn() -> Status + Send + Sync + use<C> {
        let shared = Arc::clone(&self.shared);
        move || shared.status.read()
    }

    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    pub(crate) async fn shutdown(mut self) {
        self.cancel.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(keyset = self.shared.source.keyset(), %error, "follower failed");
            }
        }
    }
}

impl<C> Drop for Follower<C> {
    fn drop(&mut self) {
        // Dropping the tasks aborts them; whoever waits on the token learns it too.
        self.cancel.cancel();
    }
}
