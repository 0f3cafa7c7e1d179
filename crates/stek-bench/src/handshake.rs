//! What a resumed TLS 1.3 handshake costs the server: through this project's acceptor, which makes
//! a configuration for each connection, and with a plain ticketer in a shared configuration that
//! has the same AEAD and gives as many tickets.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ProducesTickets;
use rustls::{
    ClientConfig, ClientConnection, ConfigBuilder, HandshakeKind, RootCertStore, ServerConfig,
    ServerConnection,
};
use stek_rustls::{Acceptor, PooledNonces};

use crate::fleet;
use crate::floor::{Floor, LeastTicketer};
use crate::measure::{Rounds, in_turns, instant, medians, nanos};
use crate::report::{Report, STEK};
use crate::sessions::{Clients, NAME};

pub(crate) const WHAT: &str = "accept";
pub(crate) const CASE: &str = "tls13-resumed";
pub(crate) const PLAIN: &str = "plain";

const ROUNDS_OF_PASS: usize = 5;
/// A single handshake is long or short by what the caches hold at that moment; of so many the middle
/// one tells. Even, so that each comes first as often as the other.
const PAIRS: usize = 32;

/// A certificate for [`NAME`] and who trusts it.
pub(crate) struct Pki {
    certified: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Pki {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let certified = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
        Ok(Self { certified })
    }

    /// TLS 1.3 only, with `ticketer` and no session cache.
    pub(crate) fn server(
        &self,
        ticketer: Arc<dyn ProducesTickets>,
    ) -> anyhow::Result<ServerConfig> {
        let (chain, key) = self.identity();
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])?
                .with_no_client_auth()
                .with_single_cert(chain, key)?;
        config.ticketer = ticketer;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(config)
    }

    /// TLS 1.3 only, a configuration for each connection; asks `clients` for certificates, if any.
    pub(crate) fn acceptor(&self, clients: Option<&Clients>) -> anyhow::Result<Acceptor> {
        let (chain, key) = self.identity();
        fleet::acceptor(chain, key, clients)
    }

    pub(crate) fn identity(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = PrivatePkcs8KeyDer::from(self.certified.signing_key.serialize_der());
        (vec![self.certified.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
    }

    /// TLS 1.3 only, with a session store of its own.
    pub(crate) fn client(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut config = self.client_builder()?.with_no_client_auth();
        config.resumption = Resumption::in_memory_sessions(16);
        Ok(Arc::new(config))
    }

    /// TLS 1.3 only, a client that trusts this.
    pub(crate) fn client_builder(
        &self,
    ) -> anyhow::Result<ConfigBuilder<ClientConfig, WantsClientCert>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certified.cert.der().clone())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        Ok(ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots))
    }
}

/// `accept/tls13-resumed/…`.
pub(crate) struct Handshakes {
    acceptor: Acceptor,
    plain: Arc<ServerConfig>,
    /// Of either: each keeps resuming with its own.
    clients: [Arc<ClientConfig>; 2],
    rounds: Rounds<2>,
}

impl Handshakes {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let pki = Pki::new()?;
        let plain = pki.server(Arc::new(LeastTicketer(Floor::new(PooledNonces)?)))?;
        let (acceptor, plain) = (pki.acceptor(None)?, Arc::new(plain));
        let clients = [pki.client()?, pki.client()?];
        let new = Self { acceptor, plain, clients, rounds: Rounds::new() };
        // Full, and warm afterwards.
        for _ in 0..20 {
            shake(|| new.acceptor.per_connection_config(), &new.clients[0])?;
            shake(|| Arc::clone(&new.plain), &new.clients[1])?;
        }
        Ok(new)
    }

    /// Measures some rounds of resumed handshakes.
    pub(crate) fn pass(&mut self) -> anyhow::Result<()> {
        for _ in 0..ROUNDS_OF_PASS {
            let pairs = (0..PAIRS).map(|turn| in_turns(turn, || self.stek(), || self.plain()));
            let pairs = pairs.collect::<anyhow::Result<Vec<_>>>()?;
            self.rounds.push(medians(&pairs));
        }
        Ok(())
    }

    /// Prints and keeps what was measured.
    pub(crate) fn report(&self, report: &mut Report) {
        report.add_rounds(WHAT, CASE, [STEK, PLAIN], &self.rounds, "us");
    }

    fn stek(&self) -> anyhow::Result<f64> {
        resume(|| self.acceptor.per_connection_config(), &self.clients[0])
    }

    fn plain(&self) -> anyhow::Result<f64> {
        resume(|| Arc::clone(&self.plain), &self.clients[1])
    }
}

/// Microseconds of the server for a resumed handshake.
fn resume(
    server: impl Fn() -> Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> anyhow::Result<f64> {
    let (spent, kind) = shake(server, client)?;
    anyhow::ensure!(kind == HandshakeKind::Resumed, "a handshake was full");
    Ok(nanos(spent) / 1e3)
}

/// A handshake over byte pipes, with the tickets after it: what the server took, and its kind.
fn shake(
    server: impl Fn() -> Arc<ServerConfig>,
    client: &Arc<ClientConfig>,
) -> anyhow::Result<(Duration, HandshakeKind)> {
    let name = ServerName::try_from(NAME)?;
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let begin = instant();
    let mut server = ServerConnection::new(server())?;
    let made = begin.elapsed();
    let spent = exchange(&mut client, &mut server)?;
    Ok((made + spent, server.handshake_kind().context("the handshake did not end")?))
}

/// Carries bytes between both until neither has anything left to say; returns what the server took.
pub(crate) fn exchange(
    client: &mut ClientConnection,
    server: &mut ServerConnection,
) -> anyhow::Result<Duration> {
    let mut spent = Duration::ZERO;
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes)?;
        }
        let mut answer = Vec::with_capacity(8192);
        let begin = instant();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut answer)?;
        }
        spent += begin.elapsed();
        let mut rest = answer.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    Ok(spent)
}
