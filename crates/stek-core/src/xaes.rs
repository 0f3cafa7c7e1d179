//! XAES-256-GCM (C2SP, <https://c2sp.org/XAES-256-GCM>): authenticated encryption whose nonce is
//! long enough to be drawn at random by every node of a fleet.
//!
//! This module is the construction only. Which key seals, which nonce is drawn and what the
//! additional data says are decided by the ticket format.

#[cfg(feature = "aws-lc")]
mod aws_lc;
mod block;
mod inner;
mod rust_crypto;

use std::fmt;

use zeroize::{ZeroizeOnDrop, Zeroizing, optimization_barrier, zeroize_stack};

use block::BlockCipher;
use inner::Inner;

/// Length of *N*, in bytes (C2SP XAES-256-GCM: "192-bit nonce"). Drawn at random it is good for
/// 2⁸⁰ messages under one key at a collision risk of 2⁻³² (same source).
pub const NONCE_LEN: usize = 24;

/// Length of the authentication tag, in bytes (NIST SP 800-38D, section 5.2.1.2: *t* = 128 bits).
pub const TAG_LEN: usize = 16;

/// Length of *K* and *Kₓ*, in bytes (C2SP XAES-256-GCM: "256-bit key").
const KEY_LEN: usize = 32;

/// Length of an AES block, in bytes (FIPS 197).
const BLOCK_LEN: usize = 16;

/// Length of `N[:12]`, in bytes: the part of the nonce that selects *Kₓ*. The rest is *Nₓ*.
const CONTEXT_LEN: usize = 12;

/// Length of *Nₓ*, the nonce of GCM.
const INNER_NONCE_LEN: usize = NONCE_LEN - CONTEXT_LEN;

/// *K*, ready to seal and open.
///
/// Holds key material in one place on the heap: moving the value copies a pointer, and dropping it
/// overwrites what it points to. There is no `Clone`, and `Debug` prints no key material.
pub struct Xaes256Gcm {
    keyed: Box<Keyed>,
}

/// What depends on *K* alone and is used again for every message.
#[derive(ZeroizeOnDrop)]
struct Keyed {
    /// AES-256ₖ. Only ever encrypts, as in CMAC.
    block_cipher: BlockCipher,
    /// *K1*, the CMAC subkey for complete blocks (NIST SP 800-38B, section 6.1).
    k1: [u8; BLOCK_LEN],
}

/// The message is not one that was sealed under this key with this nonce and additional data.
///
/// Which of them was wrong GCM cannot tell, and no sender should learn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("message authentication failed")]
pub struct OpenError;

