//! Fleet time: the manager's time, carried to every instance and kept going on boot time, so that a
//! wrong wall clock or a suspend moves no schedule. And when the database, whose time it is, was read.

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
    /// Held while the anchor is judged and replaced.
    trust: Mutex<Trust>,
    /// Boot time in milliseconds at which the database was last read, from which fleet time comes.
    read_at: AtomicI64,
}

/// What readings are judged by, beside the anchor.
#[derive(Default)]
struct Trust {
    /// Where the anchor was a patience ago at most: however many small steps readings make, they
    /// lead no further from it than one.
    reference: Option<Held>,
    /// Where readings that are not followed lead.
    step: Option<Held>,
}

/// By how many milliseconds some reading was ahead of boot time, and the boot time since when that
/// holds.
#[derive(Clone, Copy)]
struct Held {
    ahead: i64,
    since: Duration,
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

/// No boot time: whoever is listened to does not say when the database was read.
const UNKNOWN: i64 = i64::MIN;

impl FleetClock {
    /// Fleet time that has not been told yet.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let read_at = AtomicI64::new(UNKNOWN);
        Self { clock, anchor: Anchor::untold(), trust: Mutex::default(), read_at }
    }

    /// Milliseconds of fleet time since the Unix epoch.
    pub fn now_millis(&self) -> u64 {
        self.millis_at(self.clock.boot())
    }

    /// The same, if it was ever told.
    pub fn told_millis(&self) -> Option<u64> {
        self.anchor.at(self.clock.boot())
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

    /// Notes that what is known here is at least what the database held `age` ago; none if nobody
    /// says. An earlier reading than the last one changes nothing.
    pub fn note_read(&self, age: Option<Duration>) {
        let at = age.map(|age| boot_millis(self.clock.boot()).saturating_sub(boot_millis(age)));
        match at {
            Some(at) => self.read_at.fetch_max(at, Ordering::AcqRel),
            None => self.read_at.swap(UNKNOWN, Ordering::AcqRel),
        };
    }

    /// How long ago the database was read whose content is known here, if anybody has said.
    pub fn read_age(&self) -> Option<Duration> {
        let at = self.read_at.load(Ordering::Acquire);
        let age = boot_millis(self.clock.boot()).saturating_sub(at);
        (at != UNKNOWN).then(|| Duration::from_millis(u64::try_from(age).unwrap_or(0)))
    }

    /// Takes a reading at its word, as one that an operator vouches for.
    pub fn set(&self, fleet_millis: u64) {
        let boot = self.clock.boot();
        let mut trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        self.follow(&mut trust, Held { ahead: ahead(fleet_millis, boot), since: boot });
    }

    /// Takes a reading, from afar or from one's own database. One within `skew` of what was expected,
    /// and of what would be expected by the reference of this `patience`, is followed: so fleet time
    /// is moved by at most one `skew` in each. One further off is followed only once readings have
    /// said the same, give or take a `skew`, for `patience`.
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
        let said = Held { ahead: ahead(fleet_millis, boot), since: boot };
        let has_lasted = |held: Held| boot.saturating_sub(held.since) >= patience.to_std();
        let is_near =
            |held: Held| said.step_from(held).unsigned_abs() <= u128::from(skew.as_secs()) * 1000;
        let mut trust = self.trust.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(anchor), Some(reference)) = (self.anchor.ahead(), trust.reference) else {
            self.follow(&mut trust, said);
            return Ok(());
        };
        let anchor = Held { ahead: anchor, since: boot };
        let reference = if has_lasted(reference) { anchor } else { reference };
        trust.reference = Some(reference);
        if is_near(anchor) && is_near(reference) {
            trust.step = None;
            self.anchor.set(said.ahead);
            return Ok(());
        }
        // A server that stands still, or runs, never says the same for long.
        let step = trust.step.filter(|step| is_near(*step)).unwrap_or(said);
        if has_lasted(step) {
            self.follow(&mut trust, said);
            return Ok(());
        }
        trust.step = Some(step);
        let [near, far] = [anchor, reference].map(|held| said.step_from(held));
        let step = if near.unsigned_abs() < far.unsigned_abs() { far } else { near };
        Err(FleetTimeError { step_millis: i64::try_from(step).unwrap_or(i64::MAX), patience })
    }

    /// Believes what was said, and judges by that from now on.
    fn follow(&self, trust: &mut Trust, said: Held) {
        *trust = Trust { reference: Some(said), step: None };
        self.anchor.set(said.ahead);
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

    fn ahead(&self) -> Option<i64> {
        let ahead = self.0.load(Ordering::Acquire);
        (ahead != Self::UNTOLD).then_some(ahead)
    }

    /// Fleet time when boot time is `boot`, `None` if it was never told.
    fn at(&self, boot: Duration) -> Option<u64> {
        let now = self.ahead()?.saturating_add(boot_millis(boot));
        Some(u64::try_from(now).unwrap_or(0))
    }

    fn set(&self, ahead: i64) {
        self.0.store(ahead, Ordering::Release);
    }
}

