//! `GET /metrics`, and the counting of requests by listener, route, method and status class. The
//! same names go to the span of the request, and so to its log lines.
//!
//! Labels are bounded: a route is a pattern of the router and never a path, methods outside the
//! common ones are `OTHER`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, StatusCode};
use pin_project_lite::pin_project;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::{Problem, Routes, prefer};

/// Seconds. Answers come from memory or from one transaction; nothing that is not a long-poll
/// should leave the upper end.
const DURATION_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Route label of a request that no route took.
const UNMATCHED: &str = "unmatched";
/// Status label of a request whose client went away before there was an answer.
const ABORTED: &str = "aborted";
const SERVER_ERROR: &str = "5xx";

/// Why the metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The registry has metrics of these names already.
    #[error("cannot register the request metrics")]
    Register(#[source] prometheus::Error),
}

/// Counters over the requests of all listeners of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: IntCounterVec,
    duration: HistogramVec,
}

impl HttpMetrics {
    /// Registers `stek_http_requests_total` and `stek_http_request_duration_seconds`. Once per
    /// registry: listeners are told apart by label.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Register`] if the registry has them already.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let requests = IntCounterVec::new(
            Opts::new(
                "stek_http_requests_total",
                "Requests answered, by status class; aborted: the client left before the answer",
            ),
            &["listener", "route", "method", "status"],
        )
        .map_err(MetricsError::Register)?;
        let duration = HistogramVec::new(
            HistogramOpts::new(
                "stek_http_request_duration_seconds",
                "Seconds from the head of a request to the head of its answer, without long-polls",
            )
            .buckets(DURATION_BUCKETS.to_vec()),
            &["listener", "route"],
        )
        .map_err(MetricsError::Register)?;
        registry.register(Box::new(requests.clone())).map_err(MetricsError::Register)?;
        registry.register(Box::new(duration.clone())).map_err(MetricsError::Register)?;
        Ok(Self { requests, duration })
    }

    /// Counts what these routes answer. Call it last, when routes and fallbacks are in: what is
    /// added later is not counted. `listener` is the label, such as `admin`.
    ///
    /// A request with `Prefer: wait` is counted like any other but is left out of the histogram: how
    /// long it takes is up to the client and to when keys change, so that one long-poll would hide
    /// a thousand slow answers. It has no route label of its own, so that sums over a route hold.
    #[must_use]
    pub fn observe(&self, listener: &'static str, routes: impl Into<Routes>) -> Routes {
        routes.into().observed(Observe(Arc::new(Counted { metrics: self.clone(), listener })))
    }
}

/// Counts what a service answers. A function of axum's middleware would do as well, and store
/// request and service on the heap for each request.
#[derive(Clone)]
pub(crate) struct Observe(Arc<Counted>);

struct Counted {
    metrics: HttpMetrics,
    listener: &'static str,
}

impl Observe {
    /// Begins to count a request for `route`.
    pub(crate) fn begin(&self, route: RouteLabel, method: &Method, headers: &HeaderMap) -> Pending {
        let waits = prefer::wait_seconds(headers, u32::MAX).is_some();
        let pending = Pending {
            counted: Arc::clone(&self.0),
            route,
            method: method_label(method),
            started: (!waits).then(Instant::now),
            answer: None,
        };
        // For whoever exports spans.
        if tracing::span_enabled!(tracing::Level::DEBUG) {
            let listener = self.0.listener;
            let (method, route) = (pending.method, pending.route.as_str());
            tracing::record_all!(tracing::Span::current(), listener, method, route);
        }
        pending
    }
}

#[derive(Clone)]
pub(crate) struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, observe: self.clone() }
    }
}

impl<S: Service<Request, Response = Response, Error = Infallible>> Service<Request>
    for Observed<S>
{
    type Response = Response;
    type Error = Infallible;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Observing<S::Future> {
        let matched = request.extensions().get::<MatchedPath>().cloned();
        let route = matched.map_or(RouteLabel::Known(UNMATCHED), RouteLabel::Matched);
        let pending = self.observe.begin(route, request.method(), request.headers());
        Observing::new(self.inner.call(request), Some(pending))
    }
}

pin_project! {
    /// An answer on its way, which is counted if it is `pending`.
    pub(crate) struct Observing<F> {
        #[pin]
        answering: F,
        pending: Option<Pending>,
    }
}

impl<F> Observing<F> {
    pub(crate) fn new(answering: F, pending: Option<Pending>) -> Self {
        Self { answering, pending }
    }
}

impl<F: Future<Output: IntoResponse>> Future for Observing<F> {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        // Taken out, so that it is dropped on the way if the handler panics.
        let pending = this.pending.take();
        let polled = this.answering.poll(cx).map(IntoResponse::into_response);
        match (&polled, pending) {
            (Poll::Ready(response), Some(pending)) => pending.answered(response.status()),
            (_, pending) => *this.pending = pending,
        }
        polled.map(Ok)
    }
}

/// Which route a request is counted for.
pub(crate) enum RouteLabel {
    /// The one that the router has found.
    Matched(MatchedPath),
    /// One that is known beforehand.
    Known(&'static str),
}

impl RouteLabel {
    fn as_str(&self) -> &str {
        match self {
            Self::Matched(path) => path.as_str(),
            Self::Known(route) => route,
        }
    }
}

/// A request without an answer yet. Dropped like that, it counts as aborted.
pub(crate) struct Pending {
    counted: Arc<Counted>,
    route: RouteLabel,
    method: &'static str,
    /// When the request came, if its duration counts.
    started: Option<Instant>,
    answer: Option<StatusCode>,
}

impl Pending {
    fn answered(mut self, status: StatusCode) {
        self.answer = Some(status);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Counted { metrics, listener } = &*self.counted;
        let route = self.route.as_str();
        let status = match self.answer {
            Some(status) => status_label(status),
            // A handler that panics is answered with 500, further out.
            None if std::thread::panicking() => SERVER_ERROR,
            None => ABORTED,
        };
        metrics.requests.with_label_values(&[listener, route, self.method, status]).inc();
        if let (Some(started), Some(_)) = (self.started, self.answer) {
            let duration = metrics.duration.with_label_values(&[listener, route]);
            duration.observe(started.elapsed().as_secs_f64());
        }
    }
}

/// `GET /metrics`: everything in the registry, in the Prometheus text format.
pub fn router<S>(registry: Registry) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new().route("/metrics", get(move || std::future::ready(exposition(&registry))))
}

fn exposition(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => {
            tracing::error!(error = %error, "metrics cannot be encoded");
            Problem::internal().into_response()
        }
    }
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

fn status_label(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => SERVER_ERROR,
    }
}

#[cfg(test)]
pub(crate) mod tests;
