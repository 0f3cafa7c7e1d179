use super::*;
use crate::bundle::EndedKey;
use crate::bundle::tests::{bundle, key, tag};

const NONCE: [u8; NONCE_LEN] = [7; NONCE_LEN];

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(seconds)
}

fn scope(byte: u8) -> ScopeDigest {
    ScopeDigest::from_bytes([byte; 32])
}

fn snapshot_of(bundle: &Bundle, previous: Option<&Snapshot>) -> Snapshot {
    Snapshot::new(bundle, Use::Ticket, Schema::RUSTLS_0_23, scope(1), previous)
}

/// Keys 1, 2 and 3 seal in `[100, 200)`, `[200, 300)` and `[300, 400)`, each opens 100 s longer.
/// Ticket lifetime 90 s, skew 10 s, session lifetime 300 s.
fn three() -> Bundle {
    bundle(tag(1, 1, 1), vec![key(1, 100, 200), key(2, 200, 300), key(3, 300, 400)])
}

fn seal(snapshot: &Snapshot, now: u64) -> Vec<u8> {
    snapshot.seal(b"session", at(now), &NONCE, at(now)).unwrap().ticket
}

#[test]
fn seals_under_the_active_key_only() {
    let snapshot = snapshot_of(&three(), None);
    for (now, seed) in [(100, 1), (199, 1), (200, 2), (399, 3)] {
        let sealed = snapshot.seal(b"session", at(now), &NONCE, at(now)).unwrap();
        assert_eq!(sealed.key, KeyId::from_bytes([seed; 16]), "at {now}");
    }
    for now in [0, 99, 400, 5000] {
        let miss = snapshot.seal(b"session", at(now), &NONCE, at(now)).unwrap_err();
        assert_eq!(miss, SealMiss::NoActiveKey, "at {now}");
    }
}

#[test]
fn opens_under_pending_active_and_retired_keys() {
    let snapshot = snapshot_of(&three(), None);
    let ticket = seal(&snapshot, 200);
    for (now, state) in [(195, KeyState::Pending), (200, KeyState::Active), (299, KeyState::Active)]
    {
        assert_eq!(snapshot.open(&ticket, at(now)).unwrap().state, state, "at {now}");
    }
    let late = seal(&snapshot, 299);
    assert_eq!(snapshot.open(&late, at(300)).unwrap().state, KeyState::DecryptOnly);
    assert_eq!(snapshot.open(&late, at(388)).unwrap().payload.as_slice(), b"session");
}

#[test]
fn a_ticket_ends_with_its_lifetime_and_skew() {
    let snapshot = snapshot_of(&three(), None);
    let ticket = seal(&snapshot, 200);
    assert!(snapshot.open(&ticket, at(299)).is_ok());
    assert_eq!(snapshot.open(&ticket, at(300)).unwrap_err(), OpenMiss::Expired);
}

#[test]
fn a_ticket_ends_with_its_key() {
    let snapshot = snapshot_of(&three(), None);
    let ticket = seal(&snapshot, 299);
    assert!(snapshot.open(&ticket, at(398)).is_ok());
    // The key ends at 400, though the snapshot has not been replaced.
    assert_eq!(snapshot.open(&ticket, at(400)).unwrap_err(), OpenMiss::Expired);
}

#[test]
fn a_ticket_from_the_future_waits_for_the_skew() {
    let snapshot = snapshot_of(&three(), None);
    let ticket = seal(&snapshot, 250);
    assert_eq!(snapshot.open(&ticket, at(239)).unwrap_err(), OpenMiss::FromTheFuture);
    assert!(snapshot.open(&ticket, at(240)).is_ok());
}

#[test]
fn no_chain_outlives_the_session_lifetime() {
    let snapshot = snapshot_of(&three(), None);
    let sealed = |now| snapshot.seal(b"session", at(50), &NONCE, at(now));
    let ticket = sealed(349).unwrap().ticket;
    assert_eq!(sealed(350).unwrap_err(), SealMiss::SessionTooOld);
    assert!(snapshot.open(&ticket, at(349)).is_ok());
    assert_eq!(snapshot.open(&ticket, at(350)).unwrap_err(), OpenMiss::SessionTooOld);
}

#[test]
fn the_hint_is_the_least_of_what_is_left() {
    let snapshot = snapshot_of(&three(), None);
    let hint = |authenticated, now| snapshot.lifetime_hint(at(authenticated), at(now)).as_secs();
    assert_eq!(hint(200, 200), 90, "the ticket lifetime");
    assert_eq!(hint(0, 250), 50, "the session");
    assert_eq!(hint(0, 300), 0);
    assert_eq!(hint(500, 500), 0, "nothing seals");
    assert_eq!(hint(900, 200), 90, "a chain that a faster clock began counts from now");
    let moved = key(1, 100, 200);
    let schedule = moved.record.schedule;
    let keep = crate::schedule::MoveDestroy::Keep;
    let mut long = moved.clone();
    long.record.schedule = schedule.moved(at(100), at(280), keep).unwrap();
    let snapshot = snapshot_of(&bundle(tag(1, 1, 1), vec![long]), None);
    let hint = snapshot.lifetime_hint(at(270), at(270));
    assert_eq!(hint.as_secs(), 20, "the key ends at 300, less the skew of 10 s");
    let sealed = snapshot.seal(b"session", at(270), &NONCE, at(270)).unwrap();
    assert_eq!(sealed.lifetime, hint, "each ticket says it too");
}