impl Held {
    /// How far this lies from `other`, positive if it is ahead.
    fn step_from(self, other: Self) -> i128 {
        i128::from(self.ahead) - i128::from(other.ahead)
    }
}

/// By how much a reading is ahead of boot time. Above [`Anchor::UNTOLD`], for neither is negative.
fn ahead(fleet_millis: u64, boot: Duration) -> i64 {
    i64::try_from(fleet_millis).unwrap_or(i64::MAX) - boot_millis(boot)
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

    #[test]
    fn what_was_read_ages_and_only_gets_younger_by_a_later_reading() {
        let (clock, fleet) = fleet();
        let seconds = Duration::from_secs;
        assert_eq!(fleet.read_age(), None);
        // From before this machine was started.
        fleet.note_read(Some(seconds(3600)));
        clock.advance(seconds(5));
        assert_eq!(fleet.read_age(), Some(seconds(3605)));
        fleet.note_read(Some(seconds(1)));
        fleet.note_read(Some(seconds(60)));
        assert_eq!(fleet.read_age(), Some(seconds(1)));
        fleet.note_read(None);
        assert_eq!(fleet.read_age(), None);
    }

    /// As from a server that answers every long-poll with the same time, or one that runs.
    #[test]
    fn small_steps_lead_no_further_than_one_in_each_patience() {
        for (pause, step) in [(55_000, -55_000), (50, 60_000), (1_000, -60_000), (55_000, 50_000)] {
            let (clock, fleet) = fleet();
            fleet.observe(50_000_000, SKEW, Seconds::from_hours(6)).unwrap();
            let mut said = 50_000_000;
            let mut true_millis = 50_000_000;
            for _ in 0..100 {
                clock.advance(Duration::from_millis(pause));
                true_millis += pause;
                said = said + pause as i64 + step;
                let _ = fleet.observe(said as u64, SKEW, Seconds::from_hours(6));
                let off = fleet.now_millis().abs_diff(true_millis);
                assert!(off <= 60_000, "{off} ms off after {pause} {step}");
            }
        }
    }

    #[test]
    fn a_server_that_stands_still_is_not_followed_however_long_it_does() {
        let (clock, fleet) = fleet();
        let followed = |reading| fleet.observe(reading, SKEW, PATIENCE).is_ok();
        assert!(followed(50_000_000));
        let patiences = 20;
        for _ in 0..patiences * PATIENCE.as_secs() / 50 {
            clock.advance(Duration::from_secs(50));
            followed(50_000_000);
        }
        let passed = patiences * PATIENCE.as_secs() * 1000;
        let lost = 50_000_000 + passed - fleet.now_millis();
        assert!(lost <= (patiences + 1) * 60_000, "{lost} ms lost of {passed}");
    }

    #[test]
    fn slow_drift_is_followed() {
        let (clock, fleet) = fleet();
        fleet.observe(50_000_000, SKEW, PATIENCE).unwrap();
        for minute in 1..1000 {
            clock.advance(Duration::from_secs(60));
            let reading = 50_000_000 + minute * 62_000;
            fleet.observe(reading, SKEW, PATIENCE).unwrap();
            assert_eq!(fleet.now_millis(), reading);
        }
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
