//! The newest part of the audit trail, kept in memory so that whoever looks at the page does not
//! make the database read it again and again.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use stek_clock::Clock;
use stek_core::audit::{AuditAction, AuditEvent};
use stek_core::id::Revision;
use stek_core::principal::PLANNER;
use stek_store::{AuditRow, KeyStore, StoreError};

use crate::page::view::Events;

/// The most lines that are kept, and read at once.
const MOST: usize = 1000;

/// The most that are shown.
const SHOWN: usize = 20;

/// How long what was read counts as new, unless something was published since.
const FRESH: Duration = Duration::from_secs(2);

/// How long the database is waited for: the page is to be there when that is not.
const PATIENCE: Duration = Duration::from_secs(1);

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
pub(crate) struct Trail {
    kept: Mutex<Kept>,
    /// Held by whoever asks the database.
    reading: tokio::sync::Mutex<()>,
}

impl Trail {
    /// The newest lines that `wanted` lets through, newest first, when `revision` is published. If
    /// the database does not answer at once, or somebody else is asking it, those that are known.
    /// What is not [`is_routine`] is known for longer.
    pub(crate) async fn newest(
        &self,
        store: &dyn KeyStore,
        clock: &dyn Clock,
        revision: Revision,
        wanted: impl Fn(&AuditEvent) -> bool,
    ) -> Events {
        if let Ok(_reading) = self.reading.try_lock() {
            let (read, boot) = (self.kept().read, clock.boot());
            let fresh = |read: Read| read.revision == revision && boot < read.at + FRESH;
            if !read.is_some_and(fresh) {
                let outcome = self.read_on(store).await;
                self.kept().read = Some(Read { at: clock.boot(), revision, outcome });
            }
        }
        let kept = self.kept();
        let known = kept.rows.iter().rev().chain(kept.notable.iter().rev());
        let rows = known.filter(|row| wanted(&row.event));
        let stale = kept.read.is_none_or(|read| read.outcome == Outcome::Failed);
        Events { rows: rows.take(SHOWN).cloned().collect(), stale }
    }

    async fn read_on(&self, store: &dyn KeyStore) -> Outcome {
        let last = self.kept().last();
        match tokio::time::timeout(PATIENCE, read_after(store, last)).await {
            Ok(Ok(news)) => {
                self.kept().add(news);
                return Outcome::Read;
            }
            Ok(Err(error)) => {
                // The reconcile loop meets the same and says it as an error.
                let error = &error as &dyn std::error::Error;
                tracing::debug!(error, "the audit trail cannot be read for the status page");
            }
            Err(_) => tracing::debug!("the audit trail was not read in time for the status page"),
        }
        Outcome::Failed
    }

    /// Never held while anything is waited for.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines of the trail, and whether they go on from those that are kept.
struct News {
    rows: Vec<AuditRow>,
    anew: bool,
}

/// What is newer than line `last`; all anew if the trail is another.
async fn read_after(store: &dyn KeyStore, last: u64) -> Result<News, StoreError> {
    let newest = store.cluster().await?.audit_sequence;
    let most = u64::try_from(MOST).unwrap_or(u64::MAX);
    let after = last.min(newest).max(newest.saturating_sub(most));
    let rows = if newest == after { Vec::new() } else { store.audit(after, MOST).await? };
    Ok(News { rows, anew: newest < last })
}

impl Kept {
    fn last(&self) -> u64 {
        self.rows.back().map_or(0, |row| row.sequence)
    }

    fn add(&mut self, news: News) {
        if news.anew {
            (self.rows, self.notable) = Default::default();
        }
        self.rows.extend(news.rows);
        let surplus = self.rows.len().saturating_sub(MOST);
        let gone = self.rows.drain(..surplus);
        self.notable.extend(gone.filter(|row| !is_routine(&row.event)));
        let surplus = self.notable.len().saturating_sub(MOST);
        self.notable.drain(..surplus);
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

    use stek_clock::ManualClock;
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
        let clock = ManualClock::at_unix_millis(0);
        for _ in 0..5 {
            let events = trail.newest(&store, &clock, one, |event| !is_routine(event)).await;
            assert_eq!(events.rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [1]);
            write(&store, event(PLANNER, AuditAction::KeyMinted), MOST / 2).await;
            clock.advance(FRESH);
        }
        let events = trail.newest(&store, &clock, one, |_| true).await;
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
        let clock = ManualClock::at_unix_millis(0);
        assert!(trail.newest(&store, &clock, one, |_| true).await.rows.is_empty());
        write(&store, event("token:root", AuditAction::KeysetCreated), 1).await;
        clock.advance(FRESH - Duration::from_millis(1));
        assert!(trail.newest(&store, &clock, one, |_| true).await.rows.is_empty());
        clock.advance(Duration::from_millis(1));
        assert_eq!(trail.newest(&store, &clock, one, |_| true).await.rows.len(), 1);
        write(&store, event("token:root", AuditAction::KeysetCreated), 1).await;
        assert_eq!(trail.newest(&store, &clock, one.next(), |_| true).await.rows.len(), 2);
    }
}
