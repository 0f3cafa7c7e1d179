//! The secret that every manager of a cluster is given by its operator, and what is derived from
//! it. Alone it opens nothing: a wrapped key needs the ratchet too.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use stek_core::audit::{AuditChain, ChainLink, KEY_IDENTITY};
use stek_core::health::WeakKey;
use stek_core::wrapped::SeedId;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::random::{DrawError, RandomSource, draw};
use crate::secret::{SECRET_LEN, Secret, erasing_stack, expand, mac};

/// Length of the written form: two hexadecimal digits for each byte.
const TEXT_LEN: usize = 2 * SECRET_LEN;

/// Length of a seed's check value in bytes.
pub const CHECK_LEN: usize = 8;

/// The permissions that the file must not have: all of others, and writing by the group.
const FORBIDDEN_MODE: u32 = 0o037;

/// 32 random bytes, written as 64 hexadecimal digits.
///
/// | derived                  | HKDF-SHA256 (RFC 5869) salt | input key material | info                             |
/// |--------------------------|-----------------------------|--------------------|----------------------------------|
/// | key of [`RowSealer`]     | none                        | cluster secret     | `stek/1/seal`                    |
/// | key of [`AuditKey`]      | none                        | cluster secret     | `stek/1/audit`                   |
/// | check value of a seed    | cluster secret              | seed id            | `stek/1/check-secret`            |
/// | [`Kek`] of epoch x       | cluster secret              | S_x                | `stek/1/kek` ‖ seed id ‖ x u64 BE |
///
/// [`Kek`]: crate::ratchet::Kek
///
/// While it is exchanged there are two: the current one and the previous one. What is in use is
/// the one that the live seed was claimed with; rows sealed under either hold.
pub struct ClusterSecret {
    current: Secret,
    previous: Option<Secret>,
    in_use: InUse,
}

/// Which of two cluster secrets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The one to be used from now on.
    Current,
    /// The one before it.
    Previous,
}

/// The one that is in use, shared by all that is derived from both.
#[derive(Debug, Clone, Default)]
struct InUse(Arc<AtomicBool>);

impl InUse {
    fn get(&self) -> Generation {
        if self.0.load(Ordering::Acquire) { Generation::Previous } else { Generation::Current }
    }

    fn set(&self, generation: Generation) {
        self.0.store(generation == Generation::Previous, Ordering::Release);
    }
}

/// A key derived from each.
#[derive(Debug)]
struct Derived {
    current: Secret,
    previous: Option<Secret>,
    in_use: InUse,
}

impl Derived {
    fn in_use(&self) -> &Secret {
        match self.in_use.get() {
            Generation::Current => &self.current,
            Generation::Previous => self.previous.as_ref().unwrap_or(&self.current),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Secret> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

/// A text that is no cluster secret. Says nothing of its characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseClusterSecretError {
    /// Not 64 hexadecimal digits with at most a line feed after them.
    #[error("not {TEXT_LEN} hexadecimal digits")]
    Format,
    /// The digits follow a pattern.
    #[error("not random")]
    Weak(#[source] WeakKey),
}

/// The file of the cluster secret cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterSecretError {
    /// It could not be opened or read.
    #[error("cannot read the cluster secret {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// It is a directory, pipe or device.
    #[error("the cluster secret {} is not a file", path.display())]
    NotAFile {
        /// Which path.
        path: PathBuf,
    },
    /// Others may read it, or its group may write it.
    #[error(
        "the cluster secret {} has mode {mode:04o}, allowed are 0400, 0600, 0440 and 0640",
        path.display()
    )]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It holds something else.
    #[error("the cluster secret {} is refused", path.display())]
    Content {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: ParseClusterSecretError,
    },
}

