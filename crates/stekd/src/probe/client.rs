//! One connection: offers a session or none, says whether the server resumed it, and brings back
//! the tickets that came. Which session is offered where is decided by others.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rustls::client::{ClientSessionStore, ResolvesClientCert, Resumption};
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, HandshakeKind, KeyLog, SupportedCipherSuite};
use stek_clock::Clock;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::handshake::{SentTicket, takes_up_session, tls12_tickets};
use super::record::{HANDSHAKE, records};
use super::secrets::{Suite, tls13_tickets};
use super::tape::{Recording, Tape};
use super::target::Target;
use super::trust::{Trust, Verifier};
use super::wallet::{Held, Session, Value, Wallet};

/// How long after the last ticket another may come. Servers send all of them at once.
const BETWEEN_TICKETS: Duration = Duration::from_millis(50);
/// How long after the handshake the first may come.
const FIRST_TICKET: Duration = Duration::from_secs(1);
/// How long closing may take.
const CLOSING: Duration = Duration::from_secs(1);
/// The most bytes that are read of a server that talks without being asked.
const MAX_TALK: usize = 64 * 1024;
/// The most bytes that are read up to the end of a `ServerHello`.
const MAX_HELLO: usize = 32 * 1024;

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tls {
    /// TLS 1.2.
    V12,
    /// TLS 1.3.
    V13,
}

impl Tls {
    /// Its number.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::V12 => "1.2",
            Self::V13 => "1.3",
        }
    }
}

/// What a connection came to.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Whether the server resumed the session that was offered.
    pub(crate) resumed: bool,
    /// The cipher suite.
    pub(crate) suite: String,
    /// The sessions that it gave, in order.
    pub(crate) sessions: Vec<Session>,
    /// The client's first message, as it went out; empty in TLS 1.2.
    hello: Vec<u8>,
}

/// Why there was no handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VisitError {
    /// The server does not speak this version.
    #[error("the server does not speak this version of TLS")]
    NotSpoken,
    /// No connection.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// No handshake.
    #[error("no handshake: {0}")]
    Handshake(io::Error),
    /// Nothing in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
}

/// How the client is set up.
pub(crate) struct Options {
    /// The name by which it asks.
    pub(crate) name: ServerName<'static>,
    /// Whom it believes.
    pub(crate) trust: Trust,
    /// Its certificate, if it has one.
    pub(crate) identity: Option<Arc<dyn ResolvesClientCert>>,
    /// How long one connection may take.
    pub(crate) time_out: Duration,
    /// What time it is.
    pub(crate) clock: Arc<dyn Clock>,
}

/// A client that keeps nothing between connections.
pub(crate) struct Client {
    name: ServerName<'static>,
    time_out: Duration,
    clock: Arc<dyn Clock>,
    tls12: ClientConfig,
    tls13: ClientConfig,
}

impl Client {
    /// # Errors
    /// If the roots are not fit for use.
    pub(crate) fn new(options: Options) -> Result<Self> {
        let Options { name, trust, identity, time_out, clock } = options;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Arc::new(Verifier::new(trust, &provider, Arc::clone(&clock))?);
        // rustls offers a session only under the verifier and the resolver that it came with.
        let config = |version| -> Result<ClientConfig> {
            let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
                .with_protocol_versions(&[version])?
                .dangerous()
                .with_custom_certificate_verifier(Arc::clone(&verifier) as _);
            Ok(match &identity {
                Some(identity) => builder.with_client_cert_resolver(Arc::clone(identity)),
                None => builder.with_no_client_auth(),
            })
        };
        let (tls12, tls13) = (config(&rustls::version::TLS12)?, config(&rustls::version::TLS13)?);
        Ok(Self { name, time_out, clock, tls12, tls13 })
    }

