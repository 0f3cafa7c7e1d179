//! What sealing cannot do without. [`Floor`] is the bare AEAD, XAES-256-GCM straight over its crates,
//! with the randomness of the ticketer and AWS-LC's GCM whatever the length, in a buffer that is there
//! already: what this project measures itself against. [`LeastTicketer`] is the least that a ticketer
//! of rustls can make of it, which tells how much of the distance is rustls' and the format's.
//!
//! rustls lends a session and wants a vector back. So whoever answers allocates one, copies the
//! session into it and, if it is to be one of our tickets, encrypts the padding too; the least
//! ticketer does that, for a ticket of the same length. It does nothing that belongs to this project
//! alone: it does not read the session, knows no schedule and no clock but the one of the nonce,
//! authenticates no additional data, counts nothing and erases no stack.

use aes::Aes256Enc;
use aes::cipher::{Array, BlockCipherEncrypt, KeyInit};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::server::ProducesTickets;
use stek_clock::{Clock, SystemClock};
use stek_core::id::KeyName;
use stek_core::ticket::PADDING;
use stek_core::xaes::{NONCE_LEN, TAG_LEN};
use stek_rustls::NonceSource;

/// Before the ciphertext: as long as a key name, and the nonce.
const HEAD_LEN: usize = KeyName::LEN + NONCE_LEN;
/// As long as the two instants of a ticket, and the length of the session.
const INNER_HEAD_LEN: usize = 16 + size_of::<u16>();

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
        let outer = Aes256Enc::new(&key.into());
        let mut l = [0; 16];
        outer.encrypt_block((&mut l).into());
        let l = u128::from_be_bytes(l);
        let k1 = (l << 1) ^ ((l >> 127).wrapping_neg() & 0x87);
        Ok(Self { outer, k1: k1.to_be_bytes(), nonces })
    }

    /// Seals `buffer` where it is.
    pub(crate) fn seal(&self, buffer: &mut [u8]) -> Option<([u8; NONCE_LEN], [u8; TAG_LEN])> {
        let nonce = self.nonces.draw(SystemClock.boot()).ok()?;
        let (inner, inner_nonce) = self.inner(&nonce)?;
        let tag = inner.seal_in_place_separate_tag(inner_nonce, Aad::empty(), buffer).ok()?;
        Some((nonce, tag.as_ref().try_into().ok()?))
    }

    /// Opens `sealed` into `plain`, which is as long.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Option<()> {
        let (inner, inner_nonce) = self.inner(nonce)?;
        inner.open_separate_gather(inner_nonce, Aad::empty(), sealed, tag, plain).ok()
    }

    fn inner(&self, nonce: &[u8; NONCE_LEN]) -> Option<(LessSafeKey, Nonce)> {
        let mut key = [0; 32];
        let (halves, _) = key.as_chunks_mut::<16>();
        for (i, half) in (1..).zip(&mut *halves) {
            half[..4].copy_from_slice(&[0, i, b'X', 0]);
            half[4..].copy_from_slice(&nonce[..12]);
            for (byte, k1) in half.iter_mut().zip(&self.k1) {
                *byte ^= k1;
            }
        }
        self.outer.encrypt_blocks(Array::cast_slice_from_core_mut(halves));
        let key = UnboundKey::new(&AES_256_GCM, &key).ok()?;
        let nonce = Nonce::try_assume_unique_for_key(&nonce[12..]).ok()?;
        Some((LessSafeKey::new(key), nonce))
    }
}

/// The bare AEAD as a ticketer whose tickets have the length of ours.
pub(crate) struct LeastTicketer<N>(pub(crate) Floor<N>);

impl<N: NonceSource> ProducesTickets for LeastTicketer<N> {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        6 * 3600
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let length = u16::try_from(session.len()).ok()?;
        let plain_len = (INNER_HEAD_LEN + session.len()).next_multiple_of(PADDING);
        let mut ticket = Vec::with_capacity(HEAD_LEN + plain_len + TAG_LEN);
        ticket.extend_from_slice(&[0; HEAD_LEN + INNER_HEAD_LEN - size_of::<u16>()]);
        ticket.extend_from_slice(&length.to_be_bytes());
        ticket.extend_from_slice(session);
        ticket.resize(HEAD_LEN + plain_len, 0);
        let (nonce, tag) = self.0.seal(&mut ticket[HEAD_LEN..])?;
        ticket[KeyName::LEN..HEAD_LEN].copy_from_slice(&nonce);
        ticket.extend_from_slice(&tag);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = ticket.get(KeyName::LEN..)?.split_first_chunk()?;
        let (sealed, tag) = rest.split_last_chunk()?;
        let mut plain = vec![0; sealed.len()];
        self.0.open(nonce, tag, sealed, &mut plain)?;
        let (length, _) = plain.get(INNER_HEAD_LEN - size_of::<u16>()..)?.split_first_chunk()?;
        let length = usize::from(u16::from_be_bytes(*length));
        plain.drain(..INNER_HEAD_LEN);
        plain.truncate(length);
        Some(plain)
    }
}

impl<N> std::fmt::Debug for LeastTicketer<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeastTicketer")
    }
}
