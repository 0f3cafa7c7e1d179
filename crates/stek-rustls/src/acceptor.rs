//! Accepts TLS connections that resume within bounds: each has a ticketer or a store of its own,
//! which carries the instant of the full handshake from what it opened to what it seals.

use std::fmt;
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig};
use stek_core::scope::Scope;

use crate::metrics::HandshakeOutcome;
use crate::resumption::Resumption;
use crate::sealer::Sealer;

/// A server of the fleet, ready to accept connections. Clones are the same server.
///
/// What it adds to rustls, for each connection:
/// - no chain of resumptions lasts longer than the session lifetime of the policy, nor, where
///   clients prove certificates, than the client's certificate is valid (`notAfter`);
/// - at most so many offered tickets are decrypted, four if nothing else is said; tickets under names
///   that are not ours do not count, they cost one search in memory. Of look-up keys one is looked up;
/// - the lifetime told to the client is what the ticket has: the least of its own lifetime, what
///   its key has left, what the session has left, and seven days;
/// - sessions whose encoding is not understood become no tickets and are not kept.
///
/// A [`ServerBuilder`](crate::ServerBuilder) makes it. Without keys every handshake is a full one.
#[derive(Clone)]
pub struct Acceptor(Arc<Inner>);

struct Inner {
    config: ServerConfig,
    resumption: Resumption,
    sealer: Arc<Sealer>,
}

impl Acceptor {
    /// Ticketer, session storage and 0-RTT of `config` are replaced.
    pub(crate) fn new(mut config: ServerConfig, resumption: Resumption, sealer: Sealer) -> Self {
        resumption.apply_to_server(&mut config);
        Self(Arc::new(Inner { config, resumption, sealer: Arc::new(sealer) }))
    }

