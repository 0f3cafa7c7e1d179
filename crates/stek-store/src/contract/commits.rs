//! What a commit does to keysets and revisions.

use std::sync::Arc;

use stek_core::audit::ChainLink;
use stek_core::bundle::EndCause;
use stek_core::id::Revision;
use stek_core::keyset::History;
use stek_core::time::Timestamp;

use super::fixture::{
    assert_broken, assert_conflict, at, commit, commit_at, create, digest, end, erase, event, key,
    name, other_policy, policy, update,
};
use crate::{
    Change, CommitError, KeyStep, KeyStore, KeysetUpdate, MAX_BATCH, StoredAccess, Tombstone,
};

/// Nothing is there, and nothing is wrong with that.
pub async fn a_new_store_is_empty(store: Arc<dyn KeyStore>) {
    let cluster = store.cluster().await.unwrap();
    assert_eq!(cluster.revision, Revision::ZERO);
    assert_eq!(cluster.access_revision, Revision::ZERO);
    assert_eq!((cluster.audit_sequence, cluster.audit_head), (0, ChainLink::ORIGIN));
    assert_eq!(store.cluster().await.unwrap().incarnation, cluster.incarnation);
    assert!(store.due(Timestamp::MAX, 10).await.unwrap().sound.is_empty());
    assert_eq!(store.next_due().await.unwrap(), None);
    assert_eq!(store.keyset(&name("main")).await.unwrap(), None);
    assert!(store.keysets(None, 10).await.unwrap().sound.is_empty());
    let changes = store.changed_since(Revision::ZERO).await.unwrap();
    assert_eq!(changes.cluster, cluster);
    assert!(changes.keysets.is_empty() && changes.tombstones.is_empty());
    assert_eq!(store.access().await.unwrap(), StoredAccess::default());
    assert_eq!(store.seed().await.unwrap(), None);
    assert!(store.audit(0, 10).await.unwrap().is_empty());
    assert_eq!(store.purge(Timestamp::MAX).await.unwrap(), 0);
    assert!(store.now_millis().await.unwrap() > 0);
}

/// Every field survives, keys come by activation, and all ways of reading agree.
pub async fn what_is_created_is_read_again(store: Arc<dyn KeyStore>) {
    let (one, two) = (key(1, 0, 10), key(2, 10, 30));
    let change = Change::CreateKeyset {
        name: name("main"),
        policy: other_policy(),
        keys: vec![two.clone(), one.clone()],
        digest: digest(77),
        next_due: at(5),
    };
    let committed = commit_at(&store, 3, vec![change]).await.unwrap();
    commit(&store, vec![create("empty", vec![])]).await.unwrap();

    let stored = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!(stored.keyset.name(), &name("main"));
    assert_eq!(stored.keyset.policy(), &other_policy());
    assert_eq!(stored.keyset.history(), History::Used);
    assert_eq!(stored.keyset.keys(), [one.record, two.record]);
    assert_eq!(stored.keys, [one, two]);
    assert!(stored.ended.is_empty());
    assert_eq!(stored.revision, committed.revision);
    assert_eq!((stored.digest, stored.next_due, stored.created_at), (digest(77), at(5), at(3)));

    let empty = store.keyset(&name("empty")).await.unwrap().unwrap();
    assert_eq!(empty.keyset.history(), History::Fresh);
    assert_eq!(empty.keyset.policy(), &policy());
    let all = vec![empty.clone(), stored.clone()];
    assert_eq!(store.keysets(None, 10).await.unwrap().sound, all);
    assert_eq!(store.changed_since(Revision::ZERO).await.unwrap().keysets, all);
    assert_eq!(store.due(at(5), 10).await.unwrap().sound, [empty, stored]);
}

/// A second keyset of one name is refused, and so is a change to one that is not there.
pub async fn a_name_exists_once(store: Arc<dyn KeyStore>) {
    let first = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let before = store.keyset(&name("main")).await.unwrap();
    let again = commit(&store, vec![create("other", vec![]), create("main", vec![])]).await;
    assert!(matches!(again, Err(CommitError::Exists(n)) if n == name("main")));
    assert_eq!(store.keyset(&name("main")).await.unwrap(), before);
    assert_eq!(store.keyset(&name("other")).await.unwrap(), None);

    let missing = |result| matches!(result, Err(CommitError::NotFound(n)) if n == name("other"));
    let change = Change::UpdateKeyset(update("other", first.revision, vec![]));
    assert!(missing(commit(&store, vec![change]).await));
    let change = Change::DeleteKeyset { name: name("other"), expected: first.revision };
    assert!(missing(commit(&store, vec![change]).await));
    assert_eq!(store.cluster().await.unwrap().revision, first.revision);
}

