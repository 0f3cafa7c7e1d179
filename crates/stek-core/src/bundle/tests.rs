use sha2::{Digest, Sha256};

use super::*;
use crate::id::{ContentDigest, Incarnation, Revision};
use crate::keyset::TicketFormat;
use crate::policy::PolicyRequest;
use crate::schedule::Schedule;

/// Random-looking material that is the same in every run.
pub(crate) fn material(seed: u8) -> Arc<KeyMaterial> {
    let mut bytes: [u8; 32] = Sha256::digest([seed]).into();
    Arc::new(KeyMaterial::take_from(&mut bytes))
}

/// A key that seals in `[activate, retire)` and opens for 100 s more, published at 0.
pub(crate) fn key(seed: u8, activate: u64, retire: u64) -> BundleKey {
    let at = Timestamp::from_unix;
    let schedule =
        Schedule::try_new(at(0), at(activate), at(retire), at(retire + 100), at(9999)).unwrap();
    let record = KeyRecord {
        id: KeyId::from_bytes([seed; 16]),
        format: TicketFormat::V1,
        kcv: derive::kcv(&material(seed)),
        schedule,
    };
    BundleKey { record, material: material(seed) }
}

pub(crate) fn tag(incarnation: u64, revision: u64, digest: u8) -> ContentTag {
    ContentTag {
        incarnation: Incarnation::new(incarnation, &[0; 10]),
        revision: Revision::new(revision),
        digest: ContentDigest::from_bytes([digest; 8]),
    }
}

pub(crate) fn policy() -> Policy {
    let second = |n| Some(crate::time::Seconds::new(n));
    Policy::try_new(&PolicyRequest {
        rotation_period: second(100),
        ticket_lifetime: second(90),
        poll_interval: second(5),
        clock_skew: second(10),
        lead: None,
        session_lifetime: second(300),
        ..PolicyRequest::default()
    })
    .unwrap()
}

pub(crate) fn bundle(tag: ContentTag, keys: Vec<BundleKey>) -> Bundle {
    let name = KeysetName::try_new("main").unwrap();
    Bundle::try_new(tag, name, policy(), keys, vec![]).unwrap()
}

fn try_bundle(keys: Vec<BundleKey>) -> Result<Bundle, BundleError> {
    let name = KeysetName::try_new("main").unwrap();
    Bundle::try_new(tag(1, 1, 1), name, policy(), keys, vec![])
}

#[test]
fn a_wrong_check_value_is_refused() {
    let mut wrong = key(1, 10, 20);
    wrong.material = material(2);
    let error = try_bundle(vec![wrong]).unwrap_err();
    assert!(matches!(error, BundleError::WrongKcv { .. }), "{error}");
}

#[test]
fn weak_material_is_refused() {
    let mut weak = key(1, 10, 20);
    weak.material = Arc::new(KeyMaterial::take_from(&mut [0; 32]));
    weak.record.kcv = derive::kcv(&weak.material);
    let error = try_bundle(vec![weak]).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("key {}: key material is one byte repeated", key(1, 1, 2).record.id)
    );
}

#[test]
fn overlapping_keys_are_refused() {
    let error = try_bundle(vec![key(1, 10, 20), key(2, 19, 30)]).unwrap_err();
    assert!(matches!(error, BundleError::Keyset(KeysetError::Overlap { .. })), "{error}");
}

#[test]
fn what_is_older_is_refused() {
    let installed = bundle(tag(5, 7, 1), vec![key(1, 10, 20)]);
    let offered = |tag| bundle(tag, vec![key(1, 10, 20)]);
    let check = |tag| check_replacement(&installed, &offered(tag));
    assert!(matches!(check(tag(4, 9, 1)), Err(Refusal::EarlierIncarnation { .. })));
    assert!(matches!(check(tag(5, 6, 1)), Err(Refusal::LowerRevision { .. })));
    assert!(matches!(check(tag(5, 7, 2)), Err(Refusal::OtherContent { .. })));
    assert_eq!(check(tag(5, 7, 1)), Ok(()));
    assert_eq!(check(tag(5, 8, 2)), Ok(()));
    assert_eq!(check(tag(6, 1, 2)), Ok(()));
}

