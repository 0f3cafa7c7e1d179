//! Hands each bundle that comes to all [`TicketKeys`] that are in use. Decides nothing of what a
//! bundle may be.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use stek_clock::FleetClock;
use stek_core::bundle::Bundle;
use stek_core::derive::Use;
use stek_core::scope::Scope;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::keys::TicketKeys;
use crate::metrics::ages::Newest;

type Bundles = watch::Receiver<Option<Arc<Bundle>>>;

/// A running task that installs. Dropping it, or the end of the stream of bundles, erases the keys:
/// without the poller nobody would erase them in time or hear of a revocation.
pub(crate) struct Installer {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    clock: Arc<FleetClock>,
    /// Held while the newest bundle is looked up and installed, so that no older one follows it.
    state: Mutex<State>,
}

struct State {
    /// None once the installer has ended; a receiver holds the newest bundle alive.
    bundles: Option<Bundles>,
    /// Whoever has a ticketer keeps its keys.
    keys: Vec<Weak<TicketKeys>>,
}

impl Installer {
    /// Installs what `bundles` brings, from now on.
    pub(crate) fn start(bundles: Bundles, clock: Arc<FleetClock>) -> Self {
        let mut changes = bundles.clone();
        let state = Mutex::new(State { bundles: Some(bundles), keys: Vec::new() });
        let shared = Arc::new(Shared { clock, state });
        let installing = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                installing.install();
            }
            installing.end();
        });
        Self { shared, task: task.abort_handle() }
    }

    /// The keys of `scope` for `usage`, the same for all who ask for the same.
    pub(crate) fn keys_for(&self, usage: Use, scope: &Scope) -> Arc<TicketKeys> {
        let mut state = self.shared.lock();
        let mut in_use = state.keys.iter().filter_map(Weak::upgrade);
        if let Some(keys) = in_use.find(|keys| keys.usage() == usage && keys.scope() == scope) {
            return keys;
        }
        let clock = Arc::clone(&self.shared.clock);
        let keys = Arc::new(TicketKeys::for_use(usage, scope.clone(), clock));
        if let Some(bundle) = state.newest() {
            keys.install(&bundle);
        }
        state.keys.push(Arc::downgrade(&keys));
        keys
    }

    /// The newest bundle whenever it is asked for, until the installer ends.
    pub(crate) fn newest(&self) -> Newest {
        let shared = Arc::downgrade(&self.shared);
        Arc::new(move || shared.upgrade()?.lock().newest())
    }

    /// Installs the newest bundle everywhere, without waiting for the task.
    pub(crate) fn install(&self) {
        self.shared.install();
    }

    /// Erases all keys, as is meant.
    pub(crate) fn end(self) {
        self.shared.end();
    }
}

impl Drop for Installer {
    fn drop(&mut self) {
        self.task.abort();
        let left = self.shared.end();
        if left > 0 {
            tracing::warn!(
                scopes = left,
                "a fleet was dropped before its servers; from here on every handshake is a full one"
            );
        }
    }
}

impl Shared {
    fn install(&self) {
        let mut state = self.lock();
        let Some(bundle) = state.newest() else { return };
        state.keys.retain(|keys| {
            let Some(keys) = keys.upgrade() else { return false };
            keys.install(&bundle);
            true
        });
    }

    /// Erases all keys and returns of how many scopes somebody still has them.
    fn end(&self) -> usize {
        let mut state = self.lock();
        state.bundles = None;
        let in_use = state.keys.drain(..).filter_map(|keys| keys.upgrade());
        in_use.inspect(|keys| keys.clear()).count()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn newest(&self) -> Option<Arc<Bundle>> {
        self.bundles.as_ref()?.borrow().clone()
    }
}

impl fmt::Debug for Installer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Installer").field("keys", &self.shared.lock().keys).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::time::Duration;

    use super::*;
    use crate::fixture::{bundle, clock, planned_key, scope};

