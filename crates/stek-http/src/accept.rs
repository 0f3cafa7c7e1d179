//! Accepting connections without ever giving up: what to do when the kernel has none to give.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};

const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Where connections come from. A trait so that tests can make it fail.
pub(crate) trait Accept {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>;
}

impl Accept for TcpListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        TcpListener::poll_accept(self, cx)
    }
}

/// How long to leave the listener alone after errors: 10 ms, doubling to 1 s, until one connection
/// is accepted.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    last: Option<Duration>,
}

impl Backoff {
    /// A connection was accepted.
    pub(crate) fn succeeded(&mut self) {
        if self.last.take().is_some() {
            tracing::info!("connections are accepted again");
        }
    }

    /// The pause after this error; `None` if only the one connection was lost. Logs the first
    /// error of a row.
    pub(crate) fn failed(&mut self, error: &io::Error) -> Option<Duration> {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
        if matches!(
            error.kind(),
            ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
        ) {
            return None;
        }
        if self.last.is_none() {
            tracing::error!(error = %error, "cannot accept connections; will keep trying");
        }
        let pause = self.last.map_or(FIRST_PAUSE, |last| (last * 2).min(LONGEST_PAUSE));
        self.last = Some(pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMFILE: i32 = 24;

    #[test]
    fn pauses_double_to_a_second_and_start_over_after_success() {
        let error = io::Error::from_raw_os_error(EMFILE);
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..9).map(|_| backoff.failed(&error).unwrap().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        backoff.succeeded();
        assert_eq!(backoff.failed(&error), Some(FIRST_PAUSE));
    }

    #[test]
    fn a_connection_lost_in_the_queue_costs_no_pause() {
        let mut backoff = Backoff::default();
        let error = io::Error::from(io::ErrorKind::ConnectionAborted);
        assert_eq!(backoff.failed(&error), None);
        assert_eq!(backoff.last, None);
    }
}
