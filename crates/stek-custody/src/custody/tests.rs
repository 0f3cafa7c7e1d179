use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};

use stek_core::id::KeyId;
use stek_core::schedule::Schedule;
use stek_core::time::Timestamp;

use super::*;
use crate::random::{RandomError, SystemRandom};
use crate::testing::{
    DESTRUCTION, EPOCH, Failing, PUBLISHED, Pattern, REPLICA, SEED, STATE, Sought, alone,
    assert_redacted, cluster, epoch, keyset, material, other_cluster, record, record_at, state,
    unhex,
};

const OTHER_REPLICA: ReplicaId = ReplicaId::from_bytes([1; 16]);

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A custody of the fixed state.
    fn custody(&self) -> Custody {
        Custody::join(&self.path("ratchet"), cluster(), state(), REPLICA).unwrap()
    }
}

fn wrapped(custody: &Custody) -> WrappedKey {
    custody.wrap(&SystemRandom, &keyset(), &record(), &material()).unwrap()
}

fn forward(custody: &Custody, number: u64) {
    custody.advance(epoch(number)).unwrap();
}

fn count_in_file(path: &Path, bytes: &[u8]) -> usize {
    fs::read(path).unwrap().windows(bytes.len()).filter(|window| *window == bytes).count()
}

const fn shared_between_threads<T: Send + Sync>() {}
const _: () = shared_between_threads::<Custody>();

#[test]
fn keys_open_until_their_epoch_has_passed() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    assert_eq!((wrapped.seed, wrapped.epoch), (SEED, epoch(DESTRUCTION)));
    for number in EPOCH..=DESTRUCTION {
        forward(&custody, number);
        let unwrapped = custody.unwrap(&keyset(), &record(), &wrapped).unwrap();
        assert!(unwrapped.is_same_as(&material()), "epoch {number}");
    }
    forward(&custody, DESTRUCTION + 1);
    let (asked, at) = (epoch(DESTRUCTION), epoch(DESTRUCTION + 1));
    let passed = KekError::Passed { asked, at };
    let error = custody.unwrap(&keyset(), &record(), &wrapped).unwrap_err();
    assert_eq!(error, UnwrapError::Epoch(passed));
    let error = custody.wrap(&SystemRandom, &keyset(), &record(), &material()).unwrap_err();
    assert!(matches!(error, WrapError::Epoch(found) if found == passed), "{error}");
    drop(custody);
    let reopened = Custody::open(&place.path("ratchet"), cluster()).unwrap();
    let error = reopened.unwrap(&keyset(), &record(), &wrapped).unwrap_err();
    assert_eq!(error, UnwrapError::Epoch(passed));
}

#[test]
fn a_manager_that_joined_opens_what_others_wrapped() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    forward(&custody, EPOCH + 3);
    let joined =
        Custody::join(&place.path("peer"), cluster(), custody.duplicate(), OTHER_REPLICA).unwrap();
    assert_eq!((joined.seed_id(), joined.epoch()), (SEED, epoch(EPOCH + 3)));
    assert!(joined.unwrap(&keyset(), &record(), &wrapped).unwrap().is_same_as(&material()));
}

/// The stolen backup: the wrapped key of then, the cluster secret, and a state.
#[test]
fn only_the_state_of_then_opens_a_backup() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    fs::copy(place.path("ratchet"), place.path("of-then")).unwrap();
    forward(&custody, DESTRUCTION + 1);
    fs::copy(place.path("ratchet"), place.path("of-today")).unwrap();
    let thief = |name| Custody::open(&place.path(name), cluster()).unwrap();
    let opened = thief("of-then").unwrap(&keyset(), &record(), &wrapped);
    assert!(opened.unwrap().is_same_as(&material()), "the control: with the state it must open");
    assert!(thief("of-today").unwrap(&keyset(), &record(), &wrapped).is_err());
    // A row rewritten to a later epoch does not help.
    let destroy_by = (DESTRUCTION + 2) * 3600 - PUBLISHED;
    let later = record_at(0, 21_600, 43_260, destroy_by);
    let rewritten = WrappedKey { epoch: epoch(DESTRUCTION + 1), ..wrapped };
    let error = thief("of-today").unwrap(&keyset(), &later, &rewritten).unwrap_err();
    assert_eq!(error, UnwrapError::Forged);
}

