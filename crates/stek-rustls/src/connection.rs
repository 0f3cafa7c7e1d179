//! What one connection remembers from the sessions that it opened to those that it seals, so that a
//! chain of resumptions ends and a client cannot have everything tried. The same for tickets and
//! for stored sessions.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use stek_core::time::Timestamp;
use zeroize::Zeroizing;

use crate::metrics::{OpenOutcome, SealOutcome};
use crate::sealer::{Opened, Sealed, Sealer};

/// One connection of a server. Its calls come one after another, though not on one thread.
pub(crate) struct Connection {
    sealer: Arc<Sealer>,
    /// Unix seconds of the oldest full handshake behind the sessions opened here, [`NONE_OPENED`]
    /// before the first.
    authenticated_at: AtomicU64,
    tries_left: AtomicU32,
}

const NONE_OPENED: u64 = u64::MAX;

impl Connection {
    pub(crate) fn new(sealer: Arc<Sealer>) -> Self {
        let tries_left = AtomicU32::new(sealer.rules.tries(sealer.keys.usage()));
        Self { sealer, authenticated_at: AtomicU64::new(NONE_OPENED), tries_left }
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// As [`Sealer::seal`], continuing the oldest chain that was opened here.
    pub(crate) fn seal(&self, bound: &[u8], session: &[u8]) -> Result<Sealed, SealOutcome> {
        let begun = match self.authenticated_at.load(Ordering::Relaxed) {
            NONE_OPENED => None,
            seconds => Some(Timestamp::from_unix(seconds)),
        };
        self.sealer.seal(bound, session, begun)
    }

    /// As [`Sealer::open`], and remembers when its chain began. Opened is not resumed: rustls may
    /// still refuse; then the next session ends earlier than it had to.
    pub(crate) fn open<E: From<OpenOutcome>>(
        &self,
        sealed: &[u8],
        may_try: impl FnOnce() -> bool,
        unbind: impl FnOnce(Zeroizing<Vec<u8>>) -> Result<Zeroizing<Vec<u8>>, E>,
    ) -> Result<Opened, E> {
        let opened = self.sealer.open(sealed, may_try, unbind)?;
        self.authenticated_at.fetch_min(opened.authenticated_at.as_unix(), Ordering::Relaxed);
        Ok(opened)
    }

    /// Uses one of the tries up, if one is left.
    pub(crate) fn may_try_one_more(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.tries_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("sealer", &self.sealer).finish_non_exhaustive()
    }
}