#[test]
fn unknown_names_and_other_scopes_are_unknown() {
    let snapshot = snapshot_of(&three(), None);
    let other = Snapshot::new(&three(), Use::Ticket, Schema::RUSTLS_0_23, scope(2), None);
    let store = Snapshot::new(&three(), Use::Store, Schema::RUSTLS_0_23, scope(1), None);
    let ticket = seal(&snapshot, 200);
    for stranger in [&other, &store] {
        assert_eq!(stranger.open(&ticket, at(200)).unwrap_err(), OpenMiss::Unknown);
    }
    assert_eq!(snapshot.open(&[0; 200], at(200)).unwrap_err(), OpenMiss::Malformed);
    assert_eq!(snapshot.open(&[0; 248], at(200)).unwrap_err(), OpenMiss::Unknown);
    let mut forged = ticket;
    forged[60] ^= 1;
    assert_eq!(snapshot.open(&forged, at(200)).unwrap_err(), OpenMiss::Forged);
}

#[test]
fn a_miss_under_an_ended_key_is_told_by_cause() {
    let first = snapshot_of(&three(), None);
    let (old, revoked) = (seal(&first, 100), seal(&first, 250));
    let ended = EndedKey {
        id: KeyId::from_bytes([2; 16]),
        kcv: key(2, 200, 300).record.kcv,
        cause: EndCause::Revoked,
        ended_at: at(260),
    };
    let name = three().name().clone();
    let later =
        Bundle::try_new(tag(1, 2, 2), name, *three().policy(), vec![key(3, 300, 400)], vec![ended]);
    let second = snapshot_of(&later.unwrap(), Some(&first));
    assert_eq!(second.open(&old, at(310)).unwrap_err(), OpenMiss::Expired);
    assert_eq!(second.open(&revoked, at(310)).unwrap_err(), OpenMiss::Revoked);
    // It is remembered over further revisions.
    let third = snapshot_of(&bundle(tag(1, 3, 3), vec![key(3, 300, 400)]), Some(&second));
    assert_eq!(third.open(&revoked, at(310)).unwrap_err(), OpenMiss::Revoked);
}

#[test]
fn derived_keys_are_taken_over_and_erased_with_their_last_snapshot() {
    let first = snapshot_of(&three(), None);
    let watched: Vec<_> =
        first.keys.iter().map(|key| (key.id, Arc::downgrade(&key.derived))).collect();
    let second = snapshot_of(&three().erased_at(at(300)), Some(&first));
    for key in &second.keys {
        let before = first.keys.iter().find(|old| old.id == key.id).unwrap();
        assert!(Arc::ptr_eq(&before.derived, &key.derived));
    }
    drop(first);
    let gone = |id| watched.iter().find(|(key, _)| *key == id).unwrap().1.upgrade().is_none();
    assert!(gone(KeyId::from_bytes([1; 16])));
    assert!(!gone(KeyId::from_bytes([3; 16])));
}

#[test]
fn ended_keys_are_erased_one_by_one_without_a_bundle() {
    let first = snapshot_of(&three(), None);
    let ticket = seal(&first, 100);
    let erased = Arc::downgrade(&first.find(&ticket).unwrap().key.derived);
    assert!(first.without_ended(at(299)).is_none());
    let second = first.without_ended(at(300)).unwrap();
    drop(first);
    assert!(erased.upgrade().is_none());
    assert_eq!(second.open(&ticket, at(300)).unwrap_err(), OpenMiss::Expired);
    // The others go on, and each is as it was.
    assert_eq!((second.tag(), second.policy()), (three().tag(), three().policy()));
    assert!(second.open(&seal(&second, 300), at(300)).is_ok());
    let last = second.without_ended(at(500)).unwrap();
    assert_eq!(last.schedules().count(), 0);
    assert_eq!(last.open(&ticket, at(500)).unwrap_err(), OpenMiss::Expired);
}

#[test]
fn a_stale_node_and_a_fresh_one_open_each_others_tickets() {
    let stale = snapshot_of(&three(), None);
    let fresh = snapshot_of(&bundle(tag(1, 2, 2), vec![key(2, 200, 300), key(3, 300, 400)]), None);
    assert!(fresh.open(&seal(&stale, 250), at(250)).is_ok());
    assert!(stale.open(&seal(&fresh, 350), at(350)).is_ok());
}
