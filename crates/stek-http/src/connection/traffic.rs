//! What has come over one connection, and how long it may go on like that. What then becomes of it
//! is decided by the connection.
//!
//! Looked at when a time may be over, so that a request sets no timer and wakes nobody.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::{Limits, Standing};

/// What has come over a connection so far.
#[derive(Debug)]
pub(super) struct Traffic {
    opened: Instant,
    in_flight: AtomicUsize,
    /// Milliseconds from the opening to the last answer, [`NO_ANSWER`] before the first.
    answered: AtomicU64,
    /// When the answers were begun whose bodies the client has not taken to their end, in the order
    /// in which they were.
    unread: Mutex<Vec<Unread>>,
    next_answer: AtomicU64,
    refused: Notify,
}

/// An answer whose body the client has not taken to its end.
#[derive(Debug)]
struct Unread {
    number: u64,
    begun: Instant,
}

const NO_ANSWER: u64 = u64::MAX;

/// Why a connection has gone on for long enough.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Connected, and then no request within the time for a head.
    NoRequest,
    /// Requests came, and then none for as long as a connection may rest.
    Idle,
    /// An answer was not read within twice the idle time.
    Unread,
    /// The instant has come that was set for its end.
    Cut,
}

impl Traffic {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            in_flight: AtomicUsize::new(0),
            answered: AtomicU64::new(NO_ANSWER),
            unread: Mutex::default(),
            next_answer: AtomicU64::new(0),
            refused: Notify::new(),
        })
    }

    /// Returns once somebody was refused who had proven nothing.
    pub(super) async fn refused(&self) {
        self.refused.notified().await;
    }

    /// Returns once the connection has gone on for long enough; at `cut` if that is set, for then
    /// the client has been told.
    ///
    /// Timers of hyper's would be set anew for each request, and there is none for the HTTP/2
    /// preface: a client that says nothing would stay for ever.
    pub(super) async fn over(
        &self,
        limits: &Limits,
        standing: &Standing,
        cut: Option<Instant>,
    ) -> Over {
        loop {
            let now = Instant::now();
            let longest_rest = match standing.has_proven() {
                true => limits.idle_timeout,
                false => limits.idle_timeout.min(limits.header_read_timeout),
            };
            if cut.is_some_and(|cut| cut <= now) {
                return Over::Cut;
            }
            let rest = match (cut, self.at_rest(limits, longest_rest)) {
                (None, Some((end, over))) if end <= now => return over,
                (None, Some((end, _))) => end,
                _ => now + limits.idle_timeout,
            };
            let unread = match self.lock().first().map(|oldest| oldest.begun) {
                Some(begun) if begun + limits.idle_timeout * 2 <= now => return Over::Unread,
                Some(begun) => begun + limits.idle_timeout * 2,
                None => rest,
            };
            // What begins after this look is over after such a rest at the earliest.
            let look = rest.min(unread).min(now + longest_rest);
            sleep_until(cut.map_or(look, |cut| look.min(cut))).await;
        }
    }

    /// Until when the connection may be without a request, and what it is then; `None` while there
    /// is one.
    fn at_rest(&self, limits: &Limits, longest_rest: Duration) -> Option<(Instant, Over)> {
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return None;
        }
        Some(match self.answered.load(Ordering::Acquire) {
            NO_ANSWER => (self.opened + limits.header_read_timeout, Over::NoRequest),
            millis => (self.opened + Duration::from_millis(millis) + longest_rest, Over::Idle),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Unread>> {
        self.unread.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request that waits for its answer.
pub(super) struct InFlight(Arc<Traffic>);

impl InFlight {
    pub(super) fn begin(traffic: &Arc<Traffic>) -> Self {
        traffic.in_flight.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(traffic))
    }

    /// Notes that it was refused, and that nobody has proven anything on this connection.
    pub(super) fn refused(&self) {
        self.0.refused.notify_one();
    }

    /// Its answer, counted until its body is handed over or dropped.
    pub(super) fn answered(self, response: Response) -> Response {
        response.map(|body| {
            if body.is_end_stream() {
                return body;
            }
            let number = self.0.next_answer.fetch_add(1, Ordering::Relaxed);
            self.0.lock().push(Unread { number, begun: Instant::now() });
            let traffic = Arc::clone(&self.0);
            Body::new(CountedBody { inner: body, rest: Bytes::new(), traffic, number })
        })
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let millis = u64::try_from(self.0.opened.elapsed().as_millis()).unwrap_or(NO_ANSWER - 1);
        self.0.answered.store(millis, Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The longest piece of a body that is handed over at once. What is handed over is out of sight.
const LONGEST_PIECE: usize = 64 * 1024;

/// A body that is counted until it has been handed over, piece by piece.
///
/// It cannot tell by itself that it is not taken: nobody looks at it while the client gives no room
/// for more.
struct CountedBody {
    inner: Body,
    /// What is left of the last piece of `inner`.
    rest: Bytes,
    traffic: Arc<Traffic>,
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
        // Few are unread at once: one over HTTP/1.1, as many as there are streams over HTTP/2.
        self.traffic.lock().retain(|answer| answer.number != self.number);
    }
}
