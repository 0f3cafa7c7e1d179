//! The sessions of one connection: the one that is offered, and those that come of it. Also the
//! clock on which a session is offered that its hint says is over.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::time_provider::TimeProvider;
use stek_clock::Clock;

use super::handshake::SentTicket;

/// The most sessions that are taken from one connection.
const MAX_SESSIONS: usize = 64;

/// A session that can be offered, and the ticket that stands for it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(super) value: Value,
    /// Absent where TLS 1.2 resumes by the server's session identifier alone.
    pub(crate) ticket: Option<SentTicket>,
    /// Boot time at which it came.
    pub(crate) received: Duration,
    /// Unix seconds at which it came.
    pub(super) received_at: u64,
}

impl Session {
    /// For how long the server says that it may be used, in seconds; `None` if it says nothing.
    pub(crate) fn hint(&self) -> Option<u32> {
        self.ticket.as_ref().map(|ticket| ticket.lifetime_hint).filter(|hint| *hint > 0)
    }

    /// The same once more, where it may be offered twice: in TLS 1.2.
    pub(crate) fn again(&self) -> Option<Self> {
        let Value::Tls12(value) = &self.value else { return None };
        let value = Value::Tls12(value.clone());
        Some(Self { value, ticket: self.ticket.clone(), ..*self })
    }
}

/// A session as rustls hands it out, which tells nobody what is in it.
#[derive(Debug)]
pub(super) enum Value {
    Tls12(Box<Tls12ClientSessionValue>),
    Tls13(Box<Tls13ClientSessionValue>),
}

/// What the client offers once and what it was given.
#[derive(Debug, Default)]
pub(super) struct Wallet(Mutex<Sessions>);

#[derive(Debug, Default)]
struct Sessions {
    offer: Option<Value>,
    given: Vec<Value>,
}

impl Wallet {
    pub(super) fn new(offer: Option<Value>) -> Self {
        Self(Mutex::new(Sessions { offer, given: Vec::new() }))
    }

    /// How many sessions came so far.
    pub(super) fn count(&self) -> usize {
        self.lock().given.len()
    }

    /// The sessions that came, in order.
    pub(super) fn take(&self) -> Vec<Value> {
        std::mem::take(&mut self.lock().given)
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, value: Value) {
        let mut sessions = self.lock();
        if sessions.given.len() < MAX_SESSIONS {
            sessions.given.push(value);
        }
    }
}

impl ClientSessionStore for Wallet {
    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.keep(Value::Tls12(Box::new(value)));
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        match &self.lock().offer {
            Some(Value::Tls12(value)) => Some((**value).clone()),
            _ => None,
        }
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.keep(Value::Tls13(Box::new(value)));
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let mut sessions = self.lock();
        match sessions.offer.take() {
            Some(Value::Tls13(value)) => Some(*value),
            other => {
                sessions.offer = other;
                None
            }
        }
    }
}

/// The time, but never past `until`: a client forgets a ticket when its hint is over, and here it is
/// to be offered all the same.
pub(super) struct Held {
    pub(super) clock: Arc<dyn Clock>,
    /// Unix seconds.
    pub(super) until: u64,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("until", &self.until).finish_non_exhaustive()
    }
}

impl TimeProvider for Held {
    fn current_time(&self) -> Option<UnixTime> {
        let now = self.clock.wall_millis() / 1_000;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(now.min(self.until))))
    }
}