#[test]
fn a_secret_under_another_identity_is_refused() {
    let installed = bundle(tag(1, 1, 1), vec![key(1, 10, 20)]);
    let mut renamed = key(1, 10, 20);
    renamed.record.id = KeyId::from_bytes([9; 16]);
    let error = check_replacement(&installed, &bundle(tag(1, 2, 2), vec![renamed])).unwrap_err();
    assert!(matches!(error, Refusal::RepeatedKcv { .. }), "{error}");
    // Also when the key has ended since.
    let later = installed.erased_at(Timestamp::from_unix(120));
    assert!(later.keys().is_empty());
    let mut renamed = key(1, 130, 140);
    renamed.record.id = KeyId::from_bytes([9; 16]);
    assert!(check_replacement(&later, &bundle(tag(1, 2, 2), vec![renamed])).is_err());
}

#[test]
fn erasing_drops_the_secret_and_remembers_the_key() {
    let before = bundle(tag(1, 1, 1), vec![key(1, 10, 20), key(2, 20, 30)]);
    let secret = Arc::downgrade(&before.keys()[0].material);
    assert_eq!(before.next_erasure(), Some(Timestamp::from_unix(120)));
    let same = before.erased_at(Timestamp::from_unix(119));
    assert_eq!(same.keys().len(), 2);
    let after = same.erased_at(Timestamp::from_unix(120));
    drop((before, same));
    assert!(secret.upgrade().is_none(), "nobody holds the secret any more");
    assert_eq!(after.keys().len(), 1);
    assert_eq!(after.keyset().keys().len(), 1);
    assert_eq!(after.ended()[0].cause, EndCause::Expired);
    assert_eq!(after.tag(), tag(1, 1, 1));
    assert_eq!(after.last_end(), Some(Timestamp::from_unix(130)));
}

#[test]
fn keys_last_as_the_policy_of_the_last_of_them_said() {
    let (at, old) = (Timestamp::from_unix, policy());
    let mut last = key(1, 10, 110);
    last.record.schedule = Schedule::planned(&old, at(0), at(10), at(110)).unwrap();
    let spans = |policy| {
        let (name, keys) = (KeysetName::try_new("main").unwrap(), vec![last.clone()]);
        Bundle::try_new(tag(1, 1, 1), name, policy, keys, vec![]).unwrap().least_span()
    };
    let span = old.lead() + old.ticket_lifetime() + old.clock_skew();
    assert_eq!(spans(old), span);
    // Longer tickets and a longer lead are those of keys that are yet to come.
    let second = |n| Some(Seconds::new(n));
    let new = Policy::try_new(&PolicyRequest {
        rotation_period: second(7200),
        ticket_lifetime: second(7000),
        lead: second(3600),
        session_lifetime: second(30_000),
        ..PolicyRequest::default()
    });
    assert_eq!(spans(new.unwrap()), span);
    assert_eq!(bundle(tag(1, 1, 1), vec![]).least_span(), Seconds::ZERO);
}

#[test]
fn debug_omits_secrets() {
    let shown = format!("{:?}", bundle(tag(1, 1, 1), vec![key(1, 10, 20)]));
    let secret = material(1);
    let bytes = secret.expose_secret();
    assert!(!shown.contains(&format!("{}, {}", bytes[0], bytes[1])), "{shown}");
    assert!(shown.contains("KeyMaterial(..)"));
}

#[test]
fn a_deleted_keyset_replaces_what_it_was_and_nothing_later() {
    let installed = bundle(tag(5, 7, 1), vec![key(1, 10, 20)]);
    let name = installed.name().clone();
    let incarnation = installed.tag().incarnation;
    let gone = |revision| Bundle::tombstone(incarnation, name.clone(), Revision::new(revision));
    assert_eq!(check_replacement(&installed, &gone(8)), Ok(()));
    assert!(gone(8).keys().is_empty());
    assert_eq!(gone(8).tag(), gone(8).tag());
    assert!(matches!(check_replacement(&installed, &gone(6)), Err(Refusal::LowerRevision { .. })));
    // Made again, it is later than its own grave.
    let again = bundle(tag(5, 9, 2), vec![key(2, 10, 20)]);
    assert_eq!(check_replacement(&gone(8), &again), Ok(()));
}