/// Whoever read an older revision changes nothing.
pub async fn a_stale_commit_is_refused(store: Arc<dyn KeyStore>) {
    let old = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let step = KeyStep::Insert(key(2, 10, 20));
    let new = commit(&store, vec![Change::UpdateKeyset(update("main", old.revision, vec![step]))])
        .await
        .unwrap();
    let before = store.keyset(&name("main")).await.unwrap();

    for expected in [old.revision, Revision::ZERO, new.revision.next()] {
        let step = KeyStep::Insert(key(3, 20, 30));
        let stale = Change::UpdateKeyset(update("main", expected, vec![step]));
        assert_conflict(commit(&store, vec![stale]).await, "main");
        let stale = Change::UpdateKeyset(erase("main", expected, &[1]));
        assert_conflict(commit(&store, vec![stale]).await, "main");
        let stale = Change::DeleteKeyset { name: name("main"), expected };
        assert_conflict(commit(&store, vec![stale]).await, "main");
    }
    assert_eq!(store.keyset(&name("main")).await.unwrap(), before);
    assert_eq!(store.cluster().await.unwrap().revision, new.revision);
}

/// One change that cannot be applied takes all others with it, and the audit events too.
pub async fn a_batch_applies_whole_or_not_at_all(store: Arc<dyn KeyStore>) {
    let names = ["a", "b", "c"];
    let changes = (1..).zip(names).map(|(number, name)| create(name, vec![key(number, 0, 10)]));
    let made = commit(&store, changes.collect()).await.unwrap();
    let before = (store.cluster().await.unwrap(), store.keysets(None, 10).await.unwrap().sound);

    let batch = |last: Revision| {
        let insert = |number| vec![KeyStep::Insert(key(number, 10, 20))];
        vec![
            create("d", vec![key(20, 0, 10)]),
            Change::DeleteKeyset { name: name("a"), expected: made.revision },
            Change::UpdateKeyset(update("b", made.revision, insert(21))),
            Change::UpdateKeyset(update("c", last, insert(22))),
        ]
    };
    assert_conflict(commit(&store, batch(Revision::ZERO)).await, "c");
    let after = (store.cluster().await.unwrap(), store.keysets(None, 10).await.unwrap().sound);
    assert_eq!(after, before);
    assert_eq!(store.audit(0, 10).await.unwrap().len(), 1);

    let done = commit(&store, batch(made.revision)).await.unwrap();
    let keysets = store.keysets(None, 10).await.unwrap().sound;
    let found: Vec<_> = keysets.iter().map(|k| (k.keyset.name().as_str(), k.revision)).collect();
    assert_eq!(found, [("b", done.revision), ("c", done.revision), ("d", done.revision)]);
}

/// By one for each commit, also for one that changes no keyset; only what it publishes gets it.
pub async fn each_commit_raises_the_revision_by_one(store: Arc<dyn KeyStore>) {
    let one = commit(&store, vec![create("main", vec![]), create("still", vec![])]).await.unwrap();
    assert_eq!(one.revision, Revision::new(1));
    let two = commit(&store, vec![]).await.unwrap();
    assert_eq!(two.revision, Revision::new(2));
    let change = KeysetUpdate {
        policy: Some(other_policy()),
        next_due: at(9),
        ..update("main", one.revision, vec![])
    };
    let three = commit(&store, vec![Change::UpdateKeyset(change)]).await.unwrap();
    assert_eq!(three.revision, Revision::new(3));
    let cluster = store.cluster().await.unwrap();
    assert_eq!((cluster.revision, cluster.audit_head), (three.revision, three.head));

    let main = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!((main.revision, main.digest), (three.revision, digest(2)));
    assert_eq!((main.keyset.policy(), main.next_due), (&other_policy(), at(9)));
    let still = store.keyset(&name("still")).await.unwrap().unwrap();
    assert_eq!((still.revision, still.digest), (one.revision, digest(1)));
    assert_eq!(still.keyset.policy(), &policy());
}

/// What has expired is erased under the revision that published it.
pub async fn erasing_keeps_the_revision(store: Arc<dyn KeyStore>) {
    let keys = vec![key(1, 0, 10), key(2, 10, 20)];
    let made = commit(&store, vec![create("main", keys)]).await.unwrap();
    let change = KeysetUpdate { next_due: at(120), ..erase("main", made.revision, &[1]) };
    let erased = commit_at(&store, 110, vec![Change::UpdateKeyset(change)]).await.unwrap();
    assert_eq!(erased.revision, made.revision.next());

    let main = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!((main.revision, main.digest), (made.revision, digest(1)));
    assert_eq!(main.keys, [key(2, 10, 20)]);
    assert_eq!(main.next_due, at(120));
    assert_eq!(main.ended.len(), 1);
    assert_eq!((main.ended[0].cause, main.ended[0].ended_at), (EndCause::Expired, at(110)));
    assert!(store.changed_since(made.revision).await.unwrap().keysets.is_empty());
}

