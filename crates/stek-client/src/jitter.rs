//! The randomness that keeps a fleet from asking in step. Not secret, so one seed from the
//! operating system serves for the life of a follower.

use std::time::Duration;

/// A generator of pauses (SplitMix64).
#[derive(Debug)]
pub(crate) struct Jitter(u64);

impl Jitter {
    /// Seeded by the operating system.
    ///
    /// # Errors
    /// If the operating system gives no random bytes.
    pub(crate) fn from_os() -> Result<Self, getrandom::Error> {
        getrandom::u64().map(Self)
    }

    /// Anything from nothing to `span`: the "full jitter" of exponential back-off.
    pub(crate) fn up_to(&mut self, span: Duration) -> Duration {
        let nanos = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let picked = (u128::from(self.next()) * (u128::from(nanos) + 1)) >> 64;
        Duration::from_nanos(u64::try_from(picked).unwrap_or(nanos))
    }

    /// Anything from 90 % to 110 % of `span`.
    pub(crate) fn around(&mut self, span: Duration) -> Duration {
        span - span / 10 + self.up_to(span / 5)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_jitter_covers_its_span_and_no_more() {
        let span = Duration::from_millis(1000);
        let mut jitter = Jitter(7);
        let picks: Vec<_> = (0..2000).map(|_| jitter.up_to(span)).collect();
        assert!(picks.iter().all(|pick| *pick <= span));
        assert!(picks.iter().any(|pick| *pick < span / 20));
        assert!(picks.iter().any(|pick| *pick > span * 19 / 20));
        assert_eq!(jitter.up_to(Duration::ZERO), Duration::ZERO);
    }

    #[test]
    fn around_stays_within_a_tenth() {
        let span = Duration::from_secs(60);
        let mut jitter = Jitter(7);
        let picks: Vec<_> = (0..2000).map(|_| jitter.around(span)).collect();
        assert!(picks.iter().all(|pick| (span * 9 / 10..=span * 11 / 10).contains(pick)));
        assert!(picks.iter().any(|pick| *pick < span * 91 / 100));
        assert!(picks.iter().any(|pick| *pick > span * 109 / 100));
    }

    #[test]
    fn two_followers_do_not_pause_alike() {
        let (mut one, mut two) = (Jitter::from_os().unwrap(), Jitter::from_os().unwrap());
        let span = Duration::from_secs(60);
        let pauses = |jitter: &mut Jitter| (0..4).map(|_| jitter.up_to(span)).collect::<Vec<_>>();
        assert_ne!(pauses(&mut one), pauses(&mut two));
    }
}
