//! All roles in one process: started in order, each talking to the next over TLS as it would
//! across machines.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context, Result};
use prometheus::Registry;
use stek_core::access::{Grant, KeysetSelector, Role};
use stek_core::feed::FeedState;
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::principal::PrincipalPattern;
use stek_core::time::Seconds;
use stek_distribution::Distribution;
use stek_http::health::Readiness;
use stek_manager::{EngineParts, Manager, OperationError, Operations};
use stek_wire::admin::PolicyDocument;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::commands::secret::write_private;
use crate::commands::token::draw;
use crate::dev::site::Site;
use crate::roles::distribution::{client_config, instance_name};
use crate::roles::listener::{self, Listeners, Prepared};
use crate::roles::terminator::{Identity, Setup, Terminator};
use crate::roles::{confirmations, interface};

/// The keyset that is there from the start.
pub const KEYSET: &str = "main";

/// How long the tokens of a development directory are valid.
const TOKEN_LIFE: Seconds = Seconds::from_days(365);

/// The names of the two terminators.
const NAMES: [&str; 2] = ["server-a", "server-b"];

/// Where to listen; port 0 takes a free one.
#[derive(Debug, Clone, Copy)]
pub struct Ports {
    /// Operators and distribution replicas.
    pub admin: SocketAddr,
    /// Metrics and health.
    pub metrics: SocketAddr,
    /// Terminators' polls.
    pub distribution: SocketAddr,
    /// TLS clients.
    pub terminators: [SocketAddr; 2],
}

impl Ports {
    /// Free ports on loopback.
    pub fn free() -> Self {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { admin: free, metrics: free, distribution: free, terminators: [free, free] }
    }
}

/// A sample terminator of a node.
pub struct Server {
    /// Its name in answers.
    pub name: &'static str,
    /// Its metrics.
    pub registry: Registry,
    /// The server itself.
    pub terminator: Terminator,
}

impl Server {
    /// How many tickets it has opened or missed so far, by outcome.
    pub fn opened(&self) -> Vec<(String, u64)> {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == "stek_tickets_opened_total");
        let metrics = family.into_iter().flat_map(|family| family.get_metric());
        let counts = metrics.filter_map(|metric| {
            let outcome = metric.get_label().iter().find(|label| label.name() == "outcome")?;
            // Counts of whole things, far below the point where doubles lose them.
            Some((outcome.value().to_owned(), metric.get_counter().get_value() as u64))
        });
        counts.collect()
    }
}

/// All roles, running.
pub struct Node {
    /// The two TLS servers.
    pub servers: Vec<Server>,
    manager: Manager,
    registry: Registry,
    distribution: Distribution,
    listeners: Listeners,
    ports: Ports,
    shutdown: CancellationToken,
}

impl Node {
    /// Starts everything around the manager that `parts` make, and returns when both terminators
    /// hold keys. `policy` is for the keyset `main` if it is not there yet.
    ///
    /// # Errors
    /// Whatever part does not start, with context.
    pub async fn start(
        site: &Site,
        parts: EngineParts,
        mut ports: Ports,
        policy: PolicyDocument,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        let keyset = KeysetName::try_new(KEYSET)?;
        let registry = listener::registry()?;
        let clock = Arc::clone(&parts.clock);
        let manager = Manager::start(parts, &registry, shutdown.clone())?;
        published(manager.feed(), |_| true).await?;
        provision(manager.operations(), site, &keyset, policy).await?;
        let (feed, fleet) = (manager.feed(), manager.fleet());
        let distribution = Distribution::start(feed, fleet, &registry, shutdown.clone())?;
        confirmations::follow(&manager, &distribution, instance_name(Some("dev"))?);
        let mut listeners = Listeners::new(registry.clone(), shutdown.clone())?;
        let admin = interface::admin(&manager, &distribution);
        ports.admin =
            listeners.interface("admin", Prepared::new(&site.listen(ports.admin))?, admin).await?;
        ports.metrics = listeners.metrics(ports.metrics, manager.readiness()).await?;
        let bundles = Prepared::new(&site.listen(ports.distribution))?;
        let offered = interface::distribution(&distribution);
        ports.distribution = listeners.interface("distribution", bundles, offered).await?;
        write_profile(site, ports.admin.port())?;
        published(manager.feed(), |feed| feed.keysets.contains_key(&keyset)).await?;
        let mut servers = Vec::new();
        for (name, address) in NAMES.into_iter().zip(ports.terminators) {
            let registry = Registry::new();
            let upstream = site.upstream(ports.distribution.port());
            let setup = Setup {
                name: name.to_owned(),
                client: client_config(&upstream, Some(name))?,
                keyset: keyset.clone(),
                identity: Identity::read(&site.certificate(), &site.private_key())?,
                clock: Arc::clone(&clock),
            };
            let terminator = Terminator::start(setup, address, &registry, shutdown.clone()).await?;
            terminator.ready().await?;
            servers.push(Server { name, registry, terminator });
        }
        Ok(Self { servers, manager, registry, distribution, listeners, ports, shutdown })
    }

    /// What is published.
    pub fn feed(&self) -> watch::Receiver<Option<Arc<FeedState>>> {
        self.manager.feed()
    }

