//! The file that holds the ratchet's state and the high-water mark. Two slots overwritten in place,
//! so that one is whole whenever the machine stops and no old state is left in freed blocks.
//!
//! That holds on file systems that overwrite in place, best on tmpfs; copy-on-write file systems,
//! snapshots and flash below them keep old blocks, and nothing here can tell.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    FileType, FlockOperation, Mode, OFlags, Stat, fdatasync, flock, fstat, fsync, open,
};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::geteuid;

use crate::state_file::slot::{Decoded, Encoded, SLOT_LEN};

pub use crate::state_file::slot::{Contents, HighWater};

mod slot;

/// Where the slots begin, in bytes: in pages of their own, so that tearing one leaves the other.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// The permissions that the file must not have: all of group and others.
const FORBIDDEN_MODE: u32 = 0o077;

/// The open, locked state file. Each call that writes blocks until the disk has it.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    file: File,
    /// The highest sequence that was ever tried.
    sequence: u64,
    /// The sequence that each slot is known to hold; `None` from the beginning of a write until it
    /// is on disk. Once the file is made at most one is `None`: the older slot is always the one
    /// written.
    slots: [Option<u64>; 2],
}

/// The state file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// It exists already, and overwriting it would destroy what it holds.
    #[error("the state file {} exists already", path.display())]
    Exists {
        /// Which file.
        path: PathBuf,
    },
    /// It does not exist: this manager has never had the ratchet, or lost it.
    #[error("the state file {} does not exist", path.display())]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// Another process has it open.
    #[error("the state file {} is in use by another process", path.display())]
    Locked {
        /// Which file.
        path: PathBuf,
    },
    /// A symbolic or hard link leads to it, or it is no regular file.
    #[error("the state file {} is not a regular file with one name", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// Someone else may read or write it.
    #[error("the state file {} has mode {mode:04o}, allowed is 0600", path.display())]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to someone else.
    #[error("the state file {} belongs to user {owner}, this process is user {user}", path.display())]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// The user that this process acts as.
        user: u32,
    },
    /// Neither slot is whole.
    #[error("the state file {} holds no whole state", path.display())]
    Torn {
        /// Which file.
        path: PathBuf,
    },
    /// A later version of this program wrote it.
    #[error("the state file {} has version {version}, known is {}", path.display(), slot::VERSION)]
    Version {
        /// Which file.
        path: PathBuf,
        /// The version it has.
        version: u32,
    },
    /// It could not be read or written.
    #[error("cannot {operation} the state file {}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

