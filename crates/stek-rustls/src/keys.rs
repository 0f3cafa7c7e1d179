//! The keys that a process has for one scope, exchanged under running handshakes without a lock.
//! What may replace what is decided by whoever feeds bundles in, when a key seals or opens by
//! [`Snapshot`].

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwapOption, Guard};
use stek_clock::FleetClock;
use stek_core::bundle::Bundle;
use stek_core::derive::{Schema, Use};
use stek_core::id::ContentTag;
use stek_core::scope::{Scope, ScopeDigest};
use stek_core::snapshot::Snapshot;
use stek_core::time::{Seconds, Timestamp};

/// The current ticket keys of one scope and one use.
///
/// Empty until the first [`TicketKeys::install`]. Several of these, each for its scope, can be fed
/// from one stream of bundles. Only keys derived for the scope are kept, never the ticket keys
/// themselves.
pub struct TicketKeys {
    usage: Use,
    scope: Scope,
    digest: ScopeDigest,
    clock: Arc<FleetClock>,
    current: ArcSwapOption<Snapshot>,
    /// Held while the snapshot is replaced, so that of two replacements one builds on the other.
    /// Handshakes never wait for it.
    replacing: Mutex<()>,
}

impl TicketKeys {
    /// No keys yet for tickets of `scope`; time is what `clock` says.
    pub fn new(scope: Scope, clock: Arc<FleetClock>) -> Self {
        Self::for_use(Use::Ticket, scope, clock)
    }

    /// The same for tickets or for stored sessions. Neither ever opens what was sealed for the other.
    pub fn for_use(usage: Use, scope: Scope, clock: Arc<FleetClock>) -> Self {
        let digest = scope.digest();
        let (current, replacing) = (ArcSwapOption::empty(), Mutex::default());
        Self { usage, scope, digest, clock, current, replacing }
    }

    /// Replaces the keys by those of `bundle`, without those whose `destroy_at` has come.
    ///
    /// Only keys that were not there before are derived. What is left out is erased as soon as the
    /// last handshake that is sealing or opening at this moment is through with it.
    ///
    /// Not asked here: whether the bundle is newer and of the same keyset. That is
    /// [`stek_core::bundle::check_replacement`], which whoever feeds this has to call.
    pub fn install(&self, bundle: &Bundle) {
        let _replacing = self.replacing();
        let bundle = bundle.erased_at(self.clock.now());
        let previous = self.current.load_full();
        let schema = Schema::RUSTLS_0_23;
        let next = Snapshot::new(&bundle, self.usage, schema, self.digest, previous.as_deref());
        self.current.store(Some(Arc::new(next)));
    }

    /// Erases each key whose `destroy_at` has come, and says for how long the next one has left,
    /// `None` if there is none. The names stay, so that tickets go on to be missed as expired.
    ///
    /// An ended key opens nothing, but it stays in memory until this is called, or
    /// [`install`](Self::install). **Whoever feeds bundles in calls it by a timer,** again when that
    /// span has passed; the bundles themselves are to be erased beside it
    /// ([`Bundle::erased_at`]). A `Fleet` does all that for its own.
    pub fn erase_ended(&self) -> Option<Seconds> {
        let _replacing = self.replacing();
        let (snapshot, now) = (self.current.load_full()?, self.clock.now());
        if let Some(rest) = snapshot.without_ended(now) {
            self.current.store(Some(Arc::new(rest)));
        }
        let ends = snapshot.schedules().map(|(_, schedule)| schedule.destroy_at());
        ends.filter(|end| *end > now).min().map(|end| end.since(now))
    }

    /// Erases all keys at once, and forgets the names of ended ones.
    pub fn clear(&self) {
        let _replacing = self.replacing();
        self.current.store(None);
    }

    /// Which content is installed.
    pub fn tag(&self) -> Option<ContentTag> {
        self.current.load().as_ref().map(|snapshot| snapshot.tag())
    }

    /// The resumption domain that the keys are for.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// What they are derived for.
    pub fn usage(&self) -> Use {
        self.usage
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Now, and the boot time of the same instant.
    pub(crate) fn now_and_boot(&self) -> (Timestamp, Duration) {
        self.clock.now_and_boot()
    }

    /// The snapshot of this moment. The guard keeps it from being erased, so it must not outlive
    /// the sealing or opening of one ticket.
    pub(crate) fn load(&self) -> Guard<Option<Arc<Snapshot>>> {
        self.current.load()
    }

    fn replacing(&self) -> MutexGuard<'_, ()> {
        self.replacing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketKeys")
            .field("scope", &self.scope.label())
            .field("snapshot", &*self.load())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::fixture::{HOUR, advance, bundle, clock, key, planned_key, scope};

    fn keys() -> (Arc<stek_clock::ManualClock>, TicketKeys) {
        let manual = clock();
        let clock = Arc::<stek_clock::ManualClock>::clone(&manual);
        (manual, TicketKeys::new(scope("web"), Arc::new(FleetClock::new(clock))))
    }

    fn watched(keys: &TicketKeys) -> Weak<Snapshot> {
        keys.load().as_ref().map(Arc::downgrade).unwrap()
    }

    #[test]
    fn what_is_replaced_goes_with_the_last_guard() {
        let (_, keys) = keys();
        keys.install(&bundle(1, &[planned_key(0)]));
        let (guard, old) = (keys.load(), watched(&keys));
        keys.install(&bundle(2, &[planned_key(0)]));
        assert!(old.upgrade().is_some());
        drop(guard);
        assert!(old.upgrade().is_none());
        let old = watched(&keys);
        keys.install(&bundle(3, &[planned_key(0)]));
        assert!(old.upgrade().is_none());
    }

    #[test]
    fn material_is_not_kept() {
        let (_, keys) = keys();
        let secret = planned_key(0);
        keys.install(&bundle(1, std::slice::from_ref(&secret)));
        assert_eq!(Arc::strong_count(&secret.material), 1);
    }

    #[test]
    fn each_key_is_erased_when_it_has_ended_though_no_bundle_comes() {
        let (clock, keys) = keys();
        assert_eq!(keys.erase_ended(), None);
        keys.install(&bundle(1, &[key(0, 10, 20), key(10, 20, 30)]));
        let held = || keys.load().as_ref().unwrap().schedules().count();
        let left = |seconds| Some(Seconds::new(seconds));
        assert_eq!((keys.erase_ended(), held()), (left(20), 2));
        advance(&clock, 19);
        assert_eq!((keys.erase_ended(), held()), (left(1), 2));
        advance(&clock, 1);
        let old = watched(&keys);
        assert_eq!((keys.erase_ended(), held()), (left(10), 1));
        assert!(old.upgrade().is_none());
        advance(&clock, 10);
        assert_eq!((keys.erase_ended(), held()), (None, 0));
    }

    #[test]
    fn ended_keys_are_not_installed_and_go_with_the_next_installation() {
        let (clock, keys) = keys();
        let bundle = bundle(1, &[key(0, 10, 20), planned_key(10)]);
        let held = || keys.load().as_ref().unwrap().schedules().count();
        keys.install(&bundle);
        assert_eq!(held(), 2);
        advance(&clock, 20);
        keys.install(&bundle);
        assert_eq!(held(), 1);
        advance(&clock, 24 * HOUR);
        keys.install(&bundle);
        assert_eq!(held(), 0);
    }
}
