use std::fs;
use std::sync::Arc;

use super::*;
use crate::cluster_secret::{ClusterSecret, Generation};
use crate::custody::SeedMismatch;
use crate::random::SystemRandom;
use crate::ratchet::KekError;
use crate::testing::{
    CLUSTER_SECRET, DESTRUCTION, EPOCH, REPLICA, SEED, cluster, epoch, keyset, material,
    other_cluster, record, state,
};

const NEXT: SeedId = SeedId::from_bytes([42; 16]);

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> (Self, Custody) {
        let place = Self(tempfile::tempdir().unwrap());
        let custody = Custody::join(&place.path(), cluster(), state(), REPLICA).unwrap();
        (place, custody)
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("ratchet")
    }

    fn open(&self) -> Custody {
        Custody::open(&self.path(), cluster()).unwrap()
    }

    /// Whether the bytes lie in any file of the folder.
    fn holds(&self, bytes: &[u8]) -> bool {
        let files = fs::read_dir(self.0.path()).unwrap().map(|file| file.unwrap().path());
        let mut contents = files.map(|file| fs::read(file).unwrap());
        contents.any(|content| content.windows(bytes.len()).any(|part| part == bytes))
    }
}

fn wrapped(custody: &Custody) -> WrappedKey {
    custody.wrap(&SystemRandom, &keyset(), &record(), &material()).unwrap()
}

fn opens(custody: &Custody, wrapped: &WrappedKey) -> bool {
    let opened = custody.unwrap(&keyset(), &record(), wrapped);
    opened.is_ok_and(|opened| opened.is_same_as(&material()))
}

#[test]
fn keys_move_from_one_seed_to_the_next_and_the_old_one_is_gone() {
    let (place, custody) = Place::new();
    let before = wrapped(&custody);
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    assert_eq!(custody.next_seed(), Some(NEXT));
    assert_eq!(wrapped(&custody).seed, SEED, "offered is not yet live");
    custody.wrap_under(NEXT);
    let after = custody.rewrap(&SystemRandom, &keyset(), &record(), &before).unwrap();
    assert_eq!((after.seed, wrapped(&custody).seed), (NEXT, NEXT));
    assert!(opens(&custody, &before) && opens(&custody, &after));

    custody.advance(epoch(EPOCH + 2)).unwrap();
    let old = custody.duplicate();
    assert!(place.holds(old.expose_secret()), "the control");
    custody.promote_next().unwrap();
    assert!(opens(&custody, &after) && !opens(&custody, &before));
    assert!(!place.holds(old.expose_secret()), "the old state is overwritten");
    assert_eq!((custody.seed_id(), custody.next_seed()), (NEXT, None));
    drop(custody);
    let again = place.open();
    assert_eq!(
        (again.seed_id(), again.replica(), again.epoch()),
        (NEXT, REPLICA, epoch(EPOCH + 2))
    );
    assert!(opens(&again, &after) && !opens(&again, &before));
}

#[test]
fn a_process_that_ends_in_between_finds_both() {
    let (place, custody) = Place::new();
    let before = wrapped(&custody);
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    custody.wrap_under(NEXT);
    let after = wrapped(&custody);
    drop(custody);
    let again = place.open();
    assert_eq!((again.seed_id(), again.next_seed()), (SEED, Some(NEXT)));
    assert!(opens(&again, &before) && opens(&again, &after));
    assert_eq!(wrapped(&again).seed, SEED, "what is live is the database's to say");

    // It ends after the main file was overwritten and before the second was removed.
    let second = fs::read(path_of(&place.path())).unwrap();
    again.promote_next().unwrap();
    drop(again);
    fs::write(path_of(&place.path()), second).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(path_of(&place.path()), mode).unwrap();
    let last = place.open();
    assert_eq!((last.seed_id(), last.next_seed()), (NEXT, None));
    assert!(!path_of(&place.path()).exists());
    assert!(opens(&last, &after) && !opens(&last, &before));
}

#[test]
fn a_second_file_that_was_half_made_is_removed() {
    let (place, custody) = Place::new();
    drop(custody);
    fs::write(path_of(&place.path()), [0; 64]).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(path_of(&place.path()), mode).unwrap();
    let again = place.open();
    assert_eq!(again.next_seed(), None);
    again.begin_next(NEXT, &SystemRandom).unwrap();
    let secret = again.lock().next.as_ref().unwrap().contents.state.duplicate();
    assert!(matches!(
        again.begin_next(SeedId::from_bytes([43; 16]), &SystemRandom),
        Err(HoldError::Another(NEXT))
    ));
    again.drop_next(SEED).unwrap();
    assert!(again.holds(NEXT), "it is another");
    again.drop_next(NEXT).unwrap();
    assert!(!place.holds(secret.expose_secret()) && !again.holds(NEXT));
}

