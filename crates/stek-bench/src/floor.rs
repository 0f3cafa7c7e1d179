//! What sealing cannot do without. [`Floor`] is the bare AEAD, [`Xaes256Gcm`] as the adapter has it,
//! what it erases included, with the randomness of the ticketer, in a buffer that is there already:
//! beside it one sees what format and adapter add. What the AEAD itself takes shows beside rustls'
//! ticketers. [`LeastTicketer`] is the least that a ticketer of rustls can make of it, which tells how
//! much of the distance is rustls' and the format's.
//!
//! rustls lends a session and wants a vector back. So whoever answers allocates one, copies the
//! session into it and, if it is to be one of our tickets, encrypts the padding too; the least
//! ticketer does that, for a ticket of the same length. It does nothing that belongs to this project
//! alone: it does not read the session, knows no schedule and no clock but the one of the nonce,
//! authenticates no additional data and counts nothing.

use rustls::server::ProducesTickets;
use stek_clock::{Clock, SystemClock};
use stek_core::id::KeyName;
use stek_core::ticket::PADDING;
use stek_core::xaes::{NONCE_LEN, TAG_LEN, Xaes256Gcm};
use stek_rustls::NonceSource;

/// Before the ciphertext: as long as a key name, and the nonce.
const HEAD_LEN: usize = KeyName::LEN + NONCE_LEN;
/// As long as the two instants of a ticket, and the length of the session.
const INNER_HEAD_LEN: usize = 16 + size_of::<u16>();

/// The bare AEAD under a random key.
pub(crate) struct Floor<N> {
    aead: Xaes256Gcm,
    nonces: N,
}

impl<N: NonceSource> Floor<N> {
    /// A random key; nonces come from `nonces`.
    pub(crate) fn new(nonces: N) -> anyhow::Result<Self> {
        let mut key = [0; 32];
        getrandom::fill(&mut key)?;
        Ok(Self { aead: Xaes256Gcm::new(&key), nonces })
    }

    /// Seals `buffer` where it is.
    pub(crate) fn seal(&self, buffer: &mut [u8]) -> Option<([u8; NONCE_LEN], [u8; TAG_LEN])> {
        let nonce = self.nonces.draw(SystemClock.boot()).ok()?;
        let tag = self.aead.seal_in_place(&nonce, &[], buffer);
        Some((nonce, tag))
    }

    /// Opens `sealed` into `plain`, which is as long.
    pub(crate) fn open(
        &self,
        nonce: &[u8; NONCE_LEN],
        tag: &[u8; TAG_LEN],
        sealed: &[u8],
        plain: &mut [u8],
    ) -> Option<()> {
        self.aead.open(nonce, &[], sealed, tag, plain).ok()
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
        let mut plain = sealed.to_vec();
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
