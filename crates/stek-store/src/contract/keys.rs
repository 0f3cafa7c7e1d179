//! What a commit does to keys.

use std::sync::Arc;

use stek_core::bundle::{EndCause, EndedKey, MAX_ENDED_KEYS};
use stek_core::id::{Kcv, Revision};
use stek_core::keyset::{History, KeyRecord, MAX_LIVE_KEYS};
use stek_core::schedule::Schedule;
use stek_core::time::Seconds;

use super::fixture::{
    assert_broken, assert_conflict, at, commit, commit_at, create, end, erase, id, key, name,
    schedule, shift, update,
};
use crate::{Change, KeyStep, KeyStore, StoredKey, StoredKeyset};

async fn main(store: &Arc<dyn KeyStore>) -> StoredKeyset {
    store.keyset(&name("main")).await.unwrap().unwrap()
}

/// Steps on `main` as it is now.
async fn step(
    store: &Arc<dyn KeyStore>,
    steps: Vec<KeyStep>,
) -> Result<crate::Committed, crate::CommitError> {
    let expected = main(store).await.revision;
    commit(store, vec![Change::UpdateKeyset(update("main", expected, steps))]).await
}

/// No two live keys of a keyset seal at one instant, however they came to be there.
pub async fn overlaps_are_refused(store: Arc<dyn KeyStore>) {
    const RULE: &str = "ticket_keys_encrypt_periods_disjoint";
    let twins = vec![key(1, 0, 10), key(2, 9, 20)];
    assert_broken(commit(&store, vec![create("main", twins)]).await, RULE);
    let keys = vec![key(1, 0, 10), key(2, 10, 20)];
    commit(&store, vec![create("main", keys.clone())]).await.unwrap();
    let before = main(&store).await;

    for steps in [
        vec![KeyStep::Insert(key(3, 19, 30))],
        vec![KeyStep::Insert(key(3, 20, 30)), KeyStep::Insert(key(4, 25, 35))],
        vec![shift(1, 10, 0, 11)],
        vec![shift(2, 20, 9, 20)],
    ] {
        assert_broken(step(&store, steps).await, RULE);
    }
    assert_eq!(main(&store).await, before);

    // Another keyset may seal at that time, and so may the successor of a key that has ended.
    let other = commit(&store, vec![create("other", vec![key(5, 0, 20)])]).await.unwrap();
    step(&store, vec![end(2, EndCause::Revoked), KeyStep::Insert(key(6, 10, 20))]).await.unwrap();
    let overlap = update("other", other.revision, vec![KeyStep::Insert(key(7, 5, 6))]);
    assert_broken(commit(&store, vec![Change::UpdateKeyset(overlap)]).await, RULE);
}

/// Only the end of a commit must be without overlap, not the way there.
pub async fn tiles_may_move_together(store: Arc<dyn KeyStore>) {
    let keys = vec![key(1, 0, 10), key(2, 10, 20), key(3, 20, 30)];
    commit(&store, vec![create("main", keys)]).await.unwrap();
    // Later: the first grows into the second before that one makes room.
    let later = vec![shift(1, 10, 0, 15), shift(2, 20, 15, 25), shift(3, 30, 25, 35)];
    step(&store, later).await.unwrap();
    // Earlier, in the other order.
    let earlier = vec![shift(3, 30, 12, 30), shift(2, 20, 5, 12), shift(1, 10, 0, 5)];
    step(&store, earlier).await.unwrap();
    let periods: Vec<_> = main(&store).await.keyset.keys().iter().map(period).collect();
    assert_eq!(periods, [(at(0), at(5)), (at(5), at(12)), (at(12), at(30))]);
    // Two keys change places.
    step(&store, vec![shift(1, 10, 5, 12), shift(2, 20, 0, 5)]).await.unwrap();
    let stored = main(&store).await;
    let order: Vec<_> = stored.keyset.keys().iter().map(|key| key.id).collect();
    assert_eq!(order, [id(2), id(1), id(3)]);
    assert_eq!(stored.keys[0].wrapped, key(2, 10, 20).wrapped);
}