#[test]
fn what_a_key_is_cannot_be_changed() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    let sound = record();
    let forged = |keyset: &KeysetName, record: &KeyRecord, wrapped: &WrappedKey| {
        custody.unwrap(keyset, record, wrapped).unwrap_err()
    };
    let other = KeysetName::try_new("other").unwrap();
    assert_eq!(forged(&other, &sound, &wrapped), UnwrapError::Forged);
    let renamed = KeyRecord { id: KeyId::from_bytes([9; 16]), ..sound };
    assert_eq!(forged(&keyset(), &renamed, &wrapped), UnwrapError::Forged);
    // One second more or less within the same epoch.
    for destroy_by in [64_859, 64_861] {
        let changed = record_at(0, 21_600, 43_260, destroy_by);
        assert_eq!(forged(&keyset(), &changed, &wrapped), UnwrapError::Forged, "{destroy_by}");
    }
    let at = |offset| Timestamp::from_unix(PUBLISHED + offset);
    let published = Timestamp::from_unix(PUBLISHED - 1);
    let schedule = Schedule::try_new(published, at(0), at(21_600), at(43_260), at(64_860)).unwrap();
    assert_eq!(forged(&keyset(), &KeyRecord { schedule, ..sound }, &wrapped), UnwrapError::Forged);
    let another = SeedId::from_bytes([1; 16]);
    let seed = WrappedKey { seed: another, ..wrapped.clone() };
    let expected = UnwrapError::OtherSeed { held: SEED, named: another };
    assert_eq!(forged(&keyset(), &sound, &seed), expected);
    let (named, expected) = (epoch(DESTRUCTION + 1), epoch(DESTRUCTION));
    let moved = WrappedKey { epoch: named, ..wrapped.clone() };
    let expected = UnwrapError::OtherEpoch { named, expected };
    assert_eq!(forged(&keyset(), &sound, &moved), expected);
    let kcv = Kcv::from_bytes([0; 8]);
    let error = forged(&keyset(), &KeyRecord { kcv, ..sound }, &wrapped);
    assert_eq!(error, UnwrapError::OtherKey { found: sound.kcv, expected: kcv });
}

#[test]
fn a_schedule_may_move_inside_its_envelope() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    for (activate, retire, destroy) in [(0, 100, 200), (500, 21_600, 43_260), (3, 64_000, 64_860)] {
        let moved = record_at(activate, retire, destroy, 64_860);
        assert!(custody.unwrap(&keyset(), &moved, &wrapped).is_ok(), "{moved:?}");
    }
}

#[test]
fn another_lineage_or_cluster_secret_is_told() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    let check = custody.check_value();
    assert_eq!(custody.verify_seed(SEED, &check), Ok(()));
    forward(&custody, EPOCH + 5);
    assert_eq!(custody.verify_seed(SEED, &check), Ok(()), "at every later state");
    let named = SeedId::from_bytes([1; 16]);
    let expected = SeedMismatch::OtherSeed { held: SEED, named };
    assert_eq!(custody.verify_seed(named, &check), Err(expected));
    drop(custody);
    let wrong = Custody::open(&place.path("ratchet"), other_cluster()).unwrap();
    let expected = SeedMismatch::OtherClusterSecret { named: SEED };
    assert_eq!(wrong.verify_seed(SEED, &check), Err(expected));
    let error = wrong.unwrap(&keyset(), &record(), &wrapped).unwrap_err();
    assert_eq!(error, UnwrapError::Epoch(KekError::UnknownSecret), "nobody forged anything");
    // Same identity, other bytes: this the check value does not tell, but no key opens.
    let mut bytes = unhex(&STATE.replace("babf", "bbbf"));
    let forked = RatchetState::try_new(SEED, epoch(EPOCH), &mut bytes).unwrap();
    let forked = Custody::join(&place.path("forked"), cluster(), forked, OTHER_REPLICA).unwrap();
    assert_eq!(forked.verify_seed(SEED, &check), Ok(()));
    let error = forked.unwrap(&keyset(), &record(), &wrapped).unwrap_err();
    assert_eq!(error, UnwrapError::Forged);
}

