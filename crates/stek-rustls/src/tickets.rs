//! The tickets of one connection, sealed and opened under the keys of the fleet; counts what became
//! of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::connection::Connection;
use crate::metrics::{OpenOutcome, SealOutcome, TicketMetrics};
use crate::sealer::{Opened, Sealed, Sealer};

/// What rustls asks of a ticketer, for a single connection.
#[derive(Debug)]
pub(crate) struct ConnectionTickets {
    connection: Connection,
    /// Seconds that the ticket sealed last will open; zero before the first.
    hint: AtomicU32,
}

impl ConnectionTickets {
    pub(crate) fn new(sealer: Arc<Sealer>) -> Self {
        Self { connection: Connection::new(sealer), hint: AtomicU32::new(0) }
    }

    /// A ticket for `session`, if such sessions may be resumed and there is time left.
    pub(crate) fn seal(&self, session: &[u8]) -> Option<Vec<u8>> {
        let sealed = self.connection.seal(&[], session);
        // At most 604,800.
        let hint = sealed.as_ref().map_or(0, |sealed| sealed.lifetime.as_secs());
        self.hint.store(u32::try_from(hint).unwrap_or(0), Ordering::Relaxed);
        counted_seal(&self.connection.sealer().metrics, sealed)
    }

    /// The session in a ticket that an attacker may have made; `None` whatever the cause.
    pub(crate) fn open(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let opened = self.connection.open(ticket, || self.connection.may_try_one_more(), Ok);
        counted_open(&self.connection.sealer().metrics, opened)
    }

    /// Seconds for which the ticket sealed last will open, zero if none was sealed.
    pub(crate) fn lifetime_hint(&self) -> u32 {
        self.hint.load(Ordering::Relaxed)
    }
}

pub(crate) fn counted_seal(
    metrics: &TicketMetrics,
    sealed: Result<Sealed, SealOutcome>,
) -> Option<Vec<u8>> {
    metrics.count_sealed(sealed.as_ref().err().copied().unwrap_or(SealOutcome::Sealed));
    sealed.ok().map(|sealed| sealed.bytes)
}

pub(crate) fn counted_open(
    metrics: &TicketMetrics,
    opened: Result<Opened, OpenOutcome>,
) -> Option<Vec<u8>> {
    metrics.count_opened(opened.as_ref().map_or_else(|miss| *miss, |opened| opened.outcome));
    let opened = opened.ok()?;
    metrics.observe_age(opened.age);
    Some(opened.into_session())
}
