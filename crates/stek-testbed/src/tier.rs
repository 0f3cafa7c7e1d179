//! A distribution replica of its own in front of a fleet: it follows its upstreams over HTTP,
//! serves bundles and feed on, and reports upwards.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use prometheus::Registry;
use stek_client::{CheckInReporter, ClientConfig, ClientOptions, FeedFollower};
use stek_clock::Clock;
use stek_core::feed::FeedState;
use stek_core::name::InstanceName;
use stek_distribution::Distribution;
use stek_http::{Limits, Plaintext, Server, Transport};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Bed;

/// A running replica.
pub struct Tier {
    /// Where it serves.
    pub url: String,
    /// Its metrics.
    pub registry: Registry,
    /// The replica itself.
    pub distribution: Distribution,
    follower: FeedFollower,
    reporter: CheckInReporter,
    serving: JoinHandle<()>,
    shutdown: CancellationToken,
}

/// How to ask `upstreams` as `instance`, with the token in a file.
///
/// # Errors
/// If the file or an address is not allowed.
pub fn client(
    bed: &Bed,
    upstreams: &[String],
    token: &Path,
    instance: &str,
) -> Result<ClientConfig> {
    Ok(ClientConfig::try_new(&ClientOptions {
        upstreams: upstreams.to_vec(),
        roots: vec![bed.site.authority()],
        token: Some(PathBuf::from(token)),
        certificate: None,
        wait: None,
        max_body_bytes: None,
        instance: InstanceName::try_new(instance)?,
    })?)
}

impl Tier {
    /// Starts one that follows `upstreams`, on the fleet's clock.
    ///
    /// # Errors
    /// Whatever part does not start.
    pub async fn start(bed: &Bed, upstreams: &[String], token: &Path, name: &str) -> Result<Self> {
        let clock = Arc::clone(&bed.clock) as Arc<dyn Clock>;
        Self::start_on(clock, &client(bed, upstreams, token, name)?).await
    }

    /// Starts one that follows what `config` names, on a clock of its own.
    ///
    /// # Errors
    /// Whatever part does not start.
    pub async fn start_on(clock: Arc<dyn Clock>, config: &ClientConfig) -> Result<Self> {
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let follower = FeedFollower::start(config, Arc::clone(&clock), &registry)?;
        let (feed, fleet) = (follower.states(), follower.fleet());
        let distribution = Distribution::start(feed, fleet, &registry, shutdown.clone())?;
        let counts = distribution.census(config.instance().clone());
        let reporter = CheckInReporter::start(config, &counts, &clock, &registry)?;
        let api = distribution.bundle_api().merge(distribution.feed_api());
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let transport = Transport::Plain(Plaintext::LoopbackOnly);
        let server = Server::bind(address, transport, Limits::default()).await?;
        let url = format!("http://{}", server.local_addr());
        let (routes, stopping) = (api.into_routes().with_fallbacks(), shutdown.clone());
        let serving = tokio::spawn(async move {
            // A connection that is cut at the end is none of the test.
            let _ = server.serve(routes, stopping).await;
        });
        Ok(Self { url, registry, distribution, follower, reporter, serving, shutdown })
    }

    /// What it serves, and holds keys for.
    pub fn feed(&self) -> watch::Receiver<Option<Arc<FeedState>>> {
        self.follower.states()
    }

    /// Stops it.
    pub async fn stop(self) {
        self.shutdown.cancel();
        // Its end is all that is waited for.
        let _ = self.serving.await;
        self.distribution.stopped().await;
        self.reporter.shutdown().await;
        self.follower.shutdown().await;
    }
}
