//! Fixed inputs for the tests of this crate, broken random sources, and the search for leaks.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use stek_core::id::{Kcv, KeyId};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::schedule::Schedule;
use stek_core::secret::KeyMaterial;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use zeroize::Zeroize;

use crate::cluster_secret::ClusterSecret;
use crate::random::{RandomError, RandomSource};
use crate::ratchet::RatchetState;

/// SHA-256 of `stek test cluster secret`.
pub(crate) const CLUSTER_SECRET: &str =
    "c0a1e9cecc2eceb5249caae7bed72e8537781a1b9179fba0290fbfd5508c09a8";
/// SHA-256 of `stek test ratchet state`.
pub(crate) const STATE: &str = "babff4e6698c76d9e76b1e64e49d14bc03e754d99630e2819407135eb584e326";
/// SHA-256 of `stek test ticket key`.
pub(crate) const TICKET_KEY: &str =
    "2dabeefc57f1180028a24b258de95cf01b94d49e17e997917b7466f1fec7aab5";
/// The seed 10 11 .. 1f.
pub(crate) const SEED: SeedId =
    SeedId::from_bytes([16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31]);
/// The replica 70 71 .. 7f.
pub(crate) const REPLICA: ReplicaId = ReplicaId::from_bytes([
    112, 113, 114, 115, 116, 117, 118, 119, 120, 121, 122, 123, 124, 125, 126, 127,
]);
/// The epoch of [`STATE`].
pub(crate) const EPOCH: u64 = 497_222;
/// When the test key is published, in that epoch.
pub(crate) const PUBLISHED: u64 = 1_790_000_000;
/// The last epoch in which the test key can be unwrapped.
pub(crate) const DESTRUCTION: u64 = EPOCH + 18;

pub(crate) fn epoch(number: u64) -> Epoch {
    Epoch::new(number)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn unhex<const N: usize>(text: &str) -> [u8; N] {
    assert_eq!(text.len(), 2 * N);
    std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
}

pub(crate) fn cluster() -> Arc<ClusterSecret> {
    Arc::new(ClusterSecret::parse(CLUSTER_SECRET).unwrap())
}

/// A cluster secret that differs in one bit.
pub(crate) fn other_cluster() -> Arc<ClusterSecret> {
    Arc::new(ClusterSecret::parse(&CLUSTER_SECRET.replace("c0a1", "c1a1")).unwrap())
}

pub(crate) fn state() -> RatchetState {
    RatchetState::try_new(SEED, epoch(EPOCH), &mut unhex(STATE)).unwrap()
}

pub(crate) fn material() -> KeyMaterial {
    KeyMaterial::take_from(&mut unhex(TICKET_KEY))
}

pub(crate) fn keyset() -> KeysetName {
    KeysetName::try_new("main").unwrap()
}

/// The record of [`material`], with these offsets in seconds from its publication.
pub(crate) fn record_at(activate: u64, retire: u64, destroy: u64, destroy_by: u64) -> KeyRecord {
    let at = |offset| Timestamp::from_unix(PUBLISHED + offset);
    KeyRecord {
        id: KeyId::from_bytes(std::array::from_fn(|i| 0x40 + u8::try_from(i).unwrap())),
        format: TicketFormat::V1,
        kcv: Kcv::parse("6742c4ac6b110a39").unwrap(),
        schedule: Schedule::try_new(at(0), at(activate), at(retire), at(destroy), at(destroy_by))
            .unwrap(),
    }
}

pub(crate) fn record() -> KeyRecord {
    record_at(0, 21_600, 43_260, 64_860)
}

/// A source that gives a function of the position.
pub(crate) struct Pattern(pub(crate) fn(u8) -> u8);

impl RandomSource for Pattern {
    fn fill(&self, buffer: &mut [u8]) -> Result<(), RandomError> {
        for (i, byte) in buffer.iter_mut().enumerate() {
            *byte = (self.0)(u8::try_from(i % 256).unwrap());
        }
        Ok(())
    }
}

/// A source that fails.
pub(crate) struct Failing;

impl RandomSource for Failing {
    fn fill(&self, _: &mut [u8]) -> Result<(), RandomError> {
        Err(RandomError::new(io::Error::from(io::ErrorKind::Unsupported)))
    }
}

/// Whether `text` shows four neighbouring bytes of `secret`, in hexadecimal or as a list.
pub(crate) fn leaks(text: &str, secret: &[u8]) -> bool {
    let squeezed: String = text.to_lowercase().split_whitespace().collect();
    secret.windows(4).any(|bytes| {
        let list: Vec<_> = bytes.iter().map(u8::to_string).collect();
        squeezed.contains(&hex(bytes)) || squeezed.contains(&list.join(","))
    })
}

/// Fails if `value` shows any of `secrets` in either form of `Debug`.
#[track_caller]
pub(crate) fn assert_redacted(value: &dyn std::fmt::Debug, secrets: &[&[u8]]) {
    for text in [format!("{value:?}"), format!("{value:#?}")] {
        assert!(secrets.iter().all(|secret| !leaks(&text, secret)), "{text}");
    }
}

/// How much of a secret is looked for, in bytes.
const SOUGHT_LEN: usize = 16;

/// How much memory is read at once, in bytes.
const BUFFER_LEN: usize = 65_536;

/// Lets one test at a time search the memory.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a secret with every bit flipped, so that the search does not find itself. Only the
/// end, for an allocator writes over the beginning of what is freed.
pub(crate) struct Sought([u8; SOUGHT_LEN]);

impl Sought {
    pub(crate) fn end_of(secret: &[u8]) -> Self {
        let end = &secret[secret.len() - SOUGHT_LEN..];
        Self(std::array::from_fn(|i| !end[i]))
    }

    /// Whether it lies anywhere in the writable memory of this process. Only for secrets that were
    /// drawn at random: other tests use the fixed ones at the same time. `_alone` keeps out other
    /// searches, whose buffers would be found.
    pub(crate) fn is_in_memory(&self, _alone: &MutexGuard<'_, ()>) -> bool {
        let memory = File::open("/proc/self/mem").unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut buffer = vec![0; BUFFER_LEN];
        let mut found = false;
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
            let [from, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
            let step = BUFFER_LEN - SOUGHT_LEN;
            for at in (from..to).step_by(step) {
                // Another thread may have given the region back meanwhile.
                let read = memory.read_at(&mut buffer, at).unwrap_or(0);
                found |= self.is_in(&buffer[..read]);
                buffer.as_mut_slice().zeroize();
            }
        }
        found
    }

    fn is_in(&self, bytes: &[u8]) -> bool {
        let mut from = 0;
        // The first byte alone is sought by the standard library, which is fast in any build.
        while from < bytes.len() {
            let chunk = &bytes[from..bytes.len().min(from + 4096 + SOUGHT_LEN)];
            if chunk.contains(&!self.0[0]) && chunk.windows(SOUGHT_LEN).any(|w| self.is_at(w)) {
                return true;
            }
            from += 4096;
        }
        false
    }

    fn is_at(&self, bytes: &[u8]) -> bool {
        bytes[0] == !self.0[0] && bytes.iter().zip(&self.0).all(|(byte, flipped)| *byte == !flipped)
    }
}

#[test]
fn the_search_for_leaks_finds_them() {
    let secret: [u8; 32] = unhex(STATE);
    let shown =
        [format!("{secret:?}"), format!("{secret:#?}"), hex(&secret), format!("{secret:02X?}")];
    assert!(shown[..3].iter().all(|text| leaks(text, &secret)));
    assert!(!leaks("RatchetState { .. }", &secret));
}
