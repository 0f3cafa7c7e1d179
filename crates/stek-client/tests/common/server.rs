//! Servers on real sockets that hand every request to the test and send what it answers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, Version};
use axum::response::Response;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use stek_clock::Clock;
use stek_core::bundle::Bundle;
use stek_core::id::ContentTag;
use stek_wire::bundle::encode_bundle;
use stek_wire::tag::{IfNoneMatch, format_etag};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::clock::TestClock;

/// Stops, with all its connections, when it is dropped.
pub struct Server {
    pub url: String,
    _tasks: JoinSet<()>,
}

/// A request that waits for an answer.
#[derive(Debug)]
pub struct Asked {
    /// Boot time at which it came.
    pub at: Duration,
    pub upstream: usize,
    pub path: String,
    pub version: Version,
    pub headers: HeaderMap,
    reply: oneshot::Sender<Reply>,
}

impl Asked {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// What `If-None-Match` names.
    pub fn installed(&self) -> Option<ContentTag> {
        IfNoneMatch::parse(self.header("if-none-match")?)?.installed()
    }

    pub fn answer(self, reply: Reply) {
        // The follower may have gone.
        let _ = self.reply.send(reply);
    }
}

/// An answer. `Stek-Time` is the test's clock unless given.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: vec![], body: vec![] }
    }

    pub fn not_modified() -> Self {
        Self::status(304)
    }

    pub fn document(tag: ContentTag, body: &[u8]) -> Self {
        Self::status(200).with("etag", format_etag(tag)).with_body(body)
    }

    pub fn bundle(bundle: &Bundle) -> Self {
        Self::document(bundle.tag(), encode_bundle(bundle).as_slice())
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub fn with_body(self, body: &[u8]) -> Self {
        Self { body: body.to_vec(), ..self }
    }
}

impl Server {
    pub async fn start(
        index: usize,
        clock: Arc<TestClock>,
        sender: mpsc::UnboundedSender<Asked>,
        tls: Option<rustls::ServerConfig>,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let acceptor = tls.map(|config| TlsAcceptor::from(Arc::new(config)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let router = Router::new().fallback(move |request: Request| {
            let (clock, sender) = (Arc::clone(&clock), sender.clone());
            let (parts, _) = request.into_parts();
            async move { hand_over(index, &clock, &sender, parts).await }
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, router) = (acceptor.clone(), router.clone());
                connections.spawn(async move {
                    let service = TowerToHyperService::new(router);
                    let builder = Builder::new(TokioExecutor::new());
                    let _ = match acceptor {
                        Some(acceptor) => {
                            let Ok(stream) = acceptor.accept(stream).await else { return };
                            builder.serve_connection(TokioIo::new(stream), service).await
                        }
                        None => builder.serve_connection(TokioIo::new(stream), service).await,
                    };
                });
            }
        });
        Self { url, _tasks: tasks }
    }

    /// Sends `bytes` to whoever connects, and then nothing more.
    pub async fn raw(bytes: Vec<u8>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = vec![];
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.write_all(&bytes).await;
                open.push(stream);
            }
        });
        Self { url, _tasks: tasks }
    }
}

async fn hand_over(
    index: usize,
    clock: &TestClock,
    sender: &mpsc::UnboundedSender<Asked>,
    request: Parts,
) -> Response {
    let (reply, answer) = oneshot::channel();
    let asked = Asked {
        at: clock.boot(),
        upstream: index,
        path: request.uri.path().to_owned(),
        version: request.version,
        headers: request.headers,
        reply,
    };
    sender.send(asked).unwrap();
    let Ok(reply) = answer.await else {
        let gone = Response::builder().status(StatusCode::BAD_GATEWAY);
        return gone.body(Body::empty()).unwrap();
    };
    let mut response = Response::builder().status(reply.status);
    if !reply.headers.iter().any(|(name, _)| *name == "stek-time") {
        response = response.header("stek-time", clock.wall_millis());
    }
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Body::from(reply.body)).unwrap()
}