fn period(key: &KeyRecord) -> (stek_core::time::Timestamp, stek_core::time::Timestamp) {
    (key.schedule.activate_at(), key.schedule.retire_at())
}

/// Neither an identity nor, within a keyset, a check value comes back, not even of an ended key.
pub async fn a_key_and_a_secret_exist_once(store: Arc<dyn KeyStore>) {
    let keys = vec![key(1, 0, 10), key(2, 10, 20)];
    let made = commit(&store, vec![create("main", keys)]).await.unwrap();
    let erased = Change::UpdateKeyset(erase("main", made.revision, &[1]));
    commit(&store, vec![erased]).await.unwrap();

    let with_kcv = |kcv: u64| StoredKey {
        record: KeyRecord { kcv: Kcv::from_bytes(kcv.to_be_bytes()), ..key(9, 20, 30).record },
        ..key(9, 20, 30)
    };
    for number in [1, 2] {
        let result = step(&store, vec![KeyStep::Insert(with_kcv(number))]).await;
        assert_broken(result, "ticket_keys_kcv_unique");
        let mut twin = key(9, 20, 30);
        twin.record.id = id(number);
        let result = step(&store, vec![KeyStep::Insert(twin.clone())]).await;
        assert_broken(result, "ticket_keys_pkey");
        let result = commit(&store, vec![create("other", vec![twin])]).await;
        assert_broken(result, "ticket_keys_pkey");
    }
    commit(&store, vec![create("other", vec![with_kcv(1)])]).await.unwrap();
}

/// A move leaves alone what the wrapping covers, and only live keys move.
pub async fn moves_stay_in_their_envelope(store: Arc<dyn KeyStore>) {
    let keys = vec![key(1, 0, 10), key(2, 10, 20)];
    let made = commit(&store, vec![create("main", keys)]).await.unwrap();
    commit(&store, vec![create("other", vec![key(5, 0, 10)])]).await.unwrap();
    let longer = Schedule::try_new(at(0), at(10), at(20), at(120), at(1121)).unwrap();
    let republished = Schedule::try_new(at(1), at(10), at(20), at(120), at(1120)).unwrap();
    for schedule in [longer, republished] {
        let result = step(&store, vec![KeyStep::Move { id: id(2), schedule }]).await;
        assert_broken(result, "ticket_keys_envelope");
    }
    // Up to the end of the envelope.
    step(&store, vec![shift(2, 20, 1000, 1020)]).await.unwrap();
    assert_eq!(main(&store).await.keys[1].record.schedule.destroy_at(), at(1120));
    // By how much it has been postponed goes with it.
    let schedule = schedule(10, 20).having_postponed(Seconds::new(7));
    step(&store, vec![KeyStep::Move { id: id(2), schedule }]).await.unwrap();
    assert_eq!(main(&store).await.keys[1].record.schedule, schedule);

    let erased = erase("main", main(&store).await.revision, &[1]);
    commit(&store, vec![Change::UpdateKeyset(erased)]).await.unwrap();
    for (number, retire) in [(1, 10), (5, 10), (99, 10)] {
        assert_conflict(step(&store, vec![shift(number, retire, 0, 9)]).await, "main");
    }
    assert!(main(&store).await.revision > made.revision);
}

