//! What a place that keeps sessions has to do. It sees sealed values only, and decides neither who
//! may resume nor for how long.

use std::fmt;
use std::time::Duration;

/// The look-up key of a session: 32 random bytes that the server chose and the client repeats.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionKey([u8; SessionKey::LEN]);

impl SessionKey {
    /// Length in bytes: that of a ticket of the stateful kind and of a TLS 1.2 session identifier.
    pub const LEN: usize = 32;

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// From what a client offered; `None` for any other length.
    pub fn parse(offered: &[u8]) -> Option<Self> {
        offered.try_into().ok().map(Self)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

impl fmt::Debug for SessionKey {
    /// Whoever has a key may take its session away, so it is not shown.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey(..)")
    }
}

/// Why a value was not accepted for keeping. No ticket is sent then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// As many values wait to be written as may.
    #[error("queue of values to write is full")]
    QueueFull,
    /// Too many look-ups failed lately, so nothing is tried for a while.
    #[error("circuit breaker is open")]
    BreakerOpen,
}

/// Why a look-up has no answer. The handshake is a full one then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LookUpError {
    /// The deadline passed.
    #[error("no answer within the deadline")]
    TimedOut,
    /// There is no connection, or the answer is an error.
    #[error("backend is not available")]
    Unavailable,
    /// As many look-ups are under way as may be.
    #[error("too many look-ups at once")]
    Busy,
    /// Too many look-ups failed lately, so none is tried for a while.
    #[error("circuit breaker is open")]
    BreakerOpen,
}

/// A place that keeps sealed sessions.
///
/// rustls calls on the thread that drives the handshake and waits for the answer, so an
/// implementation bounds every call: a look-up by a deadline, a `put` by not waiting at all.
pub trait SessionBackend: fmt::Debug + Send + Sync {
    /// Keeps `value` for at most `lifetime`. May do so later, or lose it: then a session is not
    /// found, which is a full handshake.
    ///
    /// # Errors
    /// [`PutError`] if it is known already that the value will not be kept.
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError>;

    /// Removes the value of `key` and returns it, `None` if there is none. Of any number of calls
    /// at the same time exactly one gets it.
    ///
    /// # Errors
    /// [`LookUpError`] if there is no answer; whether the value is gone is then unknown.
    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError>;
}

/// A promise about a [`SessionBackend`], on which the protection of 0-RTT against replay rests (RFC
/// 8446, 8.1): all servers that share keys and scope use the same backend, and of all their `take`s
/// of one key at most one returns its value, ever.
///
/// A value that was taken must therefore not come back: not by a repeated write, nor from a
/// snapshot, nor on a replica that had not heard of it.
pub trait SharedBackend: SessionBackend {}