/// Gives the same sound bytes at every call.
struct Stuck;

impl RandomSource for Stuck {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        Pattern(|i| i.wrapping_mul(i).wrapping_mul(37) ^ 0x5a ^ (i << 3)).fill(buffer)
    }
}

/// Sound at the first call, then all zeros.
struct Dying(AtomicU8);

impl RandomSource for Dying {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        match self.0.fetch_add(1, Ordering::Relaxed) {
            0 => SystemRandom.fill(buffer),
            _ => Pattern(|_| 0).fill(buffer),
        }
    }
}

/// Runs in a circle of so many draws, each of which looks random.
struct Circling(AtomicU8, u8);

impl RandomSource for Circling {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        let turn = self.0.fetch_add(1, Ordering::Relaxed) % self.1;
        Stuck.fill(buffer)?;
        buffer.iter_mut().for_each(|byte| *byte ^= turn);
        Ok(())
    }
}

#[test]
fn a_source_that_runs_in_a_circle_is_seen() {
    let place = Place::new();
    let custody = place.custody();
    let circling = Circling(AtomicU8::new(0), 40);
    for _ in 0..40 {
        custody.mint(&circling).unwrap();
    }
    assert!(matches!(custody.mint(&circling), Err(MintError::Repeated)));
}

#[test]
fn broken_random_sources_are_refused() {
    let place = Place::new();
    let custody = place.custody();
    let mint = |random: &dyn RandomSource| custody.mint(random).unwrap_err();
    assert!(matches!(mint(&Failing), MintError::Draw(DrawError::Random(_))));
    for broken in [|_| 0, |i| i, |i| i % 5] {
        let error = mint(&Pattern(broken));
        assert!(matches!(error, MintError::Draw(DrawError::Broken(_))), "{error}");
    }
    assert!(custody.mint(&Stuck).is_ok());
    assert!(matches!(mint(&Stuck), MintError::Repeated));
    let dying = Dying(AtomicU8::new(0));
    assert!(custody.mint(&dying).is_ok());
    assert!(matches!(mint(&dying), MintError::Draw(DrawError::Broken(WeakKey::Constant))));

    let wrap = |random: &dyn RandomSource| custody.wrap(random, &keyset(), &record(), &material());
    assert!(matches!(wrap(&Failing), Err(WrapError::Draw(_))));
    assert!(matches!(wrap(&Pattern(|_| 0)), Err(WrapError::Draw(_))));
    assert!(wrap(&Stuck).is_ok());
    assert!(matches!(wrap(&Stuck), Err(WrapError::Repeated)));

    let path = place.path("new");
    let create = |random: &dyn RandomSource| {
        Custody::create(&path, cluster(), SEED, random, epoch(EPOCH)).map(|_| ())
    };
    assert!(matches!(create(&Failing), Err(CreateError::Draw(_))));
    assert!(matches!(create(&Pattern(|_| 0)), Err(CreateError::Draw(_))));
    assert!(!path.exists());
    assert!(create(&SystemRandom).is_ok());
    assert!(matches!(create(&SystemRandom), Err(CreateError::StateFile(_))));
}

/// Whoever holds the key-encryption key could wrap anything; the fleet still gets no weak key.
#[test]
fn a_weak_key_is_not_unwrapped() {
    let place = Place::new();
    let custody = place.custody();
    let weak = KeyMaterial::take_from(&mut [7; 32]);
    let record = KeyRecord { kcv: kcv(&weak), ..record() };
    let keyset = keyset();
    let binding = Binding { keyset: &keyset, record: &record, seed: SEED };
    let kek = state().kek(binding.epoch(), &cluster()).unwrap();
    let wrapped = seal(&kek, [9; WRAP_NONCE_LEN], &binding, &weak);
    let error = custody.unwrap(&keyset, &record, &wrapped).unwrap_err();
    assert_eq!(error, UnwrapError::Weak(WeakKey::Constant));
}

