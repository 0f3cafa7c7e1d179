//! The inner AES-256-GCM over `aws-lc-rs`, for the feature `aws-lc`: the same bytes,
//! faster in builds for any x86-64, since AWS-LC chooses whole functions by processor where
//! `aes-gcm` chooses parts of them and crosses from one to the other at every few blocks.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{INNER_NONCE_LEN, KEY_LEN, OpenError, TAG_LEN};

/// How much of the stack is overwritten after each use of a key, in bytes. GCM keeps powers of its
/// hash key there: with AVX-512 in 2.6 KiB of frames, without any AES instructions in 3.4 KiB.
pub(super) const STACK_LEN: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 4 * 1024 };

/// Whether half of it is enough: AES instructions without AVX-512 make do with 1.4 KiB.
pub(super) fn half_the_stack() -> bool {
    #[cfg(target_arch = "x86_64")]
    return !cfg!(debug_assertions)
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && !is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// *Kₓ*, ready for one message. AWS-LC erases it when it is dropped.
pub(super) struct InnerGcm(LessSafeKey);

impl InnerGcm {
    /// Expands *Kₓ*.
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key of AES-256");
        Self(LessSafeKey::new(key))
    }

    /// Encrypts `buffer` in place and returns the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; INNER_NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let nonce = Nonce::assume_unique_for_key(nonce);
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce, Aad::from(aad), buffer)
            .expect("a message below the limit of GCM");
        let mut bytes = [0; TAG_LEN];
        bytes.copy_from_slice(tag.as_ref());
        bytes
    }

    /// Decrypts `sealed` into `plain`, which is as long.
    pub(super) fn open(
        &self,
        nonce: [u8; INNER_NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_LEN],
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.0
            .open_separate_gather(nonce, Aad::from(aad), sealed, tag, plain)
            .map_err(|_| OpenError)
    }
}