/// What was due is done and written down by one of those who read it.
pub async fn what_is_due_is_done_once(store: Arc<dyn KeyStore>) {
    let made = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let read = store.keyset(&name("main")).await.unwrap().unwrap().next_due;
    let erasure = KeysetUpdate {
        next_due: at(120),
        expected_due: Some(read),
        ..erase("main", made.revision, &[1])
    };
    let erase = || commit_at(&store, 110, vec![Change::UpdateKeyset(erasure.clone())]);
    erase().await.unwrap();
    let lines = store.cluster().await.unwrap().audit_sequence;
    assert_conflict(erase().await, "main");
    assert_eq!(store.cluster().await.unwrap().audit_sequence, lines);
}

/// Too many changes, a keyset twice, or a change of what is published without a digest.
pub async fn unsound_commits_are_refused(store: Arc<dyn KeyStore>) {
    let made = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let many = (0..=MAX_BATCH).map(|number| create(&format!("k{number}"), vec![])).collect();
    assert_broken(commit(&store, many).await, "commit_batch_limit");

    let expected = made.revision;
    let delete = Change::DeleteKeyset { name: name("main"), expected };
    let twice = vec![Change::UpdateKeyset(update("main", expected, vec![])), delete.clone()];
    assert_broken(commit(&store, twice).await, "commit_keyset_once");
    let twice = vec![delete, create("main", vec![])];
    assert_broken(commit(&store, twice).await, "commit_keyset_once");

    let unpublished = |steps| KeysetUpdate { publish: None, ..update("main", expected, steps) };
    for change in [
        unpublished(vec![KeyStep::Insert(key(2, 10, 20))]),
        unpublished(vec![super::fixture::shift(1, 10, 1, 10)]),
        unpublished(vec![end(1, EndCause::Revoked)]),
        KeysetUpdate { policy: Some(other_policy()), ..unpublished(vec![]) },
    ] {
        let result = commit(&store, vec![Change::UpdateKeyset(change)]).await;
        assert_broken(result, "commit_change_published");
    }
    assert_eq!(store.cluster().await.unwrap().revision, made.revision);
}

/// Deleting ends all keys as revoked and is told by the feed until the name is used again.
pub async fn a_deleted_keyset_leaves_a_tombstone(store: Arc<dyn KeyStore>) {
    let made = commit(&store, vec![create("main", vec![key(1, 0, 10)])]).await.unwrap();
    let delete = |expected| vec![Change::DeleteKeyset { name: name("main"), expected }];
    let deleted = commit_at(&store, 7, delete(made.revision)).await.unwrap();
    assert_eq!(store.keyset(&name("main")).await.unwrap(), None);
    assert!(store.keysets(None, 10).await.unwrap().sound.is_empty());
    assert!(store.due(Timestamp::MAX, 10).await.unwrap().sound.is_empty());
    assert_eq!(store.next_due().await.unwrap(), None);
    let changes = store.changed_since(made.revision).await.unwrap();
    assert!(changes.keysets.is_empty());
    let tombstone =
        |revision, offset| Tombstone { name: name("main"), revision, deleted_at: at(offset) };
    assert_eq!(changes.tombstones, [tombstone(deleted.revision, 7)]);
    assert!(store.changed_since(deleted.revision).await.unwrap().tombstones.is_empty());
    let again = commit(&store, delete(deleted.revision)).await;
    assert!(matches!(again, Err(CommitError::NotFound(_))));

    // The name begins anew, and knows nothing of the keys that it had.
    let second = commit_at(&store, 8, vec![create("main", vec![])]).await.unwrap();
    let main = store.keyset(&name("main")).await.unwrap().unwrap();
    assert_eq!((main.keyset.history(), main.revision), (History::Fresh, second.revision));
    assert!(main.ended.is_empty());
    assert!(store.changed_since(Revision::ZERO).await.unwrap().tombstones.is_empty());

    let last = commit_at(&store, 9, delete(second.revision)).await.unwrap();
    let changes = store.changed_since(Revision::ZERO).await.unwrap();
    assert_eq!(changes.tombstones, [tombstone(last.revision, 9)]);
    assert_eq!(store.audit(0, 10).await.unwrap()[0].event, event("main"));
}