#[test]
fn a_key_that_is_not_the_records_is_not_wrapped() {
    let place = Place::new();
    let custody = place.custody();
    let other = custody.mint(&SystemRandom).unwrap();
    let error = custody.wrap(&SystemRandom, &keyset(), &record(), &other).unwrap_err();
    assert!(matches!(error, WrapError::OtherKey { .. }), "{error}");
}

#[test]
fn nonces_are_fresh() {
    let place = Place::new();
    let custody = place.custody();
    let mut nonces: Vec<_> = (0..100).map(|_| wrapped(&custody).nonce).collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 100);
}

#[test]
fn an_advance_leaves_no_old_state_in_the_file() {
    let place = Place::new();
    let custody = place.custody();
    let path = place.path("ratchet");
    let secrets: Vec<_> = (0..4)
        .map(|step| {
            let mut state = state();
            state.advance_to(epoch(EPOCH + step)).unwrap();
            *state.expose_secret()
        })
        .collect();
    let check = |step| {
        for (other, secret) in (0..).zip(&secrets) {
            let expected = if other == step { 2 } else { 0 };
            assert_eq!(count_in_file(&path, secret), expected, "S_e+{other} at e+{step}");
        }
    };
    for step in 0..4 {
        forward(&custody, EPOCH + step);
        check(step);
        custody.raise_high_water(Incarnation::from_bytes([1; 16]), Revision::new(step)).unwrap();
        check(step);
    }
}

#[test]
fn the_ratchet_goes_forward_only() {
    let place = Place::new();
    let custody = place.custody();
    let before = fs::read(place.path("ratchet")).unwrap();
    forward(&custody, EPOCH);
    for bad in [EPOCH - 1, EPOCH + ratchet::MAX_ADVANCE + 1] {
        let error = custody.advance(epoch(bad)).unwrap_err();
        assert!(matches!(error, AdvanceError::Ratchet(_)), "{error}");
    }
    assert_eq!(custody.epoch(), epoch(EPOCH));
    assert_eq!(fs::read(place.path("ratchet")).unwrap(), before);
}

#[test]
fn the_high_water_mark_only_rises_and_survives() {
    let place = Place::new();
    let custody = place.custody();
    let path = place.path("ratchet");
    let old = Incarnation::new(1_000, &[0; 10]);
    let new = Incarnation::new(2_000, &[0; 10]);
    let raise = |custody: &Custody, incarnation, revision| {
        custody.raise_high_water(incarnation, Revision::new(revision)).unwrap();
        custody.high_water().unwrap().revision.as_u64()
    };
    assert_eq!(custody.high_water(), None);
    assert!(!custody.is_behind(old, Revision::ZERO));
    assert_eq!(raise(&custody, old, 5), 5);
    let written = fs::read(&path).unwrap();
    assert_eq!(raise(&custody, old, 4), 5);
    assert_eq!(raise(&custody, old, 5), 5);
    assert_eq!(fs::read(&path).unwrap(), written, "nothing rose, nothing is written");
    forward(&custody, EPOCH + 1);
    drop(custody);
    let custody = Custody::open(&path, cluster()).unwrap();
    assert!(custody.is_behind(old, Revision::new(4)));
    for revision in [5, 6] {
        assert!(!custody.is_behind(old, Revision::new(revision)));
    }
    assert!(!custody.is_behind(new, Revision::new(1)));
    assert_eq!(raise(&custody, new, 1), 1);
    assert_eq!(raise(&custody, old, 9), 1);
    assert!(custody.is_behind(old, Revision::new(9)));
}

