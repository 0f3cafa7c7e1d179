//! `[listen.limits]`: what a listener grants its clients. Ranges are held where the limits are.

use std::time::Duration;

use serde::Deserialize;
use stek_http::{LimitError, Limits};

use crate::Refused;

/// `[listen.limits]`; what is left out takes its default.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsSection {
    /// See [`Limits::max_connections`].
    pub max_connections: Option<usize>,
    /// See [`Limits::handshake_timeout`].
    pub handshake_timeout_seconds: Option<u64>,
    /// See [`Limits::header_read_timeout`].
    pub header_read_timeout_seconds: Option<u64>,
    /// See [`Limits::body_read_timeout`].
    pub body_read_timeout_seconds: Option<u64>,
    /// See [`Limits::idle_timeout`].
    pub idle_timeout_seconds: Option<u64>,
    /// See [`Limits::max_header_bytes`].
    pub max_header_bytes: Option<usize>,
    /// See [`Limits::max_body_bytes`].
    pub max_body_bytes: Option<usize>,
    /// See [`Limits::max_concurrent_streams`].
    pub max_concurrent_streams: Option<usize>,
    /// See [`Limits::requests_per_second`].
    pub requests_per_second: Option<u32>,
    /// See [`Limits::request_burst`].
    pub request_burst: Option<u32>,
    /// See [`Limits::max_waiting`].
    pub max_waiting: Option<usize>,
    /// See [`Limits::drain_timeout`].
    pub drain_timeout_seconds: Option<u64>,
}

impl LimitsSection {
    /// The limits, checked.
    ///
    /// # Errors
    /// [`Refused`] with the key, its value and its range.
    pub fn to_limits(&self) -> Result<Limits, Refused> {
        let mut limits = Limits::default();
        set(&mut limits.max_connections, self.max_connections);
        set_time(&mut limits.handshake_timeout, self.handshake_timeout_seconds);
        set_time(&mut limits.header_read_timeout, self.header_read_timeout_seconds);
        set_time(&mut limits.body_read_timeout, self.body_read_timeout_seconds);
        set_time(&mut limits.idle_timeout, self.idle_timeout_seconds);
        set(&mut limits.max_header_bytes, self.max_header_bytes);
        set(&mut limits.max_body_bytes, self.max_body_bytes);
        set(&mut limits.max_concurrent_streams, self.max_concurrent_streams);
        set(&mut limits.requests_per_second, self.requests_per_second);
        set(&mut limits.request_burst, self.request_burst);
        set(&mut limits.max_waiting, self.max_waiting);
        set_time(&mut limits.drain_timeout, self.drain_timeout_seconds);
        limits.check().map_err(refused)?;
        Ok(limits)
    }
}

fn set<T>(limit: &mut T, asked: Option<T>) {
    if let Some(asked) = asked {
        *limit = asked;
    }
}

fn set_time(limit: &mut Duration, asked: Option<u64>) {
    set(limit, asked.map(Duration::from_secs));
}

fn refused(error: LimitError) -> Refused {
    let LimitError { field, value, allowed } = error;
    let unit = if field.ends_with("timeout") { "_seconds" } else { "" };
    Refused(format!("listen.limits.{field}{unit} is {value}, allowed is {allowed}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Limits, String> {
        let section: LimitsSection = toml::from_str(text).map_err(|error| error.to_string())?;
        section.to_limits().map_err(|error| error.0)
    }

    #[test]
    fn what_is_left_out_is_the_default_and_the_rest_is_taken() {
        assert_eq!(read(""), Ok(Limits::default()));
        let limits = read("max_waiting = 7\nidle_timeout_seconds = 9").unwrap();
        assert_eq!((limits.max_waiting, limits.idle_timeout), (7, Duration::from_secs(9)));
    }

    #[test]
    fn what_is_out_of_range_is_named_as_it_was_written() {
        let error = read("handshake_timeout_seconds = 0").unwrap_err();
        assert_eq!(
            error,
            "listen.limits.handshake_timeout_seconds is 0ns, allowed is 1ms to 3600s"
        );
        let error = read("requests_per_second = 0").unwrap_err();
        assert_eq!(error, "listen.limits.requests_per_second is 0, allowed is 1 to 1000000");
        assert!(read("max_conections = 1").unwrap_err().contains("max_conections"));
    }
}
