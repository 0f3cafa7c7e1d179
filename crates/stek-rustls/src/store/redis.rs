//! Sessions kept in Redis or Valkey, for all servers of a fleet. Decides how long a handshake may
//! wait, how many may at once, and when nobody is asked any more; the I/O is the worker's.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc as reply;
use std::time::Duration;

use redis::Client;
use stek_clock::Clock;
use stek_core::name::KeysetName;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::backend::{LookUpError, PutError, SessionBackend, SessionKey, SharedBackend};
use super::breaker::{Breaker, Permit};
use crate::metrics::TicketMetrics;

mod link;
mod worker;

use worker::{LookUp, Put, Worker};

/// Longest wait of a handshake for a session.
const DEADLINE: Duration = Duration::from_millis(5);
/// The most handshakes that wait at once.
const LOOK_UPS: usize = 32;
/// The most sessions that wait to be written.
const QUEUE: usize = 4_096;
/// How long nobody is asked after three look-ups failed in a row.
const BREAKER_SPAN: Duration = Duration::from_secs(1);

/// What may be said instead. No deadline may be so short that nothing is ever found, nor so long
/// that threads hang; each look-up holds one.
const DEADLINES: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(10);
const LOOK_UPS_ALLOWED: RangeInclusive<usize> = 1..=1_024;
const QUEUES: RangeInclusive<usize> = 1..=1_048_576;
const BREAKER_SPANS: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(3_600);

/// Where Redis is and how much of a handshake's time it may take.
#[derive(Clone)]
pub struct RedisConfig {
    client: Client,
    prefix: Vec<u8>,
    deadline: Duration,
    look_ups: usize,
    queue: usize,
    breaker_span: Duration,
}

