//! How long things take: batches on one or several threads at once, and medians.

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
}
