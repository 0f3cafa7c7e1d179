//! `stekd distribution`.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use stek_client::{CheckInReporter, ClientConfig, FeedFollower};
use stek_clock::SystemClock;
use stek_core::name::InstanceName;
use stek_distribution::Distribution;
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::{self, DistributionConfig, UpstreamSection};
use crate::roles::freshness::Freshness;
use crate::roles::interface;
use crate::roles::listener::{self, Listeners, Prepared};
use crate::roles::reach::Reach;

/// Runs a distribution replica until a signal.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let config: DistributionConfig = config::read(path)?;
    crate::memory::lock();
    let listen = Prepared::new(&config.listen)?;
    let shutdown = CancellationToken::new();
    let registry = listener::registry()?;
    let client = client_config(&config.upstream, None)?;
    let follower = FeedFollower::start(&client, Arc::new(SystemClock), &registry)?;
    let (feed, fleet) = (follower.states(), follower.fleet());
    let distribution = Distribution::start(feed, fleet, &registry, shutdown.clone())?;
    let counts = distribution.census(client.instance().clone());
    let clock: Arc<dyn stek_clock::Clock> = Arc::new(SystemClock);
    let reporter = CheckInReporter::start(&client, &counts, &clock, &registry)?;
    let router = interface::distribution(&distribution);
    let mut listeners = Listeners::new(registry, shutdown)?;
    listeners.interface("distribution", listen, router).await?;
    let readiness = Arc::new(Freshness {
        replica: distribution.readiness(),
        status: follower.status_reader(),
        fleet: follower.fleet(),
    });
    listeners.metrics(config.metrics.address, readiness).await?;
    listeners.run().await?;
    distribution.stopped().await;
    reporter.shutdown().await;
    follower.shutdown().await;
    Ok(())
}

/// The client's configuration for `section`, checking in as `instance` or the host's name.
pub(crate) fn client_config(
    section: &UpstreamSection,
    instance: Option<&str>,
) -> Result<ClientConfig> {
    Ok(Reach::upstream(section).check(instance_name(instance)?)?)
}

/// `asked`, or the host's name.
pub(crate) fn instance_name(asked: Option<&str>) -> Result<InstanceName> {
    let host = rustix::system::uname();
    let name = asked.map_or_else(|| host.nodename().to_string_lossy(), Into::into);
    InstanceName::try_new(&name).map_err(|error| Refused(error.to_string()).into())
}
