//! How long things take: batches on one or several threads at once, rounds of contenders, and medians.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Now, on the monotonic clock.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures; nothing decides by it")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}

/// Nanoseconds per call of `work` when `threads` threads make `calls` calls each at one time.
///
/// `prepare` makes the work of one thread. The first tenth of the calls is not counted.
pub(crate) fn nanos_per_call<W: FnMut()>(
    threads: usize,
    calls: u32,
    prepare: impl Fn() -> W + Sync,
) -> f64 {
    let missing = AtomicUsize::new(threads);
    let one = || {
        let arrival = Arrival(&missing);
        let mut work = prepare();
        (0..calls / 10).for_each(|_| work());
        drop(arrival);
        // Whoever slept here would wake late, and be alone for the rest of its calls.
        while missing.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
        let begin = instant();
        (0..calls).for_each(|_| work());
        begin.elapsed()
    };
    let total: Duration = if threads == 1 {
        one()
    } else {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            let took = running.into_iter().map(|thread| thread.join());
            took.map(|took| took.unwrap_or_else(|panic| resume_unwind(panic))).sum()
        })
    };
    nanos(total) / f64::from(calls) / count(threads)
}

/// A thread that is waited for, until this is dropped: also by a panic, for others would wait for ever.
struct Arrival<'a>(&'a AtomicUsize);

impl Drop for Arrival<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Both, in turns: whoever comes second finds warmer caches.
pub(crate) fn in_turns<T>(
    turn: usize,
    one: impl FnOnce() -> anyhow::Result<T>,
    other: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<[T; 2]> {
    if turn.is_multiple_of(2) {
        let one = one()?;
        Ok([one, other()?])
    } else {
        let other = other()?;
        Ok([one()?, other])
    }
}

/// What `N` contenders took, round by round: in each all of them, within some milliseconds.
pub(crate) struct Rounds<const N: usize>(Vec<[f64; N]>);

impl<const N: usize> Rounds<N> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, round: [f64; N]) {
        self.0.push(round);
    }

    /// The median of each contender over all rounds.
    pub(crate) fn medians(&self) -> [f64; N] {
        medians(&self.0)
    }

    /// The same over the tenth of the rounds that were disturbed least. Whatever else runs, on this
    /// machine or on others that share its processors, makes calls longer. All contenders have the
    /// same say in how much a round was disturbed; whoever suffers most from it gains most by this.
    pub(crate) fn quiet_medians(&self) -> [f64; N] {
        medians(&self.quietest())
    }

    /// By what factor rounds are disturbed, in the middle, beside those of that tenth.
    pub(crate) fn disturbance(&self) -> f64 {
        let usual = self.medians();
        let middle = |rounds: &[[f64; N]]| {
            median(&rounds.iter().map(|round| length(round, &usual)).collect::<Vec<_>>())
        };
        middle(&self.0) / middle(&self.quietest())
    }

    fn quietest(&self) -> Vec<[f64; N]> {
        let (mut rounds, usual) = (self.0.clone(), self.medians());
        rounds.sort_by(|one, other| length(one, &usual).total_cmp(&length(other, &usual)));
        rounds.truncate(rounds.len().div_ceil(10));
        rounds
    }
}

/// How long a round was for all contenders together, each measured by what is usual for it.
fn length<const N: usize>(round: &[f64; N], usual: &[f64; N]) -> f64 {
    round.iter().zip(usual).map(|(took, usual)| took / usual).sum()
}

/// The median of each column.
pub(crate) fn medians<const N: usize>(rounds: &[[f64; N]]) -> [f64; N] {
    std::array::from_fn(|at| median(&rounds.iter().map(|round| round[at]).collect::<Vec<_>>()))
}

/// A span in nanoseconds.
pub(crate) fn nanos(span: Duration) -> f64 {
    span.as_secs_f64() * 1e9
}

/// The middle one of `values`; zero if there is none.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

#[allow(clippy::cast_precision_loss, reason = "a handful of threads")]
fn count(threads: usize) -> f64 {
    threads as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "no arithmetic is done")]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "powers of two")]
    fn rounds_count_that_were_disturbed_least() {
        let mut rounds = Rounds::new();
        // As usual: one contender takes eight times as long as the other.
        (0..15).for_each(|_| rounds.push([2.0, 16.0]));
        // The shorter one undisturbed, which in all is little; and the longer one, which is much.
        (0..2).for_each(|_| rounds.push([1.0, 16.0]));
        rounds.push([2.0, 12.0]);
        // Both, in a tenth and a bit.
        (0..3).for_each(|_| rounds.push([1.0, 8.0]));
        assert_eq!(rounds.medians(), [2.0, 16.0]);
        assert_eq!(rounds.quiet_medians(), [1.0, 8.0]);
        assert_eq!(rounds.disturbance(), 2.0);
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "no arithmetic is done")]
    fn a_short_contender_has_as_much_to_say_as_a_long_one() {
        let mut rounds = Rounds::new();
        (0..17).for_each(|_| rounds.push([2.0, 16.0]));
        // Half of the shorter one is more than a quarter of the longer one.
        (0..2).for_each(|_| rounds.push([1.0, 16.0]));
        rounds.push([2.0, 12.0]);
        rounds.push([1.0, 8.0]);
        assert_eq!(rounds.quiet_medians(), [1.0, 16.0]);
    }

    #[test]
    #[allow(clippy::float_cmp, reason = "no arithmetic is done")]
    fn of_few_rounds_one_counts_and_of_a_hundred_ten() {
        let mut rounds = Rounds::new();
        for took in 1..=100 {
            rounds.push([f64::from(took)]);
            if took == 1 {
                assert_eq!(rounds.quiet_medians(), [1.0]);
            }
        }
        // The sixth of ten.
        assert_eq!(rounds.quiet_medians(), [6.0]);
    }

    #[test]
    fn a_panic_on_one_thread_is_not_a_fast_thread_and_holds_up_none() {
        let first = AtomicUsize::new(0);
        let work = || {
            let fails = first.fetch_add(1, Ordering::Relaxed) == 0;
            move || assert!(!fails, "as a contender that fails")
        };
        let measured = std::panic::catch_unwind(|| nanos_per_call(2, 10, work));
        assert!(measured.is_err());
    }
}
