//! The newest part of the audit trail, kept in memory so that whoever looks at the page does not
//! make the database read it again and again.

use std::collections::VecDeque;
use std::time::Duration;

use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::id::Revision;
use stek_core::principal::PLANNER;
use stek_store::{AuditRow, KeyStore, StoreError};
use tokio::sync::Mutex;

use crate::page::view::Events;

/// The most lines that are kept, and read at once.
const MOST: usize = 1000;

/// The most that are shown.
const SHOWN: usize = 20;

/// How long what was read counts as new, unless something was published since.
const FRESH: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Kept {
    /// Oldest first, without a gap.
    rows: VecDeque<AuditRow>,
    /// What was done out of the ordinary before those, oldest first.
    notable: VecDeque<AuditRow>,
    /// How it was read last.
    read: Option<Read>,
}

#[derive(Debug, Clone, Copy)]
struct Read {
    /// By boot time.
    at: Duration,
    /// The newest revision that was published then.
    revision: Revision,
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Read,
    Failed,
}

/// The newest lines.
#[derive(Default)]
pub(crate) struct Trail(Mutex<Kept>);

impl Trail {
    /// The newest lines that `wanted` lets through, newest first. If the database does not answer,
    /// those that are known. What is not [`is_routine`] is known for longer.
    pub(crate) async fn newest(
        &self,
        store: &dyn KeyStore,
        (boot, revision): (Duration, Revision),
        wanted: impl Fn(&AuditEvent) -> bool,
    ) -> Events {
        // Whoever comes while it is read waits for that, and does not read again.
        let mut kept = self.0.lock().await;
        let fresh = |read: Read| read.revision == revision && boot.saturating_sub(read.at) < FRESH;
        if !kept.read.is_some_and(fresh) {
            let outcome = match kept.read_on(store).await {
                Ok(()) => Outcome::Read,
                Err(error) => {
                    // The reconcile loop meets the same and says it as an error.
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(error, "the audit trail cannot be read for the status page");
                    Outcome::Failed
                }
            };
            kept.read = Some(Read { at: boot, revision, outcome });
        }
        let known = kept.rows.iter().rev().chain(kept.notable.iter().rev());
        let rows = known.filter(|row| wanted(&row.event));
        let stale = kept.read.is_some_and(|read| read.outcome == Outcome::Failed);
        Events { rows: rows.take(SHOWN).cloned().collect(), stale }
    }
}

impl Kept {
    /// Reads what is newer than what is kept; all anew if the trail is another.
    async fn read_on(&mut self, store: &dyn KeyStore) -> Result<(), StoreError> {
        let newest = store.cluster().await?.audit_sequence;
        let last = self.rows.back().map_or(0, |row| row.sequence);
        if newest < last {
            (self.rows, self.notable) = Default::default();
        }
        let most = u64::try_from(MOST).unwrap_or(u64::MAX);
        let after = last.min(newest).max(newest.saturating_sub(most));
        if newest == after {
            return Ok(());
        }
        self.rows.extend(store.audit(after, MOST).await?);
        let surplus = self.rows.len().saturating_sub(MOST);
        let gone = self.rows.drain(..surplus);
        self.notable.extend(gone.filter(|row| !is_routine(&row.event)));
        let surplus = self.notable.len().saturating_sub(MOST);
        self.notable.drain(..surplus);
        Ok(())
    }
}

/// Whether an event is what the planner does all day, which among many keysets hides the rest.
pub(crate) fn is_routine(event: &AuditEvent) -> bool {
    let daily = matches!(event.action, AuditAction::KeyMinted | AuditAction::KeyDestroyed);
    daily && event.actor == PLANNER
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::Arc;

    use stek_core::audit::ChainLink;
    use stek_core::id::Incarnation;
    use stek_core::time::Timestamp;
    use stek_store::{Commit, MemoryStore};

    struct Chain;

    impl stek_core::audit::AuditChain for Chain {
        fn link(&self, _: &ChainLink, _: &[u8]) -> ChainLink {
            ChainLink::ORIGIN
        }

        fn holds(&self, _: &ChainLink, _: &[u8], _: &ChainLink) -> bool {
            true
        }
    }

    fn event(actor: &str, action: AuditAction) -> AuditEvent {
        let (actor, reason) = (actor.to_owned(), String::new());
        AuditEvent { at: Timestamp::EPOCH, actor, action, keyset: None, key: None, reason }
    }

    async fn write(store: &MemoryStore, event: AuditEvent, times: usize) {
        let events = vec![event; times];
        store
            .commit(&Commit { at: Timestamp::EPOCH, changes: vec![], events }, &Chain)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn what_people_did_is_remembered_past_what_the_planner_does() {
        let store = MemoryStore::new(Incarnation::from_bytes([1; 16]), Arc::new(|| 0));
        let (trail, one) = (Trail::default(), Revision::new(1));
        write(&store, event("token:root", AuditAction::KeysetCreated), 1).await;
        let mut boot = FRESH;
        for _ in 0..5 {
            let events = trail.newest(&store, (boot, one), |event| !is_routine(event)).await;
            assert_eq!(events.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1]);
            write(&store, event(PLANNER, AuditAction::KeyMinted), MOST / 2).await;
            boot += FRESH;
        }
        let events = trail.newest(&store, (boot, one), |_| true).await;
        assert_eq!((events.rows.len(), events.rows[0].sequence), (SHOWN, 2501));
        assert!(!events.stale);
        // A gap, and what a person does, is no routine.
        assert!(!is_routine(&event(PLANNER, AuditAction::Gap)));
        assert!(!is_routine(&event("token:root", AuditAction::KeyMinted)));
    }

    #[tokio::test]
    async fn it_is_read_again_only_after_a_while() {
        let store = MemoryStore::new(Incarnation::from_bytes([1; 16]), Arc::new(|| 0));
        let (trail, one) = (Trail::default(), Revision::new(1));
        let boot = Duration::from_secs(100);
        assert!(trail.newest(&store, (boot, one), |_| true).await.rows.is_empty());
        write(&store, event("token:root", AuditAction::KeysetCreated), 1).await;
        let almost = boot + FRESH - Duration::from_millis(1);
        assert!(trail.newest(&store, (almost, one), |_| true).await.rows.is_empty());
        assert_eq!(trail.newest(&store, (boot + FRESH, one), |_| true).await.rows.len(), 1);
        write(&store, event("token:root", AuditAction::KeysetCreated), 1).await;
        let published = (boot + FRESH, one.next());
        assert_eq!(trail.newest(&store, published, |_| true).await.rows.len(), 2);
    }
}
