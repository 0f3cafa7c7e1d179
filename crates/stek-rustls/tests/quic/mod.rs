//! A client of HTTP/3 that knows whether it resumed. quinn does not say; but in a resumed handshake
//! nobody shows a certificate (RFC 8446, 2.2), and the client counts those that it verifies.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Buf;
use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, HandshakeKind, SignatureScheme};

use crate::fixture::TLS13;
use crate::servers::{AtStart, NAME, Site};

/// A client with an empty session store.
pub struct QuicClient {
    endpoint: quinn::Endpoint,
    verified: Arc<Counting>,
}

impl QuicClient {
    pub fn new(site: &Site) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let roots = Arc::new(site.roots());
        let inner = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let verified = Arc::new(Counting { inner: inner.build().unwrap(), certificates: 0.into() });
        let mut config = ClientConfig::builder_with_details(provider, Arc::new(AtStart))
            .with_protocol_versions(&[TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::<Counting>::clone(&verified))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h3".to_vec()];
        let config = QuicClientConfig::try_from(config).unwrap();
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
        Self { endpoint, verified }
    }

    /// Asks for `/` on a new connection: how the handshake was, and the answer.
    pub async fn ask(&self, address: SocketAddr) -> (HandshakeKind, String) {
        let before = self.verified.certificates.load(Ordering::SeqCst);
        let connection = self.endpoint.connect(address, NAME).unwrap().await.unwrap();
        let verified = self.verified.certificates.load(Ordering::SeqCst) - before;
        let connection = h3_quinn::Connection::new(connection);
        let (mut driver, mut requests) =
            h3::client::builder().build::<_, _, Cursor<Vec<u8>>>(connection).await.unwrap();
        let driving = tokio::spawn(async move { driver.wait_idle().await });
        let request = http::Request::get(format!("https://{NAME}/")).body(()).unwrap();
        let mut stream = requests.send_request(request).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut answer = Vec::new();
        while let Some(mut part) = stream.recv_data().await.unwrap() {
            while part.has_remaining() {
                let len = part.chunk().len();
                answer.extend_from_slice(part.chunk());
                part.advance(len);
            }
        }
        drop((stream, requests));
        driving.abort();
        let kind = if verified == 0 { HandshakeKind::Resumed } else { HandshakeKind::Full };
        (kind, String::from_utf8(answer).unwrap())
    }
}

/// Verifies as rustls does, and counts.
#[derive(Debug)]
struct Counting {
    inner: Arc<WebPkiServerVerifier>,
    certificates: AtomicUsize,
}

impl ServerCertVerifier for Counting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.certificates.fetch_add(1, Ordering::SeqCst);
        self.inner.verify_server_cert(end_entity, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
