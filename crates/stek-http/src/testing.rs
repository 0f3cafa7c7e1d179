//! What the tests of this crate share: identities, running servers, clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::{Drained, Limits, Plaintext, Routes, Server, TlsFiles, TlsPaths, Transport};

/// A limit that a test waits for.
pub(crate) const BRIEF: Duration = Duration::from_millis(50);
/// A limit that a test waits for, and before which something has to be done on a busy machine.
pub(crate) const AMPLE: Duration = Duration::from_secs(1);
/// A limit that must not be the one that a test sees.
pub(crate) const FAR: Duration = Duration::from_secs(3600);

/// Everything that a test awaits is bounded; a minute is far beyond what a loaded machine needs.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(Duration::from_secs(60), future).await.expect("it should not have taken that long")
}

/// A self-signed certificate for `localhost` with its key, in files.
pub(crate) struct Identity {
    dir: TempDir,
    certified: CertifiedKey<KeyPair>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let certified = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let identity = Self { dir: tempfile::tempdir().unwrap(), certified };
        identity.write_certificate(&identity);
        identity.write_key(&identity);
        identity
    }

    pub(crate) fn paths(&self) -> TlsPaths {
        TlsPaths {
            certificate_chain: self.dir.path().join("chain.pem"),
            private_key: self.dir.path().join("key.pem"),
            client_authorities: None,
        }
    }

    /// Replaces the certificate file by that of another identity.
    pub(crate) fn write_certificate(&self, other: &Self) {
        std::fs::write(self.paths().certificate_chain, other.certified.cert.pem()).unwrap();
    }

    /// Replaces the key file by that of another identity.
    pub(crate) fn write_key(&self, other: &Self) {
        std::fs::write(self.paths().private_key, other.certified.signing_key.serialize_pem())
            .unwrap();
    }

    /// What a client trusts that trusts this identity only.
    pub(crate) fn client(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        alpn: &str,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certified.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }
}

/// A server in a task.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) shutdown: CancellationToken,
    task: JoinHandle<Drained>,
}

impl Running {
    pub(crate) async fn start(
        transport: Transport,
        limits: Limits,
        routes: impl Into<Routes>,
    ) -> Self {
        let shutdown = CancellationToken::new();
        Self::start_with(transport, limits, routes, shutdown).await
    }

    pub(crate) async fn start_with(
        transport: Transport,
        limits: Limits,
        routes: impl Into<Routes>,
        shutdown: CancellationToken,
    ) -> Self {
        let server = Server::bind(([127, 0, 0, 1], 0).into(), transport, limits).await.unwrap();
        let addr = server.local_addr();
        let task = tokio::spawn(server.serve(routes.into(), shutdown.clone()));
        Self { addr, shutdown, task }
    }

    pub(crate) async fn plain(limits: Limits, routes: impl Into<Routes>) -> Self {
        Self::start(Transport::Plain(Plaintext::LoopbackOnly), limits, routes).await
    }

    pub(crate) async fn tls(
        identity: &Identity,
        limits: Limits,
        routes: impl Into<Routes>,
    ) -> Self {
        let files = Arc::new(TlsFiles::load(identity.paths()).unwrap());
        Self::start(Transport::Tls(files), limits, routes).await
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        soon(TcpStream::connect(self.addr)).await.unwrap()
    }

    pub(crate) async fn connect_tls(
        &self,
        config: ClientConfig,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = self.connect().await;
        let name = "localhost".try_into().unwrap();
        soon(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    pub(crate) async fn drain(self) -> Drained {
        self.shutdown.cancel();
        soon(self.task).await.unwrap()
    }
}

/// Sends text, as far as the server still wants it.
pub(crate) async fn send<I: AsyncWrite + Unpin>(io: &mut I, text: impl AsRef<[u8]>) {
    soon(io.write_all(text.as_ref())).await.unwrap();
    soon(io.flush()).await.unwrap();
}

/// Everything up to the end of the connection, however that comes.
pub(crate) async fn rest<I: AsyncRead + Unpin>(io: &mut I) -> String {
    let mut bytes = Vec::new();
    // A reset is an end too, and a TLS stream may end without saying goodbye.
    let _ = soon(io.read_to_end(&mut bytes)).await;
    String::from_utf8_lossy(&bytes).into_owned()
}

/// One HTTP/1.1 answer whose body has a length: its head and its body.
pub(crate) async fn response<I: AsyncRead + Unpin>(io: &mut I) -> (String, String) {
    whole_response(io).await.expect("the connection ended")
}

/// The same, or nothing if the connection ends before.
async fn whole_response<I: AsyncRead + Unpin>(io: &mut I) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break bytes.drain(..end + 4).collect::<Vec<_>>();
        }
        soon(io.read_buf(&mut bytes)).await.ok().filter(|count| *count > 0)?;
    };
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "))
        .map_or(0, |length| length.parse().unwrap());
    while bytes.len() < length {
        soon(io.read_buf(&mut bytes)).await.ok().filter(|count| *count > 0)?;
    }
    assert_eq!(bytes.len(), length, "more than one answer came");
    Some((head, String::from_utf8(bytes).unwrap()))
}

/// `GET path` over HTTP/1.1, on a connection that stays.
pub(crate) async fn get<I: AsyncRead + AsyncWrite + Unpin>(
    io: &mut I,
    path: &str,
) -> (String, String) {
    send(io, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
    response(io).await
}

/// A connection on which `GET path` was answered, and the answer. A server with a brief limit may
/// end some before that, where the machine is busy.
pub(crate) async fn answered(server: &Running, path: &str) -> (TcpStream, (String, String)) {
    let attempts = async {
        loop {
            let mut stream = server.connect().await;
            let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
            if stream.write_all(request.as_bytes()).await.is_ok()
                && let Some(answer) = whole_response(&mut stream).await
            {
                return (stream, answer);
            }
        }
    };
    soon(attempts).await
}
