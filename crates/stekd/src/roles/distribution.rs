//! `stekd distribution`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use stek_client::{CertificateFiles, CheckInReporter, ClientConfig, ClientOptions, FeedFollower};
use stek_clock::SystemClock;
use stek_core::name::InstanceName;
use stek_core::time::Seconds;
use stek_distribution::Distribution;
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::{self, DistributionConfig, UpstreamSection};
use crate::roles::freshness::Freshness;
use crate::roles::interface;
use crate::roles::listener::{self, Listeners, Prepared};

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
    let options = ClientOptions {
        upstreams: section.urls.clone(),
        roots: section.roots_files.clone(),
        token: section.token_file.clone(),
        certificate: certificate("upstream", &section.certificate_file, &section.private_key_file)?,
        wait: section.wait_seconds.map(Seconds::new),
        max_body_bytes: None,
        instance: instance_name(instance)?,
    };
    if options.token.is_none() && options.certificate.is_none() {
        return Err(no_proof("upstream").into());
    }
    ClientConfig::try_new(&options).map_err(|error| {
        let mut words = format!("{:#}", anyhow::Error::new(error));
        // The client has names of its own for what stands in the section.
        for (theirs, ours) in
            [("upstreams", "urls"), ("roots is", "roots_files is"), ("wait is", "wait_seconds is")]
        {
            if let Some(rest) = words.strip_prefix(theirs) {
                words = format!("{ours}{rest}");
            }
        }
        Refused(format!("upstream.{words}")).into()
    })
}

/// The files of a client certificate that `section` names; both or neither.
pub(crate) fn certificate(
    section: &str,
    certificate: &Option<PathBuf>,
    private_key: &Option<PathBuf>,
) -> Result<Option<CertificateFiles>, Refused> {
    match (certificate.clone(), private_key.clone()) {
        (Some(certificate), Some(private_key)) => {
            Ok(Some(CertificateFiles { certificate, private_key }))
        }
        (None, None) => Ok(None),
        _ => Err(Refused(format!("{section}: certificate_file and private_key_file go together"))),
    }
}

/// What is said of a section that names neither token nor certificate.
pub(crate) fn no_proof(section: &str) -> Refused {
    let need = "token_file, or certificate_file and private_key_file, or all three are needed";
    Refused(format!("{section}: {need}"))
}

/// `asked`, or the host's name.
pub(crate) fn instance_name(asked: Option<&str>) -> Result<InstanceName> {
    let host = rustix::system::uname();
    let name = asked.map_or_else(|| host.nodename().to_string_lossy(), Into::into);
    InstanceName::try_new(&name).map_err(|error| Refused(error.to_string()).into())
}
