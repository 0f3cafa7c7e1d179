//! `GET /metrics`, and the counting of requests by listener, route, method and status class. The
//! same names go to the span of the request, and so to its log lines.
//!
//! Labels are bounded: a route is a pattern of the router and never a path, methods outside the
//! common ones are `OTHER`.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use pin_project_lite::pin_project;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder};
use tokio::time::Instant;
use tower::{Layer, Service};

use crate::{Problem, prefer};

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

    /// Counts what this router answers. Call it last, when routes and fallbacks are in: what is
    /// added later is not counted. `listener` is the label, such as `admin`.
    ///
    /// A request with `Prefer: wait` is counted like any other but is left out of the histogram: how
    /// long it takes is up to the client and to when keys change, so that one long-poll would hide
    /// a thousand slow answers. It has no route label of its own, so that sums over a route hold.
    pub fn observe<S>(&self, listener: &'static str, router: Router<S>) -> Router<S>
    where
        S: Clone + Send + Sync + 'static,
    {
        router.layer(Observe { metrics: self.clone(), listener })
    }
}

/// Counts what a service answers. A function of axum's middleware would do as well, and store
/// request and service on the heap for each request.
#[derive(Clone)]
struct Observe {
    metrics: HttpMetrics,
    listener: &'static str,
}

#[derive(Clone)]
struct Observed<S> {
    inner: S,
    observe: Observe,
}

impl<S> Layer<S> for Observe {
    type Service = Observed<S>;

    fn layer(&self, inner: S) -> Observed<S> {
        Observed { inner, observe: self.clone() }
    }
}

impl<S: Service<Request, Response = Response>> Service<Request> for Observed<S> {
    type Response = Response;
    type Error = S::Error;
    type Future = Observing<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Observing<S::Future> {
        let Observe { metrics, listener } = &self.observe;
        let pending = Pending::new(metrics.clone(), listener, &request);
        Observing { answering: self.inner.call(request), pending: Some(pending) }
    }
}

pin_project! {
    struct Observing<F> {
        #[pin]
        answering: F,
        pending: Option<Pending>,
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Observing<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        // Taken out, so that it is dropped on the way if the handler panics.
        let pending = this.pending.take();
        let polled = this.answering.poll(cx);
        match (&polled, pending) {
            (Poll::Ready(Ok(response)), Some(pending)) => pending.answered(response.status()),
            (_, pending) => *this.pending = pending,
        }
        polled
    }
}

/// A request without an answer yet. Dropped like that, it counts as aborted.
struct Pending {
    metrics: HttpMetrics,
    listener: &'static str,
    route: Option<MatchedPath>,
    method: &'static str,
    /// When the request came, if its duration counts.
    started: Option<Instant>,
    answer: Option<StatusCode>,
}

impl Pending {
    fn new(metrics: HttpMetrics, listener: &'static str, request: &Request) -> Self {
        let waits = prefer::wait_seconds(request.headers(), u32::MAX).is_some();
        let pending = Self {
            metrics,
            listener,
            route: request.extensions().get::<MatchedPath>().cloned(),
            method: method_label(request.method()),
            started: (!waits).then(Instant::now),
            answer: None,
        };
        // For whoever exports spans.
        if tracing::span_enabled!(tracing::Level::DEBUG) {
            let (method, route) = (pending.method, pending.route());
            tracing::record_all!(tracing::Span::current(), listener, method, route);
        }
        pending
    }

    fn route(&self) -> &str {
        self.route.as_ref().map_or(UNMATCHED, MatchedPath::as_str)
    }

    fn answered(mut self, status: StatusCode) {
        self.answer = Some(status);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let route = self.route();
        let status = match self.answer {
            Some(status) => status_label(status),
            // A handler that panics is answered with 500, further out.
            None if std::thread::panicking() => SERVER_ERROR,
            None => ABORTED,
        };
        self.metrics.requests.with_label_values(&[self.listener, route, self.method, status]).inc();
        if let (Some(started), Some(_)) = (self.started, self.answer) {
            self.metrics
                .duration
                .with_label_values(&[self.listener, route])
                .observe(started.elapsed().as_secs_f64());
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
mod tests;
