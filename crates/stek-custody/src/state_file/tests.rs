use std::os::unix::fs::{PermissionsExt, symlink};

use stek_core::id::{Incarnation, Revision};

use super::*;
use crate::testing::{EPOCH, REPLICA, epoch, state};

fn contents(at: u64, revision: u64) -> Contents {
    let mut state = state();
    state.advance_to(epoch(at)).unwrap();
    let incarnation = Incarnation::from_bytes([1; 16]);
    let high_water = HighWater { incarnation, revision: Revision::new(revision) };
    Contents { state, high_water: Some(high_water), replica: REPLICA }
}

fn directory() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ratchet");
    (directory, path)
}

fn created() -> (tempfile::TempDir, PathBuf) {
    let (directory, path) = directory();
    StateFile::create(&path, &contents(EPOCH, 1)).unwrap();
    (directory, path)
}

/// The epoch and revision that opening the file gives.
fn opened(path: &Path) -> (u64, u64) {
    let (_, contents) = StateFile::open(path).unwrap();
    (contents.state.epoch().as_u64(), contents.high_water.unwrap().revision.as_u64())
}

fn holds(path: &Path, secret: &[u8]) -> usize {
    fs::read(path).unwrap().windows(secret.len()).filter(|bytes| *bytes == secret).count()
}

#[test]
fn files_are_private_and_read_what_they_write() {
    let (_directory, path) = directory();
    let mut file = StateFile::create(&path, &contents(EPOCH, 1)).unwrap();
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    file.replace(&contents(EPOCH + 1, 1)).unwrap();
    file.update(&contents(EPOCH + 1, 2)).unwrap();
    assert_eq!(file.path(), path);
    drop(file);
    assert_eq!(opened(&path), (EPOCH + 1, 2));
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let (_directory, path) = created();
    let error = StateFile::create(&path, &contents(EPOCH + 1, 9)).unwrap_err();
    assert!(matches!(error, StateFileError::Exists { .. }), "{error}");
    assert_eq!(opened(&path), (EPOCH, 1));
}

#[test]
fn a_failed_creation_leaves_nothing() {
    let (_directory, path) = directory();
    let error = StateFile::create(&path.join("below"), &contents(EPOCH, 1)).unwrap_err();
    assert!(matches!(error, StateFileError::Io { operation: "create", .. }), "{error}");
    assert!(matches!(StateFile::open(&path), Err(StateFileError::Missing { .. })));
}

#[test]
fn two_openers_do_not_share_a_file() {
    let (_directory, path) = created();
    let first = StateFile::open(&path).unwrap();
    let error = StateFile::open(&path).unwrap_err();
    assert!(matches!(error, StateFileError::Locked { .. }), "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop(first);
    assert_eq!(opened(&path), (EPOCH, 1));
    let (_directory, path) = directory();
    let creator = StateFile::create(&path, &contents(EPOCH, 1)).unwrap();
    assert!(matches!(StateFile::open(&path), Err(StateFileError::Locked { .. })));
    drop(creator);
}

#[test]
fn the_mark_is_read_though_another_has_the_file() {
    let (_directory, path) = directory();
    let mark = || StateFile::read_high_water(&path).map(|mark| mark.unwrap().revision.as_u64());
    assert!(matches!(mark(), Err(StateFileError::Missing { .. })));
    let mut file = StateFile::create(&path, &contents(EPOCH, 10)).unwrap();
    assert_eq!(mark().unwrap(), 10);
    for revision in 11..=13 {
        file.update(&contents(EPOCH, revision)).unwrap();
        assert_eq!(mark().unwrap(), revision);
    }
    fs::write(&path, [0; 8192]).unwrap();
    assert!(matches!(mark(), Err(StateFileError::Torn { .. })));
}

#[test]
fn open_to_others_is_refused() {
    let (_directory, path) = created();
    for mode in 0..0o1000 {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode | 0o600)).unwrap();
        match StateFile::open(&path) {
            Ok(_) => assert_eq!(mode & 0o077, 0, "{mode:o}"),
            Err(StateFileError::Mode { mode: found, .. }) => {
                assert!(mode & 0o077 != 0 && found == mode | 0o600, "{mode:o}");
            }
            Err(error) => panic!("{error}"),
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let text = StateFile::open(&path).unwrap_err().to_string();
    assert!(text.contains("0640") && text.contains("0600"), "{text}");
}

#[test]
fn a_file_of_another_user_is_refused() {
    let (_directory, path) = created();
    let status = fstat(File::open(&path).unwrap()).unwrap();
    let user = geteuid().as_raw();
    assert!(check_access(&path, &status, user).is_ok());
    let error = check_access(&path, &status, user + 1).unwrap_err();
    assert!(matches!(error, StateFileError::Owner { owner, .. } if owner == user), "{error}");
}

#[test]
fn links_and_other_things_are_refused() {
    let (directory, path) = created();
    let refused = |path: &Path| {
        let error = StateFile::open(path).unwrap_err();
        assert!(matches!(error, StateFileError::NotAFile { .. }), "{error}");
    };
    let link = directory.path().join("link");
    symlink(&path, &link).unwrap();
    refused(&link);
    refused(directory.path());
    let pipe = directory.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
        .unwrap();
    refused(&pipe);
    fs::hard_link(&path, directory.path().join("hard")).unwrap();
    refused(&path);
    let dangling = directory.path().join("dangling");
    symlink(directory.path().join("nowhere"), &dangling).unwrap();
    let error = StateFile::create(&dangling, &contents(EPOCH, 1)).unwrap_err();
    assert!(matches!(error, StateFileError::Exists { .. }), "{error}");
}

#[test]
fn an_advance_leaves_no_old_state_in_the_file() {
    let (_directory, path) = directory();
    let old = contents(EPOCH, 1);
    let new = contents(EPOCH + 1, 1);
    let mut file = StateFile::create(&path, &old).unwrap();
    assert_eq!(holds(&path, old.state.expose_secret()), 2, "the search must find what is there");
    file.update(&contents(EPOCH, 2)).unwrap();
    assert_eq!(holds(&path, old.state.expose_secret()), 2);
    file.replace(&new).unwrap();
    assert_eq!(holds(&path, old.state.expose_secret()), 0);
    assert_eq!(holds(&path, new.state.expose_secret()), 2);
}

/// Every prefix of each of the two writes of an advance reaches the disk, and then the machine
/// stops. What is read is the old contents or the new, and the old state does not survive it.
#[test]
fn a_torn_advance_recovers_at_every_byte() {
    let (_directory, path) = directory();
    let (old, new) = (contents(EPOCH, 1), contents(EPOCH + 1, 1));
    let mut file = StateFile::create(&path, &old).unwrap();
    let before = fs::read(&path).unwrap();
    file.replace(&new).unwrap();
    let after = fs::read(&path).unwrap();
    drop(file);
    for first in [0, 1] {
        let [one, two] =
            [first, 1 - first].map(|slot| usize::try_from(SLOT_OFFSETS[slot]).unwrap());
        for reached in 0..=2 * SLOT_LEN {
            let mut torn = before.clone();
            let (in_one, in_two) = (reached.min(SLOT_LEN), reached.saturating_sub(SLOT_LEN));
            torn[one..one + in_one].copy_from_slice(&after[one..one + in_one]);
            torn[two..two + in_two].copy_from_slice(&after[two..two + in_two]);
            fs::write(&path, &torn).unwrap();
            let expected = if reached < SLOT_LEN { &old } else { &new };
            let found = opened(&path).0;
            assert_eq!(found, expected.state.epoch().as_u64(), "slot {first} first, {reached}");
            assert_eq!(holds(&path, expected.state.expose_secret()), 2);
            if reached >= SLOT_LEN {
                assert_eq!(holds(&path, old.state.expose_secret()), 0, "{reached}");
            }
            assert_eq!(opened(&path).0, found, "a second opening finds the same");
        }
    }
}

#[test]
fn without_a_whole_slot_nothing_is_opened() {
    for length in [0, 1, SLOT_LEN, 4096, 4096 + SLOT_LEN] {
        let (_directory, path) = created();
        fs::write(&path, vec![0; length]).unwrap();
        let error = StateFile::open(&path).unwrap_err();
        assert!(matches!(error, StateFileError::Torn { .. }), "{length}: {error}");
        assert!(error.to_string().contains(path.to_str().unwrap()));
    }
    let (_directory, path) = created();
    let mut bytes = fs::read(&path).unwrap();
    bytes[60] ^= 1;
    bytes[4096 + 100] ^= 1;
    fs::write(&path, &bytes).unwrap();
    assert!(matches!(StateFile::open(&path), Err(StateFileError::Torn { .. })));
}

#[test]
fn a_truncated_file_recovers_from_its_first_slot() {
    let (_directory, path) = created();
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..SLOT_LEN]).unwrap();
    assert_eq!(opened(&path), (EPOCH, 1));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

