//! The accept loop of a server and its drain.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::accept::{Accept, Backoff};
use crate::connection::Connections;
use crate::tasks::Tasks;
use crate::{Limits, Routes, Server, Transport};

/// Time that tasks get to fall over once they are aborted; only one that blocks its thread needs
/// any.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// Connections beyond the limit that are told so at once, each for a few seconds at most. Those beyond
/// these too are closed without a word. Descriptors for them are set aside by whoever sets the limit.
pub const TURNED_AWAY_AT_ONCE: usize = 64;

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Connections that had not finished within the drain time-out and were cut.
    pub dropped: usize,
}

impl Server {
    /// Serves `routes` until `shutdown` is cancelled, then drains: no new connections, open ones are
    /// told to finish and get [`Limits::drain_timeout`], the rest is dropped. When this returns
    /// the port is free and no request is being worked on, unless a handler blocks its thread: then
    /// it returns 5 s later all the same.
    ///
    /// Dropping the future ends everything at once.
    ///
    /// A handler that waits, as long-polls do, should watch `shutdown` itself and answer when it is
    /// cancelled; otherwise it is dropped at the end of the drain.
    pub async fn serve(self, routes: impl Into<Routes>, shutdown: CancellationToken) -> Drained {
        let Self { listener, local_addr, transport, limits } = self;
        tracing::info!(addr = %local_addr, tls = matches!(transport, Transport::Tls(_)), "serving");
        let drained = serve_from(listener, transport, limits, routes.into(), shutdown).await;
        if drained.dropped > 0 {
            tracing::warn!(addr = %local_addr, dropped = drained.dropped, "drain timed out");
        } else {
            tracing::info!(addr = %local_addr, "drained");
        }
        drained
    }
}

async fn serve_from(
    listener: impl Accept,
    transport: Transport,
    limits: Limits,
    routes: Routes,
    shutdown: CancellationToken,
) -> Drained {
    let tasks = Tasks::default();
    let _aborted_if_dropped = tasks.abort_on_drop();
    let max_connections = limits.max_connections;
    let mut slots = Slots::new(max_connections);
    let seats = Arc::clone(&slots.seats);
    let drain_timeout = limits.drain_timeout;
    let connections =
        Arc::new(Connections::new(transport, limits, routes, tasks.clone(), shutdown.clone()));
    let accepting = accept_all(&listener, |stream, addr| {
        let connections = connections.clone();
        match slots.place() {
            Some(Place::Seat(seat)) => tasks.spawn(async move {
                connections.run(stream, addr).await;
                drop(seat);
            }),
            Some(Place::Threshold(place)) => tasks.spawn(async move {
                connections.turn_away(stream, addr).await;
                drop(place);
            }),
            None => tracing::debug!(peer = %addr, "connection dropped, for there are too many"),
        }
    });
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    if tasks.finish(drain_timeout).await.is_ok() {
        return Drained { dropped: 0 };
    }
    let dropped = max_connections - seats.available_permits();
    tasks.abort();
    if tasks.finish(ABORT_GRACE).await.is_err() {
        tracing::warn!("a handler blocks its thread and could not be ended");
    }
    Drained { dropped }
}

/// Accepts for ever.
async fn accept_all(
    listener: &impl Accept,
    mut start: impl FnMut(tokio::net::TcpStream, std::net::SocketAddr),
) {
    let mut backoff = Backoff::default();
    loop {
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((stream, addr)) => {
                backoff.succeeded();
                start(stream, addr);
            }
            Err(error) => {
                if let Some(pause) = backoff.failed(&error) {
                    sleep(pause).await;
                }
            }
        }
    }
}

/// What a new connection gets, for as long as it is held.
#[derive(Debug)]
enum Place {
    /// One of those that are served.
    Seat(OwnedSemaphorePermit),
    /// One of those that are told to come back later.
    Threshold(OwnedSemaphorePermit),
}

/// The connections that a server may hold.
#[derive(Debug)]
struct Slots {
    seats: Arc<Semaphore>,
    threshold: Arc<Semaphore>,
    total: usize,
    warned: bool,
}

impl Slots {
    fn new(total: usize) -> Self {
        let (seats, threshold) = (Semaphore::new(total), Semaphore::new(TURNED_AWAY_AT_ONCE));
        Self { seats: Arc::new(seats), threshold: Arc::new(threshold), total, warned: false }
    }

    fn taken(&self) -> usize {
        self.total - self.seats.available_permits()
    }

    /// A place for one more, if there is any. Warns when all seats are taken, and again only after
    /// the server has been clearly below its limit.
    fn place(&mut self) -> Option<Place> {
        if self.taken() < self.total - self.total / 8 {
            self.warned = false;
        }
        if let Ok(seat) = self.seats.clone().try_acquire_owned() {
            return Some(Place::Seat(seat));
        }
        if !self.warned {
            tracing::warn!(max_connections = self.total, "connection limit reached");
            self.warned = true;
        }
        self.threshold.clone().try_acquire_owned().ok().map(Place::Threshold)
    }
}

#[cfg(test)]
mod tests;
