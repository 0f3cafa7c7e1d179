//! Takes away every key at its own `destroy_at`, whether or not anybody can be reached.

use stek_clock::FleetClock;
use tokio::sync::Notify;

use crate::content::{Content, Source};
use crate::installed::Installed;
use crate::metrics::Metrics;

/// Erases for ever. `rearm` tells of other content and of fleet time that moved.
pub(crate) async fn erase_when_due<C: Content>(
    installed: &Installed<C>,
    fleet: &FleetClock,
    rearm: &Notify,
    metrics: &Metrics,
    source: &Source,
) {
    loop {
        if let Some(thinner) = installed.erase(fleet.now()) {
            let keys = thinner.key_count();
            tracing::info!(keyset = source.keyset(), keys, "keys erased whose time had come");
            metrics.set_last_key_end(thinner.last_end());
        }
        let due = installed.current().and_then(|content| content.next_erasure());
        let sleep = async {
            match due {
                Some(instant) => fleet.sleep_until(instant).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => {}
            () = rearm.notified() => {}
        }
    }
}
