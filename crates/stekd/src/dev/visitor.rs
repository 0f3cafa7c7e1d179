//! The client: keeps the tickets that it is given, knows who gave them, and can be made to offer
//! one for too long.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::client::{
    ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use stek_clock::{Clock, SystemClock};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// How long a connection may take.
const TIME_OUT: Duration = Duration::from_secs(30);

/// The most tickets that are kept.
const MAX_TICKETS: usize = 16;

/// How many tickets are kept to be offered when they are too old.
const KEPT: usize = 2;

/// How a connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// Whether it resumed.
    pub resumed: bool,
    /// Who issued the ticket that was offered.
    pub issuer: Option<&'static str>,
}

/// A TLS client that hops between servers of one name.
pub struct Visitor {
    config: Arc<ClientConfig>,
    wallet: Arc<Wallet>,
}

impl Visitor {
    /// A client without tickets that trusts the authority in this file.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn new(authority: &Path) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority)? {
            roots.add(certificate?)?;
        }
        let wallet = Wallet::new(KEPT);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = Resumption::store(Arc::clone(&wallet) as Arc<dyn ClientSessionStore>);
        Ok(Self { config: Arc::new(config), wallet })
    }

    /// Connects to `server` with the newest ticket.
    ///
    /// # Errors
    /// If the connection fails or takes more than 30 s.
    pub async fn connect(&self, server: &'static str, address: SocketAddr) -> Result<Handshake> {
        connect(&self.config, &self.wallet, server, address).await
    }

    /// Connects with a ticket of the first connections, on a clock that stands where it was then,
    /// so that the client does not notice how old the ticket is.
    ///
    /// # Errors
    /// If no such ticket is left, or as for [`Visitor::connect`].
    pub async fn connect_with_stale_ticket(
        &self,
        server: &'static str,
        address: SocketAddr,
    ) -> Result<Handshake> {
        let ticket = self.wallet.lock().kept.pop().context("no ticket was kept")?;
        let clock = Arc::new(Stopped(ticket.received_at));
        let wallet = Wallet::new(0);
        wallet.lock().tickets.push(ticket);
        // rustls offers a ticket only under the verifier that it was received with.
        let mut config = ClientConfig::clone(&self.config);
        config.time_provider = clock;
        config.resumption = Resumption::store(Arc::clone(&wallet) as Arc<dyn ClientSessionStore>);
        connect(&Arc::new(config), &wallet, server, address).await
    }
}

async fn connect(
    config: &Arc<ClientConfig>,
    wallet: &Wallet,
    server: &'static str,
    address: SocketAddr,
) -> Result<Handshake> {
    {
        let mut tickets = wallet.lock();
        tickets.server = Some(server);
        tickets.offered = None;
    }
    let exchange = async {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").map_err(std::io::Error::other)?;
        let mut tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        tls.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await?;
        // Tickets come with the answer.
        let mut answer = Vec::new();
        tls.read_to_end(&mut answer).await?;
        std::io::Result::Ok(resumed)
    };
    let resumed = timeout(TIME_OUT, exchange)
        .await
        .with_context(|| format!("{server} did not answer within {TIME_OUT:?}"))?
        .with_context(|| format!("connection to {server}"))?;
    Ok(Handshake { resumed, issuer: wallet.lock().offered })
}

#[derive(Debug)]
struct Ticket {
    value: Tls13ClientSessionValue,
    issuer: &'static str,
    received_at: UnixTime,
}

#[derive(Debug)]
struct Tickets {
    tickets: Vec<Ticket>,
    /// One ticket of each of the first connections, never offered in time.
    kept: Vec<Ticket>,
    /// Who issued the last ticket that was kept.
    kept_of: Option<&'static str>,
    /// To whom the client is talking.
    server: Option<&'static str>,
    /// Who issued the ticket that it offered.
    offered: Option<&'static str>,
    /// How many more tickets are to be kept.
    keep: usize,
}

/// Where the client keeps tickets. Both servers answer to one name, so one ticket is good for both.
#[derive(Debug)]
struct Wallet(Mutex<Tickets>);

impl Wallet {
    /// An empty wallet that keeps this many tickets from use.
    fn new(keep: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Tickets {
            tickets: Vec::new(),
            kept: Vec::new(),
            kept_of: None,
            server: None,
            offered: None,
            keep,
        })))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tickets> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientSessionStore for Wallet {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        let mut tickets = self.lock();
        let Some(issuer) = tickets.server else { return };
        let received_at =
            UnixTime::since_unix_epoch(Duration::from_millis(SystemClock.wall_millis()));
        let ticket = Ticket { value, issuer, received_at };
        // Each connection brings two tickets: one of the first two each is kept, one is used.
        if tickets.kept_of != Some(issuer) && tickets.keep > 0 {
            tickets.kept_of = Some(issuer);
            tickets.kept.push(ticket);
            tickets.keep -= 1;
            return;
        }
        if tickets.tickets.len() == MAX_TICKETS {
            tickets.tickets.remove(0);
        }
        tickets.tickets.push(ticket);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut tickets = self.lock();
        let ticket = tickets.tickets.pop()?;
        tickets.offered = Some(ticket.issuer);
        Some(ticket.value)
    }
}

/// A clock that stands still.
#[derive(Debug)]
struct Stopped(UnixTime);

impl TimeProvider for Stopped {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}