impl ClusterSecret {
    /// Reads the file at `path`.
    ///
    /// Its owner and, for credentials that systemd or Kubernetes mount 0440, its group may read it;
    /// nobody else may, and the group may not write it. Symbolic links are followed, for Kubernetes
    /// mounts secrets behind them; the mode that counts is that of the file itself.
    ///
    /// # Errors
    /// [`ClusterSecretError`], with the path.
    pub fn read(path: &Path) -> Result<Self, ClusterSecretError> {
        let failed = |source| ClusterSecretError::Read { path: path.into(), source };
        // NONBLOCK: opening a pipe by mistake must not hang.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let descriptor = open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let status = fstat(&descriptor).map_err(|error| failed(error.into()))?;
        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(ClusterSecretError::NotAFile { path: path.into() });
        }
        let mode = Mode::from_raw_mode(status.st_mode).as_raw_mode();
        if mode & FORBIDDEN_MODE != 0 {
            return Err(ClusterSecretError::Mode { path: path.into(), mode });
        }
        // One byte more than is allowed, so that a longer file is seen to be longer.
        let mut buffer = Box::new(Zeroizing::new([0; TEXT_LEN + 2]));
        let length = read_up_to(File::from(descriptor), buffer.as_mut_slice()).map_err(failed)?;
        Self::parse_bytes(&buffer[..length])
            .map_err(|source| ClusterSecretError::Content { path: path.into(), source })
    }

    /// Reads 64 hexadecimal digits, lower or upper case, with or without a line feed after them.
    ///
    /// # Errors
    /// [`ParseClusterSecretError`] if it is anything else or not random.
    pub fn parse(text: &str) -> Result<Self, ParseClusterSecretError> {
        Self::parse_bytes(text.as_bytes())
    }

    /// A new secret in its written form, without a line feed.
    ///
    /// # Errors
    /// [`DrawError`] if the random source fails or is broken.
    pub fn generate_text(random: &dyn RandomSource) -> Result<Zeroizing<String>, DrawError> {
        let material = draw(random)?;
        let mut text = Zeroizing::new(String::with_capacity(TEXT_LEN));
        for byte in material.expose_secret() {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('0'));
            }
        }
        Ok(text)
    }

    /// The same with the one before it, under which rows may still be sealed.
    #[must_use]
    pub fn with_previous(self, previous: Self) -> Self {
        Self { previous: Some(previous.current), ..self }
    }

    /// Whether there is a previous one.
    pub fn has_previous(&self) -> bool {
        self.previous.is_some()
    }

    /// The only one there is; `None` if there are two.
    pub(crate) fn sole(&self) -> Option<Generation> {
        (!self.has_previous()).then_some(Generation::Current)
    }

    /// Which of the two `seed` was claimed with; `None` if neither.
    pub fn claimed_with(&self, seed: &SeedId, check: &[u8; CHECK_LEN]) -> Option<Generation> {
        let is = |generation| -> bool {
            self.expose_one(generation)
                .is_some_and(|secret| check_value(secret, seed).ct_eq(check).into())
        };
        [Generation::Current, Generation::Previous].into_iter().find(|one| is(*one))
    }

    /// Which one seals and links from now on.
    pub fn put_in_use(&self, generation: Generation) {
        self.in_use.set(generation);
    }

    /// Which one seals and links.
    pub fn in_use(&self) -> Generation {
        self.in_use.get()
    }

    /// What seals rows of the database.
    pub fn row_sealer(&self) -> RowSealer {
        RowSealer(self.derive(b"stek/1/seal"))
    }

    /// What links the audit trail.
    pub fn audit_key(&self) -> AuditKey {
        AuditKey(self.derive(b"stek/1/audit"))
    }

    /// The check value of a seed: tells at any epoch whether another manager, or a file, means the
    /// same cluster secret and seed.
    ///
    /// It covers the identity of the seed and not the ratchet's state, for nothing of that can be
    /// kept that every later state could confirm. A state with the right identity and wrong bytes
    /// shows only when a wrapped key does not open.
    pub fn check_value(&self, seed: &SeedId) -> [u8; CHECK_LEN] {
        check_value(self.expose(), seed)
    }

    /// The same with the one that seals and links now, as for a seed of the same time as rows.
    pub fn check_value_in_use(&self, seed: &SeedId) -> [u8; CHECK_LEN] {
        check_value(self.expose_one(self.in_use()).unwrap_or_else(|| self.expose()), seed)
    }

    pub(crate) fn expose(&self) -> &[u8; SECRET_LEN] {
        self.current.expose()
    }

    /// The one of this generation, if there is one.
    pub(crate) fn expose_one(&self, generation: Generation) -> Option<&[u8; SECRET_LEN]> {
        match generation {
            Generation::Current => Some(self.current.expose()),
            Generation::Previous => self.previous.as_ref().map(Secret::expose),
        }
    }

    fn derive(&self, info: &[u8]) -> Derived {
        let derived = |secret: &Secret| {
            erasing_stack(|| Secret::written_by(|key| expand(None, secret.expose(), &[info], key)))
        };
        Derived {
            current: derived(&self.current),
            previous: self.previous.as_ref().map(derived),
            in_use: self.in_use.clone(),
        }
    }

    fn parse_bytes(text: &[u8]) -> Result<Self, ParseClusterSecretError> {
        let digits = text.strip_suffix(b"\n").unwrap_or(text);
        if digits.len() != TEXT_LEN || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(ParseClusterSecretError::Format);
        }
        let secret = Secret::written_by(|bytes| {
            for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                *byte = pair.iter().fold(0, |high, digit| high << 4 | value_of(*digit));
            }
        });
        secret.check().map_err(ParseClusterSecretError::Weak)?;
        Ok(Self { current: secret, previous: None, in_use: InUse::default() })
    }
}

