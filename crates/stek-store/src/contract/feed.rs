//! What the planner and the feed read.

use std::collections::BTreeMap;
use std::sync::Arc;

use stek_core::id::Revision;
use stek_core::name::KeysetName;
use tokio::task::JoinSet;

use super::fixture::{at, commit, create, digest, key, name, policy, update};
use crate::{Change, Changes, KeyStore, KeysetUpdate, MAX_PAGE, StoredKeyset};

fn names(keysets: &[StoredKeyset]) -> Vec<&str> {
    keysets.iter().map(|stored| stored.keyset.name().as_str()).collect()
}

fn due_at(keyset: &str, offset: u64) -> Change {
    let (name, policy, digest, next_due) = (name(keyset), policy(), digest(1), at(offset));
    Change::CreateKeyset { name, policy, keys: vec![], digest, next_due }
}

/// Those whose time has come, and no more than asked for.
pub async fn due_keysets_come_most_overdue_first(store: Arc<dyn KeyStore>) {
    let changes = [("a", 30), ("b", 10), ("c", 20), ("d", 40)];
    let changes = changes.map(|(keyset, offset)| due_at(keyset, offset));
    let made = commit(&store, changes.to_vec()).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(at(10)));
    for (now, limit, expected) in [
        (9, 10, &[][..]),
        (10, 10, &["b"]),
        (30, 10, &["b", "c", "a"]),
        (99, 10, &["b", "c", "a", "d"]),
        (99, 2, &["b", "c"]),
        (99, 0, &[]),
    ] {
        assert_eq!(
            names(&store.due(at(now), limit).await.unwrap().sound),
            expected,
            "{now} {limit}"
        );
    }
    // The due time moves without a new revision.
    let later =
        KeysetUpdate { publish: None, next_due: at(35), ..update("b", made.revision, vec![]) };
    commit(&store, vec![Change::UpdateKeyset(later)]).await.unwrap();
    assert_eq!(store.next_due().await.unwrap(), Some(at(20)));
    assert_eq!(names(&store.due(at(99), 10).await.unwrap().sound), ["c", "a", "b", "d"]);
}

/// By bytes, not by the rules of some language, and never more than a page.
pub async fn keysets_come_by_name_in_pages(store: Arc<dyn KeyStore>) {
    let sorted = ["0", "a", "a-b", "a.b", "a0", "a_b", "aa", "ab", "b"];
    let changes = sorted.iter().rev().map(|name| create(name, vec![])).collect();
    commit(&store, changes).await.unwrap();
    assert_eq!(names(&store.keysets(None, 100).await.unwrap().sound), sorted);
    let mut seen: Vec<StoredKeyset> = vec![];
    loop {
        let after = seen.last().map(|stored| stored.keyset.name().clone());
        let page = store.keysets(after.as_ref(), 2).await.unwrap().sound;
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        seen.extend(page);
        assert!(seen.len() <= sorted.len(), "a page repeats what came before it");
    }
    assert_eq!(names(&seen), sorted);
    let between: KeysetName = name("a1");
    let after = store.keysets(Some(&between), MAX_PAGE + 1).await.unwrap().sound;
    assert_eq!(names(&after), ["a_b", "aa", "ab", "b"]);
    assert!(store.keysets(None, 0).await.unwrap().sound.is_empty());
}

/// From a revision on, without what was there before it, and from any cursor whatever.
pub async fn changes_are_told_once(store: Arc<dyn KeyStore>) {
    let first = commit(&store, vec![create("a", vec![]), create("b", vec![])]).await.unwrap();
    let change = Change::UpdateKeyset(update("a", first.revision, vec![]));
    let second = commit(&store, vec![change]).await.unwrap();
    let since = |revision| store.changed_since(revision);
    assert_eq!(names(&since(Revision::ZERO).await.unwrap().keysets), ["a", "b"]);
    let changes = since(first.revision).await.unwrap();
    assert_eq!(names(&changes.keysets), ["a"]);
    assert_eq!(changes.cluster.revision, second.revision);
    for beyond in [second.revision, second.revision.next(), Revision::new(u64::MAX)] {
        assert!(since(beyond).await.unwrap().keysets.is_empty());
    }
}

/// Writers commit side by side, in transactions long and short. Whoever asks for what came after
/// the last revision he saw, sees every keyset; and no answer is torn.
pub async fn no_commit_escapes_a_follower(store: Arc<dyn KeyStore>) {
    const WRITERS: u64 = 6;
    const COMMITS: u64 = 20;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = Arc::clone(&store);
        writers.spawn(async move { write(&store, writer, COMMITS).await });
    }
    let mut follower = Follower::default();
    let mut written: BTreeMap<KeysetName, Revision> = BTreeMap::new();
    while !writers.is_empty() {
        follower.poll(&store).await;
        while let Some(done) = writers.try_join_next() {
            written.extend(done.unwrap());
        }
    }
    follower.poll(&store).await;
    assert_eq!(follower.seen, written);
    let mut revisions: Vec<_> = written.values().copied().collect();
    revisions.sort_unstable();
    revisions.dedup();
    let expected: Vec<_> = (1..=WRITERS * COMMITS).map(Revision::new).collect();
    assert_eq!(revisions, expected, "each commit has a revision of its own");
}

/// Returns what was created at which revision.
async fn write(
    store: &Arc<dyn KeyStore>,
    writer: u64,
    commits: u64,
) -> Vec<(KeysetName, Revision)> {
    let mut written = vec![];
    for round in 0..commits {
        let count = if (writer + round).is_multiple_of(3) { 15 } else { 1 };
        let keysets: Vec<_> = (0..count).map(|n| format!("w{writer}-{round}-{n}")).collect();
        let number = |n: usize| 1 + (writer * commits + round) * 100 + u64::try_from(n).unwrap();
        let changes = keysets.iter().enumerate();
        let changes = changes.map(|(n, keyset)| create(keyset, vec![key(number(n), 0, 10)]));
        let committed = commit(store, changes.collect()).await.unwrap();
        written.extend(keysets.iter().map(|keyset| (name(keyset), committed.revision)));
    }
    written
}

#[derive(Default)]
struct Follower {
    last: Revision,
    seen: BTreeMap<KeysetName, Revision>,
}

impl Follower {
    async fn poll(&mut self, store: &Arc<dyn KeyStore>) {
        let Changes { cluster, keysets, tombstones, .. } =
            store.changed_since(self.last).await.unwrap();
        assert!(cluster.revision >= self.last);
        // One event for each commit.
        assert_eq!(cluster.audit_sequence, cluster.revision.as_u64());
        assert!(tombstones.is_empty());
        for stored in keysets {
            assert!(stored.revision > self.last && stored.revision <= cluster.revision);
            assert_eq!(stored.keys.len(), 1);
            let twice = self.seen.insert(stored.keyset.name().clone(), stored.revision);
            assert_eq!(twice, None);
        }
        self.last = cluster.revision;
    }
}