    /// Metrics of manager and distribution.
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Whether the manager should be sent traffic, and why not.
    pub fn readiness(&self) -> Arc<dyn Readiness> {
        self.manager.readiness()
    }

    /// Fleet time.
    pub fn fleet(&self) -> Arc<stek_clock::FleetClock> {
        self.manager.fleet()
    }

    /// What operators ask for, without the way through the admin API.
    pub fn operations(&self) -> &Arc<Operations> {
        self.manager.operations()
    }

    /// Where everything listens.
    pub fn ports(&self) -> Ports {
        self.ports
    }

    /// What to try next, for a person.
    pub(crate) fn welcome(&self, site: &Site) -> Vec<String> {
        let profile = site.profile();
        let mut lines = vec![
            format!("manager       https://localhost:{}", self.ports.admin.port()),
            format!("distribution  https://localhost:{}", self.ports.distribution.port()),
            format!("metrics       http://{}/metrics", self.ports.metrics),
        ];
        for server in &self.servers {
            let port = server.terminator.address().port();
            lines.push(format!("{}      https://localhost:{port}", server.name));
        }
        lines.push(format!("status page   https://localhost:{}/status", self.ports.admin.port()));
        let (token, authority) = (site.token("operator"), site.authority());
        lines.push(format!("  sign in with the content of {}", token.display()));
        lines
            .push(format!("  the browser must trust {}, or be told to go on", authority.display()));
        lines.push(String::new());
        lines.push("A session begun at one server resumes at the other:".into());
        lines.extend(self.openssl_lines(site));
        lines.push(String::new());
        lines.push("Rotate the keys; the session goes on:".into());
        // As it was called, for it may not be on the path.
        let program = std::env::args().next().unwrap_or_else(|| "stekd".into());
        lines.push(format!("  {program} keyset rotate {KEYSET} --profile {}", profile.display()));
        lines
    }

    /// The commands that check resumption by hand.
    pub(crate) fn openssl_lines(&self, site: &Site) -> Vec<String> {
        let session = site.dir().join("session.pem");
        let authority = site.authority();
        let line = |server: &Server, option: &str| {
            format!(
                "  printf 'GET / HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect localhost:{} -tls1_3 \
                 -ign_eof -CAfile {} {option} {} 2>/dev/null | grep -aE '^(New|Reused|server)'",
                server.terminator.address().port(),
                authority.display(),
                session.display(),
            )
        };
        let options = ["-sess_out", "-sess_in"];
        self.servers.iter().zip(options).map(|(server, option)| line(server, option)).collect()
    }

    /// Runs until a signal, then stops everything.
    pub(crate) async fn run(self) -> Result<()> {
        let Self { servers, manager, distribution, listeners, .. } = self;
        listeners.run().await?;
        end(servers, manager, distribution).await;
        Ok(())
    }

    /// Stops everything.
    pub async fn stop(self) {
        let Self { servers, manager, distribution, mut listeners, shutdown, .. } = self;
        shutdown.cancel();
        listeners.stopped().await;
        end(servers, manager, distribution).await;
    }
}

async fn end(servers: Vec<Server>, manager: Manager, distribution: Distribution) {
    for server in servers {
        server.terminator.stopped().await;
    }
    distribution.stopped().await;
    manager.stopped().await;
}

/// Waits until what is published is as `wanted`.
async fn published(
    mut feed: watch::Receiver<Option<Arc<FeedState>>>,
    wanted: impl Fn(&FeedState) -> bool,
) -> Result<()> {
    let wait = feed.wait_for(|state| state.as_ref().is_some_and(|state| wanted(state)));
    tokio::time::timeout(std::time::Duration::from_secs(30), wait)
        .await
        .context("the manager has published nothing for 30 s; its log says why")?
        .context("the manager has ended")?;
    Ok(())
}

/// Makes the tokens and the keyset that are not there yet.
async fn provision(
    operations: &Operations,
    site: &Site,
    keyset: &KeysetName,
    policy: PolicyDocument,
) -> Result<()> {
    for (name, role, keysets) in [
        ("operator", Role::Operator, KeysetSelector::All),
        ("terminator", Role::Terminator, KeysetSelector::Named(keyset.clone())),
    ] {
        if site.token(name).exists() {
            continue;
        }
        let principal = PrincipalName::try_new(&format!("token:{name}"))?;
        let grant = Grant { principal: PrincipalPattern::exactly(&principal)?, keysets, role };
        let (secret, new) = draw(principal, vec![grant], TOKEN_LIFE)?;
        operations.add_token(new, "dev").await?;
        write_private(&site.token(name), &secret.expose_text())?;
    }
    match operations.show(keyset).await {
        Err(OperationError::NotFound(_)) => {
            operations.create(keyset, policy, "dev").await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

fn write_profile(site: &Site, port: u16) -> Result<()> {
    let text = format!(
        "server = \"https://localhost:{port}\"\nroots_files = [\"ca.pem\"]\n\
         token_file = \"operator-token\"\n"
    );
    std::fs::write(site.profile(), text)
        .with_context(|| format!("cannot write {}", site.profile().display()))
}
