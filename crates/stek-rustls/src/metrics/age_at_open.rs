//! How old tickets were when they opened: a histogram that each thread counts for itself.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, Opts};
use stek_core::time::Seconds;

use super::per_thread::PerThread;

/// Seconds, from a page that loads its parts to the seven days that a ticket may live.
const BOUNDS: [u32; 11] = [1, 10, 60, 300, 1_800, 3_600, 10_800, 21_600, 43_200, 86_400, 604_800];

/// After a count for each bound: the count of what is beyond the last, and the sum of all seconds.
const BEYOND: usize = BOUNDS.len();
const SUM: usize = BEYOND + 1;

/// The histogram. Clones share it.
#[derive(Clone)]
pub(super) struct AgeAtOpen(Arc<Shared>);

struct Shared {
    counts: PerThread<{ SUM + 1 }>,
    /// Its name, labels and bounds; it observes nothing.
    empty: Histogram,
}

impl AgeAtOpen {
    /// Nothing observed yet.
    pub(super) fn new(opts: Opts) -> Result<Self, prometheus::Error> {
        let opts = HistogramOpts::from(opts).buckets(BOUNDS.map(f64::from).to_vec());
        let empty = Histogram::with_opts(opts)?;
        Ok(Self(Arc::new(Shared { counts: PerThread::new(), empty })))
    }

    /// Counts a ticket that opened at this age.
    pub(super) fn observe(&self, age: Seconds) {
        let age = age.as_secs();
        let bucket = BOUNDS.iter().position(|bound| age <= u64::from(*bound)).unwrap_or(BEYOND);
        self.0.counts.add([(bucket, 1), (SUM, age)]);
    }
}

impl Collector for AgeAtOpen {
    fn desc(&self) -> Vec<&Desc> {
        self.0.empty.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.empty.collect();
        for metric in families.iter_mut().flat_map(MetricFamily::mut_metric) {
            let mut histogram = metric.get_histogram().clone();
            let mut buckets = histogram.get_bucket().to_vec();
            let mut cumulative = 0;
            for (at, bucket) in buckets.iter_mut().enumerate() {
                cumulative += self.0.counts.sum(at);
                bucket.set_cumulative_count(cumulative);
            }
            histogram.set_bucket(buckets);
            histogram.set_sample_count(cumulative + self.0.counts.sum(BEYOND));
            // Exact below 2⁵³ seconds.
            #[allow(clippy::cast_precision_loss, reason = "a sum is shown as a float")]
            histogram.set_sample_sum(self.0.counts.sum(SUM) as f64);
            metric.set_histogram(histogram);
        }
        families
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shows_what_a_histogram_that_all_threads_share_would_show() {
        let opts = || Opts::new("age", "Seconds").const_label("keyset", "web");
        let shared = HistogramOpts::from(opts()).buckets(BOUNDS.map(f64::from).to_vec());
        let (ours, shared) =
            (AgeAtOpen::new(opts()).unwrap(), Histogram::with_opts(shared).unwrap());
        assert_eq!(ours.collect(), shared.collect());
        let ages = [0_u32, 1, 2, 10, 59, 60, 61, 3_600, 604_800, 604_801, 1_000_000];
        std::thread::scope(|threads| {
            for age in ages {
                let ours = &ours;
                threads.spawn(move || ours.observe(Seconds::new(u64::from(age))));
                shared.observe(f64::from(age));
            }
        });
        assert_eq!(ours.collect(), shared.collect());
        assert_eq!(ours.desc().len(), 1);
    }
}
