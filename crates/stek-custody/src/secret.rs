//! What every secret of this crate shares: 32 bytes in one place on the heap, the two functions
//! that derive one from another, and the overwriting of what they leave on the stack.

use std::fmt;

use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use sha2::digest::FixedOutput;
use stek_core::health::{WeakKey, check_material};
use stek_core::secret::{KEY_LEN, KeyMaterial};
use zeroize::{Zeroize, zeroize_stack};

/// Length of every secret here in bytes: one output of SHA-256.
pub(crate) const SECRET_LEN: usize = 32;

// The health test of ticket keys serves these secrets too.
const _: () = assert!(SECRET_LEN == KEY_LEN);

/// How much of the stack is overwritten after a derivation, in bytes; a derivation needs a small
/// part of it.
const STACK_LEN: usize = 16 * 1024;

/// 32 secret bytes: boxed, so that moves leave no copy; overwritten on drop; shown by nothing.
pub(crate) struct Secret(Box<[u8; SECRET_LEN]>);

impl Secret {
    /// Lets `write` put the bytes where they will stay.
    pub(crate) fn written_by(write: impl FnOnce(&mut [u8; SECRET_LEN])) -> Self {
        let mut secret = Self(Box::new([0; SECRET_LEN]));
        write(&mut secret.0);
        secret
    }

    /// A second copy, for whoever asked for one by name.
    pub(crate) fn duplicate(&self) -> Self {
        Self::written_by(|bytes| bytes.copy_from_slice(self.0.as_slice()))
    }

    /// Refuses bytes that no working random source makes.
    pub(crate) fn check(&self) -> Result<(), WeakKey> {
        erasing_stack(|| check_material(&KeyMaterial::take_from(&mut self.0.clone())))
    }

    pub(crate) fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// HMAC-SHA256 (RFC 2104) over the `parts` one after the other.
pub(crate) fn mac(key: &[u8; SECRET_LEN], parts: &[&[u8]], out: &mut [u8; SECRET_LEN]) {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize_into(out.into());
}

/// HKDF-SHA256 (RFC 5869) with `info` as one string.
pub(crate) fn expand(salt: Option<&[u8]>, ikm: &[u8], info: &[&[u8]], out: &mut [u8]) {
    Hkdf::<Sha256>::new(salt, ikm)
        .expand_multi_info(info, out)
        .expect("at most 32 bytes are asked, RFC 5869 allows 8160");
}

/// Runs `work`, which handles secrets, and overwrites the stack that it used: hash blocks and
/// round keys are moved about there. What `work` returns must hold no secret by value.
pub(crate) fn erasing_stack<T>(work: impl FnOnce() -> T) -> T {
    let result = in_own_frame(work);
    zeroize_stack::<STACK_LEN>();
    result
}

/// Keeps the locals of `work` out of a frame that is still in use when the stack is overwritten.
#[inline(never)]
fn in_own_frame<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{SystemRandom, draw};
    use crate::testing::{Sought, alone, hex};

    #[test]
    fn mac_matches_rfc_4231_case_2_padded() {
        // RFC 4231, 4.3. HMAC pads its key with zeros, so "Jefe" and zeros are the same key.
        let mut key = [0; SECRET_LEN];
        key[..4].copy_from_slice(b"Jefe");
        let mut out = [0; SECRET_LEN];
        mac(&key, &[b"what do ya want ", b"for nothing?"], &mut out);
        assert_eq!(hex(&out), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
    }

    #[test]
    fn hkdf_matches_rfc_5869_case_1() {
        let ikm = [0x0b; 22];
        let salt: [u8; 13] = std::array::from_fn(|i| u8::try_from(i).unwrap());
        let mut out = [0; 42];
        expand(
            Some(&salt),
            &ikm,
            &[&[0xf0, 0xf1, 0xf2, 0xf3, 0xf4], &[0xf5, 0xf6, 0xf7, 0xf8, 0xf9]],
            &mut out,
        );
        assert_eq!(
            hex(&out),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
        );
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Secret::written_by(|bytes| bytes.fill(7))), "Secret(..)");
    }

    /// Leaves `secret` behind, four KiB down the stack.
    #[inline(never)]
    fn litter(secret: &[u8; SECRET_LEN]) {
        let mut frame = [0; 4096];
        frame[..SECRET_LEN].copy_from_slice(secret);
        std::hint::black_box(&mut frame);
    }

    /// Whether a secret that was littered on the stack is found after `run` has run that.
    fn stays(run: fn(&mut dyn FnMut())) -> bool {
        let alone = alone();
        let material = draw(&SystemRandom).unwrap();
        let sought = Sought::end_of(material.expose_secret());
        run(&mut || litter(material.expose_secret()));
        drop(material);
        sought.is_in_memory(&alone)
    }

    #[test]
    fn the_stack_is_erased() {
        assert!(stays(|work| in_own_frame(work)), "the search must find what is there");
        assert!(!stays(|work| erasing_stack(work)));
    }

    #[test]
    fn what_is_dropped_is_erased() {
        let alone = alone();
        let material = draw(&SystemRandom).unwrap();
        let sought = Sought::end_of(material.expose_secret());
        let secret = Secret::written_by(|bytes| bytes.copy_from_slice(material.expose_secret()));
        drop(material);
        assert!(sought.is_in_memory(&alone), "the search must find what is there");
        drop(secret);
        assert!(!sought.is_in_memory(&alone));
    }
}
