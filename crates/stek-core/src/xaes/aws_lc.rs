//! AES-256-GCM over `aws-lc-rs`, for the feature `aws-lc`: the faster one for long messages, since
//! AWS-LC chooses whole functions by processor where `aes-gcm` chooses parts of them and crosses from
//! one to the other at every few blocks.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use super::{INNER_NONCE_LEN, KEY_LEN, OpenError, TAG_LEN};

/// Encrypts `buffer` in place and returns the tag.
pub(super) fn seal(
    key: &[u8; KEY_LEN],
    nonce: [u8; INNER_NONCE_LEN],
    aad: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_LEN] {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = schedule(key)
        .seal_in_place_separate_tag(nonce, Aad::from(aad), buffer)
        .expect("a message below the limit of GCM");
    let mut bytes = [0; TAG_LEN];
    bytes.copy_from_slice(tag.as_ref());
    bytes
}

/// Decrypts `sealed` into `plain`, which is as long.
pub(super) fn open(
    key: &[u8; KEY_LEN],
    nonce: [u8; INNER_NONCE_LEN],
    aad: &[u8],
    sealed: &[u8],
    tag: &[u8; TAG_LEN],
    plain: &mut [u8],
) -> Result<(), OpenError> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    schedule(key)
        .open_separate_gather(nonce, Aad::from(aad), sealed, tag, plain)
        .map_err(|_| OpenError)
}

/// *Kₓ*, expanded on the heap. AWS-LC erases it when it is dropped.
fn schedule(key: &[u8; KEY_LEN]) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are a key of AES-256"))
}
