//! The thread that talks to Redis, with a runtime of its own, so that a handshake that waits on a
//! runtime with a single thread does not wait for itself.

use std::sync::Arc;
use std::sync::mpsc as reply;
use std::time::Duration;

use redis::{Client, RedisError};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};

use super::link::{Connection, Link};
use crate::metrics::{TicketMetrics, WriteOutcome};
use crate::store::backend::{LookUpError, SessionKey};
use crate::store::breaker::Permit;

/// The most values that one round trip writes.
const BATCH: usize = 64;
/// Longest round trip of a write, unless a look-up may take longer. Nobody waits for it, but the
/// queue does.
const WRITE: Duration = Duration::from_secs(1);
/// How long what is queued may still be written at the end.
const FLUSH: Duration = Duration::from_secs(1);

/// A session to take, and who waits for it.
pub(super) struct LookUp {
    pub(super) key: SessionKey,
    pub(super) deadline: Instant,
    pub(super) reply: reply::SyncSender<Result<Option<Vec<u8>>, LookUpError>>,
}

/// A session to write.
pub(super) struct Put {
    pub(super) key: SessionKey,
    pub(super) value: Vec<u8>,
    pub(super) lifetime: Duration,
    /// The breaker's, if it waits for this one.
    pub(super) probe: Option<Permit>,
}

/// What the thread knows.
#[derive(Clone)]
pub(super) struct Worker {
    pub(super) client: Client,
    pub(super) prefix: Arc<[u8]>,
    pub(super) deadline: Duration,
    pub(super) metrics: TicketMetrics,
}

impl Worker {
    /// Works on both queues until their senders are gone.
    ///
    /// # Errors
    /// Those of making a runtime and a thread.
    pub(super) fn start(
        self,
        look_ups: mpsc::Receiver<LookUp>,
        puts: mpsc::Receiver<Put>,
    ) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new()
            .name("stek-redis".to_owned())
            .spawn(move || runtime.block_on(self.run(look_ups, puts)))?;
        Ok(())
    }

    async fn run(self, mut look_ups: mpsc::Receiver<LookUp>, puts: mpsc::Receiver<Put>) {
        // Two connections, so that a look-up never queues behind a batch of writes.
        let link = Link::start(self.client.clone(), self.deadline);
        let writing = tokio::spawn(self.clone().write_behind(puts));
        while let Some(order) = look_ups.recv().await {
            tokio::spawn(look_up(link.clone(), Arc::clone(&self.prefix), order));
        }
        let _ = timeout(FLUSH, writing).await;
    }

    async fn write_behind(self, mut puts: mpsc::Receiver<Put>) {
        let mut link = Link::start(self.client.clone(), self.deadline);
        let mut batch = Vec::with_capacity(BATCH);
        while puts.recv_many(&mut batch, BATCH).await > 0 {
            let began = Instant::now();
            let written = self.write(&mut link, &batch).await;
            let outcome = if written { WriteOutcome::Written } else { WriteOutcome::Failed };
            self.metrics.count_written(outcome, batch.len());
            let in_time = written && began.elapsed() <= self.deadline;
            for probe in batch.drain(..).filter_map(|put| put.probe) {
                if in_time {
                    probe.succeeded();
                } else {
                    probe.failed();
                }
            }
        }
    }

    /// Whether all of `batch` was written. One that was not is never tried again: it may have been
    /// written all the same, and taken since.
    async fn write(&self, link: &mut Link, batch: &[Put]) -> bool {
        let longest = WRITE.max(self.deadline);
        let connection = timeout(longest, link.connection()).await;
        let Ok(Ok(mut connection)) = connection else { return false };
        let mut pipeline = redis::pipe();
        for put in batch {
            let millis = u64::try_from(put.lifetime.as_millis()).unwrap_or(u64::MAX).max(1);
            pipeline
                .cmd("SET")
                .arg(redis_key(&self.prefix, &put.key))
                .arg(&put.value)
                .arg("PX")
                .arg(millis)
                .ignore();
        }
        let written = timeout(longest, pipeline.query_async::<()>(&mut connection.redis)).await;
        let written = matches!(written, Ok(Ok(())));
        if !written {
            link.replace(&connection);
        }
        written
    }
}

async fn look_up(mut link: Link, prefix: Arc<[u8]>, order: LookUp) {
    // Whoever asked has gone, and what is taken now is lost.
    if Instant::now() >= order.deadline {
        let _ = order.reply.try_send(Err(LookUpError::TimedOut));
        return;
    }
    let mut used = None;
    let answer = timeout_at(order.deadline, async {
        let connection = link.connection().await.map_err(|_| LookUpError::Unavailable)?;
        let taken = take(used.insert(connection), &prefix, &order.key).await;
        taken.map_err(|_| LookUpError::Unavailable)
    });
    let answer = answer.await.unwrap_or(Err(LookUpError::TimedOut));
    // Nobody may be waiting any more.
    let _ = order.reply.try_send(answer.clone());
    if let (Err(_), Some(connection)) = (answer, used) {
        link.replace(&connection);
    }
}

async fn take(
    connection: &mut Connection,
    prefix: &[u8],
    key: &SessionKey,
) -> Result<Option<Vec<u8>>, RedisError> {
    let mut command = redis::cmd("GETDEL");
    command.arg(redis_key(prefix, key)).query_async(&mut connection.redis).await
}

fn redis_key(prefix: &[u8], key: &SessionKey) -> Vec<u8> {
    [prefix, key.as_bytes()].concat()
}
