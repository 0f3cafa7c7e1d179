//! Reads files that may hang, as on a dead network disk, within a time.

use std::time::Duration;

use stek_clock::Clock;
use tokio::task::JoinHandle;

use crate::config::ANSWER_MARGIN;

/// The longest that anybody waits for a file.
const LONGEST_READ: Duration = ANSWER_MARGIN;

/// Reads a file beside the run time's workers. One that hangs, as on a dead network disk, is waited
/// for once and read on; polls go on with what they hold.
pub(crate) struct Reader<T> {
    what: &'static str,
    hangs: Option<JoinHandle<T>>,
}

impl<T: Send + 'static> Reader<T> {
    pub(crate) fn new(what: &'static str) -> Self {
        Self { what, hangs: None }
    }

    /// What `read` gives, or what the one before gave if that hung; `None` if there is nothing yet.
    pub(crate) async fn read(
        &mut self,
        clock: &dyn Clock,
        read: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let mut reading = match self.hangs.take() {
            None => tokio::task::spawn_blocking(read),
            Some(hangs) if hangs.is_finished() => hangs,
            hangs => {
                self.hangs = hangs;
                return None;
            }
        };
        tokio::select! {
            read = &mut reading => read.ok(),
            () = clock.sleep(LONGEST_READ) => {
                let what = self.what;
                tracing::warn!(what, "not read within {LONGEST_READ:?}; what is held is used");
                self.hangs = Some(reading);
                None
            }
        }
    }
}
