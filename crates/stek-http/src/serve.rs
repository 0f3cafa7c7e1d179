//! The accept loop of a server and its drain.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::accept::{Accept, Backoff};
use crate::connection::Connections;
use crate::tasks::Tasks;
use crate::{Limits, Server, Transport};

/// Time that tasks get to fall over once they are aborted; only one that blocks its thread needs
/// any.
const ABORT_GRACE: Duration = Duration::from_secs(5);

/// How a server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Drained {
    /// Connections that had not finished within the drain time-out and were cut.
    pub dropped: usize,
}

impl Server {
    /// Serves `router` until `shutdown` is cancelled, then drains: no new connections, open ones are
    /// told to finish and get [`Limits::drain_timeout`], the rest is dropped. When this returns
    /// the port is free and no request is being worked on, unless a handler blocks its thread: then
    /// it returns 5 s later all the same.
    ///
    /// Dropping the future ends everything at once.
    ///
    /// A handler that waits, as long-polls do, should watch `shutdown` itself and answer when it is
    /// cancelled; otherwise it is dropped at the end of the drain.
    pub async fn serve(self, router: Router, shutdown: CancellationToken) -> Drained {
        let Self { listener, local_addr, transport, limits } = self;
        tracing::info!(addr = %local_addr, tls = matches!(transport, Transport::Tls(_)), "serving");
        let drained = serve_from(listener, transport, limits, router, shutdown).await;
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
    router: Router,
    shutdown: CancellationToken,
) -> Drained {
    let tasks = Tasks::default();
    let _aborted_if_dropped = tasks.abort_on_drop();
    let slots = Slots::new(limits.max_connections);
    let (drain_timeout, max_body_bytes) = (limits.drain_timeout, limits.max_body_bytes);
    let connections = Arc::new(Connections::new(
        transport,
        limits,
        router.layer(DefaultBodyLimit::max(max_body_bytes)),
        tasks.clone(),
        shutdown.clone(),
    ));
    let accepting = accept_all(&listener, slots.clone(), |stream, addr, slot| {
        let connections = connections.clone();
        tasks.spawn(async move {
            connections.run(stream, addr).await;
            drop(slot);
        });
    });
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    if tasks.finish(drain_timeout).await.is_ok() {
        return Drained { dropped: 0 };
    }
    let dropped = slots.taken();
    tasks.abort();
    if tasks.finish(ABORT_GRACE).await.is_err() {
        tracing::warn!("a handler blocks its thread and could not be ended");
    }
    Drained { dropped }
}

/// Accepts for ever. A slot is taken first, so that beyond the limit clients wait in the kernel.
async fn accept_all(
    listener: &impl Accept,
    mut slots: Slots,
    mut start: impl FnMut(tokio::net::TcpStream, std::net::SocketAddr, OwnedSemaphorePermit),
) {
    let mut backoff = Backoff::default();
    loop {
        let Some(slot) = slots.take().await else { return };
        match poll_fn(|cx| listener.poll_accept(cx)).await {
            Ok((stream, addr)) => {
                backoff.succeeded();
                start(stream, addr, slot);
            }
            Err(error) => {
                drop(slot);
                if let Some(pause) = backoff.failed(&error) {
                    sleep(pause).await;
                }
            }
        }
    }
}

/// The connections that a server may hold.
#[derive(Debug, Clone)]
struct Slots {
    semaphore: Arc<Semaphore>,
    total: usize,
    warned: bool,
}

impl Slots {
    fn new(total: usize) -> Self {
        Self { semaphore: Arc::new(Semaphore::new(total)), total, warned: false }
    }

    fn taken(&self) -> usize {
        self.total - self.semaphore.available_permits()
    }

    /// A free slot, as soon as there is one. Warns when there is none, and again only after the
    /// server has been clearly below its limit.
    async fn take(&mut self) -> Option<OwnedSemaphorePermit> {
        if self.taken() == self.total && !self.warned {
            tracing::warn!(max_connections = self.total, "connection limit reached, clients wait");
            self.warned = true;
        } else if self.taken() < self.total - self.total / 8 {
            self.warned = false;
        }
        self.semaphore.clone().acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests;
