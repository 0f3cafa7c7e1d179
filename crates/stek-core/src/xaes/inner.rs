//! Which implementation of AES-256-GCM has a message, and how much of the stack it leaves keys on.

#[cfg(feature = "aws-lc")]
use super::aws_lc;
use super::{INNER_NONCE_LEN, KEY_LEN, OpenError, TAG_LEN, erase_stack, rust_crypto};

/// The longest message that `aes-gcm` has where AWS-LC is there, too, in bytes. With a new key for each
/// message, as here, it is the faster one: on an AMD EPYC up to some 500 bytes where nothing else runs,
/// and up to some 900 where much does.
#[cfg(feature = "aws-lc")]
const SHORT: usize = 512;

/// An implementation. They make the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inner {
    #[cfg(feature = "aws-lc")]
    AwsLc,
    RustCrypto,
}

impl Inner {
    /// The one for a message of `len` bytes.
    #[cfg_attr(not(feature = "aws-lc"), allow(unused_variables, reason = "one has all"))]
    pub(super) fn for_message(len: usize) -> Self {
        #[cfg(feature = "aws-lc")]
        if len > SHORT || !has_plain_aes() {
            return Self::AwsLc;
        }
        Self::RustCrypto
    }

    /// Encrypts `buffer` in place and returns the tag. Leaves keys on the stack.
    pub(super) fn seal(
        self,
        key: &[u8; KEY_LEN],
        nonce: [u8; INNER_NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> [u8; TAG_LEN] {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => aws_lc::seal(key, nonce, aad, buffer),
            Self::RustCrypto => rust_crypto::seal(key, nonce, aad, buffer),
        }
    }

    /// Decrypts `sealed` into `plain`, which is as long. Leaves keys on the stack.
    pub(super) fn open(
        self,
        key: &[u8; KEY_LEN],
        nonce: [u8; INNER_NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_LEN],
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        match self {
            #[cfg(feature = "aws-lc")]
            Self::AwsLc => aws_lc::open(key, nonce, aad, sealed, tag, plain),
            Self::RustCrypto => rust_crypto::open(key, nonce, aad, sealed, tag, plain),
        }
    }

    /// How much of the stack it may leave keys on, in bytes. Both keep powers of the hash key there.
    /// AWS-LC: 1.4 KiB of frames, 2.6 KiB with AVX-512, 3.4 KiB without any AES instructions. The
    /// crates keep round keys, too: 3.6 KiB, with AVX-512 up to 8 KiB. In debug builds much more.
    pub(super) fn stack_len(self) -> usize {
        match (self, has_plain_aes()) {
            _ if cfg!(debug_assertions) => 64 * 1024,
            #[cfg(feature = "aws-lc")]
            (Self::AwsLc, true) => 2 * 1024,
            #[cfg(feature = "aws-lc")]
            (Self::AwsLc, false) => 4 * 1024,
            (Self::RustCrypto, true) => 4 * 1024,
            (Self::RustCrypto, false) => 16 * 1024,
        }
    }

    /// Overwrites it, below the caller.
    pub(super) fn erase_stack(self) {
        match self.stack_len() {
            0..=2048 => erase_stack::<1024>(),
            2049..=4096 => erase_stack::<2048>(),
            4097..=16_384 => erase_stack::<8192>(),
            _ => erase_stack::<{ 32 * 1024 }>(),
        }
    }
}

/// Whether the processor has AES instructions and those for GHASH, and no AVX-512.
fn has_plain_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("avx")
        && !is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}