    fn start() -> (watch::Sender<Option<Arc<Bundle>>>, Installer) {
        let bundles = watch::Sender::new(None);
        let clock = Arc::new(FleetClock::new(clock()));
        let installer = Installer::start(bundles.subscribe(), clock);
        (bundles, installer)
    }

    fn send(bundles: &watch::Sender<Option<Arc<Bundle>>>, revision: u64) -> Arc<Bundle> {
        let bundle = Arc::new(bundle(revision, &[planned_key(0)]));
        bundles.send_replace(Some(Arc::clone(&bundle)));
        bundle
    }

    /// Waits until `true`, as the task runs on this thread.
    async fn until(condition: impl Fn() -> bool) {
        let waiting = async {
            while !condition() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), waiting).await.unwrap();
    }

    fn revision(keys: &TicketKeys) -> Option<u64> {
        keys.tag().map(|tag| tag.revision.as_u64())
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn every_bundle_goes_to_every_scope() {
        run(async {
            let (bundles, installer) = start();
            let early = installer.keys_for(Use::Ticket, &scope("web"));
            assert_eq!(revision(&early), None);
            send(&bundles, 1);
            until(|| revision(&early) == Some(1)).await;
            let late = installer.keys_for(Use::Ticket, &scope("shop"));
            assert_eq!(revision(&late), Some(1));
            send(&bundles, 2);
            until(|| revision(&early) == Some(2) && revision(&late) == Some(2)).await;
        });
    }

    #[test]
    fn an_end_finds_whoever_still_has_keys() {
        run(async {
            let (bundles, installer) = start();
            let kept = installer.keys_for(Use::Ticket, &scope("web"));
            drop(installer.keys_for(Use::Ticket, &scope("shop")));
            send(&bundles, 1);
            installer.install();
            assert_eq!(installer.shared.end(), 1);
            assert_eq!((revision(&kept), installer.shared.end()), (None, 0));
        });
    }

    #[test]
    fn installing_does_not_wait_for_the_task() {
        run(async {
            let (bundles, installer) = start();
            let keys = installer.keys_for(Use::Ticket, &scope("web"));
            send(&bundles, 1);
            installer.install();
            assert_eq!(revision(&keys), Some(1));
        });
    }

    #[test]
    fn one_scope_has_one_set_of_keys_while_it_is_in_use() {
        run(async {
            let (_bundles, installer) = start();
            let (one, two) = (
                installer.keys_for(Use::Ticket, &scope("web")),
                installer.keys_for(Use::Ticket, &scope("web")),
            );
            assert!(Arc::ptr_eq(&one, &two));
            assert!(!Arc::ptr_eq(&one, &installer.keys_for(Use::Ticket, &scope("shop"))));
            let gone = Arc::downgrade(&one);
            drop((one, two));
            assert!(gone.upgrade().is_none());
        });
    }

    #[test]
    fn keys_out_of_use_are_forgotten() {
        run(async {
            let (bundles, installer) = start();
            for _ in 0..100 {
                drop(installer.keys_for(Use::Ticket, &scope("web")));
            }
            send(&bundles, 1);
            installer.install();
            assert_eq!(installer.shared.lock().keys.len(), 0);
        });
    }

    #[test]
    fn the_end_of_either_side_erases_the_keys() {
        run(async {
            let (bundles, installer) = start();
            let keys = installer.keys_for(Use::Ticket, &scope("web"));
            let first = Arc::downgrade(&send(&bundles, 1));
            installer.install();
            drop(installer);
            assert_eq!(revision(&keys), None);
            // The task has ended with it, though bundles could still come.
            until(|| bundles.receiver_count() == 0).await;
            drop(bundles);
            assert!(first.upgrade().is_none());

            let (bundles, installer) = start();
            let keys = installer.keys_for(Use::Ticket, &scope("web"));
            let last = Arc::downgrade(&send(&bundles, 1));
            until(|| revision(&keys) == Some(1)).await;
            drop(bundles);
            until(|| revision(&keys).is_none() && last.upgrade().is_none()).await;
        });
    }
}