impl StateFile {
    /// Creates the file at `path` with mode 0600, locks it, and writes `contents` to both slots.
    ///
    /// # Errors
    /// [`StateFileError`], with the path; then there is no file, unless there was one before.
    pub fn create(path: &Path, contents: &Contents) -> Result<Self, StateFileError> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW;
        let descriptor = open(path, flags | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR);
        let descriptor = descriptor.map_err(|error| match error {
            Errno::EXIST => StateFileError::Exists { path: path.into() },
            _ => failed(path, "create", error),
        })?;
        let file = File::from(descriptor);
        let mut created = Self { path: path.into(), file, sequence: 0, slots: [None, None] };
        let written = created.first_write(contents);
        if written.is_err() {
            // Nothing was wrapped under this state yet, so nothing is lost with it. The error that
            // is returned is the one that matters.
            let _ = fs::remove_file(path);
        }
        written.map(|()| created)
    }

    /// Opens and locks the file at `path` and reads the later of its whole slots. If the other one
    /// differs it is brought up to it, so that no earlier state stays in the file.
    ///
    /// # Errors
    /// [`StateFileError`], with the path.
    pub fn open(path: &Path) -> Result<(Self, Contents), StateFileError> {
        // NONBLOCK: opening a pipe by mistake must not hang.
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open_existing(path, flags)?;
        lock(path, &file)?;
        let status = fstat(&file).map_err(|error| failed(path, "examine", error))?;
        check_access(path, &status, geteuid().as_raw())?;
        let mut opened = Self { path: path.into(), file, sequence: 0, slots: [None, None] };
        let contents = opened.recover()?;
        Ok((opened, contents))
    }

    /// The high-water mark of the file at `path`, which another process may have open meanwhile.
    ///
    /// # Errors
    /// [`StateFileError`], with the path.
    pub fn read_high_water(path: &Path) -> Result<Option<HighWater>, StateFileError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = open_existing(path, flags)?;
        let read = Self { path: path.into(), file, sequence: 0, slots: [None, None] };
        let mut latest = None;
        for offset in SLOT_OFFSETS {
            match read.read_at(offset)?.decode() {
                Decoded::Whole { sequence, contents } => {
                    latest = latest.max(Some((sequence, contents.high_water)));
                }
                Decoded::OtherVersion(version) => {
                    return Err(StateFileError::Version { path: path.into(), version });
                }
                Decoded::Torn => {}
            }
        }
        let latest = latest.ok_or_else(|| StateFileError::Torn { path: path.into() })?;
        Ok(latest.1)
    }

    /// Overwrites both slots, one after the other: nothing of the state before is left.
    ///
    /// # Errors
    /// [`StateFileError::Io`]; the file then holds the old contents, the new ones, or one of each,
    /// and opening it takes the new ones if they are there. May be tried again.
    pub fn replace(&mut self, contents: &Contents) -> Result<(), StateFileError> {
        let encoded = self.encode_next(contents);
        for _ in self.slots {
            self.write_older(&encoded)?;
        }
        Ok(())
    }

    /// Overwrites one slot, which is cheaper. The other keeps what it had: not for a new state.
    ///
    /// # Errors
    /// [`StateFileError::Io`]; the file then holds the old contents or the new ones.
    pub fn update(&mut self, contents: &Contents) -> Result<(), StateFileError> {
        let encoded = self.encode_next(contents);
        self.write_older(&encoded)
    }

    /// Overwrites both slots with zeros and removes the file.
    ///
    /// # Errors
    /// [`StateFileError::Io`]; it may then be erased again, which goes on where that ended.
    pub fn erase(&self) -> Result<(), StateFileError> {
        for offset in SLOT_OFFSETS {
            self.write_at(&[0; SLOT_LEN], offset)?;
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&self.path, "remove", error));
            }
            _ => {}
        }
        sync_directory(&self.path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn first_write(&mut self, contents: &Contents) -> Result<(), StateFileError> {
        lock(&self.path, &self.file)?;
        self.replace(contents)?;
        fsync(&self.file).map_err(|error| failed(&self.path, "write", error))?;
        sync_directory(&self.path)
    }

    /// Reads both slots, takes the later whole one and copies it over the other unless that is the
    /// same. A slot that is torn, or an earlier state, does not survive this.
    fn recover(&mut self) -> Result<Contents, StateFileError> {
        // A process that was killed may have left a slot written and not yet on disk. Overwriting
        // the other one before it is there would put both at risk at once.
        self.sync()?;
        let mut best: Option<(usize, u64, Encoded, Contents)> = None;
        let mut same = true;
        for (index, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            let encoded = self.read_at(offset)?;
            match encoded.decode() {
                Decoded::Whole { sequence, contents } => {
                    self.slots[index] = Some(sequence);
                    same &= best.as_ref().is_none_or(|(_, _, first, _)| *first == encoded);
                    if best.as_ref().is_none_or(|(_, highest, ..)| sequence > *highest) {
                        best = Some((index, sequence, encoded, contents));
                    }
                }
                Decoded::OtherVersion(version) => {
                    return Err(StateFileError::Version { path: self.path.clone(), version });
                }
                Decoded::Torn => same = false,
            }
        }
        let Some((index, sequence, encoded, contents)) = best else {
            return Err(StateFileError::Torn { path: self.path.clone() });
        };
        self.sequence = sequence;
        if !same {
            self.slots[1 - index] = None;
            self.write_older(&encoded)?;
        }
        Ok(contents)
    }

    fn encode_next(&mut self, contents: &Contents) -> Encoded {
        // A write that failed may have reached the disk, so its number is never used again.
        self.sequence += 1;
        Encoded::new(self.sequence, contents)
    }

    fn write_older(&mut self, encoded: &Encoded) -> Result<(), StateFileError> {
        let older = usize::from(self.slots[1] < self.slots[0]);
        self.slots[older] = None;
        self.write_at(encoded.as_bytes(), SLOT_OFFSETS[older])?;
        self.slots[older] = Some(self.sequence);
        Ok(())
    }

    fn write_at(&self, bytes: &[u8; SLOT_LEN], offset: u64) -> Result<(), StateFileError> {
        let written = self.file.write_all_at(bytes, offset);
        written.map_err(|error| failed(&self.path, "write", error))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), StateFileError> {
        let synced = retry_on_intr(|| fdatasync(&self.file));
        synced.map_err(|error| failed(&self.path, "write", error))
    }

    /// Reads a slot; what lies past the end of the file counts as zeros.
    fn read_at(&self, offset: u64) -> Result<Encoded, StateFileError> {
        let mut encoded = Encoded::zeroed();
        match self.file.read_exact_at(encoded.as_bytes_mut(), offset) {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(failed(&self.path, "read", error))
            }
            _ => Ok(encoded),
        }
    }
}

fn failed(path: &Path, operation: &'static str, source: impl Into<io::Error>) -> StateFileError {
    StateFileError::Io { path: path.into(), operation, source: source.into() }
}

fn open_existing(path: &Path, flags: OFlags) -> Result<File, StateFileError> {
    let opened = open(path, flags, Mode::empty()).map_err(|error| match error {
        Errno::NOENT => StateFileError::Missing { path: path.into() },
        Errno::LOOP | Errno::ISDIR => StateFileError::NotAFile { path: path.into() },
        _ => failed(path, "open", error),
    });
    opened.map(File::from)
}

fn lock(path: &Path, file: &File) -> Result<(), StateFileError> {
    flock(file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        Errno::WOULDBLOCK => StateFileError::Locked { path: path.into() },
        _ => failed(path, "lock", error),
    })
}

fn check_access(path: &Path, status: &Stat, user: u32) -> Result<(), StateFileError> {
    let path = path.to_path_buf();
    if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile || status.st_nlink != 1 {
        return Err(StateFileError::NotAFile { path });
    }
    let mode = Mode::from_raw_mode(status.st_mode).as_raw_mode();
    if mode & FORBIDDEN_MODE != 0 {
        return Err(StateFileError::Mode { path, mode });
    }
    if status.st_uid != user {
        return Err(StateFileError::Owner { path, owner: status.st_uid, user });
    }
    Ok(())
}

/// Makes the creation or removal of `path` itself last.
fn sync_directory(path: &Path) -> Result<(), StateFileError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(parent.unwrap_or(Path::new(".")));
    let synced = directory.and_then(|directory| Ok(fsync(directory)?));
    synced.map_err(|error| failed(path, "sync the directory of", error))
}

#[cfg(test)]
mod tests;
