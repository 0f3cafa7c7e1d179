//! One connection from accept to close: handshake, requests, quiet, and the end of it.

mod traffic;

use std::convert::Infallible;
use std::fmt::Display;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderValue, Request, Version};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, field};

use crate::body::TimedBody;
use crate::connection::traffic::{InFlight, Over, Traffic};
use crate::quota::Quotas;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::routes::Answering;
use crate::tasks::Tasks;
use crate::{
    Channel, ClientCertificate, Limits, Origin, Peer, Problem, Routes, Standing, TlsFiles,
    Transport,
};

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
    routes: Arc<Routes>,
    quotas: Arc<Quotas>,
    http: Versions,
    shutdown: CancellationToken,
}

/// How to speak with a client whose version of HTTP the first bytes tell, and with one that has
/// named it.
struct Versions {
    any: auto::Builder<Tasks>,
    http1: http1::Builder,
    http2: http2::Builder<Tasks>,
}

/// A connection on which HTTP has begun.
struct Begun<C: ?Sized> {
    connection: Pin<Box<C>>,
    addr: SocketAddr,
    traffic: Arc<Traffic>,
    standing: Standing,
    /// Changes when the client's certificate may be worth nothing any more.
    withdrawn: Option<watch::Receiver<u64>>,
}

/// HTTP of a version that was named.
type Http = dyn GracefulConnection<Error = hyper::Error, Output = hyper::Result<()>> + Send;

