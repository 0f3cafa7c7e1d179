//! A client that costs as little as it can: one request made once, and of an answer only its length
//! and entity tag are looked at.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// No answer has more headers.
const MAX_HEADERS: usize = 32;
/// How long anything may take that is not a long-poll.
const PATIENCE: Duration = Duration::from_secs(30);
/// What is read at once.
const CHUNK: usize = 8 * 1024;

/// What to ask of whom.
#[derive(Clone)]
pub(crate) struct Target {
    port: u16,
    connector: TlsConnector,
    head: String,
}

/// An answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) etag: String,
    pub(crate) body: Vec<u8>,
}

impl Target {
    /// `method path` on `localhost:port`, with a bearer token, trusting `authority`. Both contenders
    /// are made to use one cipher suite.
    pub(crate) fn try_new(
        port: u16,
        method: &str,
        path: &str,
        token: &str,
        authority: &Path,
    ) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authority).context("the authority")? {
            roots.add(certificate?)?;
        }
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.cipher_suites =
            vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost:{port}\r\nauthorization: Bearer {token}\r\n"
        );
        Ok(Self { port, connector: TlsConnector::from(Arc::new(config)), head })
    }

    /// The same on another port.
    pub(crate) fn at(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// The bytes of a request: conditional if `etag` is given, waiting for so many seconds.
    pub(crate) fn request(&self, etag: Option<&str>, wait: Option<u32>) -> Vec<u8> {
        let condition = etag.map(|etag| format!("if-none-match: {etag}\r\n")).unwrap_or_default();
        let wait = wait.map(|wait| format!("prefer: wait={wait}\r\n")).unwrap_or_default();
        let length = if self.head.starts_with("POST") { "content-length: 0\r\n" } else { "" };
        format!("{}{condition}{wait}{length}\r\n", self.head).into_bytes()
    }

    /// One request on a connection of its own.
    pub(crate) async fn fetch(&self, etag: Option<&str>) -> Result<Answer> {
        let asked = async {
            let mut light = Light::connect(self).await?;
            light.ask(&self.request(etag, None)).await
        };
        tokio::time::timeout(PATIENCE, asked).await.context("no answer")?
    }
}

/// A connection that is kept.
pub(crate) struct Light {
    stream: TlsStream<TcpStream>,
    buffer: Vec<u8>,
}

impl Light {
    pub(crate) async fn connect(target: &Target) -> Result<Self> {
        let connecting = async {
            let stream = TcpStream::connect(("127.0.0.1", target.port)).await?;
            stream.set_nodelay(true)?;
            target
                .connector
                .connect(ServerName::try_from("localhost")?, stream)
                .await
                .map_err(anyhow::Error::from)
        };
        let stream = tokio::time::timeout(PATIENCE, connecting).await.context("no handshake")??;
        Ok(Self { stream, buffer: Vec::new() })
    }

    /// Sends `request`; the answer.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> Result<Answer> {
        self.stream.write_all(request).await?;
        self.answer().await
    }

    /// Sends `request`; the status of the answer. Copies nothing out of it.
    pub(crate) async fn status(&mut self, request: &[u8]) -> Result<u16> {
        self.stream.write_all(request).await?;
        let head = self.head().await?;
        let status = head.status;
        self.buffer.clear();
        Ok(status)
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Result<Answer> {
        let head = self.head().await?;
        let answer = Answer {
            status: head.status,
            etag: head.etag,
            body: self.buffer.get(head.body_at..).unwrap_or_default().to_vec(),
        };
        // A long-poll rests with no buffer.
        self.buffer = Vec::new();
        Ok(answer)
    }

    /// Reads until an answer is whole.
    async fn head(&mut self) -> Result<Head> {
        loop {
            if let Some(head) = parse(&self.buffer)? {
                let whole = head.body_at + head.length;
                ensure!(self.buffer.len() <= whole, "more came than was asked for");
                if self.buffer.len() == whole {
                    return Ok(head);
                }
            }
            self.buffer.reserve(CHUNK);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                bail!("the server closed the connection");
            }
        }
    }
}

struct Head {
    status: u16,
    etag: String,
    body_at: usize,
    length: usize,
}

fn parse(bytes: &[u8]) -> Result<Option<Head>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(body_at) = response.parse(bytes)? else { return Ok(None) };
    let status = response.code.unwrap_or(0);
    let value = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
        header.and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let length = match value("content-length") {
        // RFC 9110, 15.4.5: what a 304 says of a length is that of another answer.
        Some(text) if status != 304 => text.parse()?,
        _ => 0,
    };
    Ok(Some(Head { status, etag: value("etag").unwrap_or_default().to_owned(), body_at, length }))
}
