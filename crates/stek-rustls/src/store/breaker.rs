//! Stops asking a backend that does not answer: after some failures in a row nobody is let through
//! for a span, then one probe, and by how that ends everybody or again nobody.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stek_clock::Clock;

/// Failures in a row after which it opens.
pub(crate) const FAILURES_TO_OPEN: u32 = 3;

/// A circuit breaker, by boot time.
pub(crate) struct Breaker {
    clock: Arc<dyn Clock>,
    span: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    OpenUntil(Duration),
    Probing,
}

/// Leave to try once. One that is dropped without saying how it went lets the next probe wait for
/// another span, and otherwise counts for nothing.
#[must_use = "say how it went"]
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    probe: bool,
    settled: bool,
}

impl Breaker {
    /// A closed one that opens for `span`.
    pub(crate) fn new(clock: Arc<dyn Clock>, span: Duration) -> Arc<Self> {
        Arc::new(Self { clock, span, state: Mutex::new(State::Closed { failures: 0 }) })
    }

    /// Leave to try, `None` while it is open.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Permit> {
        let mut state = self.lock();
        let probe = match *state {
            State::Closed { .. } => false,
            State::OpenUntil(end) if self.clock.boot() >= end => {
                *state = State::Probing;
                true
            }
            State::OpenUntil(_) | State::Probing => return None,
        };
        Some(Permit { breaker: Arc::clone(self), probe, settled: false })
    }

    /// Whether a try would be refused or be a probe.
    pub(crate) fn is_open(&self) -> bool {
        !matches!(*self.lock(), State::Closed { .. })
    }

    fn open(&self) -> State {
        State::OpenUntil(self.clock.boot() + self.span)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permit {
    /// Whether this is the one that decides.
    pub(crate) fn is_probe(&self) -> bool {
        self.probe
    }

    /// There was an answer in time.
    pub(crate) fn succeeded(mut self) {
        self.settled = true;
        let mut state = self.breaker.lock();
        // Answers that were asked for before it opened do not close it.
        if self.probe || matches!(*state, State::Closed { .. }) {
            *state = State::Closed { failures: 0 };
        }
    }

    /// There was none. True if it opened by this.
    pub(crate) fn failed(mut self) -> bool {
        self.settled = true;
        let mut state = self.breaker.lock();
        let opens = match &mut *state {
            State::Closed { failures } => {
                *failures += 1;
                *failures >= FAILURES_TO_OPEN
            }
            State::Probing => self.probe,
            State::OpenUntil(_) => false,
        };
        if opens {
            *state = self.breaker.open();
        }
        opens
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.probe && !self.settled {
            *self.breaker.lock() = self.breaker.open();
        }
    }
}

#[cfg(test)]
mod tests {
    use stek_clock::ManualClock;

    use super::*;

    const SPAN: Duration = Duration::from_secs(1);

    fn breaker() -> (Arc<ManualClock>, Arc<Breaker>) {
        let clock = Arc::new(ManualClock::at_unix_millis(0));
        let breaker = Breaker::new(Arc::<ManualClock>::clone(&clock), SPAN);
        (clock, breaker)
    }

    fn fail(breaker: &Arc<Breaker>) -> bool {
        breaker.admit().unwrap().failed()
    }

    fn opened() -> (Arc<ManualClock>, Arc<Breaker>) {
        let (clock, breaker) = breaker();
        assert_eq!([fail(&breaker), fail(&breaker), fail(&breaker)], [false, false, true]);
        (clock, breaker)
    }

    #[test]
    fn opens_after_three_failures_in_a_row() {
        let (_, breaker) = breaker();
        assert_eq!([fail(&breaker), fail(&breaker)], [false, false]);
        breaker.admit().unwrap().succeeded();
        assert_eq!([fail(&breaker), fail(&breaker), fail(&breaker)], [false, false, true]);
        assert!(breaker.admit().is_none() && breaker.is_open());
    }

    #[test]
    fn after_the_span_one_probe_decides() {
        let (clock, breaker) = opened();
        clock.advance(SPAN - Duration::from_nanos(1));
        assert!(breaker.admit().is_none());
        clock.advance(Duration::from_nanos(1));
        let probe = breaker.admit().unwrap();
        assert!(probe.is_probe() && breaker.admit().is_none());
        assert!(probe.failed());
        assert!(breaker.admit().is_none());
        clock.advance(SPAN);
        breaker.admit().unwrap().succeeded();
        assert!(!breaker.is_open());
        assert_eq!([fail(&breaker), fail(&breaker)], [false, false]);
    }

    #[test]
    fn a_lost_probe_is_followed_by_another() {
        let (clock, breaker) = opened();
        clock.advance(SPAN);
        drop(breaker.admit().unwrap());
        assert!(breaker.admit().is_none());
        clock.advance(SPAN);
        assert!(breaker.admit().unwrap().is_probe());
    }

    #[test]
    fn late_answers_do_not_decide() {
        let (clock, breaker) = breaker();
        let late = [0; 5].map(|_| breaker.admit().unwrap());
        let [one, two, three, four, five] = late;
        assert_eq!([one.failed(), two.failed(), three.failed()], [false, false, true]);
        four.succeeded();
        assert!(breaker.is_open());
        clock.advance(SPAN);
        let probe = breaker.admit().unwrap();
        assert!(!five.failed());
        probe.succeeded();
        assert!(!breaker.is_open());
    }
}
