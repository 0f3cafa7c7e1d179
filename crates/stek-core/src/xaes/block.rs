//! AES-256 on single blocks, over the crate `aes`: two blocks cost it a third of what they cost AWS-LC,
//! which is called one block at a time. Only the encryption schedule is expanded, for CMAC uses no
//! other.

use aes::Aes256Enc;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use zeroize::ZeroizeOnDrop;

use super::{BLOCK_LEN, KEY_LEN};

/// How much of the stack is overwritten after *K* was expanded, in bytes. Without AES instructions
/// the schedule has 960 bytes (120 words of 64 bits in `aes`) and is moved several times on its way
/// to the heap.
pub(super) const STACK_LEN: usize = if cfg!(debug_assertions) { 64 * 1024 } else { 16 * 1024 };

/// AES-256ₖ. Erases itself when dropped.
#[derive(ZeroizeOnDrop)]
pub(super) struct BlockCipher(Aes256Enc);

impl BlockCipher {
    /// Expands *K*.
    pub(super) fn new(key: &[u8; KEY_LEN]) -> Self {
        Self(Aes256Enc::new(key.into()))
    }

    /// Encrypts each block on its own.
    pub(super) fn encrypt_blocks(&self, blocks: &mut [[u8; BLOCK_LEN]]) {
        self.0.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
    }
}
