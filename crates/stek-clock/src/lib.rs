//! The only crate that reads clocks. Everything else takes a [`Clock`], so that a test decides what
//! time it is and when the sleepers wake; which instants matter is decided elsewhere.

mod fleet;
mod manual;
mod system;

pub use fleet::{FleetClock, FleetTimeError};
pub use manual::ManualClock;
pub use system::SystemClock;

use std::time::Duration;

use async_trait::async_trait;

/// A source of time.
#[async_trait]
pub trait Clock: Send + Sync + 'static {
    /// Time since boot, also while the machine was suspended. Never goes back.
    fn boot(&self) -> Duration;

    /// Milliseconds since the Unix epoch, as the machine believes. May jump either way.
    fn wall_millis(&self) -> u64;

    /// Returns when [`Clock::boot`] has reached `deadline`, at once if it has.
    async fn sleep_until(&self, deadline: Duration);

    /// Returns after `span` in which the machine ran: later than [`Clock::sleep`] by as long as it was
    /// suspended, and at no cost until then. For thousands who wait for something that is over when
    /// nobody runs.
    async fn sleep_awake(&self, span: Duration) {
        self.sleep(span).await;
    }

    /// Returns after `span`.
    async fn sleep(&self, span: Duration) {
        let deadline = self.boot() + span;
        self.sleep_until(deadline).await;
    }
}