fn check_value(secret: &[u8; SECRET_LEN], seed: &SeedId) -> [u8; CHECK_LEN] {
    let mut check = [0; CHECK_LEN];
    erasing_stack(|| {
        expand(Some(secret), seed.as_bytes(), &[b"stek/1/check-secret"], &mut check);
    });
    check
}

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(..)")
    }
}

/// Seals rows that decide who may do what, so that whoever can only write the database grants
/// nothing. Shows a changed row, not a missing one.
#[derive(Debug)]
pub struct RowSealer(Derived);

impl RowSealer {
    /// HMAC-SHA256 over the canonical bytes of a row, which begin with its kind.
    pub fn seal(&self, canonical: &[u8]) -> [u8; 32] {
        sealed(self.0.in_use(), canonical)
    }

    /// Whether `seal` is that of the row under the cluster secret that is in use.
    pub fn is_up_to_date(&self, canonical: &[u8], seal: &[u8; 32]) -> bool {
        self.seal(canonical).ct_eq(seal).into()
    }

    /// Whether `seal` is that of the row, in time that does not depend on where it differs.
    #[must_use = "a row whose seal is wrong counts for nothing"]
    pub fn verify(&self, canonical: &[u8], seal: &[u8; 32]) -> bool {
        self.0.all().any(|key| sealed(key, canonical).ct_eq(seal).into())
    }
}

fn sealed(key: &Secret, canonical: &[u8]) -> [u8; 32] {
    let mut seal = [0; 32];
    erasing_stack(|| mac(key.expose(), &[canonical], &mut seal));
    seal
}

/// Links the audit trail: `link = HMAC-SHA256(key, previous link ‖ event)`.
#[derive(Debug)]
pub struct AuditKey(Derived);

impl AuditKey {
    /// What shows which key was that of the previous cluster secret; `None` if there is none.
    pub fn previous_identity(&self) -> Option<ChainLink> {
        let previous = self.0.previous.as_ref()?;
        Some(linked(previous, &ChainLink::ORIGIN, KEY_IDENTITY))
    }
}

fn linked(key: &Secret, previous: &ChainLink, event: &[u8]) -> ChainLink {
    let mut link = [0; 32];
    erasing_stack(|| mac(key.expose(), &[previous.as_bytes(), event], &mut link));
    ChainLink::from_bytes(link)
}

impl AuditChain for AuditKey {
    fn link(&self, previous: &ChainLink, event: &[u8]) -> ChainLink {
        linked(self.0.in_use(), previous, event)
    }

    /// Under either cluster secret: the trail goes on from one to the next.
    fn holds(&self, previous: &ChainLink, event: &[u8], link: &ChainLink) -> bool {
        let is_it = |key| linked(key, previous, event).as_bytes().ct_eq(link.as_bytes()).into();
        self.0.all().any(is_it)
    }
}

/// The value of a hexadecimal digit, without a table that a secret would index.
fn value_of(digit: u8) -> u8 {
    // 'A' and 'a' have the low bits 1 and bit 6; '0' has neither.
    (digit & 0x0f) + 9 * (digit >> 6)
}

fn read_up_to(mut file: File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests;
