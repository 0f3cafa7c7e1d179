//! Fleet time: the manager's time, carried to every instance and kept going on boot time, so that a
//! wrong wall clock or a suspend moves no schedule.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stek_core::time::{Seconds, Timestamp};

use crate::Clock;

/// Fleet time as this process knows it.
///
/// Shared between whoever receives readings and whoever asks for the time. Before the first
/// reading it runs on the wall clock, which is the best there is.
pub struct FleetClock {
    clock: Arc<dyn Clock>,
    /// Read at each ticket, so without a lock.
    anchor: Anchor,
    /// Since when, by boot time, readings have stepped away from the anchor. Held while the anchor
    /// is judged and replaced.
    stepped_since: Mutex<Option<Duration>>,
}

/// A reading that was not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("fleet time stepped by {step_millis} ms; not followed until it has lasted {patience}")]
pub struct FleetTimeError {
    /// How far the reading lies from what was expected, positive if it is ahead.
    pub step_millis: i64,
    /// How long the step must last to be followed.
    pub patience: Seconds,
}

impl FleetClock {
    /// Fleet time that has not been told yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, anchor: Anchor::untold(), stepped_since: Mutex::default() }
    }

    /// Milliseconds of fleet time since the Unix epoch.
    pub fn now_millis(&self) -> u64 {
        self.millis_at(self.clock.boot())
    }

    /// Fleet time in whole seconds.
    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.now_millis() / 1000)
    }

    /// Fleet time in whole seconds and the boot time of the same instant, for those who need both and
    /// would read the clock twice.
    pub fn now_and_boot(&self) -> (Timestamp, Duration) {
        let boot = self.clock.boot();
        (Timestamp::from_unix(self.millis_at(boot) / 1000), boot)
    }

    /// The boot time at which fleet time will be `instant`; that of now if it has passed.
    pub fn boot_at(&self, instant: Timestamp) -> Duration {
        let left = instant.as_unix().saturating_mul(1000).saturating_sub(self.now_millis());
        self.clock.boot() + Duration::from_millis(left)
    }

    /// Returns when fleet time has reached `instant`.
    pub async fn sleep_until(&self, instant: Timestamp) {
        while self.now() < instant {
            self.clock.sleep_until(self.boot_at(instant)).await;
        }
    }

    /// The clock below.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Takes a reading at its word, as from one's own database.
    pub fn set(&self, fleet_millis: u64) {
        let boot = self.clock.boot();
        let mut stepped_since = self.stepped_since.lock().unwrap_or_else(PoisonError::into_inner);
        *stepped_since = None;
        self.anchor.set(fleet_millis, boot);
    }

    /// Takes a reading that came from afar. One within `skew` of what was expected is followed; one
    /// further off only once such steps have lasted for `patience`.
    ///
    /// # Errors
    /// [`FleetTimeError`] while a step is not followed; fleet time goes on as before.
    pub fn observe(
        &self,
        fleet_millis: u64,
        skew: Seconds,
        patience: Seconds,
    ) -> Result<(), FleetTimeError> {
        let boot = self.clock.boot();
        let mut stepped_since = self.stepped_since.lock().unwrap_or_else(PoisonError::into_inner);
        let expected = self.anchor.at(boot);
        let step = expected.map_or(0, |then| i128::from(fleet_millis) - i128::from(then));
        let stepped = step.unsigned_abs() > u128::from(skew.as_secs()) * 1000;
        if stepped {
            let since = *stepped_since.get_or_insert(boot);
            if boot.saturating_sub(since) < patience.to_std() {
                let step_millis = i64::try_from(step).unwrap_or(i64::MAX);
                return Err(FleetTimeError { step_millis, patience });
            }
        }
        *stepped_since = None;
        self.anchor.set(fleet_millis, boot);
        Ok(())
    }

    fn millis_at(&self, boot: Duration) -> u64 {
        self.anchor.at(boot).unwrap_or_else(|| self.clock.wall_millis())
    }
}

/// By how many milliseconds fleet time is ahead of boot time, in one word so that reading it costs
/// no more than that. Both are clamped to 2⁶³ − 1 ms, 292 million years.
struct Anchor(AtomicI64);

impl Anchor {
    /// No difference of two instants.
    const UNTOLD: i64 = i64::MIN;

    fn untold() -> Self {
        Self(AtomicI64::new(Self::UNTOLD))
    }