impl Connections {
    pub(crate) fn new(
        transport: Transport,
        limits: Limits,
        routes: Routes,
        tasks: Tasks,
        shutdown: CancellationToken,
    ) -> Self {
        let http = Versions::new(&limits, tasks);
        let quotas = Arc::new(Quotas::new(&limits));
        let routes = Arc::new(routes.limited(limits.max_body_bytes));
        Self { transport, limits, routes, quotas, http, shutdown }
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
                self.attend(self.begin_plain(stream, peer)).await;
            }
            Transport::Tls(files) => {
                // On its own, so that a connection that waits holds nothing of its handshake.
                let begun = Box::pin(self.begin_tls(files, stream, addr)).await;
                if let Some(begun) = begun {
                    self.attend(begun).await;
                }
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
        let (standing, full_house) = (self.stranger(), full_house());
        let service = service_fn(move |request: Request<Incoming>| {
            has_asked.cancel();
            let in_flight = InFlight::begin(&Traffic::new());
            answer(&full_house, request.map(Body::new), None, standing.clone(), in_flight)
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

    fn begin_plain<I>(&self, io: I, peer: Peer) -> Begun<impl GracefulConnection<Error: Display>>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (addr, traffic, standing) = (peer.addr, Traffic::new(), self.stranger());
        let service = self.service(peer, &traffic, &standing);
        let connection = Box::pin(self.http.any.serve_connection(TokioIo::new(io), service));
        Begun { connection, addr, traffic, standing, withdrawn: None }
    }

    async fn begin_tls(
        &self,
        files: &TlsFiles,
        stream: TcpStream,
        addr: SocketAddr,
    ) -> Option<Begun<Http>> {
        let withdrawn = files.withdrawn();
        let stream = self.handshake(files, stream, addr).await?;
        let tls = stream.get_ref().1;
        let client = client_certificate(tls, addr);
        let withdrawn = client.is_some().then_some(withdrawn);
        let (traffic, standing) = (Traffic::new(), self.stranger());
        let peer = Peer { addr, channel: Channel::Tls(client) };
        let service = self.service(peer, &traffic, &standing);
        let is_http2 = tls.alpn_protocol() == Some(ALPN_HTTP2);
        let io = TokioIo::new(stream);
        let connection: Pin<Box<Http>> = if is_http2 {
            Box::pin(self.http.http2.serve_connection(io, service))
        } else {
            Box::pin(self.http.http1.serve_connection(io, service))
        };
        Some(Begun { connection, addr, traffic, standing, withdrawn })
    }

    /// Of somebody who has proven nothing yet.
    fn stranger(&self) -> Standing {
        Standing::new(Arc::clone(&self.quotas))
    }

    /// Answers the requests of one connection.
    fn service(
        &self,
        peer: Peer,
        traffic: &Arc<Traffic>,
        standing: &Standing,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response,
        Error = Infallible,
        Future: Send + 'static,
    > + Send
    + use<> {
        let (routes, traffic) = (Arc::clone(&self.routes), Arc::clone(traffic));
        let standing = standing.clone();
        let body_limit = self.limits.body_read_timeout;
        service_fn(move |request: Request<Incoming>| {
            let request = request.map(|body| match body.is_end_stream() {
                true => Body::empty(),
                false => Body::new(TimedBody::new(body, body_limit)),
            });
            answer(&routes, request, Some(&peer), standing.clone(), InFlight::begin(&traffic))
        })
    }

    /// Lets a connection go on until it ends, or until something else ends it.
    async fn attend<C>(&self, begun: Begun<C>)
    where
        C: GracefulConnection<Error: Display> + ?Sized,
    {
        let Begun { mut connection, addr, traffic, standing, mut withdrawn } = begun;
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
                over = traffic.over(&self.limits, &standing, cut) => {
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

/// The limits of connections over HTTP/1.1; builders of two types have the same settings.
macro_rules! limit_http1 {
    ($builder:expr, $limits:expr) => {
        // A connection that takes too long is ended by who attends to it.
        $builder.header_read_timeout(None).max_buf_size($limits.max_header_bytes)
    };
}

/// The same over HTTP/2.
macro_rules! limit_http2 {
    ($builder:expr, $limits:expr) => {
        $builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(saturating_u32($limits.max_concurrent_streams))
            .max_header_list_size(saturating_u32($limits.max_header_bytes))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .keep_alive_interval($limits.keep_alive_interval)
            .keep_alive_timeout($limits.keep_alive_timeout)
    };
}

impl Versions {
    fn new(limits: &Limits, tasks: Tasks) -> Self {
        let mut any = auto::Builder::new(tasks.clone());
        limit_http1!(any.http1(), limits);
        limit_http2!(any.http2(), limits);
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(tasks));
        limit_http1!(http1, limits);
        limit_http2!(http2, limits);
        Self { any, http1, http2 }
    }
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
fn full_house() -> Routes {
    let answer = || async { Problem::unavailable("there are too many connections", FULL_RETRY) };
    Router::new().fallback(answer).into()
}

/// Answers one request. Who can read it without waiting does so here: as long as it is there, its
/// connection needs another buffer to read from.
fn answer(
    routes: &Routes,
    mut request: Request<Body>,
    peer: Option<&Peer>,
    standing: Standing,
    in_flight: InFlight,
) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
    for (name, value) in request.headers_mut() {
        if name == AUTHORIZATION {
            value.set_sensitive(true);
        }
    }
    let has_one_at_a_time = request.version() < Version::HTTP_2;
    let name = RequestId::of(request.headers());
    // For whoever exports spans; log lines have the name by the scope.
    let span = tracing::debug_span!(
        "request",
        request_id = %name,
        listener = field::Empty,
        method = field::Empty,
        route = field::Empty,
        status = field::Empty,
    );
    let origin = Origin { peer, standing: Some(&standing) };
    let begin = AssertUnwindSafe(|| routes.answer(request, origin));
    let answering = name.clone().scope_sync(|| span.in_scope(|| catch_unwind(begin)));
    let answering = name.clone().scope(unless_panicked(answering)).instrument(span.clone());
    async move {
        let mut response = answering.await;
        let status = response.status();
        if !span.is_disabled() {
            span.record("status", status.as_u16());
        }
        if status.is_client_error() {
            // What fails on our side is logged where it does.
            let refused = || tracing::info!(status = status.as_u16(), "request refused");
            name.clone().scope_sync(|| span.in_scope(refused));
            if !standing.has_proven() {
                in_flight.refused();
                if has_one_at_a_time {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
            }
        }
        if let Some(value) = name.header() {
            response.headers_mut().insert(X_REQUEST_ID, value);
        }
        Ok(in_flight.answered(response))
    }
}

/// A handler's panic must cost its own request, and not the others on the connection.
async fn unless_panicked(begun: thread::Result<Answering>) -> Response {
    let answered = match begun {
        Ok(mut answering) => {
            let mut poll = |cx: &mut Context<'_>| answering.as_mut().poll(cx);
            poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| poll(cx))) {
                Ok(poll) => poll.map(Ok),
                Err(panicked) => Poll::Ready(Err(panicked)),
            })
            .await
        }
        Err(panicked) => Err(panicked),
    };
    match answered {
        Ok(Ok(response)) => response,
        Err(_) => {
            // The panic hook has said what and where.
            tracing::error!("a request handler panicked");
            Problem::internal().into_response()
        }
    }
}

#[cfg(test)]
mod tests;
