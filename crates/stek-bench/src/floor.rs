//! The floor: XAES-256-GCM straight over its crates, with the randomness that the ticketer uses and
//! nothing else. No envelope, no stamps, no schedule, no counters, no erasure of the stack.

use aes::Aes256Enc;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use aes_gcm::AesGcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::consts::U12;
use rustls::server::ProducesTickets;
use stek_core::xaes::{NONCE_LEN, TAG_LEN};
use stek_rustls::NonceSource;

type InnerGcm = AesGcm<Aes256Enc, U12>;

/// The bare AEAD under a random key.
pub(crate) struct Floor<N> {
    outer: Aes256Enc,
    k1: [u8; 16],
    nonces: N,
}

impl<N: NonceSource> Floor<N> {
    /// A random key; nonces come from `nonces`.
    pub(crate) fn new(nonces: N) -> anyhow::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        let outer = Aes256Enc::new((&key).into());
        let mut l = [0; 16];
        outer.encrypt_block((&mut l).into());
        let l = u128::from_be_bytes(l);
        let k1 = (l << 1) ^ ((l >> 127).wrapping_neg() & 0x87);
        Ok(Self { outer, k1: k1.to_be_bytes(), nonces })
    }

    /// Seals `buffer` where it is.
    pub(crate) fn seal(&self, buffer: &mut [u8]) -> Option<([u8; NONCE_LEN], [u8; TAG_LEN])> {
        let nonce = self.nonces.draw().ok()?;
        let (inner, inner_nonce) = self.inner(&nonce);
        let tag = inner.encrypt_inout_detached(&inner_nonce.into(), b"", buffer.into()).ok()?;
        Some((nonce, tag.into()))
    }

    /// Opens `buffer` where it is.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        buffer: &mut [u8],
    ) -> bool {
        let (inner, inner_nonce) = self.inner(nonce);
        let tag = tag.into();
        inner.decrypt_inout_detached(&inner_nonce.into(), b"", buffer.into(), tag).is_ok()
    }

    fn inner(&self, nonce: &[u8; NONCE_LEN]) -> (InnerGcm, [u8; 12]) {
        let mut key = [0; 32];
        let (halves, _) = key.as_chunks_mut::<16>();
        for (i, half) in (1..).zip(halves) {
            half[..4].copy_from_slice(&[0, i, b'X', 0]);
            half[4..].copy_from_slice(&nonce[..12]);
            for (byte, k1) in half.iter_mut().zip(&self.k1) {
                *byte ^= k1;
            }
            self.outer.encrypt_block(half.into());
        }
        (InnerGcm::new((&key).into()), std::array::from_fn(|i| nonce[12 + i]))
    }
}

/// The floor as a ticketer: nonce, ciphertext, tag.
pub(crate) struct PlainTicketer<N>(pub(crate) Floor<N>);

impl<N: NonceSource> ProducesTickets for PlainTicketer<N> {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        6 * 3600
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let mut ticket = Vec::with_capacity(NONCE_LEN + session.len() + TAG_LEN);
        ticket.extend_from_slice(&[0; NONCE_LEN]);
        ticket.extend_from_slice(session);
        let (nonce, tag) = self.0.seal(&mut ticket[NONCE_LEN..])?;
        ticket[..NONCE_LEN].copy_from_slice(&nonce);
        ticket.extend_from_slice(&tag);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = ticket.split_first_chunk()?;
        let (sealed, tag) = rest.split_last_chunk()?;
        let mut session = sealed.to_vec();
        self.0.open(nonce, tag, &mut session).then_some(session)
    }
}

impl<N> std::fmt::Debug for PlainTicketer<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlainTicketer")
    }
}