#[test]
fn a_poisoned_lock_is_no_panic() {
    let place = Place::new();
    let custody = Arc::new(place.custody());
    let other = Arc::clone(&custody);
    let panicked = std::thread::spawn(move || {
        let _guard = other.inner.lock().unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert!(custody.inner.is_poisoned());
    forward(&custody, EPOCH + 1);
    assert_eq!(custody.epoch(), epoch(EPOCH + 1));
    assert!(custody.unwrap(&keyset(), &record(), &wrapped(&custody)).is_ok());
    Arc::into_inner(custody).unwrap().erase().unwrap();
}

#[test]
fn one_process_at_a_time_and_none_after_erasure() {
    let place = Place::new();
    let path = place.path("ratchet");
    let custody = place.custody();
    let open = || Custody::open(&path, cluster()).unwrap_err();
    assert!(matches!(open(), StateFileError::Locked { .. }));
    custody.erase().unwrap();
    assert!(matches!(open(), StateFileError::Missing { .. }));
}

#[test]
fn threads_share_a_custody() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    assert!(custody.unwrap(&keyset(), &record(), &wrapped).is_ok());
                }
            });
        }
        scope.spawn(|| (EPOCH..=DESTRUCTION).for_each(|number| forward(&custody, number)));
    });
    assert_eq!(custody.epoch(), epoch(DESTRUCTION));
}

#[test]
fn neither_debug_nor_errors_show_a_secret() {
    let place = Place::new();
    let custody = place.custody();
    let wrapped = wrapped(&custody);
    let (key, state, cluster) = (material(), state(), cluster());
    let secrets = [key.expose_secret().as_slice(), state.expose_secret(), cluster.expose()];
    assert_redacted(&custody, &secrets);
    assert_redacted(&custody.duplicate(), &secrets);
    assert_redacted(&wrapped, &secrets);
    let other = KeysetName::try_new("other").unwrap();
    assert_redacted(&custody.unwrap(&other, &record(), &wrapped), &secrets);
    assert_redacted(&custody.advance(epoch(0)), &secrets);
    assert_redacted(&custody.mint(&Pattern(|_| 0)), &secrets);
    assert_redacted(&Custody::open(&place.path("ratchet"), cluster.clone()), &secrets);
}

#[test]
fn nothing_secret_stays_in_memory() {
    let alone = alone();
    let place = Place::new();
    let (path, secret_path) = (place.path("ratchet"), place.path("cluster-secret"));
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    fs::write(&secret_path, text.as_bytes()).unwrap();
    fs::set_permissions(&secret_path, fs::Permissions::from_mode(0o400)).unwrap();
    let sought = Sought::end_of(text.as_bytes());
    assert!(sought.is_in_memory(&alone), "the search must find what is there");
    drop(text);
    let cluster = Arc::new(ClusterSecret::read(&secret_path).unwrap());
    assert!(!sought.is_in_memory(&alone), "the text of the cluster secret");

    drop(Custody::create(&path, cluster.clone(), SEED, &SystemRandom, epoch(EPOCH)).unwrap());
    let custody = Custody::open(&path, cluster).unwrap();
    let state = Sought::end_of(custody.duplicate().expose_secret());
    let material = custody.mint(&SystemRandom).unwrap();
    let key = Sought::end_of(material.expose_secret());
    let record = KeyRecord { kcv: kcv(&material), ..record() };
    let wrapped = custody.wrap(&SystemRandom, &keyset(), &record, &material).unwrap();
    assert!(
        key.is_in_memory(&alone) && state.is_in_memory(&alone),
        "the search must find what is there"
    );
    drop(material);
    assert!(!key.is_in_memory(&alone), "the key after wrapping");
    drop(custody.unwrap(&keyset(), &record, &wrapped).unwrap());
    assert!(!key.is_in_memory(&alone), "the key after unwrapping");

    forward(&custody, EPOCH + 1);
    assert!(!state.is_in_memory(&alone), "the state before the advance");
    let state = Sought::end_of(custody.duplicate().expose_secret());
    assert!(state.is_in_memory(&alone), "the search must find what is there");
    drop(custody);
    assert!(!state.is_in_memory(&alone), "the state after the end of the custody");
}