    /// Makes the handshake on `io`, which has just been connected, and counts how it ended; one that
    /// is given up on the way has failed.
    ///
    /// Bound it in time, for a client may never say a word: `tokio::time::timeout`.
    ///
    /// Early data is refused, also with
    /// [`Resumption::StoreWithEarlyData`](crate::Resumption::StoreWithEarlyData), and what was sent
    /// so the client sends again: this waits for the whole handshake, so nothing could be answered
    /// earlier, and the stream would not give it out. [`Acceptor::per_connection_config`] is for that.
    ///
    /// # Errors
    /// Of `io`, or of the handshake as [`rustls::Error`] within.
    #[cfg(feature = "client")]
    pub async fn accept<IO>(&self, io: IO) -> std::io::Result<tokio_rustls::server::TlsStream<IO>>
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.config_without_early_data());
        self.counted(acceptor.accept(io)).await
    }

    /// The same after the `ClientHello` was read by a
    /// [`LazyConfigAcceptor`](tokio_rustls::LazyConfigAcceptor), to choose among acceptors by the
    /// server name in it.
    ///
    /// # Errors
    /// As [`Acceptor::accept`].
    #[cfg(feature = "client")]
    pub async fn accept_after_hello<IO>(
        &self,
        start: tokio_rustls::StartHandshake<IO>,
    ) -> std::io::Result<tokio_rustls::server::TlsStream<IO>>
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        self.counted(start.into_stream(self.config_without_early_data())).await
    }

    /// The configuration for one connection, for those who accept connections themselves; for QUIC
    /// there is [another](Self::per_connection_quic_config). Ask for a new one for each connection,
    /// and tell how each handshake ended by [`Acceptor::count_handshake`]:
    ///
    /// ```
    /// # use std::{io, net::TcpStream, time::Duration};
    /// use rustls::{ServerConnection, StreamOwned};
    ///
    /// # fn shake(
    /// #     acceptor: &stek_rustls::Acceptor,
    /// #     mut tcp: TcpStream,
    /// # ) -> Result<StreamOwned<ServerConnection, TcpStream>, Box<dyn std::error::Error>> {
    /// tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    /// let mut tls = ServerConnection::new(acceptor.per_connection_config())?;
    /// let shaken = tls.complete_io(&mut tcp);
    /// acceptor.count_handshake(shaken.as_ref().ok().and_then(|_| tls.handshake_kind()));
    /// shaken?;
    /// let tls = StreamOwned::new(tls, tcp);
    /// # Ok(tls)
    /// # }
    /// ```
    ///
    /// On TCP early data comes out of `ServerConnection::early_data` and nothing else; the streams
    /// of tokio-rustls lose what was accepted. Servers that refuse it, for which
    /// [`Acceptor::accept`] counts, skip 16 KiB of it; a client that may send more to others of the
    /// scope fails there and has to connect again.
    ///
    /// If one is used for several connections, they share one count of tries, which runs out, and
    /// one instant of authentication, the oldest. So nothing is let in that should not be; but
    /// little resumes.
    pub fn per_connection_config(&self) -> Arc<ServerConfig> {
        Arc::new(self.connection_config())
    }

    /// The same for QUIC, which has TLS 1.3 alone and of early data all or none: where it is let in
    /// `max_early_data_size` is `u32::MAX` (RFC 9001, 4.6.1), and flow control bounds it.
    ///
    /// With quinn: `QuicServerConfig::try_from(acceptor.per_connection_quic_config())` for each
    /// `Incoming`, given to `Incoming::accept_with`; early data comes by `Connecting::into_0rtt`.
    /// **Do not give it [the other one](Self::per_connection_config):** with a number of bytes
    /// that is not one of QUIC's, quinn panics in a lock of its endpoint, which is of no use after.
    ///
    /// quinn does not tell whether a handshake resumed, so there `stek_handshakes_total` counts
    /// nothing; what opened is counted.
    pub fn per_connection_quic_config(&self) -> Arc<ServerConfig> {
        let mut config = self.connection_config();
        if config.max_early_data_size != 0 {
            config.max_early_data_size = u32::MAX;
        }
        Arc::new(config)
    }

    fn connection_config(&self) -> ServerConfig {
        let mut config = self.0.config.clone();
        self.0.resumption.apply_to_connection(&mut config, Arc::clone(&self.0.sealer));
        config
    }

    /// For streams that give out nothing of what came early.
    #[cfg(feature = "client")]
    fn config_without_early_data(&self) -> Arc<ServerConfig> {
        let mut config = self.connection_config();
        config.max_early_data_size = 0;
        Arc::new(config)
    }

    /// Counts a handshake by what `ServerConnection::handshake_kind` gives at its end, `None` if it
    /// failed. [`Acceptor::accept`] does so itself. That a ticket opened does not say that it was
    /// resumed: rustls goes on to compare cipher suite and server name.
    pub fn count_handshake(&self, kind: Option<HandshakeKind>) {
        let outcome = match kind {
            Some(HandshakeKind::Resumed) => HandshakeOutcome::Resumed,
            Some(HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest) => {
                HandshakeOutcome::Full
            }
            None => HandshakeOutcome::Failed,
        };
        self.0.sealer.metrics.count_handshake(outcome);
    }

    /// The resumption domain, as derived from what the server demands.
    pub fn scope(&self) -> &Scope {
        self.0.sealer.keys.scope()
    }

    #[cfg(feature = "client")]
    async fn counted<IO>(
        &self,
        accepting: impl Future<Output = std::io::Result<tokio_rustls::server::TlsStream<IO>>>,
    ) -> std::io::Result<tokio_rustls::server::TlsStream<IO>> {
        let mut handshake = Handshake { acceptor: self, kind: None };
        let tls = accepting.await?;
        handshake.kind = tls.get_ref().1.handshake_kind();
        Ok(tls)
    }
}

/// Counts a handshake when it is over, which whoever gave it up does not wait for.
#[cfg(feature = "client")]
struct Handshake<'a> {
    acceptor: &'a Acceptor,
    kind: Option<HandshakeKind>,
}

#[cfg(feature = "client")]
impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.acceptor.count_handshake(self.kind);
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("scope", self.scope()).finish_non_exhaustive()
    }
}
