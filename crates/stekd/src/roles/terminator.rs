//! `stekd terminator`: a sample TLS server that resumes with the keys of a fleet and says in each
//! answer what it did.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prometheus::Registry;
use rustls::HandshakeKind;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use stek_client::ClientConfig;
use stek_clock::{Clock, SystemClock};
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_http::health::{Check, Readiness};
use stek_http::{TlsFiles, TlsPaths};
use stek_rustls::{Acceptor, Fleet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::{self, TerminatorConfig};
use crate::roles::distribution::{client_config, instance_name};
use crate::roles::listener::{self, Listeners};

/// How long each step of a connection may take.
const STEP: Duration = Duration::from_secs(10);
/// How many connections are served at once.
const MAX_CONNECTIONS: usize = 1024;
/// How long connections that are open have to end when it is told to stop.
const DRAIN: Duration = Duration::from_secs(20);
/// How long to rest when no connection can be accepted, as without file descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// Runs a sample terminator until a signal.
pub(crate) async fn run(path: &Path) -> Result<()> {
    let config: TerminatorConfig = config::read(path)?;
    crate::memory::lock();
    let keyset = KeysetName::try_new(&config.keyset).map_err(|error| Refused(error.to_string()))?;
    let name = instance_name(config.instance.as_deref())?;
    let shutdown = CancellationToken::new();
    let registry = listener::registry()?;
    let setup = Setup {
        name: name.to_string(),
        client: client_config(&config.upstream, Some(name.as_str()))?,
        keyset,
        identity: Identity::read(&config.listen.certificate_file, &config.listen.private_key_file)?,
        clock: Arc::new(SystemClock),
    };
    let terminator = Terminator::start(setup, config.listen.address, &registry, shutdown.clone());
    let terminator = terminator.await?;
    let mut listeners = Listeners::new(registry, shutdown)?;
    listeners.metrics(config.metrics.address, Arc::new(KeysInstalled)).await?;
    listeners.also(terminator.stopped());
    listeners.run().await
}

/// A terminator serves at once; without keys its handshakes are full.
struct KeysInstalled;

impl Readiness for KeysInstalled {
    fn checks(&self) -> Vec<Check> {
        vec![Check::passed("serving", "handshakes are full until keys are here")]
    }
}

/// A certificate chain and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// Reads both from PEM files, by the rules for the certificate of a listener.
    ///
    /// # Errors
    /// [`Refused`] if a file cannot be read or they do not belong together, with their names.
    pub fn read(certificate: &Path, key: &Path) -> Result<Self, Refused> {
        let paths = TlsPaths {
            certificate_chain: certificate.to_owned(),
            private_key: key.to_owned(),
            client_authorities: None,
        };
        let refused = |error: anyhow::Error| Refused(format!("listen: {error:#}"));
        TlsFiles::load(paths).map_err(|error| refused(error.into()))?;
        let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect);
        let chain = chain.map_err(|error| refused(error.into()))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| refused(error.into()))?;
        Ok(Self { chain, key })
    }
}

/// What a terminator is made of.
pub struct Setup {
    /// Its name in answers.
    pub name: String,
    /// Where keys come from.
    pub client: ClientConfig,
    /// Which keys.
    pub keyset: KeysetName,
    /// Its certificate.
    pub identity: Identity,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// A running terminator.
pub struct Terminator {
    address: SocketAddr,
    fleet: Fleet,
    accepting: JoinHandle<()>,
}

impl Terminator {
    /// Listens at `address` until `shutdown`.
    ///
    /// # Errors
    /// Whatever does not start.
    pub async fn start(
        setup: Setup,
        address: SocketAddr,
        registry: &Registry,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        let Setup { name, client, keyset, identity, clock } = setup;
        let label = keyset.to_string();
        let fleet = Fleet::connect_with_clock(&client, keyset, clock, registry)?;
        let acceptor = fleet.server(&label).certificate(identity.chain, identity.key).build()?;
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listener tls: cannot listen on {address}"))?;
        let address = listener.local_addr()?;
        tracing::info!(listener = "tls", %address, "listening");
        let accepting = tokio::spawn(accept(listener, acceptor, name, shutdown));
        Ok(Self { address, fleet, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The revision whose keys it holds.
    pub fn installed(&self) -> Option<Revision> {
        self.fleet.status().installed.map(|tag| tag.revision)
    }

    /// Returns when the first keys are here.
    ///
    /// # Errors
    /// If the poller has ended before.
    pub async fn ready(&self) -> Result<()> {
        Ok(self.fleet.ready().await?)
    }

    /// Waits for its end after `shutdown`.
    pub async fn stopped(self) {
        // It drains; whatever is left ends with the task, and nothing of it is kept.
        let _ = self.accepting.await;
        self.fleet.shutdown().await;
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Acceptor,
    name: String,
    shutdown: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => accepted,
            Some(_) = connections.join_next(), if connections.len() >= MAX_CONNECTIONS => continue,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((tcp, _)) => {
                let (acceptor, name) = (acceptor.clone(), name.clone());
                connections.spawn(async move {
                    if let Err(error) = serve(acceptor, tcp, &name).await {
                        tracing::debug!(%error, "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
    drop(listener);
    let ended = async { while connections.join_next().await.is_some() {} };
    if timeout(DRAIN, ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "connections are cut off");
    }
}

async fn serve(acceptor: Acceptor, tcp: TcpStream, name: &str) -> std::io::Result<()> {
    let mut tls = timeout(STEP, acceptor.accept(tcp)).await??;
    let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    timeout(STEP, tls.read(&mut [0; 4096])).await??;
    let body = format!("{name}: {} handshake\n", if resumed { "resumed" } else { "full" });
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close",
        body.len()
    );
    timeout(STEP, tls.write_all(format!("{head}\r\n\r\n{body}").as_bytes())).await??;
    timeout(STEP, tls.shutdown()).await?
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore};
    use stek_clock::FleetClock;
    use stek_rustls::{ServerBuilder, TicketKeys, TicketMetrics};
    use tokio_rustls::TlsConnector;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn an_open_connection_is_served_to_its_end() {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certified.cert.der().clone()).unwrap();
        let key = PrivateKeyDer::Pkcs8(certified.signing_key.serialize_der().into());
        let keyset = KeysetName::try_new("web").unwrap();
        let metrics = TicketMetrics::register(&Registry::new(), &keyset).unwrap();
        let acceptor = ServerBuilder::with_keys("web", metrics, |usage, scope| {
            let clock = Arc::new(FleetClock::new(Arc::new(SystemClock)));
            Arc::new(TicketKeys::for_use(usage, scope.clone(), clock))
        });
        let acceptor = acceptor.certificate(vec![certified.cert.der().clone()], key).build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let name = "edge-1".to_owned();
        let accepting = tokio::spawn(accept(listener, acceptor.unwrap(), name, shutdown.clone()));

        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.unwrap();
        let server = ServerName::try_from("localhost").unwrap();
        let mut tls = TlsConnector::from(Arc::new(client)).connect(server, tcp).await.unwrap();
        shutdown.cancel();
        tls.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await.unwrap();
        assert!(answer.ends_with("edge-1: full handshake\n"), "{answer}");
        timeout(PATIENCE, accepting).await.expect("the task ends").unwrap();
    }
}
