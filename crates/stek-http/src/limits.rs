//! What one listener grants its clients: counts, sizes and times, each with a unit and a range.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Limits of one listener. Every field has a default; [`Server::bind`](crate::Server::bind) refuses
/// values outside the range stated at the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Connections held at once, counted from accept to close. A client beyond it is answered 503
    /// with `Retry-After` and its connection closed; of those at most
    /// [`TURNED_AWAY_AT_ONCE`](crate::TURNED_AWAY_AT_ONCE) at once, others are closed without an
    /// answer. Default 16,384; 1 – 1,000,000.
    pub max_connections: usize,
    /// Time from accept to a finished TLS handshake; and that in which a connection ends on which
    /// somebody was refused before anybody had proven who he is. Default 10 s; 1 ms – 1 h.
    pub handshake_timeout: Duration,
    /// Time from the end of the handshake until the head of the first request has arrived in full;
    /// and from the end of a response until that of the next, as long as nobody has proven who he
    /// is on the connection. Default 10 s; 1 ms – 1 h.
    pub header_read_timeout: Duration,
    /// Time from the first read of a request body to its end. Default 10 s; 1 ms – 1 h.
    pub body_read_timeout: Duration,
    /// Time that a connection may have no request waiting for an answer. Then it is told to finish,
    /// and after the same time again it is dropped, as is one on which a response has not been read
    /// within twice this time, whatever else goes on there. Default 120 s; 1 ms – 1 h.
    pub idle_timeout: Duration,
    /// Bytes of one request head. Default 16 KiB; 8 KiB (what the HTTP/1.1 parser needs) – 1 MiB.
    pub max_header_bytes: usize,
    /// Bytes of a request body, for every axum extractor; a route may choose its own by a
    /// [`DefaultBodyLimit`](axum::extract::DefaultBodyLimit) layer. Default 256 KiB; 0 – 64 MiB.
    pub max_body_bytes: usize,
    /// HTTP/2 streams that a client may have open on one connection. Default 128; 1 – 10,000.
    pub max_concurrent_streams: usize,
    /// Requests of one principal in a second, evenly. Default 1,000: ten thousand terminators behind
    /// one principal ask about 180 times a second when nothing changes (each once in 55 s), and a
    /// change or a restart is what the burst is for. 1 – 1,000,000.
    pub requests_per_second: u32,
    /// Requests that one principal may be ahead of that. Default 20,000: ten thousand terminators
    /// that are answered all at once and ask again. 1 – 10,000,000.
    pub request_burst: u32,
    /// Requests of one principal that wait for a change. Default 12,288: ten thousand terminators
    /// behind one principal, and a quarter of the default of connections is left to others;
    /// 1 – 1,000,000.
    pub max_waiting: usize,
    /// Time between HTTP/2 PING frames, which find dead peers under long-polls. Default 20 s;
    /// 1 ms – 1 h.
    pub keep_alive_interval: Duration,
    /// Time in which a PING must be answered. Default 10 s; 1 ms – 1 h.
    pub keep_alive_timeout: Duration,
    /// Time that open connections get to finish once the server shuts down, and those with a client
    /// certificate once an authority was taken out. Default 20 s, below
    /// the 30 s after which orchestrators kill; 0 – 1 h.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            handshake_timeout: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(10),
            body_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            max_header_bytes: 16 * KIB,
            max_body_bytes: 256 * KIB,
            max_concurrent_streams: 128,
            requests_per_second: 1_000,
            request_burst: 20_000,
            max_waiting: 12_288,
            keep_alive_interval: Duration::from_secs(20),
            keep_alive_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
        }
    }
}

/// A limit is outside its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("limit {field} is {value}, allowed is {allowed}")]
pub struct LimitError {
    /// The field of [`Limits`].
    pub field: &'static str,
    /// The value that was given.
    pub value: String,
    /// The range that is allowed.
    pub allowed: String,
}

impl Limits {
    /// Whether every limit is in its range.
    ///
    /// # Errors
    ///
    /// [`LimitError`] for the first that is not.
    pub fn check(&self) -> Result<(), LimitError> {
        check_count("max_connections", self.max_connections, 1, 1_000_000)?;
        check_count("max_header_bytes", self.max_header_bytes, 8 * KIB, MIB)?;
        check_count("max_body_bytes", self.max_body_bytes, 0, 64 * MIB)?;
        check_count("max_concurrent_streams", self.max_concurrent_streams, 1, 10_000)?;
        let [per_second, burst] =
            [self.requests_per_second, self.request_burst].map(usize::try_from);
        check_count("requests_per_second", per_second.unwrap_or(usize::MAX), 1, 1_000_000)?;
        check_count("request_burst", burst.unwrap_or(usize::MAX), 1, 10_000_000)?;
        check_count("max_waiting", self.max_waiting, 1, 1_000_000)?;
        check_time("handshake_timeout", self.handshake_timeout, SHORTEST)?;
        check_time("header_read_timeout", self.header_read_timeout, SHORTEST)?;
        check_time("body_read_timeout", self.body_read_timeout, SHORTEST)?;
        check_time("idle_timeout", self.idle_timeout, SHORTEST)?;
        check_time("keep_alive_interval", self.keep_alive_interval, SHORTEST)?;
        check_time("keep_alive_timeout", self.keep_alive_timeout, SHORTEST)?;
        check_time("drain_timeout", self.drain_timeout, Duration::ZERO)
    }
}

fn check_count(
    field: &'static str,
    value: usize,
    min: usize,
    max: usize,
) -> Result<(), LimitError> {
    if (min..=max).contains(&value) {
        return Ok(());
    }
    Err(LimitError { field, value: value.to_string(), allowed: format!("{min} to {max}") })
}

fn check_time(field: &'static str, value: Duration, min: Duration) -> Result<(), LimitError> {
    if (min..=LONGEST).contains(&value) {
        return Ok(());
    }
    Err(LimitError {
        field,
        value: format!("{value:?}"),
        allowed: format!("{min:?} to {LONGEST:?}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_allowed() {
        assert_eq!(Limits::default().check(), Ok(()));
    }

    #[test]
    fn a_count_out_of_range_names_field_value_and_range() {
        let limits = Limits { max_connections: 0, ..Limits::default() };
        assert_eq!(
            limits.check().unwrap_err().to_string(),
            "limit max_connections is 0, allowed is 1 to 1000000"
        );
    }

    #[test]
    fn a_time_out_of_range_names_field_value_and_range() {
        let limits = Limits { idle_timeout: Duration::from_secs(3601), ..Limits::default() };
        assert_eq!(
            limits.check().unwrap_err().to_string(),
            "limit idle_timeout is 3601s, allowed is 1ms to 3600s"
        );
        let limits = Limits { handshake_timeout: Duration::ZERO, ..Limits::default() };
        assert_eq!(limits.check().unwrap_err().field, "handshake_timeout");
    }

    #[test]
    fn only_the_drain_may_take_no_time_at_all() {
        let limits = Limits { drain_timeout: Duration::ZERO, ..Limits::default() };
        assert_eq!(limits.check(), Ok(()));
    }
}
