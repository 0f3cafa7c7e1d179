//! One connection from accept to close: handshake, requests, quiet, and the end of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::Request;
use http::header::AUTHORIZATION;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{Instrument, field};

use crate::body::TimedBody;
use crate::quota::Quotas;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::tasks::Tasks;
use crate::{Channel, ClientCertificate, Limits, Peer, Problem, TlsFiles, Transport};

/// HTTP/2 flow-control window of one stream, in bytes. With the window of a connection, this bounds
/// what a client can make the server hold of bodies that no handler reads.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// What all connections of one server have in common.
pub(crate) struct Connections {
    transport: Transport,
    limits: Limits,
    router: Router,
    quotas: Arc<Quotas>,
    http: auto::Builder<Tasks>,
    shutdown: CancellationToken,
}

impl Connections {
    pub(crate) fn new(
        transport: Transport,
        limits: Limits,
        router: Router,
        tasks: Tasks,
        shutdown: CancellationToken,
    ) -> Self {
        let http = http_builder(&limits, tasks);
        let quotas = Arc::new(Quotas::new(&limits));
        Self { transport, limits, router, quotas, http, shutdown }
    }

    /// Serves one connection until it ends. Failures of one client are the client's affair and are
    /// logged at debug level only.
    pub(crate) async fn run(&self, stream: TcpStream, addr: SocketAddr) {
        // Answers are small and written at once; nothing is gained by holding them back.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(peer = %addr, error = %error, "cannot set TCP_NODELAY");
        }
        match &self.transport {
            Transport::Plain(_) => self.serve(stream, Peer { addr, channel: Channel::Plain }).await,
            Transport::Tls(files) => {
                let Some(stream) = self.handshake(files, stream, addr).await else { return };
                let client = client_certificate(stream.get_ref().1, addr);
                self.serve(stream, Peer { addr, channel: Channel::Tls(client) }).await;
            }
        }
    }

    async fn handshake(
        &self,
        files: &TlsFiles,
        stream: TcpStream,
        addr: SocketAddr,
    ) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
        let handshake = TlsAcceptor::from(files.current()).accept(stream);
        let outcome = tokio::select! {
            outcome = timeout(self.limits.handshake_timeout, handshake) => outcome,
            () = self.shutdown.cancelled() => return None,
        };
        match outcome {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(peer = %addr, error = %error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!(peer = %addr, "TLS handshake timed out");
                None
            }
        }
    }

    async fn serve<I>(&self, io: I, peer: Peer)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let addr = peer.addr;
        let traffic = watch::Sender::new(Traffic::default());
        let service = {
            let (router, traffic) = (self.router.clone(), traffic.clone());
            let quotas = Arc::clone(&self.quotas);
            let body_limit = self.limits.body_read_timeout;
            service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(|body| Body::new(TimedBody::new(body, body_limit)));
                request.extensions_mut().insert(Arc::clone(&quotas));
                answer(router.clone(), request, peer.clone(), InFlight::begin(traffic.clone()))
            })
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(io), service));
        let mut finishing = Finishing::No;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(peer = %addr, error = %error, "connection failed");
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if finishing == Finishing::No => {}
                first = quiet(traffic.subscribe(), &self.limits) => {
                    if first == Quiet::NoRequest || finishing == Finishing::Yes {
                        tracing::debug!(peer = %addr, "quiet connection dropped");
                        return;
                    }
                }
            }
            finishing = Finishing::Yes;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// Whose certificate the client has shown, if it has shown one and it names somebody.
fn client_certificate(
    connection: &rustls::ServerConnection,
    addr: SocketAddr,
) -> Option<Arc<ClientCertificate>> {
    match ClientCertificate::read(connection.peer_certificates()?.first()?) {
        Ok(certificate) => Some(Arc::new(certificate)),
        Err(error) => {
            tracing::debug!(peer = %addr, error = %error, "client certificate names nobody");
            None
        }
    }
}

fn http_builder(limits: &Limits, tasks: Tasks) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(tasks);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.max_header_bytes);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(saturating_u32(limits.max_concurrent_streams))
        .max_header_list_size(saturating_u32(limits.max_header_bytes))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout);
    builder
}

fn saturating_u32(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Whether the client has been told that the connection ends.
#[derive(Debug, PartialEq, Eq)]
enum Finishing {
    No,
    Yes,
}

async fn answer(
    router: Router,
    mut request: Request<Body>,
    peer: Peer,
    in_flight: InFlight,
) -> Result<Response, Infallible> {
    for (name, value) in request.headers_mut() {
        if name == AUTHORIZATION {
            value.set_sensitive(true);
        }
    }
    request.extensions_mut().insert(peer);
    let name = RequestId::of(request.headers());
    // Also where only errors are logged, their lines say of which request they are.
    let span = tracing::error_span!(
        "request",
        request_id = %name,
        listener = field::Empty,
        method = field::Empty,
        route = field::Empty,
        status = field::Empty,
    );
    let answering = name.clone().scope(respond(router, request)).instrument(span.clone());
    let mut response = answering.await?;
    if response.status().is_client_error() {
        // What fails on our side is logged where it does.
        let status = response.status().as_u16();
        span.in_scope(|| tracing::info!(status, "request refused"));
    }
    span.record("status", response.status().as_u16());
    if let Some(value) = name.header() {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    drop(in_flight);
    Ok(response)
}

async fn respond(router: Router, request: Request<Body>) -> Result<Response, Infallible> {
    match unless_panicked(router.oneshot(request)).await {
        Ok(response) => response,
        Err(Panicked) => {
            // The panic hook has said what and where.
            tracing::error!("a request handler panicked");
            Ok(Problem::internal().into_response())
        }
    }
}

struct Panicked;

/// A handler's panic must cost its own request, and not the others on the connection.
async fn unless_panicked<F: Future>(future: F) -> Result<F::Output, Panicked> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => std::task::Poll::Ready(Err(Panicked)),
    })
    .await
}

/// What has come over a connection so far.
#[derive(Debug, Clone, Copy, Default)]
struct Traffic {
    in_flight: usize,
    requests: u64,
}

/// A request that waits for its answer.
struct InFlight(watch::Sender<Traffic>);

impl InFlight {
    fn begin(traffic: watch::Sender<Traffic>) -> Self {
        traffic.send_modify(|traffic| {
            traffic.in_flight += 1;
            traffic.requests += 1;
        });
        Self(traffic)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|traffic| traffic.in_flight -= 1);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Quiet {
    /// Connected, and then no request within the time for a head.
    NoRequest,
    /// Requests came, and then none for the idle time.
    Idle,
}

/// Resolves once the connection has had no request in flight for as long as it may.
///
/// hyper starts its own timer for request heads only when it knows the protocol, and has none for
/// the HTTP/2 preface: a client that says nothing would otherwise stay for ever.
async fn quiet(mut traffic: watch::Receiver<Traffic>, limits: &Limits) -> Quiet {
    loop {
        let Traffic { in_flight, requests } = *traffic.borrow_and_update();
        let (limit, quiet) = match requests {
            0 => (limits.header_read_timeout, Quiet::NoRequest),
            _ => (limits.idle_timeout, Quiet::Idle),
        };
        let changed = traffic.changed();
        if in_flight > 0 {
            let _ = changed.await;
        } else if timeout(limit, changed).await.is_err() {
            return quiet;
        }
    }
}

#[cfg(test)]
mod tests;