    /// Fleet time when boot time is `boot`, `None` if it was never told.
    fn at(&self, boot: Duration) -> Option<u64> {
        let ahead = self.0.load(Ordering::Acquire);
        let now = ahead.saturating_add(boot_millis(boot));
        (ahead != Self::UNTOLD).then(|| u64::try_from(now).unwrap_or(0))
    }

    fn set(&self, fleet_millis: u64, boot: Duration) {
        let fleet = i64::try_from(fleet_millis).unwrap_or(i64::MAX);
        // Above UNTOLD, for neither is negative.
        self.0.store(fleet - boot_millis(boot), Ordering::Release);
    }
}

fn boot_millis(boot: Duration) -> i64 {
    let seconds = i64::try_from(boot.as_secs()).unwrap_or(i64::MAX);
    seconds.saturating_mul(1000).saturating_add(i64::from(boot.subsec_millis()))
}

impl std::fmt::Debug for FleetClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FleetClock").field("now", &self.now()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    const SKEW: Seconds = Seconds::new(60);
    const PATIENCE: Seconds = Seconds::new(600);

    fn fleet() -> (Arc<ManualClock>, FleetClock) {
        let clock = Arc::new(ManualClock::at_unix_millis(1_000_000));
        (Arc::clone(&clock), FleetClock::new(clock))
    }

    #[test]
    fn runs_on_boot_time_whatever_the_wall_clock_does() {
        let (clock, fleet) = fleet();
        assert_eq!(fleet.now_millis(), 1_000_000);
        fleet.observe(5_000_000, SKEW, PATIENCE).unwrap();
        clock.set_wall_millis(0);
        clock.advance(Duration::from_millis(1500));
        assert_eq!(fleet.now_millis(), 5_001_500);
        assert_eq!(fleet.now(), Timestamp::from_unix(5001));
    }

    /// A machine may be up for longer than its fleet has been told of, or be told nonsense.
    #[test]
    fn no_reading_is_taken_for_none() {
        let (clock, fleet) = fleet();
        clock.advance(Duration::from_secs(1000));
        for reading in [0, 1, i64::MAX.unsigned_abs()] {
            fleet.set(reading);
            assert_eq!(fleet.now_millis(), reading);
        }
        fleet.set(u64::MAX);
        assert_eq!(fleet.now_millis(), i64::MAX.unsigned_abs());
        clock.advance(Duration::from_millis(1));
        assert_eq!(fleet.now_millis(), i64::MAX.unsigned_abs());
    }

    #[test]
    fn a_small_step_is_followed() {
        let (_, fleet) = fleet();
        fleet.set(5_000_000);
        fleet.observe(5_060_000, SKEW, PATIENCE).unwrap();
        assert_eq!(fleet.now_millis(), 5_060_000);
    }

    #[test]
    fn a_large_step_is_followed_only_once_it_has_lasted() {
        for reading in [5_060_001u64, 4_939_999] {
            let (clock, fleet) = fleet();
            fleet.set(5_000_000);
            let error = fleet.observe(reading, SKEW, PATIENCE).unwrap_err();
            assert_eq!(i128::from(error.step_millis), i128::from(reading) - 5_000_000);
            assert_eq!(fleet.now_millis(), 5_000_000);
            clock.advance(Duration::from_secs(599));
            assert!(fleet.observe(reading + 599_000, SKEW, PATIENCE).is_err());
            clock.advance(Duration::from_secs(1));
            fleet.observe(reading + 600_000, SKEW, PATIENCE).unwrap();
            assert_eq!(fleet.now_millis(), reading + 600_000);
        }
    }

    #[test]
    fn one_good_reading_forgets_a_step() {
        let (clock, fleet) = fleet();
        fleet.set(5_000_000);
        assert!(fleet.observe(9_000_000, SKEW, PATIENCE).is_err());
        fleet.observe(5_000_000, SKEW, PATIENCE).unwrap();
        clock.advance(PATIENCE.to_std());
        assert!(fleet.observe(9_600_000, SKEW, PATIENCE).is_err());
    }

    #[tokio::test]
    async fn sleeping_ends_when_fleet_time_has_come() {
        let (clock, fleet) = fleet();
        fleet.set(5_000_000);
        let fleet = Arc::new(fleet);
        let sleeper = tokio::spawn({
            let fleet = Arc::clone(&fleet);
            async move { fleet.sleep_until(Timestamp::from_unix(5010)).await }
        });
        clock.advance(Duration::from_secs(10));
        sleeper.await.unwrap();
    }
}