/// This program never writes such a file; it must still not end with two different slots.
#[test]
fn of_two_slots_with_one_number_the_first_counts() {
    let (directory, path) = created();
    let other = directory.path().join("other");
    StateFile::create(&other, &contents(EPOCH + 1, 1)).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].copy_from_slice(&fs::read(&other).unwrap()[4096..]);
    fs::write(&path, &bytes).unwrap();
    assert_eq!(opened(&path), (EPOCH, 1));
    assert_eq!(holds(&path, contents(EPOCH, 1).state.expose_secret()), 2);
}

/// A write that fails part way must not make the next one tear the slot that is still whole.
#[test]
fn after_a_failed_write_the_doubtful_slot_is_written_first() {
    let (_directory, path) = directory();
    let mut file = StateFile::create(&path, &contents(EPOCH, 1)).unwrap();
    for doubtful in [0, 1] {
        let sound = fs::File::options().read(true).write(true).open(&path).unwrap();
        let unwritable = File::open(&path).unwrap();
        file.slots = if doubtful == 0 { [Some(1), Some(2)] } else { [Some(2), Some(1)] };
        file.file = unwritable;
        let error = file.replace(&contents(EPOCH + 1, 1)).unwrap_err();
        assert!(matches!(error, StateFileError::Io { operation: "write", .. }), "{error}");
        assert_eq!(file.slots[doubtful], None);
        assert_eq!(file.slots[1 - doubtful], Some(2));
        let tried = file.sequence;
        file.file = sound;
        file.update(&contents(EPOCH, 7)).unwrap();
        assert_eq!(file.slots[doubtful], Some(tried + 1));
        assert_eq!(file.slots[1 - doubtful], Some(2));
    }
}

#[test]
fn erasing_leaves_neither_file_nor_state() {
    let (directory, path) = directory();
    let kept = directory.path().join("kept");
    let contents = contents(EPOCH, 1);
    let file = StateFile::create(&path, &contents).unwrap();
    // A second name shows what becomes of the bytes themselves.
    fs::hard_link(&path, &kept).unwrap();
    assert_eq!(holds(&kept, contents.state.expose_secret()), 2);
    file.erase().unwrap();
    assert!(!path.exists());
    assert_eq!(holds(&kept, contents.state.expose_secret()), 0);
}

#[test]
fn debug_shows_no_secret() {
    let (_directory, path) = created();
    let (file, contents) = StateFile::open(&path).unwrap();
    crate::testing::assert_redacted(&(&file, &contents), &[contents.state.expose_secret()]);
}
