//! The least that hyper and rustls can make of such a server: one answer and its 304, to whoever asks.
//! It tells how much of the distance to nginx is theirs, and how much is ours.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::distribution::light::Answer;
use crate::distribution::machine::Cores;
use crate::distribution::process::Process;
use crate::distribution::site::Site;

/// The first argument of a program that is to be this server.
pub(crate) const SERVE: &str = "serve-bare";
const LISTENER: &str = "bare";

/// The server, running.
pub(crate) struct Bare {
    process: Process,
    pub(crate) port: u16,
}

impl Bare {
    /// Serves what the distribution replica of `site` has answered.
    pub(crate) fn start(cores: &Cores, site: &Site, answer: &Answer) -> Result<Self> {
        let body = site.path("bare-body");
        std::fs::write(&body, &answer.body)?;
        let (tls, body) = (site.path("tls").display().to_string(), body.display().to_string());
        let program = std::env::current_exe()?;
        let arguments = [SERVE, &tls, &body, &answer.etag];
        let process = Process::start(cores.server, &program, &arguments)?;
        let port = process.port(LISTENER)?;
        Ok(Self { process, port })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

/// Is the server, until it is killed. `arguments`: the folder of certificate and key, the file of the
/// body, its entity tag.
#[allow(clippy::print_stderr, reason = "it says where it listens as a role of stekd does")]
pub(crate) fn serve(arguments: &[String]) -> Result<()> {
    let [tls, body, etag] = arguments else { anyhow::bail!("{SERVE} takes three arguments") };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let tls = Path::new(tls);
    let chain = CertificateDer::pem_file_iter(tls.join("server.pem"))?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(tls.join("server.key"))?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let known =
        Arc::new(Known { etag: HeaderValue::try_from(etag)?, body: std::fs::read(body)?.into() });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?.to_string();
        eprintln!(
            "{}",
            serde_json::json!({
                "fields": {"message": "listening", "listener": LISTENER, "address": address}
            })
        );
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(attend(acceptor.clone(), stream, Arc::clone(&known)));
        }
    })
}

struct Known {
    etag: HeaderValue,
    body: Bytes,
}

async fn attend(acceptor: TlsAcceptor, stream: TcpStream, known: Arc<Known>) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let service = service_fn(move |request: Request<Incoming>| {
        let response = known.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    connection.await.context("the connection failed")
}

impl Known {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::default());
        if request.headers().get(IF_NONE_MATCH) == Some(&self.etag) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
        } else {
            *response.body_mut() = Full::new(self.body.clone());
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        }
        let headers = response.headers_mut();
        headers.insert(ETAG, self.etag.clone());
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(VARY, HeaderValue::from_static("authorization"));
        response
    }
}
