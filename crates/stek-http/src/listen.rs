//! Opening a listener: where, over what transport, and what is refused before anything is served.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

use crate::{LimitError, Limits, TlsFiles};

/// Where plain HTTP may be spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plaintext {
    /// Only on 127.0.0.0/8 and `::1`.
    LoopbackOnly,
    /// On any address. Whoever is on the path can read and change everything, secrets included.
    AnywhereInsecure,
}

/// What a listener speaks below HTTP.
#[derive(Debug, Clone)]
pub enum Transport {
    /// Plain HTTP/1.1, and HTTP/2 with prior knowledge.
    Plain(Plaintext),
    /// TLS 1.3, with HTTP/2 and HTTP/1.1 by ALPN. Keep a clone of the files to reload them.
    Tls(Arc<TlsFiles>),
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Plain HTTP on an address that others can reach.
    #[error("refusing plain http on {addr}: without TLS only loopback addresses are allowed")]
    PlaintextOffLoopback {
        /// The address asked for.
        addr: SocketAddr,
    },
    /// A limit is outside its range.
    #[error("listener {addr} cannot be opened")]
    Limit {
        /// The address asked for.
        addr: SocketAddr,
        /// Which limit.
        source: LimitError,
    },
    /// The operating system does not give the address: in use, not of this host, or not permitted.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// An open listener. Clients can connect from [`bind`](Self::bind) on and are answered from
/// [`serve`](Self::serve) on.
#[derive(Debug)]
pub struct Server {
    pub(crate) listener: TcpListener,
    pub(crate) local_addr: SocketAddr,
    pub(crate) transport: Transport,
    pub(crate) limits: Limits,
}

impl Server {
    /// Opens a listener on `addr`; port 0 takes a free one.
    ///
    /// # Errors
    ///
    /// Any [`BindError`]. Nothing is open then.
    pub async fn bind(
        addr: SocketAddr,
        transport: Transport,
        limits: Limits,
    ) -> Result<Self, BindError> {
        limits.check().map_err(|source| BindError::Limit { addr, source })?;
        if matches!(transport, Transport::Plain(Plaintext::LoopbackOnly)) && !is_loopback(addr) {
            return Err(BindError::PlaintextOffLoopback { addr });
        }
        let failed = |source| BindError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, local_addr, transport, limits })
    }

    /// The address that clients connect to, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

/// `::ffff:127.0.0.1` is the loopback address as much as `127.0.0.1`.
fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn bind(addr: &str, plaintext: Plaintext) -> Result<Server, BindError> {
        Server::bind(addr.parse().unwrap(), Transport::Plain(plaintext), Limits::default()).await
    }

    #[tokio::test]
    async fn plain_http_is_refused_off_loopback() {
        for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0", "[::ffff:192.0.2.1]:0"] {
            let error = bind(addr, Plaintext::LoopbackOnly).await.unwrap_err();
            assert!(matches!(error, BindError::PlaintextOffLoopback { .. }), "{error:?}");
        }
        let error = bind("0.0.0.0:0", Plaintext::LoopbackOnly).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "refusing plain http on 0.0.0.0:0: without TLS only loopback addresses are allowed"
        );
    }

    #[tokio::test]
    async fn plain_http_is_allowed_on_loopback_and_where_the_operator_says_so() {
        let server = bind("127.0.0.1:0", Plaintext::LoopbackOnly).await.unwrap();
        assert_ne!(server.local_addr().port(), 0);
        bind("0.0.0.0:0", Plaintext::AnywhereInsecure).await.unwrap();
        for addr in ["[::1]:0", "127.9.9.9:0", "[::ffff:127.0.0.1]:0"] {
            assert!(is_loopback(addr.parse().unwrap()), "{addr}");
        }
    }

    #[tokio::test]
    async fn an_address_in_use_is_reported() {
        let first = bind("127.0.0.1:0", Plaintext::LoopbackOnly).await.unwrap();
        let again = first.local_addr().to_string();
        let error = bind(&again, Plaintext::LoopbackOnly).await.unwrap_err();
        assert!(matches!(error, BindError::Listen { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn limits_are_checked_before_the_port_opens() {
        let limits = Limits { max_connections: 0, ..Limits::default() };
        let transport = Transport::Plain(Plaintext::LoopbackOnly);
        let error = Server::bind("127.0.0.1:0".parse().unwrap(), transport, limits).await;
        assert!(matches!(error, Err(BindError::Limit { .. })));
    }
}
