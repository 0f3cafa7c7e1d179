//! Wakes the reconcile loop when another manager has committed. Only a hint: the loop looks by
//! itself every few seconds, so word that is lost costs no more than that.

use std::sync::Arc;
use std::time::Duration;

use stek_core::feed::FeedState;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;

/// How long to wait when there is no word to be had.
const RETRY: Duration = Duration::from_secs(5);
/// The least time between two new connections, should each be lost at once.
const SPACING: Duration = Duration::from_millis(250);

/// Listens until `shutdown`.
pub(crate) async fn run(
    engine: Arc<Engine>,
    feed: watch::Receiver<Option<Arc<FeedState>>>,
    shutdown: CancellationToken,
) {
    let listening = async {
        let mut failing = false;
        loop {
            let pause = match engine.store.notified().await {
                Ok(revision) => {
                    if std::mem::replace(&mut failing, false) {
                        tracing::info!("other managers are listened to again");
                    }
                    let is_known = |feed: &Option<Arc<FeedState>>| {
                        feed.as_ref().is_some_and(|feed| Some(feed.revision) >= revision)
                    };
                    if revision.is_none() || !is_known(&feed.borrow()) {
                        engine.changed.notify_one();
                    }
                    if revision.is_none() { SPACING } else { Duration::ZERO }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(
                            error,
                            "other managers are not listened to; looked at instead"
                        );
                    }
                    RETRY
                }
            };
            engine.clock().sleep(pause).await;
        }
    };
    shutdown.run_until_cancelled(listening).await;
}
