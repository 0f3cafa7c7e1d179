//! The clocks of one machine among several: each may be set wrong or suspended, while true time goes
//! on for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stek_clock::{Clock, ManualClock};
use tokio::sync::watch;

/// What a suspended machine last saw.
#[derive(Debug, Clone, Copy)]
struct Frozen {
    boot: Duration,
    wall_millis: u64,
}

/// The clocks of a machine. Its boot time is that of the clock below; its wall clock is ahead of
/// that by what a test says.
#[derive(Debug)]
pub struct HostClock {
    truth: Arc<ManualClock>,
    ahead_millis: AtomicI64,
    suspended: watch::Sender<Option<Frozen>>,
}

impl HostClock {
    /// A machine whose clocks are right.
    pub fn new(truth: &Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self {
            truth: Arc::clone(truth),
            ahead_millis: AtomicI64::new(0),
            suspended: watch::Sender::new(None),
        })
    }

    /// Sets the wall clock so many milliseconds ahead of the truth, or behind it.
    pub fn set_ahead(&self, millis: i64) {
        self.ahead_millis.store(millis, Ordering::SeqCst);
    }

    /// Suspends the machine: its clocks stand and none of its sleepers wakes.
    pub fn suspend(&self) {
        let frozen = Frozen { boot: self.boot(), wall_millis: self.wall_millis() };
        self.suspended.send_replace(Some(frozen));
    }

    /// Ends that. Boot time and the wall clock have gone on meanwhile.
    pub fn resume(&self) {
        self.suspended.send_replace(None);
    }
}

#[async_trait]
impl Clock for HostClock {
    fn boot(&self) -> Duration {
        let frozen = *self.suspended.borrow();
        frozen.map_or_else(|| self.truth.boot(), |frozen| frozen.boot)
    }

    fn wall_millis(&self) -> u64 {
        let frozen = *self.suspended.borrow();
        let ahead = self.ahead_millis.load(Ordering::SeqCst);
        frozen.map_or_else(
            || self.truth.wall_millis().saturating_add_signed(ahead),
            |frozen| frozen.wall_millis,
        )
    }

    async fn sleep_until(&self, deadline: Duration) {
        let mut suspended = self.suspended.subscribe();
        while self.boot() < deadline {
            self.truth.sleep_until(deadline).await;
            // The sender lives in `self`, so the wait cannot fail.
            let _ = suspended.wait_for(Option::is_none).await;
        }
    }
}