/// What could not be erased is not forgotten.
#[test]
fn an_erasure_that_failed_is_finished_later() {
    let (place, custody) = Place::new();
    let second = path_of(&place.path());
    // A folder in the place of the file cannot be removed as one.
    let block = || {
        fs::remove_file(&second).unwrap();
        fs::create_dir(&second).unwrap();
    };
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    block();
    custody.drop_next(NEXT).unwrap_err();
    assert_eq!(custody.next_seed(), Some(NEXT));
    fs::remove_dir(&second).unwrap();
    custody.drop_next(NEXT).unwrap();
    assert_eq!(custody.next_seed(), None);

    custody.begin_next(NEXT, &SystemRandom).unwrap();
    block();
    custody.promote_next().unwrap_err();
    assert_eq!((custody.seed_id(), custody.next_seed()), (NEXT, Some(NEXT)));
    let after = wrapped(&custody);
    assert!(opens(&custody, &after));
    fs::remove_dir(&second).unwrap();
    custody.promote_next().unwrap();
    assert_eq!((custody.seed_id(), custody.next_seed()), (NEXT, None));
    assert!(opens(&custody, &after));
}

#[test]
fn both_go_forward_together_and_one_that_is_ahead_waits() {
    let (_place, custody) = Place::new();
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    custody.advance(epoch(DESTRUCTION)).unwrap();
    assert_eq!(custody.reach(), [(SEED, epoch(DESTRUCTION)), (NEXT, epoch(DESTRUCTION))]);
    custody.drop_next(NEXT).unwrap();
    let mut ahead = RatchetState::generate(NEXT, epoch(DESTRUCTION), &SystemRandom).unwrap();
    ahead.advance_to(epoch(DESTRUCTION + 2)).unwrap();
    custody.hold_next(ahead, &cluster().check_value(&NEXT)).unwrap();
    custody.advance(epoch(DESTRUCTION + 1)).unwrap();
    assert_eq!(custody.reach(), [(SEED, epoch(DESTRUCTION + 1)), (NEXT, epoch(DESTRUCTION + 2))]);
    assert_eq!(custody.epoch(), epoch(DESTRUCTION + 1));
}

#[test]
fn each_seed_keeps_to_the_cluster_secret_it_was_claimed_with() {
    let (place, custody) = Place::new();
    let before = wrapped(&custody);
    let old_check = custody.check_value();
    drop(custody);
    let previous = ClusterSecret::parse(CLUSTER_SECRET).unwrap();
    let text = CLUSTER_SECRET.replace("c0a1", "c1a1");
    let both = Arc::new(ClusterSecret::parse(&text).unwrap().with_previous(previous));
    let custody = Custody::open(&place.path(), Arc::clone(&both)).unwrap();
    let unverified = custody.unwrap(&keyset(), &record(), &before).unwrap_err();
    assert_eq!(unverified, UnwrapError::Epoch(KekError::UnknownSecret));
    custody.verify_seed(SEED, &old_check).unwrap();
    assert_eq!(both.claimed_with(&SEED, &old_check), Some(Generation::Previous));
    assert!(opens(&custody, &before));
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    let new_check = other_cluster().check_value(&NEXT);
    custody.wrap_under(NEXT);
    let after = custody.rewrap(&SystemRandom, &keyset(), &record(), &before).unwrap();
    custody.promote_next().unwrap();
    drop(custody);
    // The previous one may go.
    let custody = Custody::open(&place.path(), other_cluster()).unwrap();
    custody.verify_seed(NEXT, &new_check).unwrap();
    assert!(opens(&custody, &after));
    let neither = custody.verify_seed(NEXT, &old_check).unwrap_err();
    assert_eq!(neither, SeedMismatch::OtherClusterSecret { named: NEXT });
}

#[test]
fn a_state_is_given_to_whoever_asks_for_the_seed_that_is_held() {
    let (_place, custody) = Place::new();
    let asked = JoinRequest { replica: REPLICA, seed: NEXT, challenge: [9; 32] };
    assert_eq!(custody.share(&asked).unwrap_err(), ShareError(NEXT));
    custody.begin_next(NEXT, &SystemRandom).unwrap();
    let given = custody.share(&asked).unwrap().open(&asked, &cluster()).unwrap();
    let held = custody.lock().next.as_ref().unwrap().contents.state.duplicate();
    assert_eq!(given.expose_secret(), held.expose_secret());
}
