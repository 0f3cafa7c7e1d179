//! What has come over one connection, and how long it may go on like that. What then becomes of it
//! is decided by the connection.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::Limits;

/// What has come over a connection so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Traffic {
    in_flight: usize,
    requests: u64,
    /// Whether somebody was refused here before anybody had proven who he is.
    pub(super) refused: bool,
}

/// A request that waits for its answer.
pub(super) struct InFlight(watch::Sender<Traffic>);

impl InFlight {
    pub(super) fn begin(traffic: watch::Sender<Traffic>) -> Self {
        traffic.send_modify(|traffic| {
            traffic.in_flight += 1;
            traffic.requests += 1;
        });
        Self(traffic)
    }

    /// Notes that it was refused, and that nobody has proven anything on this connection.
    pub(super) fn refused(&self) {
        self.0.send_modify(|traffic| traffic.refused = true);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_modify(|traffic| traffic.in_flight -= 1);
    }
}

/// Returns once somebody was refused who had proven nothing.
pub(super) async fn refused(mut traffic: watch::Receiver<Traffic>) {
    if traffic.wait_for(|traffic| traffic.refused).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Quiet {
    /// Connected, and then no request within the time for a head.
    NoRequest,
    /// Requests came, and then none for the idle time.
    Idle,
}

/// Resolves once the connection has had no request in flight for as long as it may.
///
/// hyper starts its own timer for request heads only when it knows the protocol, and has none for
/// the HTTP/2 preface: a client that says nothing would otherwise stay for ever.
pub(super) async fn quiet(mut traffic: watch::Receiver<Traffic>, limits: &Limits) -> Quiet {
    loop {
        let Traffic { in_flight, requests, .. } = *traffic.borrow_and_update();
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

/// The answers that were begun and whose bodies the client has not taken to their end, in the order
/// in which they were.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread(watch::Sender<Begun>);

#[derive(Debug, Default)]
struct Begun {
    next: u64,
    at: BTreeMap<u64, Instant>,
}

impl Unread {
    /// The same answer, counted until its body is handed over or dropped.
    pub(super) fn count(&self, response: Response) -> Response {
        response.map(|body| {
            if body.is_end_stream() {
                return body;
            }
            let mut number = 0;
            self.0.send_modify(|begun| {
                number = begun.next;
                begun.next += 1;
                begun.at.insert(number, Instant::now());
            });
            let unread = self.0.clone();
            Body::new(CountedBody { inner: body, rest: Bytes::new(), unread, number })
        })
    }

    /// Returns once an answer has not been taken within `limit`.
    ///
    /// The body itself cannot tell: nobody looks at it while the client gives no room for more.
    pub(super) async fn overdue(&self, limit: Duration) {
        let mut begun = self.0.subscribe();
        loop {
            let oldest = begun.borrow_and_update().at.values().next().copied();
            let changed = begun.changed();
            match oldest {
                None => drop(changed.await),
                Some(at) if timeout_at(at + limit, changed).await.is_err() => return,
                Some(_) => {}
            }
        }
    }
}

/// The longest piece of a body that is handed over at once. What is handed over is out of sight.
const LONGEST_PIECE: usize = 64 * 1024;

/// A body that is counted until it has been handed over, piece by piece.
struct CountedBody {
    inner: Body,
    /// What is left of the last piece of `inner`.
    rest: Bytes,
    unread: watch::Sender<Begun>,
    number: u64,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(cx)?) else {
                return Poll::Ready(None);
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let length = self.rest.len().min(LONGEST_PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + rest);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for CountedBody {
    fn drop(&mut self) {
        self.unread.send_modify(|begun| {
            begun.at.remove(&self.number);
        });
    }
}
