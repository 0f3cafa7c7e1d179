//! The name of one request, by which the log lines of both its ends are found together. A client
//! may bring one; it is believed only as far as its shape goes, and is never more than a name.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::task::futures::TaskLocalFuture;

/// The header that carries it, in requests and in answers.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest that is taken from a client, in bytes.
pub const MAX_LEN: usize = 64;

tokio::task_local! {
    /// The request that this task answers.
    static CURRENT: RequestId;
}

/// The name of a request: 1 to 64 of a-z, A-Z, 0-9, '-', '.' and '_'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(Name);

/// Every request has one, and hardly any brings its own.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Brought(Arc<str>),
    Fresh([u8; 16]),
}

impl RequestId {
    /// The name that `headers` bring, or a fresh one if they bring none or none that is allowed.
    pub fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
        brought.and_then(Self::parse).unwrap_or_else(Self::fresh)
    }

    /// Reads a name; `None` if it is not allowed.
    pub fn parse(text: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        let fits = (1..=MAX_LEN).contains(&text.len()) && text.bytes().all(allowed);
        fits.then(|| Self(Name::Brought(text.into())))
    }

    /// One that no other request has: a count, hashed under a key of this process.
    fn fresh() -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut rest = KEY.hash_one(COUNT.fetch_add(1, Ordering::Relaxed));
        let mut digits = [0; 16];
        for digit in &mut digits {
            rest = rest.rotate_left(4);
            *digit = b"0123456789abcdef"[(rest & 15) as usize];
        }
        Self(Name::Fresh(digits))
    }

    /// That of the request that this task answers. For log lines.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Self::clone).ok()
    }

    /// Runs `future` as the answer to this request.
    pub(crate) fn scope<F: Future>(self, future: F) -> TaskLocalFuture<Self, F> {
        CURRENT.scope(self, future)
    }

    /// Runs `work` as a part of the answer to this request.
    pub(crate) fn scope_sync<T>(self, work: impl FnOnce() -> T) -> T {
        CURRENT.sync_scope(self, work)
    }

    fn as_str(&self) -> &str {
        match &self.0 {
            Name::Brought(text) => text,
            // Digits are text.
            Name::Fresh(digits) => std::str::from_utf8(digits).unwrap_or(""),
        }
    }

    /// As the value of a header.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let value = match &self.0 {
            Name::Brought(text) => text.as_bytes(),
            Name::Fresh(digits) => digits,
        };
        HeaderValue::from_bytes(value).ok()
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(value: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers).to_string()
    }

    #[test]
    fn a_name_that_is_allowed_is_kept() {
        let longest = "x".repeat(MAX_LEN);
        for good in ["a", "0199af3e-7a00_B.c", &longest] {
            assert_eq!(of(good.as_bytes()), good);
        }
    }

    #[test]
    fn anything_else_is_replaced() {
        let long = "x".repeat(MAX_LEN + 1);
        for bad in [&b""[..], b"a b", b"a\"b", b"a=b", b"\xff", b"a,b", long.as_bytes()] {
            let name = of(bad);
            assert_eq!(name.len(), 16, "{name}");
            assert_ne!(name.as_bytes(), bad);
        }
    }

    #[test]
    fn fresh_names_differ() {
        let names: std::collections::HashSet<_> =
            (0..1_000).map(|_| RequestId::of(&HeaderMap::new()).to_string()).collect();
        assert_eq!(names.len(), 1_000);
    }
}
