//! Tells everybody who waits when what is served here has become stale: others may know of more.
//! One task looks, so that ten thousand who wait have no timer for it.

use std::sync::Arc;
use std::time::Duration;

use stek_clock::FleetClock;
use stek_wire::headers::STALE_AFTER;
use tokio::sync::watch;

use crate::Shared;
use crate::shelf::changed;

/// How soon to look whether the database has been read again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How many times what is served has become stale.
pub(crate) struct Lapses(watch::Sender<u64>);

impl Default for Lapses {
    fn default() -> Self {
        Self(watch::Sender::new(0))
    }
}

impl Lapses {
    /// Returns when it becomes stale. If it is so already, it has to become fresh before.
    pub(crate) async fn next(&self) {
        changed(&mut self.0.subscribe()).await;
    }
}

/// Looks until shutdown.
pub(crate) async fn keep(shared: Arc<Shared>) {
    let mut was_fresh = false;
    loop {
        let left = left_until_stale(&shared.fleet);
        if was_fresh && left.is_none() {
            shared.lapses.0.send_modify(|lapses| *lapses += 1);
        }
        was_fresh = left.is_some();
        tokio::select! {
            () = shared.shutdown.cancelled() => return,
            () = shared.fleet.clock().sleep(left.unwrap_or(LOOK_AGAIN)) => {}
        }
    }
}

/// How long it takes until what is served here is stale, unless the database is read again; none if
/// it is stale already, or nobody knows how old it is.
fn left_until_stale(fleet: &FleetClock) -> Option<Duration> {
    let left = STALE_AFTER.checked_sub(fleet.read_age()?);
    left.filter(|left| !left.is_zero())
}