    /// The clock that it goes by.
    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.clock
    }

    /// Connects to `target`, offering `session`, also one whose hint is over.
    ///
    /// # Errors
    /// [`VisitError`].
    pub(crate) async fn visit(
        &self,
        target: &Target,
        tls: Tls,
        session: Option<Session>,
    ) -> Result<Visit, VisitError> {
        let visiting = self.connect(target, tls, session);
        timeout(self.time_out, visiting).await.map_err(|_| VisitError::TimedOut(self.time_out))?
    }

    async fn connect(
        &self,
        target: &Target,
        tls: Tls,
        session: Option<Session>,
    ) -> Result<Visit, VisitError> {
        let mut config = match tls {
            Tls::V12 => self.tls12.clone(),
            Tls::V13 => self.tls13.clone(),
        };
        // The age that the client names is right up to its hint, and stays there.
        let until = session.as_ref().and_then(|session| {
            Some(session.received_at + u64::from(session.hint()?).saturating_sub(1))
        });
        let until = until.unwrap_or(u64::MAX);
        config.time_provider = Arc::new(Held { clock: Arc::clone(&self.clock), until });
        let tape = Tape::default();
        config.key_log = Arc::new(tape.clone()) as Arc<dyn KeyLog>;
        let wallet = Arc::new(Wallet::new(session.map(|session| session.value)));
        config.resumption = Resumption::store(Arc::clone(&wallet) as Arc<dyn ClientSessionStore>);

        let tcp = TcpStream::connect(target.address()).await.map_err(VisitError::Connect)?;
        let connector = TlsConnector::from(Arc::new(config));
        let mut stream =
            connector.connect(self.name.clone(), tape.around(tcp)).await.map_err(refusal)?;
        if tls == Tls::V13 {
            await_tickets(&mut stream, &wallet).await.map_err(refusal)?;
        }
        let connection = stream.get_ref().1;
        let resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
        let suite = connection.negotiated_cipher_suite();
        let tickets = sent_tickets(&tape, suite);
        // Without an orderly end some servers forget the session.
        let _ = timeout(CLOSING, stream.shutdown()).await;
        Ok(Visit {
            resumed,
            suite: suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
            sessions: self.sessions(wallet.take(), tickets),
            hello: client_hello(&tape.sent(), tls),
        })
    }

    /// The tickets of the wire beside the sessions of the library, both in the order in which they
    /// came.
    fn sessions(&self, values: Vec<Value>, tickets: Vec<SentTicket>) -> Vec<Session> {
        let (received, received_at) = (self.clock.boot(), self.clock.wall_millis() / 1_000);
        let mut tickets = tickets.into_iter();
        let sessions = values.into_iter().map(|value| {
            let ticket = tickets.next();
            Session { value, ticket, received, received_at }
        });
        sessions.collect()
    }

    /// Whether `target` takes up a session a second time, by sending it the first message of
    /// `visit`, which it has resumed, once more. What stands in that message is bound to it and to
    /// nothing else, so that the server cannot tell it from a client's; its `ServerHello`, in the
    /// clear, names the session or does not. `None` if that cannot be found out so.
    pub(crate) async fn offer_again(&self, target: &Target, visit: &Visit) -> Option<bool> {
        if visit.hello.is_empty() {
            return None;
        }
        let exchange = async {
            let mut tcp = TcpStream::connect(target.address()).await.ok()?;
            tcp.write_all(&visit.hello).await.ok()?;
            let mut answer = Vec::new();
            while answer.len() < MAX_HELLO {
                if tcp.read_buf(&mut answer).await.ok()? == 0 {
                    return None;
                }
                if let Some(taken_up) = takes_up_session(&answer) {
                    return Some(taken_up);
                }
            }
            None
        };
        timeout(self.time_out, exchange).await.ok()?
    }
}

/// Reads until no more tickets come. rustls keeps them as they come, and stays silent about it.
///
/// # Errors
/// If the server says that it is not content, as it does only now for want of a certificate.
async fn await_tickets(
    stream: &mut TlsStream<Recording<TcpStream>>,
    wallet: &Wallet,
) -> io::Result<()> {
    let (mut talk, mut quiet, mut known) = (0, Duration::ZERO, 0);
    let mut buffer = [0; 4096];
    while talk < MAX_TALK {
        match timeout(BETWEEN_TICKETS, stream.read(&mut buffer)).await {
            Ok(Err(error)) if is_alert(&error) => return Err(error),
            // It has nothing more to say.
            Ok(Ok(0) | Err(_)) => return Ok(()),
            Ok(Ok(read)) => talk += read,
            Err(_) => {
                quiet += BETWEEN_TICKETS;
                let count = wallet.count();
                if (count > 0 && count == known) || quiet >= FIRST_TICKET {
                    return Ok(());
                }
                known = count;
            }
        }
    }
    Ok(())
}

fn is_alert(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    matches!(cause, Some(rustls::Error::AlertReceived(_)))
}

fn sent_tickets(tape: &Tape, suite: Option<SupportedCipherSuite>) -> Vec<SentTicket> {
    let (received, secret) = (tape.received(), tape.secret());
    match (suite, secret) {
        (Some(SupportedCipherSuite::Tls12(_)), _) => tls12_tickets(&received),
        (Some(SupportedCipherSuite::Tls13(suite)), Some(secret)) => {
            let suite = Suite::new(suite.common.suite);
            suite.map_or_else(Vec::new, |suite| tls13_tickets(&received, suite, &secret))
        }
        _ => Vec::new(),
    }
}

/// The records of the client's first message: what it sent before anything else.
fn client_hello(sent: &[u8], tls: Tls) -> Vec<u8> {
    if tls == Tls::V12 {
        return Vec::new();
    }
    let first = records(sent).take_while(|record| record.kind == HANDSHAKE);
    first.flat_map(|record| record.header.into_iter().chain(record.payload.to_vec())).collect()
}

fn refusal(error: io::Error) -> VisitError {
    use rustls::{Error, PeerIncompatible};
    match error.get_ref().and_then(|cause| cause.downcast_ref::<Error>()) {
        Some(
            Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(
                PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::ServerDoesNotSupportTls12Or13,
            ),
        ) => VisitError::NotSpoken,
        _ => VisitError::Handshake(error),
    }
}
