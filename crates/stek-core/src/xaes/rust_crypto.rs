//! AES-256-GCM over the crates `aes` and `aes-gcm`. Only the encryption schedule is expanded, for GCM
//! uses no other.

use std::mem::ManuallyDrop;

use aes::Aes256Enc;
use aes::cipher::KeyInit;
use aes::cipher::consts::U12;
use aes_gcm::AesGcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;

use super::{INNER_NONCE_LEN, KEY_LEN, OpenError, TAG_LEN};

/// Encrypts `buffer` in place and returns the tag.
pub(super) fn seal(
    key: &[u8; KEY_LEN],
    nonce: [u8; INNER_NONCE_LEN],
    aad: &[u8],
    buffer: &mut [u8],
) -> [u8; TAG_LEN] {
    schedule(key)
        .encrypt_inout_detached(&nonce.into(), aad, buffer.into())
        .expect("a message below the limit of GCM")
        .into()
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
    let buffers = InOutBuf::new(sealed, plain).map_err(|_| OpenError)?;
    schedule(key)
        .decrypt_inout_detached(&nonce.into(), aad, buffers, tag.into())
        .map_err(|_| OpenError)
}

/// *Kₓ*, expanded on the stack. It does not erase itself, which it does byte by byte and at the cost of
/// a short message: the stack that it lies on is erased by whoever calls this.
fn schedule(key: &[u8; KEY_LEN]) -> ManuallyDrop<AesGcm<Aes256Enc, U12>> {
    ManuallyDrop::new(AesGcm::new(key.into()))
}