/// What cannot be configured.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisConfigError {
    /// The address is not one of Redis. It may hold a password and is not repeated.
    #[error("not the address of a redis server")]
    Address(#[source] redis::RedisError),
    /// A limit is not among those allowed.
    #[error("{field} is {value}, allowed are {allowed}")]
    Limit {
        /// Which limit.
        field: &'static str,
        /// What was asked for.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
}

/// The thread for the I/O did not start.
#[derive(Debug, thiserror::Error)]
#[error("thread for redis does not start")]
pub struct RedisStartError(#[source] std::io::Error);

impl RedisConfig {
    /// A server at `redis://[user:password@]host[:port][/database]` or `unix:///path`. Sessions go
    /// below `stek/<keyset>/`.
    ///
    /// There is no TLS to Redis. Sessions are sealed, so a listener learns nothing of them; but
    /// whoever can forge answers can undo the single use, so with early data the way to Redis must
    /// be a socket of the same machine, or protected by other means.
    ///
    /// # Errors
    /// [`RedisConfigError::Address`] if that is not what `url` is.
    pub fn try_new(url: &str, keyset: &KeysetName) -> Result<Self, RedisConfigError> {
        Ok(Self {
            client: Client::open(url).map_err(RedisConfigError::Address)?,
            prefix: format!("stek/{}/", keyset.as_str()).into_bytes(),
            deadline: DEADLINE,
            look_ups: LOOK_UPS,
            queue: QUEUE,
            breaker_span: BREAKER_SPAN,
        })
    }

    /// The same with another limit on how long a handshake waits for a session, 1 ms to 10 s; 5 ms
    /// otherwise. A connection or a write, for which no handshake waits, may take a second, or as
    /// long as this if that is longer.
    ///
    /// # Errors
    /// [`RedisConfigError::Limit`] if it is not among those.
    pub fn with_deadline(self, deadline: Duration) -> Result<Self, RedisConfigError> {
        Ok(Self { deadline: checked("deadline", deadline, &DEADLINES)?, ..self })
    }

    /// The same with another limit on look-ups at once, 1 to 1,024; 32 otherwise. Each holds a
    /// thread.
    ///
    /// # Errors
    /// [`RedisConfigError::Limit`] if it is not among those.
    pub fn with_look_ups(self, at_once: usize) -> Result<Self, RedisConfigError> {
        Ok(Self { look_ups: checked("look_ups", at_once, &LOOK_UPS_ALLOWED)?, ..self })
    }

    /// The same with another limit on sessions that wait to be written, 1 to 1,048,576; 4,096
    /// otherwise.
    ///
    /// # Errors
    /// [`RedisConfigError::Limit`] if it is not among those.
    pub fn with_queue(self, sessions: usize) -> Result<Self, RedisConfigError> {
        Ok(Self { queue: checked("queue", sessions, &QUEUES)?, ..self })
    }

    /// The same with another span for which nobody is asked after three look-ups failed in a row,
    /// 100 ms to an hour; one second otherwise.
    ///
    /// # Errors
    /// [`RedisConfigError::Limit`] if it is not among those.
    pub fn with_breaker_span(self, span: Duration) -> Result<Self, RedisConfigError> {
        Ok(Self { breaker_span: checked("breaker_span", span, &BREAKER_SPANS)?, ..self })
    }
}

fn checked<T: PartialOrd + fmt::Debug>(
    field: &'static str,
    value: T,
    allowed: &RangeInclusive<T>,
) -> Result<T, RedisConfigError> {
    if allowed.contains(&value) {
        return Ok(value);
    }
    let allowed = format!("{:?} to {:?}", allowed.start(), allowed.end());
    Err(RedisConfigError::Limit { field, value: format!("{value:?}"), allowed })
}

impl fmt::Debug for RedisConfig {
    /// Without the address, which may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisConfig").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Sessions in Redis 6.2 or Valkey, or newer: `SET` with an expiry, and `GETDEL`.
///
/// # What it does to a handshake
///
/// A look-up holds the thread that drives the handshake until the answer is there, at most for the
/// deadline. On a runtime with several threads that is one worker for so long, on a runtime with a
/// single one it is everything on it. It never deadlocks: the I/O is done by a thread of its own,
/// which a fork does not copy, so start this after forking. With an idle Redis on the same machine
/// the wait is some 0.03 ms over a Unix socket and 0.1 ms over TCP, next to 0.1 to 0.3 ms of
/// computation for the handshake. Three look-ups in a row without an answer (the deadline, a
/// connection refused, an error) open the breaker: for its span handshakes are full and nobody
/// waits, then one look-up or write probes. So a Redis that does not answer costs a server three
/// deadlines, and one more per span.
///
/// Measured on a runtime with one thread (`how_long_look_ups_hold_a_runtime` in its tests, debug
/// build, two busy cores): while 2,000 sessions were looked up over a Unix socket, a task beside
/// them waited 0.1 ms at a time and 0.2 s in all; with a Redis that hangs, 5 ms three times.
///
/// Nothing waits for a write. When too many wait to be written, or the breaker is open, a session
/// is not accepted and no ticket is sent, rather than one that cannot resume. What is under way when
/// the value is dropped gets a second to be written.
///
/// # What single use rests on
///
/// `GETDEL` is atomic in one Redis, and no write is ever repeated. So that a session that was taken
/// never comes back, let the Redis of [`StoreWithEarlyData`](crate::Resumption::StoreWithEarlyData)
/// keep nothing on disk (`save ""`, `appendonly no`), for a restart would bring taken sessions back,
/// and do not fail over to a replica, which may not have heard of the last takes. Where that happens
/// all the same, rustls' own check of ticket age (RFC 8446, 8.3) leaves a replay the minute around
/// the instant at which the client sent what is replayed, whatever the age of the session. Use a
/// Redis that evicts by `maxmemory`: what is evicted is a full handshake.
///
/// Single is the reading, not the sending. A look-up that ends busy, by the breaker or at the
/// deadline may have taken nothing: then the client's early data is refused and sent again after the
/// handshake, and a copy of it may be read elsewhere, once, in the same minute.
pub struct RedisBackend {
    look_ups: mpsc::Sender<LookUp>,
    puts: mpsc::Sender<Put>,
    waiting: AtomicUsize,
    limit: usize,
    deadline: Duration,
    breaker: Arc<Breaker>,
    metrics: TicketMetrics,
}

impl RedisBackend {
    /// Starts the thread that talks to Redis, and returns without waiting for a connection: until
    /// there is one, handshakes are full. Spans of the breaker are by `clock`, deadlines are not.
    ///
    /// # Errors
    /// [`RedisStartError`] if there is no thread to be had.
    pub fn start(
        config: RedisConfig,
        clock: Arc<dyn Clock>,
        metrics: TicketMetrics,
    ) -> Result<Self, RedisStartError> {
        let (look_ups, look_ups_to_do) = mpsc::channel(config.look_ups);
        let (puts, puts_to_do) = mpsc::channel(config.queue);
        let breaker = Breaker::new(clock, config.breaker_span);
        let worker = Worker {
            client: config.client,
            prefix: config.prefix.into(),
            deadline: config.deadline,
            metrics: metrics.clone(),
        };
        worker.start(look_ups_to_do, puts_to_do).map_err(RedisStartError)?;
        Ok(Self {
            look_ups,
            puts,
            waiting: AtomicUsize::new(0),
            limit: config.look_ups,
            deadline: config.deadline,
            breaker,
            metrics,
        })
    }

    fn admit(&self) -> Option<Permit> {
        let permit = self.breaker.admit();
        self.metrics.show_breaker(self.breaker.is_open());
        permit
    }

    /// Asks and waits, the permit settled by how that went.
    fn look_up(&self, key: &SessionKey, permit: Permit) -> Result<Option<Vec<u8>>, LookUpError> {
        let began = Instant::now();
        let (reply, answer) = reply::sync_channel(1);
        let order = LookUp { key: *key, deadline: began + self.deadline, reply };
        // As many fit as may be under way; those that were given up make room when they are drawn.
        self.look_ups.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LookUpError::Busy,
            mpsc::error::TrySendError::Closed(_) => LookUpError::Unavailable,
        })?;
        let answer = match answer.recv_timeout(self.deadline) {
            Ok(answer) => answer,
            Err(reply::RecvTimeoutError::Timeout) => Err(LookUpError::TimedOut),
            Err(reply::RecvTimeoutError::Disconnected) => Err(LookUpError::Unavailable),
        };
        self.metrics.observe_look_up(began.elapsed());
        match answer {
            Ok(_) => permit.succeeded(),
            Err(_) => {
                permit.failed();
            }
        }
        self.metrics.show_breaker(self.breaker.is_open());
        answer
    }
}

impl SessionBackend for RedisBackend {
    /// Queues the value; `lifetime` is told to Redis to the millisecond.
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError> {
        let permit = self.admit().ok_or(PutError::BreakerOpen)?;
        // In good times a write says nothing of how long look-ups take, so only a probe is settled.
        let probe = permit.is_probe().then_some(permit);
        let put = Put { key: *key, value, lifetime, probe };
        self.puts.try_send(put).map_err(|_| PutError::QueueFull)
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        let _place = Place::take(&self.waiting, self.limit).ok_or(LookUpError::Busy)?;
        let permit = self.admit().ok_or(LookUpError::BreakerOpen)?;
        self.look_up(key, permit)
    }
}

impl SharedBackend for RedisBackend {}

/// One of the look-ups that may be under way at once.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, limit: usize) -> Option<Self> {
        let more = |waiting| (waiting < limit).then_some(waiting + 1);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(waiting))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for RedisBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBackend")
            .field("deadline", &self.deadline)
            .field("breaker_open", &self.breaker.is_open())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_limited_and_given_back() {
        let (waiting, limit) = (AtomicUsize::new(0), 2);
        let (one, two) = (Place::take(&waiting, limit), Place::take(&waiting, limit));
        assert!(one.is_some() && two.is_some() && Place::take(&waiting, limit).is_none());
        drop(one);
        assert!(Place::take(&waiting, limit).is_some());
    }

    #[test]
    fn addresses_are_checked_and_not_shown() {
        let keyset = KeysetName::try_new("web").unwrap();
        for bad in ["", "http://127.0.0.1/", "rediss://127.0.0.1/"] {
            RedisConfig::try_new(bad, &keyset).unwrap_err();
        }
        let config = RedisConfig::try_new("redis://me:canary@127.0.0.1/", &keyset).unwrap();
        assert!(!format!("{config:?}").contains("canary"));
    }

    #[test]
    fn what_is_not_said_is_as_documented() {
        let keyset = KeysetName::try_new("web").unwrap();
        let config = RedisConfig::try_new("redis://127.0.0.1/", &keyset).unwrap();
        assert_eq!((config.deadline, config.look_ups), (Duration::from_millis(5), 32));
        assert_eq!((config.queue, config.breaker_span), (4_096, Duration::from_secs(1)));
    }

    #[test]
    fn limits_with_which_no_handshake_could_live_are_refused() {
        let keyset = KeysetName::try_new("web").unwrap();
        let usual = || RedisConfig::try_new("redis://127.0.0.1/", &keyset).unwrap();
        for span in [Duration::ZERO, Duration::MAX] {
            usual().with_deadline(span).unwrap_err();
            usual().with_breaker_span(span).unwrap_err();
        }
        for count in [0, usize::MAX] {
            usual().with_look_ups(count).unwrap_err();
            usual().with_queue(count).unwrap_err();
        }
        let error = usual().with_deadline(Duration::from_secs(11)).unwrap_err();
        assert_eq!(error.to_string(), "deadline is 11s, allowed are 1ms to 10s");
        let (least, most) = (Duration::from_millis(1), Duration::from_secs(10));
        usual().with_deadline(least).and_then(|config| config.with_deadline(most)).unwrap();
    }
}
