//! One connection from accept to close: handshake, requests, quiet, and the end of it.

mod traffic;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;

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
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::Instrument;

use crate::body::TimedBody;
use crate::connection::traffic::{InFlight, Quiet, Traffic, Unread, quiet, refused};
use crate::quota::Quotas;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::tasks::Tasks;
use crate::{Channel, ClientCertificate, Limits, Peer, Problem, Proved, TlsFiles, Transport};

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
            Transport::Plain(_) => {
                self.serve(stream, Peer { addr, channel: Channel::Plain }, None).await;
            }
            Transport::Tls(files) => {
                let withdrawn = files.withdrawn();
                let Some(stream) = self.handshake(files, stream, addr).await else { return };
                let client = client_certificate(stream.get_ref().1, addr);
                let withdrawn = client.is_some().then_some(withdrawn);
                self.serve(stream, Peer { addr, channel: Channel::Tls(client) }, withdrawn).await;
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

    /// `withdrawn` changes when the client's certificate may be worth nothing any more.
    async fn serve<I>(&self, io: I, peer: Peer, mut withdrawn: Option<watch::Receiver<u64>>)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let addr = peer.addr;
        let (traffic, unread) = (watch::Sender::new(Traffic::default()), Unread::default());
        let service = {
            let (router, traffic, unread) = (self.router.clone(), traffic.clone(), unread.clone());
            let (quotas, proved) = (Arc::clone(&self.quotas), Proved::default());
            let body_limit = self.limits.body_read_timeout;
            service_fn(move |request: Request<Incoming>| {
                let mut request = request.map(|body| Body::new(TimedBody::new(body, body_limit)));
                request.extensions_mut().insert(Arc::clone(&quotas));
                request.extensions_mut().insert(proved.clone());
                request.extensions_mut().insert(peer.clone());
                let in_flight = InFlight::begin(traffic.clone());
                let (unread, proved) = (unread.clone(), proved.clone());
                let answer = answer(router.clone(), request, proved, in_flight);
                async move { Ok::<_, Infallible>(unread.count(answer.await)) }
            })
        };
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(io), service));
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
                first = quiet(traffic.subscribe(), &self.limits) => {
                    if first == Quiet::NoRequest || finishing == Finishing::Yes {
                        tracing::debug!(peer = %addr, "quiet connection dropped");
                        return;
                    }
                }
                () = unread.overdue(self.limits.idle_timeout * 2) => {
                    tracing::debug!(peer = %addr, "an answer was not read, connection dropped");
                    return;
                }
                () = refused(traffic.subscribe()), if cut.is_none() => {
                    cut = Some(Instant::now() + self.limits.handshake_timeout);
                }
                () = changed(&mut withdrawn) => {
                    let end = Instant::now() + self.limits.drain_timeout;
                    cut = Some(cut.map_or(end, |cut: Instant| cut.min(end)));
                    withdrawn = None;
                }
                () = sleep_until(cut.unwrap_or_else(Instant::now)), if cut.is_some() => {
                    tracing::debug!(peer = %addr, "connection cut");
                    return;
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

async fn answer(
    router: Router,
    mut request: Request<Body>,
    proved: Proved,
    in_flight: InFlight,
) -> Response {
    for (name, value) in request.headers_mut() {
        if name == AUTHORIZATION {
            value.set_sensitive(true);
        }
    }
    let has_one_at_a_time = request.version() < Version::HTTP_2;
    let name = RequestId::of(request.headers());
    // Also where only errors are logged, their lines say of which request they are.
    let span = tracing::error_span!("request", request_id = %name);
    let mut response = name.clone().scope(respond(router, request)).instrument(span.clone()).await;
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
    if let Some(value) = name.header() {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    drop(in_flight);
    response
}

async fn respond(router: Router, request: Request<Body>) -> Response {
    match unless_panicked(router.oneshot(request)).await {
        Ok(Ok(response)) => response,
        Err(Panicked) => {
            // The panic hook has said what and where.
            tracing::error!("a request handler panicked");
            Problem::internal().into_response()
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
