//! One slot of the state file: its layout and what makes it whole.

use sha2::{Digest, Sha256};
use stek_core::health::WeakKey;
use stek_core::id::{Incarnation, Revision};
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::ratchet::RatchetState;
use crate::secret::{SECRET_LEN, erasing_stack};

/// Length of a slot in bytes.
pub(super) const SLOT_LEN: usize = CHECKED_LEN + 32;

/// The layout that is written and read.
pub(super) const VERSION: u32 = 1;

/// How much of a slot its checksum covers.
const CHECKED_LEN: usize = 120;

const MAGIC: &[u8; 8] = b"stek-rat";

/// The highest revision published, of the latest lineage of the database. Lineages come first in
/// the order: an accepted restore begins a later one with lower revisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HighWater {
    /// The lineage.
    pub incarnation: Incarnation,
    /// The highest revision in it.
    pub revision: Revision,
}

/// What the state file holds.
#[derive(Debug)]
pub struct Contents {
    /// The ratchet.
    pub state: RatchetState,
    /// The highest revision published, once there is one.
    pub high_water: Option<HighWater>,
    /// Which copy of the ratchet this is.
    pub replica: ReplicaId,
}

/// A slot as it lies on disk; erased when dropped.
///
/// ```text
///   0  magic        8  "stek-rat"
///   8  version      4  u32 BE = 1
///  12  zero         4
///  16  sequence     8  u64 BE, higher is later
///  24  seed id     16
///  40  epoch e      8  u64 BE
///  48  S_e         32
///  80  incarnation 16  of the high-water mark; zeros if there is none
///  96  revision     8  u64 BE, of the high-water mark
/// 104  replica id  16
/// 120  checksum    32  SHA-256 of bytes 0 to 119
/// 152
/// ```
///
/// The checksum tells a torn slot, not a forged one: who can write this file has its secret.
pub(super) struct Encoded(Box<[u8; SLOT_LEN]>);

/// What a slot holds.
pub(super) enum Decoded {
    /// A state.
    Whole {
        /// Its number.
        sequence: u64,
        /// What it says.
        contents: Contents,
    },
    /// A whole slot of another layout.
    OtherVersion(u32),
    /// Nothing that can be used.
    Torn,
}

impl Encoded {
    pub(super) fn zeroed() -> Self {
        Self(Box::new([0; SLOT_LEN]))
    }

    pub(super) fn new(sequence: u64, contents: &Contents) -> Self {
        let state = &contents.state;
        let mut encoded = Self::zeroed();
        let bytes = &mut encoded.0;
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_be_bytes());
        bytes[16..24].copy_from_slice(&sequence.to_be_bytes());
        bytes[24..40].copy_from_slice(state.seed_id().as_bytes());
        bytes[40..48].copy_from_slice(&state.epoch().as_u64().to_be_bytes());
        bytes[48..80].copy_from_slice(state.expose_secret());
        if let Some(high_water) = &contents.high_water {
            bytes[80..96].copy_from_slice(high_water.incarnation.as_bytes());
            bytes[96..104].copy_from_slice(&high_water.revision.as_u64().to_be_bytes());
        }
        bytes[104..120].copy_from_slice(contents.replica.as_bytes());
        let checksum = encoded.checksum();
        encoded.0[CHECKED_LEN..].copy_from_slice(&checksum);
        encoded
    }

    pub(super) fn decode(&self) -> Decoded {
        if self.part::<8>(0) != *MAGIC || self.part::<32>(CHECKED_LEN) != self.checksum() {
            return Decoded::Torn;
        }
        let version = u32::from_be_bytes(self.part(8));
        if version != VERSION {
            return Decoded::OtherVersion(version);
        }
        let Ok(state) = erasing_stack(|| self.state()) else {
            return Decoded::Torn;
        };
        let high_water = (self.part::<16>(80) != [0; 16]).then(|| HighWater {
            incarnation: Incarnation::from_bytes(self.part(80)),
            revision: Revision::new(u64::from_be_bytes(self.part(96))),
        });
        let sequence = u64::from_be_bytes(self.part(16));
        let replica = ReplicaId::from_bytes(self.part(104));
        Decoded::Whole { sequence, contents: Contents { state, high_water, replica } }
    }

    pub(super) fn as_bytes(&self) -> &[u8; SLOT_LEN] {
        &self.0
    }

    pub(super) fn as_bytes_mut(&mut self) -> &mut [u8; SLOT_LEN] {
        &mut self.0
    }

    fn state(&self) -> Result<RatchetState, WeakKey> {
        let mut secret = Zeroizing::new(self.part::<SECRET_LEN>(48));
        let seed = SeedId::from_bytes(self.part(24));
        let epoch = Epoch::new(u64::from_be_bytes(self.part(40)));
        RatchetState::try_new(seed, epoch, &mut secret)
    }

    fn checksum(&self) -> [u8; 32] {
        erasing_stack(|| Sha256::digest(&self.0[..CHECKED_LEN]).into())
    }

    fn part<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.0[at + i])
    }
}