/// The first end counts; a key that the keyset never had cannot end.
pub async fn ending_twice_is_ending_once(store: Arc<dyn KeyStore>) {
    let keys = vec![key(1, 0, 10), key(2, 10, 20)];
    let made = commit(&store, vec![create("main", keys)]).await.unwrap();
    commit(&store, vec![create("other", vec![key(5, 0, 10)])]).await.unwrap();
    // Two managers that read the same revision both erase.
    for offset in [110, 111] {
        let erased = Change::UpdateKeyset(erase("main", made.revision, &[1]));
        commit_at(&store, offset, vec![erased]).await.unwrap();
    }
    let gone = |number: u64, cause, offset| EndedKey {
        id: id(number),
        kcv: Kcv::from_bytes(number.to_be_bytes()),
        cause,
        ended_at: at(offset),
    };
    assert_eq!(main(&store).await.ended, [gone(1, EndCause::Expired, 110)]);

    let revoke = vec![end(1, EndCause::Revoked), end(2, EndCause::Revoked)];
    let change = Change::UpdateKeyset(update("main", made.revision, revoke));
    commit_at(&store, 120, vec![change]).await.unwrap();
    let stored = main(&store).await;
    assert_eq!(stored.ended, [gone(2, EndCause::Revoked, 120), gone(1, EndCause::Expired, 110)]);
    assert!(stored.keys.is_empty());

    for number in [5, 99] {
        assert_conflict(step(&store, vec![end(number, EndCause::Revoked)]).await, "main");
    }
    let other = store.keyset(&name("other")).await.unwrap().unwrap();
    assert_eq!(other.keys.len(), 1);
}

/// That a keyset had keys is known even when all of them are forgotten.
pub async fn history_outlives_the_keys(store: Arc<dyn KeyStore>) {
    let made = commit(&store, vec![create("main", vec![])]).await.unwrap();
    assert_eq!(main(&store).await.keyset.history(), History::Fresh);
    let insert = vec![KeyStep::Insert(key(1, 0, 10))];
    let change = Change::UpdateKeyset(update("main", made.revision, insert));
    let used = commit(&store, vec![change]).await.unwrap();
    let erased = Change::UpdateKeyset(erase("main", used.revision, &[1]));
    commit_at(&store, 110, vec![erased]).await.unwrap();
    assert_eq!(store.purge(at(111)).await.unwrap(), 1);
    let stored = main(&store).await;
    assert!(stored.keys.is_empty() && stored.ended.is_empty());
    assert_eq!(stored.keyset.history(), History::Used);
}

/// The newest ends are told, as many as a bundle remembers.
pub async fn ended_keys_are_remembered_up_to_a_limit(store: Arc<dyn KeyStore>) {
    commit(&store, vec![create("main", vec![]), create("other", vec![])]).await.unwrap();
    let count = u64::try_from(MAX_ENDED_KEYS).unwrap() + 10;
    let mut inserted = 0;
    while inserted < count {
        let batch: Vec<_> = (inserted + 1..=count.min(inserted + 100)).collect();
        let keys = batch.iter().map(|number| KeyStep::Insert(key(*number, *number, number + 1)));
        step(&store, keys.collect()).await.unwrap();
        for numbers in batch.chunks(20) {
            let erased = erase("main", main(&store).await.revision, numbers);
            let offset = numbers[0] + 1000;
            commit_at(&store, offset, vec![Change::UpdateKeyset(erased)]).await.unwrap();
        }
        inserted += u64::try_from(batch.len()).unwrap();
    }
    let ended = main(&store).await.ended;
    assert_eq!(ended.len(), MAX_ENDED_KEYS);
    assert!(ended.is_sorted_by_key(|key| std::cmp::Reverse((key.ended_at, key.id))));
    assert_eq!(ended[0].id, id(count));
    assert_eq!(ended[MAX_ENDED_KEYS - 1].id, id(11));
    let changes = store.changed_since(Revision::ZERO).await.unwrap();
    assert_eq!(changes.keysets[0].ended, ended);
    assert!(changes.keysets[1].ended.is_empty());
}

/// A keyset holds so many live keys and no more.
pub async fn live_keys_have_a_limit(store: Arc<dyn KeyStore>) {
    let count = u64::try_from(MAX_LIVE_KEYS).unwrap();
    let keys = (1..=count).map(|number| key(number, number, number + 1));
    commit(&store, vec![create("main", keys.collect())]).await.unwrap();
    let one_more = vec![KeyStep::Insert(key(count + 1, count + 1, count + 2))];
    assert_broken(step(&store, one_more.clone()).await, "keysets_live_keys_limit");
    assert_eq!(main(&store).await.keys.len(), MAX_LIVE_KEYS);
    step(&store, [one_more, vec![end(1, EndCause::Revoked)]].concat()).await.unwrap();
}
