//! Counts, every now and then, who holds what: at this replica and, by their own word, at those
//! that report to it. Decides when; sending it anywhere is left to whoever takes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use stek_core::check_in::{Census, KeysetTally, ReplicaId, ReplicaTally};
use stek_core::feed::FeedState;
use stek_core::id::Revision;
use stek_core::name::{InstanceName, KeysetName};
use stek_core::policy::Policy;
use stek_core::time::Seconds;
use tokio::sync::{Notify, watch};

use crate::Shared;
use crate::check_ins::presence;
use crate::shelf::changed;

/// How often it is counted when nothing happens.
pub(crate) const EVERY: Duration = Duration::from_secs(2);
/// While a revision is young, the least time from a count to the next that a check-in brings about.
/// Something else published is counted against at once.
const SOON: Duration = Duration::from_millis(100);
/// How long a revision is young.
const YOUNG: Duration = Duration::from_secs(30);

/// Tells the count that something has happened, if that is worth an early one.
#[derive(Debug, Default)]
pub(crate) struct News {
    told: Notify,
    /// Boot time in milliseconds until which a revision is young.
    young_until: AtomicU64,
}

impl News {
    /// A new revision is out.
    fn published(&self, boot: Duration) {
        self.young_until.store(millis(boot + YOUNG), Ordering::Relaxed);
    }

    /// Somebody holds something else than before.
    pub(crate) fn checked_in(&self, boot: Duration) {
        if millis(boot) < self.young_until.load(Ordering::Relaxed) {
            self.told.notify_one();
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Counts until shutdown, and puts each count out in the name of `replica`.
pub(crate) async fn keep(
    shared: Arc<Shared>,
    replica: InstanceName,
    counts: watch::Sender<Arc<Census>>,
) {
    let clock = Arc::clone(shared.fleet.clock());
    let mut feed = shared.feed.clone();
    let mut newest = None;
    loop {
        let begun = clock.boot();
        let revision =
            feed.borrow_and_update().as_ref().map(|feed| (feed.incarnation, feed.revision));
        if std::mem::replace(&mut newest, revision) != revision {
            shared.news.published(begun);
        }
        counts.send_replace(Arc::new(count(&shared, &replica, begun)));
        let soon = async {
            shared.news.told.notified().await;
            clock.sleep_until(begun + SOON).await;
        };
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = clock.sleep_until(begun + EVERY) => {}
            () = soon => {}
            () = changed(&mut feed) => {}
        }
    }
}

fn count(shared: &Shared, replica: &InstanceName, boot: Duration) -> Census {
    let mut replicas = Vec::new();
    if let Some(feed) = shared.feed.borrow().clone() {
        let keysets = own(shared, &feed, boot);
        shared.metrics.observe_instances(&keysets);
        if !keysets.is_empty() {
            let replica = ReplicaId { principal: None, name: replica.clone() };
            let (age, incarnation) = (Duration::ZERO, feed.incarnation);
            replicas.push(ReplicaTally { replica, age, incarnation, keysets });
        }
    }
    replicas.append(&mut shared.children.current(boot));
    Census { replicas }
}

fn own(
    shared: &Shared,
    feed: &FeedState,
    boot: Duration,
) -> BTreeMap<KeysetName, Arc<KeysetTally>> {
    let mut keysets = BTreeMap::new();
    for name in shared.check_ins.keysets() {
        let Some((newest, poll_interval)) = offered(feed, &name) else {
            shared.check_ins.forget(&name);
            continue;
        };
        let tally = shared.check_ins.tally(&name, newest, presence(poll_interval), boot);
        keysets.extend(tally.map(|tally| (name, Arc::new(tally))));
    }
    keysets
}

/// What is offered of a keyset, and how often it is asked for.
fn offered(feed: &FeedState, name: &KeysetName) -> Option<(Revision, Seconds)> {
    let live = feed.keysets.get(name);
    let live = live.map(|bundle| (bundle.tag().revision, bundle.policy().poll_interval()));
    live.or_else(|| {
        let deleted = feed.tombstones.get(name)?;
        Some((*deleted, Policy::default().poll_interval()))
    })
}
