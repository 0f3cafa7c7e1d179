//! Counters that handshakes on different cores do not take turns at: each thread adds to numbers of
//! its own, and whoever collects sums them up.
//!
//! A number that all threads add to is passed from core to core, which costs about as much as a
//! good part of sealing a ticket.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_utils::CachePadded;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, Opts};
use thread_local::ThreadLocal;

/// One counter for each of `N` outcomes. Clones share them.
#[derive(Clone)]
pub(super) struct Counts<const N: usize>(Arc<Shared<N>>);

struct Shared<const N: usize> {
    /// Of each thread; those of one that has ended are taken over by another, as they are.
    own: ThreadLocal<CachePadded<[AtomicU64; N]>>,
    family: IntCounterVec,
    /// What was collected last. Held while it is brought up to date.
    shown: Mutex<[IntCounter; N]>,
}

impl<const N: usize> Counts<N> {
    /// Counters by the label `outcome`, all of which show from the start.
    pub(super) fn new(opts: Opts, outcomes: [&'static str; N]) -> Result<Self, prometheus::Error> {
        let family = IntCounterVec::new(opts, &["outcome"])?;
        let shown = outcomes.map(|outcome| family.with_label_values(&[outcome]));
        Ok(Self(Arc::new(Shared { own: ThreadLocal::new(), family, shown: Mutex::new(shown) })))
    }

    /// Adds `more` to the counter of this outcome.
    pub(super) fn add(&self, outcome: usize, more: u64) {
        let own = self.0.own.get_or(|| CachePadded::new([const { AtomicU64::new(0) }; N]));
        // Nobody else writes it.
        let before = own[outcome].load(Ordering::Relaxed);
        own[outcome].store(before.wrapping_add(more), Ordering::Relaxed);
    }
}

impl<const N: usize> Collector for Counts<N> {
    fn desc(&self) -> Vec<&Desc> {
        self.0.family.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let shown = self.0.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for (outcome, shown) in shown.iter().enumerate() {
            let counts = self.0.own.iter().map(|own| own[outcome].load(Ordering::Relaxed));
            shown.inc_by(counts.sum::<u64>().saturating_sub(shown.get()));
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
