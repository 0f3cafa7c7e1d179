//! The machine's own clocks.

use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use rustix::time::{ClockId, clock_gettime};

use crate::Clock;

/// Longest single sleep. Timers stand still while a machine is suspended and boot time does not, so
/// a long sleep is cut into pieces and is late by at most one of them after a suspend.
const LONGEST_SLEEP: Duration = Duration::from_secs(10);

/// `CLOCK_BOOTTIME` and `CLOCK_REALTIME` of this machine; sleeps on tokio's timers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    fn boot(&self) -> Duration {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }

    #[allow(clippy::disallowed_methods, reason = "this is the one place")]
    fn wall_millis(&self) -> u64 {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since_epoch.map_or(0, |span| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
    }

    async fn sleep_until(&self, deadline: Duration) {
        loop {
            let left = deadline.saturating_sub(self.boot());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    async fn sleep_awake(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_never_goes_back() {
        let readings: Vec<_> = (0..1000).map(|_| SystemClock.boot()).collect();
        assert!(readings.is_sorted());
        assert!(readings[0] > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_deadline_that_has_passed_is_no_wait() {
        SystemClock.sleep_until(Duration::ZERO).await;
        SystemClock.sleep(Duration::from_millis(1)).await;
    }
}