impl PartialEq for Encoded {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Drop for Encoded {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{REPLICA, assert_redacted, state, unhex};

    fn contents() -> Contents {
        let incarnation =
            Incarnation::from_bytes(std::array::from_fn(|i| 0x60 + u8::try_from(i).unwrap()));
        let high_water = HighWater { incarnation, revision: Revision::new(42) };
        Contents { state: state(), high_water: Some(high_water), replica: REPLICA }
    }

    /// The expected bytes were assembled with another implementation, Python's struct and hashlib.
    #[test]
    fn the_layout_matches_the_vector() {
        let expected = concat!(
            "7374656b2d726174000000010000000000000000000000071011121314151617",
            "18191a1b1c1d1e1f0000000000079646babff4e6698c76d9e76b1e64e49d14bc",
            "03e754d99630e2819407135eb584e326606162636465666768696a6b6c6d6e6f",
            "000000000000002a707172737475767778797a7b7c7d7e7f67df6630a818db27",
            "4c95927bf6da525e727ea45ce49b97a5f1208a4d827eeeb3",
        );
        assert_eq!(Encoded::new(7, &contents()).0.as_slice(), unhex::<SLOT_LEN>(expected));
    }

    #[test]
    fn slots_read_what_they_write() {
        for high_water in [None, contents().high_water] {
            let written = Contents { high_water, ..contents() };
            let Decoded::Whole { sequence, contents } = Encoded::new(9, &written).decode() else {
                panic!("torn");
            };
            assert_eq!((sequence, contents.high_water), (9, high_water));
            assert_eq!(contents.state.seed_id(), state().seed_id());
            assert_eq!(contents.state.epoch(), state().epoch());
            assert_eq!(contents.state.expose_secret(), state().expose_secret());
        }
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        for bit in 0..8 * SLOT_LEN {
            let mut encoded = Encoded::new(7, &contents());
            encoded.0[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(encoded.decode(), Decoded::Torn), "bit {bit}");
        }
        assert!(matches!(Encoded::zeroed().decode(), Decoded::Torn));
    }

    #[test]
    fn a_whole_slot_of_another_version_is_told_from_a_torn_one() {
        let mut encoded = Encoded::new(7, &contents());
        encoded.0[8..12].copy_from_slice(&2u32.to_be_bytes());
        let checksum = encoded.checksum();
        encoded.0[CHECKED_LEN..].copy_from_slice(&checksum);
        assert!(matches!(encoded.decode(), Decoded::OtherVersion(2)));
    }

    #[test]
    fn a_later_lineage_is_higher_whatever_its_revision() {
        let mark = |millis, revision| HighWater {
            incarnation: Incarnation::new(millis, &[0; 10]),
            revision: Revision::new(revision),
        };
        assert!(mark(1, 9) < mark(2, 1));
        assert!(mark(2, 1) < mark(2, 2));
    }

    #[test]
    fn debug_shows_no_secret() {
        assert_redacted(&contents(), &[state().expose_secret()]);
    }
}
