//! The inner AES-256-GCM over the crates `aes` and `aes-gcm`. Only the encryption schedule is
//! expanded, for GCM uses no other.

use aes::Aes256Enc;
use aes::cipher::KeyInit;
use aes::cipher::consts::U12;
use aes_gcm::AesGcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;

use super::{INNER_NONCE_LEN, KEY_LEN, OpenError, TAG_LEN};

/// How much of the stack is overwritten after each use of a key, in bytes. Round keys were found up
/// to 8 KiB deep in release builds (with AVX-512, the worst case) and 32 KiB in debug builds.
#[cfg_attr(feature = "aws-lc", allow(dead_code, reason = "the tests of the other compare bytes"))]
pub(super) const STACK_LEN: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 16 * 1024 };

/// Whether half of it is enough.
#[cfg_attr(feature = "aws-lc", allow(dead_code, reason = "the tests of the other compare bytes"))]
pub(super) fn half_the_stack() -> bool {
    false
}

/// *Kₓ*, ready for one message. Erases itself when dropped.
pub(super) struct InnerGcm(AesGcm<Aes256Enc, U12>);

impl InnerGcm {
    /// Expands *Kₓ*.
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(AesGcm::new(key.into()))
    }

    /// Encrypts `buffer` in place and returns the tag.
    pub(super) fn seal(
        &self,
        nonce: [u8; INNER_NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> [u8; TAG_LEN] {
        self.0
            .encrypt_inout_detached(&nonce.into(), aad, buffer.into())
            .expect("a message below the limit of GCM")
            .into()
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
        let buffers = InOutBuf::new(sealed, plain).map_err(|_| OpenError)?;
        self.0
            .decrypt_inout_detached(&nonce.into(), aad, buffers, tag.into())
            .map_err(|_| OpenError)
    }
}

#[cfg(test)]
mod tests {
    use zeroize::ZeroizeOnDrop;

    use super::*;

    #[test]
    fn what_holds_a_key_is_erased_on_drop() {
        // Does not compile without the `zeroize` features of `aes` and `aes-gcm`.
        fn assert_erased<T: ZeroizeOnDrop>() {}
        assert_erased::<AesGcm<Aes256Enc, U12>>();
    }
}
