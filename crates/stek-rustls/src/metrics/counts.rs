//! Counters by outcome.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};

use super::per_thread::PerThread;

/// One counter for each of `N` outcomes. Clones share them.
#[derive(Clone)]
pub(super) struct Counts<const N: usize>(Arc<Shared<N>>);

struct Shared<const N: usize> {
    counts: PerThread<N>,
    family: IntCounterVec,
    /// What was collected last. Held while it is brought up to date.
    shown: Mutex<[IntCounter; N]>,
}

impl<const N: usize> Counts<N> {
    /// Counters by the label `outcome`, all of which show from the start.
    pub(super) fn new(opts: Opts, outcomes: [&'static str; N]) -> Result<Self, prometheus::Error> {
        let family = IntCounterVec::new(opts, &["outcome"])?;
        let shown = outcomes.map(|outcome| family.with_label_values(&[outcome]));
        Ok(Self(Arc::new(Shared { counts: PerThread::new(), family, shown: Mutex::new(shown) })))
    }

    /// Adds `more` to the counter of this outcome.
    pub(super) fn add(&self, outcome: usize, more: u64) {
        self.0.counts.add([(outcome, more)]);
    }
}

impl<const N: usize> Collector for Counts<N> {
    fn desc(&self) -> Vec<&Desc> {
        self.0.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, shown) in shown.iter().enumerate() {
            shown.inc_by(self.0.counts.sum(outcome).saturating_sub(shown.get()));
        }
        self.0.family.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collected(counts: &Counts<2>) -> Vec<f64> {
        let families = counts.collect();
        families[0].get_metric().iter().map(|one| one.get_counter().get_value()).collect()
    }

    #[test]
    fn what_all_threads_have_counted_is_summed_up_also_when_they_have_ended() {
        let counts = Counts::new(Opts::new("n", "n"), ["a", "b"]).unwrap();
        assert_eq!(collected(&counts), [0.0, 0.0]);
        for round in 1..=3_u32 {
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        (0..1_000).for_each(|_| counts.add(0, 1));
                        counts.add(1, 7);
                    });
                }
                // Beside them.
                collected(&counts);
            });
            assert_eq!(collected(&counts), [f64::from(4_000 * round), f64::from(28 * round)]);
        }
    }
}