impl Xaes256Gcm {
    /// Expands `key` (*K*) and derives *K1*. The caller keeps, and erases, its own copy of `key`.
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let cipher = in_own_frame(|| {
            let block_cipher = BlockCipher::new(key);
            let mut keyed = Box::new(Keyed { block_cipher, k1: [0; BLOCK_LEN] });
            // L, which becomes K1 where it stands, so that it is erased with it.
            keyed.block_cipher.encrypt_blocks(std::slice::from_mut(&mut keyed.k1));
            double(&mut keyed.k1);
            Self { keyed }
        });
        erase_stack::<{ block::STACK_LEN / 2 }>();
        cipher
    }

    /// Encrypts `buffer` in place and returns the tag over it and `aad`.
    ///
    /// A nonce must never be used twice under one key: that would lay open both messages and the
    /// authentication key of GCM.
    ///
    /// # Panics
    ///
    /// If `buffer` is longer than GCM can encrypt, 2³⁶ − 32 bytes (NIST SP 800-38D, section
    /// 5.2.1.1). A ticket is at most 16 KiB long.
    #[must_use = "without its tag the message cannot be opened again"]
    pub fn seal_in_place(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let inner = Inner::for_message(buffer.len());
        let tag = in_own_frame(|| self.seal_leaving_keys(inner, nonce, aad, buffer));
        inner.erase_stack();
        tag
    }

    /// Decrypts `sealed` into `plain`, which must be as long, if `tag` is the one for it, `nonce` and
    /// `aad`. An attacker may have chosen all four; tags are compared in constant time.
    ///
    /// # Errors
    ///
    /// [`OpenError`] if the tag does not match, if `sealed` is longer than any message can be, or
    /// if `plain` is of another length. `plain` then holds no byte of plaintext.
    pub fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        sealed: &[u8],
        tag: &[u8; TAG_LEN],
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        if plain.len() != sealed.len() {
            return Err(OpenError);
        }
        let inner = Inner::for_message(sealed.len());
        let opened =
            in_own_frame(|| self.open_leaving_keys(inner, nonce, aad, (sealed, tag), plain));
        inner.erase_stack();
        opened
    }

    /// As [`Self::seal_in_place`], with *Kₓ* and what was made of it left on the stack.
    fn seal_leaving_keys(
        &self,
        inner: Inner,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        buffer: &mut [u8],
    ) -> [u8; TAG_LEN] {
        let mut inner_key = [0; KEY_LEN];
        self.derive_inner_key(nonce, &mut inner_key);
        inner.seal(&inner_key, inner_nonce(nonce), aad, buffer)
    }

    /// As [`Self::open`], likewise.
    fn open_leaving_keys(
        &self,
        inner: Inner,
        nonce: &[u8; NONCE_LEN],
        aad: &[u8],
        (sealed, tag): (&[u8], &[u8; TAG_LEN]),
        plain: &mut [u8],
    ) -> Result<(), OpenError> {
        let mut inner_key = [0; KEY_LEN];
        self.derive_inner_key(nonce, &mut inner_key);
        inner.open(&inner_key, inner_nonce(nonce), aad, sealed, tag, plain)
    }

    /// Writes *Kₓ* = AES-256ₖ(*M1* ⊕ *K1*) ‖ AES-256ₖ(*M2* ⊕ *K1*) into `inner_key`, where
    ///
    /// ```text
    /// Mi = 0x00 ‖ i u8 ‖ "X" ‖ 0x00 ‖ N[:12]
    /// ```
    ///
    /// Each half is the counter KDF of NIST SP 800-108r1 with CMAC over a single block. The key is
    /// written to where the caller will erase it, since a returned array may leave copies.
    fn derive_inner_key(&self, nonce: &[u8; NONCE_LEN], inner_key: &mut [u8; KEY_LEN]) {
        // As numbers, which stay in registers: blocks put together in memory would be read back
        // before they are written.
        let mut context = [0; BLOCK_LEN];
        context[BLOCK_LEN - CONTEXT_LEN..].copy_from_slice(&nonce[..CONTEXT_LEN]);
        let common = u128::from_be_bytes(context) ^ u128::from_be_bytes(self.keyed.k1);
        let (halves, _) = inner_key.as_chunks_mut::<BLOCK_LEN>();
        for (i, half) in (1..).zip(&mut *halves) {
            let label = u128::from(u32::from_be_bytes([0x00, i, b'X', 0x00]));
            *half = (common ^ label << 96).to_be_bytes();
        }
        // Both at once: setting the cipher up costs as much as a block.
        self.keyed.block_cipher.encrypt_blocks(halves);
    }
}

impl fmt::Debug for Xaes256Gcm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Xaes256Gcm").finish_non_exhaustive()
    }
}

// Its only field erases itself.
impl ZeroizeOnDrop for Xaes256Gcm {}

/// *Nₓ* = `N[12:]`, the nonce of GCM.
fn inner_nonce(nonce: &[u8; NONCE_LEN]) -> [u8; INNER_NONCE_LEN] {
    std::array::from_fn(|i| nonce[CONTEXT_LEN + i])
}

/// Doubles `block` in GF(2¹²⁸), which turns *L* into *K1* (NIST SP 800-38B, section 6.1).
fn double(block: &mut [u8; BLOCK_LEN]) {
    let value = Zeroizing::new(u128::from_be_bytes(*block));
    // A mask rather than a branch: the bit shifted out belongs to a secret.
    let reduction = (*value >> 127).wrapping_neg() & 0x87;
    *block = ((*value << 1) ^ reduction).to_be_bytes();
}

/// Overwrites the stack below the caller in two frames of `HALF` bytes each: C libraries fill more
/// than 2 KiB with an instruction that is slow to start, and each ticket pays for it.
#[inline(never)]
fn erase_stack<const HALF: usize>() {
    let upper = [0_u8; HALF];
    optimization_barrier(&upper);
    zeroize_stack::<HALF>();
    // Keeps this frame while the one below it is overwritten.
    optimization_barrier(&upper);
}

/// Runs `work`, which handles keys, on stack that the caller overwrites then: moves leave copies of
/// the round keys there, and so do the AES backends, which zeroize what they own but not their
/// temporaries. Not in the caller's frame, which is still in use then. What `work` returns must hold
/// no key by value.
#[inline(never)]
fn in_own_frame<T>(work: impl FnOnce() -> T) -> T {
    work()
}

#[cfg(test)]
mod tests;
