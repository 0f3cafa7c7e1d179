//! A clock that stands still, and knows who sleeps until when.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use stek_clock::{Clock, ManualClock};
use tokio::sync::watch;

use super::material::T0;

/// Sleeps longer than this are time-outs and erasures, which only a test lets pass; so a test leaves
/// more than this of a time-out when it goes on to the next request.
const LONGEST_PAUSE: Duration = Duration::from_millis(5_500);

pub struct TestClock {
    manual: ManualClock,
    sleepers: watch::Sender<BTreeMap<u64, Duration>>,
    ids: AtomicU64,
}

impl TestClock {
    pub fn new() -> Self {
        Self {
            manual: ManualClock::at_unix_millis(T0 * 1000),
            sleepers: watch::Sender::default(),
            ids: AtomicU64::new(0),
        }
    }

    pub fn advance(&self, span: Duration) {
        self.manual.advance(span);
    }

    pub fn set_wall_millis(&self, wall_millis: u64) {
        self.manual.set_wall_millis(wall_millis);
    }

    /// Waits until somebody makes a pause, and lets it pass.
    pub async fn skip_pause(&self) {
        let mut sleepers = self.sleepers.subscribe();
        let soonest = |sleepers: &BTreeMap<u64, Duration>| {
            let now = self.boot();
            let ahead = sleepers.values().filter(|deadline| **deadline > now);
            ahead.min().map(|deadline| *deadline - now).filter(|span| *span <= LONGEST_PAUSE)
        };
        let sleepers = sleepers.wait_for(|sleepers| soonest(sleepers).is_some()).await.unwrap();
        let span = soonest(&sleepers).unwrap();
        drop(sleepers);
        self.advance(span);
    }

    /// Waits until somebody sleeps for this long exactly.
    pub async fn sleeper(&self, span: Duration) {
        let deadline = self.boot() + span;
        let mut sleepers = self.sleepers.subscribe();
        let wait = sleepers.wait_for(|all| all.values().any(|other| *other == deadline));
        tokio::time::timeout(super::PATIENCE, wait).await.expect("nobody sleeps so long").unwrap();
    }
}

struct Sleeper<'a>(&'a TestClock, u64);

impl Drop for Sleeper<'_> {
    fn drop(&mut self) {
        self.0.sleepers.send_if_modified(|sleepers| sleepers.remove(&self.1).is_some());
    }
}

#[async_trait]
impl Clock for TestClock {
    fn boot(&self) -> Duration {
        self.manual.boot()
    }

    fn wall_millis(&self) -> u64 {
        self.manual.wall_millis()
    }

    async fn sleep_until(&self, deadline: Duration) {
        if self.boot() < deadline {
            let id = self.ids.fetch_add(1, Ordering::Relaxed);
            self.sleepers.send_if_modified(|sleepers| sleepers.insert(id, deadline).is_none());
            let _sleeper = Sleeper(self, id);
            self.manual.sleep_until(deadline).await;
        }
    }
}
