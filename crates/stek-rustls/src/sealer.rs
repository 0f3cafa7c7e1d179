//! Seals sessions under the keys of the fleet and opens them, if the rules of the server allow that.
//! Whether they go to clients as tickets or to a store, and what a connection remembers, is decided
//! elsewhere; keys and schedules are [`Snapshot`](stek_core::snapshot::Snapshot)'s.

use std::fmt;
use std::sync::Arc;

use stek_core::snapshot::OpenMiss;
use stek_core::ticket::{MAX_TICKET_LEN, MIN_TICKET_LEN};
use stek_core::time::{Seconds, Timestamp};
use zeroize::Zeroizing;

use crate::keys::TicketKeys;
use crate::metrics::{OpenOutcome, SealOutcome, TicketMetrics};
use crate::nonce::NonceSource;
use crate::rules::{Rules, session_end};
use crate::session::ReadSession;

/// What all connections of a server share.
pub(crate) struct Sealer {
    pub(crate) keys: Arc<TicketKeys>,
    pub(crate) metrics: TicketMetrics,
    pub(crate) nonces: Arc<dyn NonceSource>,
    pub(crate) rules: Rules,
    pub(crate) read: ReadSession,
}

/// A sealed session.
pub(crate) struct Sealed {
    pub(crate) bytes: Vec<u8>,
    /// For how long it will open.
    pub(crate) lifetime: Seconds,
}

/// A session that opened.
pub(crate) struct Opened {
    /// Erased unless rustls takes it.
    pub(crate) session: Zeroizing<Vec<u8>>,
    pub(crate) authenticated_at: Timestamp,
    /// Since it was sealed.
    pub(crate) age: Seconds,
    /// Which tells the state of its key.
    pub(crate) outcome: OpenOutcome,
}

impl Opened {
    /// The session for rustls, which wants plain bytes; they are moved, so nothing is left here.
    pub(crate) fn into_session(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.session)
    }
}

impl Sealer {
    /// Seals `session`, of a chain that began at `authenticated_at` or begins now, with `bound` before
    /// it.
    pub(crate) fn seal(
        &self,
        bound: &[u8],
        session: &[u8],
        authenticated_at: Option<Timestamp>,
    ) -> Result<Sealed, SealOutcome> {
        let parsed = (self.read)(session).ok_or(SealOutcome::Unreadable)?;
        if !self.rules.allow(&parsed, self.keys.scope().client_auth()) {
            return Err(SealOutcome::NotAllowed);
        }
        let (now, boot) = self.keys.now_and_boot();
        let nonce = self.nonces.draw(boot).map_err(|_| SealOutcome::NoRandomness)?;
        // Last, and held as briefly as can be: taking it waits until all that was written before is.
        let snapshot = self.keys.load();
        let snapshot = snapshot.as_ref().ok_or(SealOutcome::NoActiveKey)?;
        // A chain that a faster clock began counts as begun now.
        let authenticated_at = authenticated_at.map_or(now, |begun| begun.min(now));
        let end = session_end(&parsed, snapshot.policy(), authenticated_at)
            .ok_or(SealOutcome::Unreadable)?;
        if now >= end {
            return Err(SealOutcome::SessionTooOld);
        }
        let sealed = if bound.is_empty() {
            snapshot.seal(session, authenticated_at, &nonce, now)?
        } else {
            let payload = Zeroizing::new([bound, session].concat());
            snapshot.seal(&payload, authenticated_at, &nonce, now)?
        };
        Ok(Sealed { bytes: sealed.ticket, lifetime: sealed.lifetime.min(end.since(now)) })
    }

    /// Opens what an attacker may have made. `may_try` is asked once the key is known to be ours and
    /// before anything is decrypted; `unbind` takes off what was bound before the session.
    pub(crate) fn open<E: From<OpenOutcome>>(
        &self,
        sealed: &[u8],
        may_try: impl FnOnce() -> bool,
        unbind: impl FnOnce(Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, E>,
    ) -> Result<Opened, E> {
        let miss = |miss: OpenMiss| OpenOutcome::from(miss);
        // Clock and keys come after what can be told without them, for a hello may offer thousands.
        // The limits are those of the format: one learned from what was sealed here would refuse
        // longer tickets of the fleet until this node has sealed as long a one.
        if !(MIN_TICKET_LEN..=MAX_TICKET_LEN).contains(&sealed.len()) {
            return Err(OpenOutcome::Malformed.into());
        }
        let snapshot = self.keys.load();
        let snapshot = snapshot.as_ref().ok_or(OpenOutcome::Unknown)?;
        let candidate = snapshot.find(sealed).map_err(miss)?;
        if !may_try() {
            return Err(OpenOutcome::TooMany.into());
        }
        let now = self.keys.now();
        let opened = candidate.open(now).map_err(miss)?;
        let session = unbind(opened.payload)?;
        let parsed = (self.read)(&session).ok_or(OpenOutcome::NotAllowed)?;
        if !self.rules.allow(&parsed, self.keys.scope().client_auth()) {
            return Err(OpenOutcome::NotAllowed.into());
        }
        let authenticated_at = opened.stamp.authenticated_at;
        let end = session_end(&parsed, snapshot.policy(), authenticated_at)
            .ok_or(OpenOutcome::NotAllowed)?;
        if now >= end {
            return Err(OpenOutcome::SessionTooOld.into());
        }
        let age = now.since(opened.stamp.issued_at);
        let outcome = OpenOutcome::from(opened.state);
        Ok(Opened { session, authenticated_at, age, outcome })
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").field("keys", &self.keys).finish_non_exhaustive()
    }
}
