//! The tasks of one server, so that all of them can be awaited, and ended when they do not.

use std::time::Duration;

use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Connections, and the HTTP/2 streams on them. Clones share the tasks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    abort: CancellationToken,
}

impl Tasks {
    pub(crate) fn spawn<F>(&self, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let abort = self.abort.clone();
        // Boxed, for a block of code has room for what it takes with it and again for what it awaits.
        let mut task = Box::pin(task);
        self.tracker.spawn(async move {
            tokio::select! {
                () = &mut task => {}
                () = abort.cancelled() => {}
            }
        });
    }

    /// Waits until all tasks have ended, at most for this time.
    pub(crate) async fn finish(
        &self,
        at_most: Duration,
    ) -> Result<(), tokio::time::error::Elapsed> {
        self.tracker.close();
        timeout(at_most, self.tracker.wait()).await
    }

    /// Ends all tasks when the guard is dropped.
    pub(crate) fn abort_on_drop(&self) -> DropGuard {
        self.abort.clone().drop_guard()
    }

    /// Ends all tasks where they wait, now and in future.
    pub(crate) fn abort(&self) {
        self.abort.cancel();
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::BRIEF;

    #[tokio::test]
    async fn what_hyper_spawns_is_awaited_and_ended_like_the_rest() {
        let tasks = Tasks::default();
        let dropped = CancellationToken::new();
        let guard = dropped.clone().drop_guard();
        hyper::rt::Executor::execute(&tasks, async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        });
        tasks.finish(BRIEF).await.unwrap_err();
        assert!(!dropped.is_cancelled());
        tasks.abort();
        tasks.finish(Duration::from_secs(20)).await.unwrap();
        assert!(dropped.is_cancelled());
    }
}
