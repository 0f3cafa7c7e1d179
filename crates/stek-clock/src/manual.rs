//! A clock that stands still until a test moves it.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use crate::Clock;

#[derive(Clone, Copy)]
struct Reading {
    boot: Duration,
    wall_millis: u64,
}

/// A clock for tests and simulations: time passes only when it is told to, and then wakes whoever
/// has slept long enough.
#[derive(Debug)]
pub struct ManualClock {
    reading: watch::Sender<Reading>,
}

impl std::fmt::Debug for Reading {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "boot {:?}, wall {} ms", self.boot, self.wall_millis)
    }
}

impl ManualClock {
    /// A clock whose machine booted an hour ago, at these milliseconds since the Unix epoch.
    pub fn at_unix_millis(wall_millis: u64) -> Self {
        let reading = Reading { boot: Duration::from_secs(3600), wall_millis };
        Self { reading: watch::Sender::new(reading) }
    }

    /// Lets time pass: boot time and wall time go on together.
    pub fn advance(&self, span: Duration) {
        self.reading.send_modify(|reading| {
            reading.boot += span;
            reading.wall_millis += u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        });
    }

    /// Sets the wall clock, as an administrator or a wrong time server does. No time passes.
    pub fn set_wall_millis(&self, wall_millis: u64) {
        self.reading.send_modify(|reading| reading.wall_millis = wall_millis);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn boot(&self) -> Duration {
        self.reading.borrow().boot
    }

    fn wall_millis(&self) -> u64 {
        self.reading.borrow().wall_millis
    }

    async fn sleep_until(&self, deadline: Duration) {
        let mut readings = self.reading.subscribe();
        // The sender lives in `self`, so the wait cannot fail.
        let _ = readings.wait_for(|reading| reading.boot >= deadline).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn sleepers_wake_when_their_time_has_come() {
        let clock = Arc::new(ManualClock::at_unix_millis(1_000));
        let deadline = clock.boot() + Duration::from_secs(10);
        let sleeper = tokio::spawn({
            let clock = Arc::clone(&clock);
            async move { clock.sleep_until(deadline).await }
        });
        clock.advance(Duration::from_secs(9));
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(Duration::from_secs(1));
        sleeper.await.unwrap();
        assert_eq!(clock.wall_millis(), 11_000);
    }

    #[test]
    fn setting_the_wall_clock_lets_no_time_pass() {
        let clock = ManualClock::at_unix_millis(1_000);
        let before = clock.boot();
        clock.set_wall_millis(0);
        assert_eq!((clock.boot(), clock.wall_millis()), (before, 0));
    }
}
