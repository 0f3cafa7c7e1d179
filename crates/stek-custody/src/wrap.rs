//! The wrapping of one ticket key under one key-encryption key, and what it is bound to. Pure;
//! which key-encryption key it is and what may be wrapped is decided in [`crate::custody`].

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use stek_core::keyset::KeyRecord;
use stek_core::name::KeysetName;
use stek_core::schedule::Schedule;
use stek_core::secret::{KEY_LEN, KeyMaterial};
use stek_core::time::Seconds;
use stek_core::wrapped::{Epoch, SeedId, WRAP_CIPHERTEXT_LEN, WRAP_NONCE_LEN, WrappedKey};

use crate::ratchet::Kek;
use crate::secret::erasing_stack;

/// The last epoch in which a key with this schedule can be unwrapped: that of the second before
/// `destroy_by`. It does not change while the schedule moves inside its envelope.
pub fn destruction_epoch(schedule: &Schedule) -> Epoch {
    Epoch::of(schedule.destroy_by() - Seconds::new(1))
}

/// What a wrapped key is bound to, beside the key-encryption key.
pub(crate) struct Binding<'a> {
    pub(crate) keyset: &'a KeysetName,
    pub(crate) record: &'a KeyRecord,
    pub(crate) seed: SeedId,
}

/// The ciphertext is not what was made under this key and binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Forged;

impl Binding<'_> {
    pub(crate) fn epoch(&self) -> Epoch {
        destruction_epoch(&self.record.schedule)
    }

    /// The additional authenticated data, each field behind its length as u32 BE:
    ///
    /// ```text
    /// "stek/wrap/1" ‖ lp(key id) ‖ lp(keyset) ‖ lp(format u16 BE) ‖ lp(seed id) ‖ lp(x u64 BE)
    ///               ‖ lp(published_at u64 BE s) ‖ lp(destroy_by u64 BE s)
    /// ```
    ///
    /// What a key is and how long it may exist. Not when it seals and opens, for that moves.
    fn aad(&self) -> Vec<u8> {
        let schedule = &self.record.schedule;
        let fields: [&[u8]; 7] = [
            self.record.id.as_bytes(),
            self.keyset.as_str().as_bytes(),
            &self.record.format.as_u16().to_be_bytes(),
            self.seed.as_bytes(),
            &self.epoch().as_u64().to_be_bytes(),
            &schedule.published_at().as_unix().to_be_bytes(),
            &schedule.destroy_by().as_unix().to_be_bytes(),
        ];
        let mut bytes = b"stek/wrap/1".to_vec();
        for field in fields {
            bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }
}

/// Wraps `material`: AES-256-GCM, the tag behind the ciphertext.
///
/// `nonce` is drawn at random for each call. NIST SP 800-38D, section 8.3, allows 2³² such calls
/// under one key; one epoch's key wraps what is destroyed in one hour, some thousands at the most.
pub(crate) fn seal(
    kek: &Kek,
    nonce: [u8; WRAP_NONCE_LEN],
    binding: &Binding<'_>,
    material: &KeyMaterial,
) -> WrappedKey {
    let mut ciphertext = [0; WRAP_CIPHERTEXT_LEN];
    let (body, tag) = ciphertext.split_at_mut(KEY_LEN);
    body.copy_from_slice(material.expose_secret());
    let made = erasing_stack(|| {
        Aes256Gcm::new(kek.expose().into())
            .encrypt_inout_detached(&nonce.into(), &binding.aad(), (&mut *body).into())
            .expect("32 bytes are below the limit of GCM")
    });
    tag.copy_from_slice(&made);
    WrappedKey { seed: binding.seed, epoch: binding.epoch(), nonce, ciphertext }
}

/// Unwraps what [`seal`] made. Whoever writes the database chose everything but the key.
pub(crate) fn open(
    kek: &Kek,
    binding: &Binding<'_>,
    wrapped: &WrappedKey,
) -> Result<KeyMaterial, Forged> {
    let (body, tag) = wrapped.ciphertext.split_at(KEY_LEN);
    let tag = tag.try_into().map_err(|_| Forged)?;
    KeyMaterial::try_from_fill(|bytes| {
        bytes.copy_from_slice(body);
        erasing_stack(|| {
            Aes256Gcm::new(kek.expose().into())
                .decrypt_inout_detached(
                    &wrapped.nonce.into(),
                    &binding.aad(),
                    bytes.as_mut_slice().into(),
                    tag,
                )
                .map_err(|_| Forged)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{
        DESTRUCTION, SEED, cluster, epoch, hex, keyset, material, record, record_at, state,
    };

    const NONCE: [u8; WRAP_NONCE_LEN] =
        [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xab];

    fn sealed() -> WrappedKey {
        let (keyset, record) = (keyset(), record());
        let binding = Binding { keyset: &keyset, record: &record, seed: SEED };
        let kek = state().kek(binding.epoch(), &cluster()).unwrap();
        seal(&kek, NONCE, &binding, &material())
    }

    /// The expected value was computed with another implementation, Python's hmac for the
    /// key-encryption key and the `cryptography` package (OpenSSL) for AES-256-GCM.
    #[test]
    fn wrapping_matches_the_vector() {
        let wrapped = sealed();
        assert_eq!((wrapped.seed, wrapped.epoch), (SEED, epoch(DESTRUCTION)));
        assert_eq!(
            hex(&wrapped.ciphertext),
            concat!(
                "7aa9b896679a1e80c4cd19355c4a9ece457d86e4a452ccd26e777e1959326cf8",
                "9524a33be4464b8a11e00de90ce82887"
            )
        );
    }

    /// What the same computation gave as additional data.
    #[test]
    fn the_binding_names_every_field() {
        let (keyset, record) = (keyset(), record());
        let binding = Binding { keyset: &keyset, record: &record, seed: SEED };
        assert_eq!(
            hex(&binding.aad()),
            concat!(
                "7374656b2f777261702f31",
                "00000010404142434445464748494a4b4c4d4e4f",
                "000000046d61696e",
                "000000020001",
                "00000010101112131415161718191a1b1c1d1e1f",
                "000000080000000000079658",
                "00000008000000006ab13b80",
                "00000008000000006ab238dc"
            )
        );
        let kek = state().kek(binding.epoch(), &cluster()).unwrap();
        let moved = Binding { seed: SeedId::from_bytes([1; 16]), ..binding };
        assert_eq!(open(&kek, &moved, &sealed()).unwrap_err(), Forged);
    }

    #[test]
    fn the_last_second_of_an_epoch_belongs_to_it() {
        // The key is published 800 s into an epoch.
        let x = |destroy_by| destruction_epoch(&record_at(0, 1, 2, destroy_by).schedule).as_u64();
        assert_eq!(x(18 * 3600 - 800), DESTRUCTION - 1);
        assert_eq!(x(18 * 3600 - 799), DESTRUCTION);
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let (keyset, record) = (keyset(), record());
        let binding = Binding { keyset: &keyset, record: &record, seed: SEED };
        let kek = state().kek(binding.epoch(), &cluster()).unwrap();
        assert!(open(&kek, &binding, &sealed()).unwrap().is_same_as(&material()));
        for bit in 0..8 * WRAP_NONCE_LEN {
            let mut wrapped = sealed();
            wrapped.nonce[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&kek, &binding, &wrapped).unwrap_err(), Forged, "nonce bit {bit}");
        }
        for bit in 0..8 * WRAP_CIPHERTEXT_LEN {
            let mut wrapped = sealed();
            wrapped.ciphertext[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(&kek, &binding, &wrapped).unwrap_err(), Forged, "bit {bit}");
        }
    }
}
