//! How long things take: batches on one or several threads at once, rounds of contenders, and medians.

use std::sync::Barrier;
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
    let start = Barrier::new(threads);
    let one = || {
        let mut work = prepare();
        (0..calls / 10).for_each(|_| work());
        start.wait();
        let begin = instant();
        (0..calls).for_each(|_| work());
        begin.elapsed()
    };
    let total: Duration = if threads == 1 {
        one()
    } else {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
            running.into_iter().filter_map(|thread| thread.join().ok()).sum()
        })
    };
    nanos(total) / f64::from(calls) / count(threads)
}

/// What `N` contenders took, round by round: in each all of them, one right after another.
pub(crate) struct Rounds<const N: usize>(Vec<[f64; N]>);

impl<const N: usize> Rounds<N> {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn push(&mut self, round: [f64; N]) {
        self.0.push(round);
    }

    /// The median of each contender over the tenth of the rounds that took least in all. Whatever
    /// else runs, on this machine or on others that share its processors, makes a round longer and
    /// never shorter, so it has disturbed these least; and which contender it hit has no say in which
    /// rounds they are.
    pub(crate) fn quiet_medians(&self) -> [f64; N] {
        let quiet = self.quietest(self.0.len().div_ceil(10));
        std::array::from_fn(|at| median(&quiet.iter().map(|round| round[at]).collect::<Vec<_>>()))
    }

    /// How many times as long as the tenth that counts all rounds took, in the middle.
    pub(crate) fn disturbance(&self) -> f64 {
        let middle = |count| median(&self.quietest(count).iter().map(total).collect::<Vec<_>>());
        middle(self.0.len()) / middle(self.0.len().div_ceil(10))
    }

    fn quietest(&self, count: usize) -> Vec<[f64; N]> {
        let mut rounds = self.0.clone();
        rounds.sort_by(|one, other| total(one).total_cmp(&total(other)));
        rounds.truncate(count);
        rounds
    }
}

fn total<const N: usize>(round: &[f64; N]) -> f64 {
    round.iter().sum()
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
    #[allow(clippy::float_cmp, reason = "small whole numbers")]
    fn only_rounds_that_were_disturbed_least_count() {
        let mut rounds = Rounds::new();
        // Whoever it is that was hit, none is thought the faster for it.
        for _ in 0..10 {
            rounds.push([2.0, 8.0]);
            rounds.push([1.0, 9.0]);
        }
        rounds.push([2.0, 4.0]);
        rounds.push([2.0, 5.0]);
        rounds.push([2.0, 4.5]);
        assert_eq!(rounds.quiet_medians(), [2.0, 4.5]);
        assert_eq!(rounds.disturbance(), 10.0 / 6.5);
        assert_eq!(Rounds::<1>::new().quiet_medians(), [0.0]);
    }
}
