//! How long to pause before asking again. Decides spans only; whom to ask next is decided in
//! [`crate::upstream`].

use std::time::Duration;

use stek_core::policy::Policy;
use stek_core::time::Seconds;

use crate::jitter::Jitter;

/// The ceiling of the first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The least time between the starts of two requests that did not fail.
const SPACING: Duration = Duration::from_secs(1);

/// What the policies of the installed content say of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    /// How often to ask, and the longest back-off.
    pub(crate) poll_interval: Seconds,
    /// How far a reading of fleet time may lie from what was expected.
    pub(crate) clock_skew: Seconds,
    /// How long a larger step must last to be followed.
    pub(crate) patience: Seconds,
}

impl Pace {
    /// While no policy is known: a short back-off, and the default policy's skew and lead.
    pub(crate) const UNKNOWN: Self = Self {
        poll_interval: Seconds::new(5),
        clock_skew: Seconds::new(60),
        patience: Seconds::from_hours(6),
    };

    /// What one policy says.
    pub(crate) fn of(policy: &Policy) -> Self {
        Self {
            poll_interval: policy.poll_interval(),
            clock_skew: policy.clock_skew(),
            patience: policy.lead(),
        }
    }

    /// The stricter of two in each respect.
    pub(crate) fn min(self, other: Self) -> Self {
        Self {
            poll_interval: self.poll_interval.min(other.poll_interval),
            clock_skew: self.clock_skew.min(other.clock_skew),
            patience: self.patience.min(other.patience),
        }
    }
}

/// Pauses, longer with every failure in a row.
#[derive(Debug)]
pub(crate) struct Backoff {
    failures: u32,
    jitter: Jitter,
}

impl Backoff {
    pub(crate) fn new(jitter: Jitter) -> Self {
        Self { failures: 0, jitter }
    }

    /// Forgets the failures.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
    }

    /// The pause after one more failure: full jitter below a ceiling that doubles from 250 ms up to
    /// the poll interval.
    pub(crate) fn after_failure(&mut self, pace: Option<Pace>) -> Duration {
        let doubled = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.jitter.up_to(doubled.min(ceiling(pace)))
    }

    /// The pause before another upstream is asked because one is stale, by which those that are
    /// told at one instant are spread.
    pub(crate) fn spread(&mut self, pace: Option<Pace>) -> Duration {
        self.jitter.up_to(spacing(pace))
    }

    /// The pause of plain polling, and after an upstream that did not wait for so long as it was asked
    /// to: the poll interval, or that wait if it is shorter, give or take a tenth.
    pub(crate) fn between_polls(&mut self, wait: Seconds, pace: Option<Pace>) -> Duration {
        let shorter = Some(wait.to_std()).filter(|wait| !wait.is_zero());
        self.jitter.around(shorter.map_or(ceiling(pace), |wait| wait.min(ceiling(pace))))
    }
}

/// How long searches pass over an upstream that failed in one, and in `before` of them in a row
/// before: as long as a long-poll at first, which lies between two of them; doubles up to the poll
/// interval.
pub(crate) fn between_searches(wait: Seconds, before: u32, pace: Option<Pace>) -> Duration {
    let first = wait.to_std().max(FIRST_PAUSE);
    first.saturating_mul(1 << before.min(16)).min(ceiling(pace))
}

/// The longest pause after a failure.
pub(crate) fn ceiling(pace: Option<Pace>) -> Duration {
    pace.unwrap_or(Pace::UNKNOWN).poll_interval.to_std()
}

/// The least time between the starts of two requests that did not fail.
pub(crate) fn spacing(pace: Option<Pace>) -> Duration {
    SPACING.min(ceiling(pace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(poll_interval: u64) -> Option<Pace> {
        let second = Seconds::new(1);
        let poll_interval = Seconds::new(poll_interval);
        Some(Pace { poll_interval, clock_skew: second, patience: second })
    }

    #[test]
    fn pauses_double_and_stop_at_the_poll_interval() {
        let longest = |pace| {
            let mut longest = [Duration::ZERO; 12];
            for _ in 0..200 {
                let mut backoff = Backoff::new(Jitter::from_os().unwrap());
                for slot in &mut longest {
                    *slot = (*slot).max(backoff.after_failure(pace));
                }
            }
            longest
        };
        for (pace, ceiling_millis) in [(None, 5_000u64), (pace(1), 1_000), (pace(300), 300_000)] {
            for (n, longest) in longest(pace).into_iter().enumerate() {
                let bound = Duration::from_millis((250 << n).min(ceiling_millis));
                assert!(longest <= bound, "{n}: {longest:?} > {bound:?}");
                assert!(longest > bound / 2, "{n}: {longest:?} is far below {bound:?}");
            }
        }
    }

    #[test]
    fn a_success_begins_anew_and_many_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Jitter::from_os().unwrap());
        for _ in 0..1000 {
            assert!(backoff.after_failure(pace(300)) <= Duration::from_secs(300));
        }
        backoff.reset();
        assert!(backoff.after_failure(pace(300)) <= FIRST_PAUSE);
    }

    #[test]
    fn searches_pass_over_what_fails_for_longer_each_time() {
        let spans = |wait| {
            let wait = Seconds::new(wait);
            [0, 1, 2, 3, u32::MAX].map(|before| between_searches(wait, before, pace(300)))
        };
        let seconds = |span: Duration| span.as_secs_f64();
        assert_eq!(spans(55).map(seconds), [55.0, 110.0, 220.0, 300.0, 300.0]);
        assert_eq!(spans(0).map(seconds), [0.25, 0.5, 1.0, 2.0, 300.0]);
        assert_eq!(between_searches(Seconds::new(55), 0, pace(3)), Duration::from_secs(3));
    }

    #[test]
    fn requests_are_spaced_by_a_second_at_most() {
        assert_eq!(spacing(pace(1)), Duration::from_secs(1));
        assert_eq!(spacing(pace(300)), Duration::from_secs(1));
        assert_eq!(spacing(None), Duration::from_secs(1));
    }
}
