//! One connection from accept to close: handshake, requests, quiet, and the end of it.

mod traffic;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderValue, Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{Instrument, field};

use crate::body::TimedBody;
use crate::connection::traffic::{InFlight, Over, Traffic};
use crate::quota::Quotas;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::tasks::Tasks;
use crate::{Channel, ClientCertificate, Limits, Peer, Problem, Proved, TlsFiles, Transport};

/// HTTP/2 flow-control window of one stream, in bytes. With the window of a connection, this bounds
/// what a client can make the server hold of bodies that no handler reads.
const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = 256 * 1024;

/// How TLS names HTTP/2 (RFC 9113, section 3.2).
const ALPN_HTTP2: &[u8] = b"h2";

/// How soon to come back when there are too many connections.
const FULL_RETRY: Duration = Duration::from_secs(5);

/// The most time, from accept to close, that is spent on telling somebody so.
const TURN_AWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// What all connections of one server have in common.
pub(crate) struct Connections {
    transport: Transport,
    limits: Limits,
    router: Router,
    quotas: Arc<Quotas>,
    http: Versions,
    shutdown: CancellationToken,
}

/// How to speak with a client whose version of HTTP the first bytes tell, and with one that has
/// named it: that needs no buffer for those bytes.
struct Versions {
    any: auto::Builder<Tasks>,
    http1: auto::Builder<Tasks>,
    http2: auto::Builder<Tasks>,
}

impl Connections {
    pub(crate) fn new(
        transport: Transport,
        limits: Limits,
        router: Router,
        tasks: Tasks,
        shutdown: CancellationToken,
    ) -> Self {
        let any = http_builder(&limits, tasks);
        let (http1, http2) = (any.clone().http1_only(), any.clone().http2_only());
        let http = Versions { any, http1, http2 };
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
            Transport::Plain(_) => {
                let peer = Peer { addr, channel: Channel::Plain };
                Box::pin(self.serve(stream, peer, None, &self.http.any)).await;
            }
            Transport::Tls(files) => {
                let withdrawn = files.withdrawn();
                // Each on its own, so that a connection that waits holds nothing of its handshake.
                let handshake = Box::pin(self.handshake(files, stream, addr));
                let Some(stream) = handshake.await else { return };
                let tls = stream.get_ref().1;
                let client = client_certificate(tls, addr);
                let withdrawn = client.is_some().then_some(withdrawn);
                let http = match tls.alpn_protocol() {
                    Some(ALPN_HTTP2) => &self.http.http2,
                    _ => &self.http.http1,
                };
                let peer = Peer { addr, channel: Channel::Tls(client) };
                Box::pin(self.serve(stream, peer, withdrawn, http)).await;
            }
        }
    }

    /// Answers one request with 503 and closes: for a client that there is no place for. It takes a
    /// handshake, and none of what a request may take.
    pub(crate) async fn turn_away(&self, stream: TcpStream, addr: SocketAddr) {
        let turning_away = async {
            match &self.transport {
                Transport::Plain(_) => self.refuse(stream, addr).await,
                Transport::Tls(files) => {
                    let Some(stream) = self.handshake(files, stream, addr).await else { return };
                    self.refuse(stream, addr).await;
                }
            }
        };
        let limit = TURN_AWAY_TIMEOUT.min(self.limits.handshake_timeout);
        if timeout(limit, turning_away).await.is_err() {
            tracing::debug!(peer = %addr, "connection dropped that there was no place for");
        }
    }

    async fn refuse<I>(&self, io: I, addr: SocketAddr)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = CancellationToken::new();
        let has_asked = asked.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            has_asked.cancel();
            let in_flight = InFlight::begin(&Traffic::new());
            answer(full_house(), request.map(Body::new), Proved::default(), in_flight)
        });
        let mut connection = pin!(self.http.any.serve_connection(TokioIo::new(io), service));
        tokio::select! {
            _ = connection.as_mut() => return,
            () = asked.cancelled() => {}
            () = self.shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        if let Err(error) = connection.await {
            tracing::debug!(peer = %addr, error = %error, "connection failed");
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

    /// `withdrawn` changes when the client's certificate may be worth nothing any more.
    async fn serve<I>(
        &self,
        io: I,
        peer: Peer,
        mut withdrawn: Option<watch::Receiver<u64>>,
        http: &auto::Builder<Tasks>,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let addr = peer.addr;
        let traffic = Traffic::new();
        let service = {
            let (router, traffic) = (self.router.clone(), Arc::clone(&traffic));
            let (quotas, proved) = (Arc::clone(&self.quotas), Proved::default());
            let body_limit = self.limits.body_read_timeout;
            service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(|body| Body::new(TimedBody::new(body, body_limit)));
                request.extensions_mut().insert(Arc::clone(&quotas));
                request.extensions_mut().insert(proved.clone());
                request.extensions_mut().insert(peer.clone());
                answer(router.clone(), request, proved.clone(), InFlight::begin(&traffic))
            })
        };
        let mut connection = pin!(http.serve_connection(TokioIo::new(io), service));
        let mut finishing = Finishing::No;
        let mut cut = None;
        loop {
            tokio::select! {
                outcome = connection.as_mut() => {
                    if let Err(error) = outcome {
                        tracing::debug!(peer = %addr, error = %error, "connection failed");
                    }
                    return;
                }
                () = self.shutdown.cancelled(), if finishing == Finishing::No => {}
                over = traffic.over(&self.limits, cut) => {
                    if over != Over::Idle || finishing == Finishing::Yes {
                        tracing::debug!(peer = %addr, ?over, "connection dropped");
                        return;
                    }
                    // Time to finish.
                    cut = Some(Instant::now() + self.limits.idle_timeout);
                }
                () = traffic.refused(), if cut.is_none() => {
                    cut = Some(Instant::now() + self.limits.handshake_timeout);
                }
                () = changed(&mut withdrawn) => {
                    let end = Instant::now() + self.limits.drain_timeout;
                    cut = Some(cut.map_or(end, |cut: Instant| cut.min(end)));
                    withdrawn = None;
                }
            }
            finishing = Finishing::Yes;
            connection.as_mut().graceful_shutdown();
        }
    }
}

/// Returns once it has changed; never if there is nothing that could.
async fn changed(watched: &mut Option<watch::Receiver<u64>>) {
    if let Some(watched) = watched
        && watched.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
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

/// What those are answered that there is no place for.
fn full_house() -> Router {
    Router::new()
        .fallback(|| async { Problem::unavailable("there are too many connections", FULL_RETRY) })
}

async fn answer(
    router: Router,
    mut request: Request<Body>,
    proved: Proved,
    in_flight: InFlight,
) -> Result<Response, Infallible> {
    for (name, value) in request.headers_mut() {
        if name == AUTHORIZATION {
            value.set_sensitive(true);
        }
    }
    let has_one_at_a_time = request.version() < Version::HTTP_2;
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
        if !proved.is_set() {
            in_flight.refused();
            if has_one_at_a_time {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
        }
    }
    // For whoever exports spans. What stands in log lines is formatted anew with each field.
    if tracing::span_enabled!(tracing::Level::DEBUG) {
        span.record("status", response.status().as_u16());
    }
    if let Some(value) = name.header() {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    Ok(in_flight.answered(response))
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

#[cfg(test)]
mod tests;
