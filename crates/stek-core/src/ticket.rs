//! Ticket format 1: what is inside a ticket and how it is sealed under one derived key. Which key
//! and whether it is time is decided in [`crate::snapshot`].
//!
//! ```text
//! ticket    = key_name[16] ‖ nonce[24] ‖ XAES-256-GCM(plaintext) ‖ tag[16]     at most 16,384 bytes
//! plaintext = issued_at u64 ‖ authenticated_at u64 ‖ length u16 ‖ payload ‖ zeros to a multiple of 64
//! aad       = "stek/ticket/1" ‖ key_name                                       integers big-endian
//! ```

use std::fmt;

use zeroize::{Zeroizing, optimization_barrier};

use crate::derive::{self, Schema, Use};
use crate::id::KeyName;
use crate::scope::ScopeDigest;
use crate::secret::KeyMaterial;
use crate::time::Timestamp;
use crate::xaes::{NONCE_LEN, TAG_LEN, Xaes256Gcm};

/// Longest ticket in bytes, so that one fits into a TLS record with room to spare.
pub const MAX_TICKET_LEN: usize = 16_384;

/// The plaintext is padded to a multiple of this, so that lengths tell little of who resumes.
pub const PADDING: usize = 64;

/// `issued_at`, `authenticated_at` and the payload's length.
const INNER_HEAD_LEN: usize = 8 + 8 + 2;

/// Key name and nonce.
const HEAD_LEN: usize = KeyName::LEN + NONCE_LEN;

/// What is not encrypted: the head and the tag.
const ENVELOPE_LEN: usize = HEAD_LEN + TAG_LEN;

/// Shortest ticket in bytes: an empty payload.
pub const MIN_TICKET_LEN: usize = ENVELOPE_LEN + PADDING;

/// Longest payload in bytes.
pub const MAX_PAYLOAD_LEN: usize =
    (MAX_TICKET_LEN - ENVELOPE_LEN) / PADDING * PADDING - INNER_HEAD_LEN;

const AAD_LABEL: &[u8] = b"stek/ticket/1";

const AAD_LEN: usize = AAD_LABEL.len() + KeyName::LEN;

/// The two instants that a ticket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// When this ticket was sealed.
    pub issued_at: Timestamp,
    /// When the full handshake was made at which its chain of resumptions began.
    pub authenticated_at: Timestamp,
}

/// What a ticket holds.
pub struct Contents {
    /// Its instants.
    pub stamp: Stamp,
    /// The session as the TLS library encoded it; erased unless somebody takes it.
    pub payload: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents").field("stamp", &self.stamp).finish_non_exhaustive()
    }
}

/// The payload has more than [`MAX_PAYLOAD_LEN`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("session of {0} bytes, at most {MAX_PAYLOAD_LEN} fit into a ticket")]
pub struct PayloadTooLong(pub usize);

/// Why bytes are not a ticket under this key. An attacker learns none of this.
// As wide as an address, for the reason that `snapshot::OpenMiss` gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[repr(usize)]
pub enum OpenError {
    /// The length is not one that a ticket can have, or the padding is not zero.
    #[error("not of the ticket format")]
    Malformed,
    /// The tag does not match: altered, or never sealed by us.
    #[error("ticket does not authenticate")]
    Forged,
}

/// The keys of one STEK for one use, schema and scope.
pub struct DerivedKey {
    name: KeyName,
    aad: [u8; AAD_LEN],
    aead: Xaes256Gcm,
}

impl DerivedKey {
    /// Derives name and encryption key from `material`.
    pub fn derive(material: &KeyMaterial, usage: Use, schema: Schema, scope: &ScopeDigest) -> Self {
        let key: Zeroizing<[u8; 32]> = derive::aead_key(material, usage, schema, scope);
        let name = derive::key_name(material, usage, schema, scope);
        Self { name, aad: aad(name.as_bytes()), aead: Xaes256Gcm::new(&key) }
    }

    /// The bytes with which its tickets begin.
    pub fn name(&self) -> &KeyName {
        &self.name
    }

    /// Seals `payload` into a ticket.
    ///
    /// `nonce` must be random and never used twice with this key; 24 random bytes may be drawn
    /// 2⁸⁰ times.
    ///
    /// # Errors
    /// [`PayloadTooLong`] if it does not fit.
    pub fn seal(
        &self,
        stamp: Stamp,
        payload: &[u8],
        nonce: &[u8; NONCE_LEN],
    ) -> Result<Vec<u8>, PayloadTooLong> {
        let too_long = PayloadTooLong(payload.len());
        if payload.len() > MAX_PAYLOAD_LEN {
            return Err(too_long);
        }
        let length = u16::try_from(payload.len()).map_err(|_| too_long)?;
        let plain_len = (INNER_HEAD_LEN + payload.len()).next_multiple_of(PADDING);
        let mut head = [0; HEAD_LEN + INNER_HEAD_LEN];
        let (outer, inner) = head.split_at_mut(HEAD_LEN);
        outer[..KeyName::LEN].copy_from_slice(self.name.as_bytes());
        outer[KeyName::LEN..].copy_from_slice(nonce);
        inner[..8].copy_from_slice(&stamp.issued_at.as_unix().to_be_bytes());
        inner[8..16].copy_from_slice(&stamp.authenticated_at.as_unix().to_be_bytes());
        inner[16..].copy_from_slice(&length.to_be_bytes());
        let mut ticket = Vec::with_capacity(ENVELOPE_LEN + plain_len);
        ticket.extend_from_slice(&head);
        ticket.extend_from_slice(payload);
        ticket.resize(HEAD_LEN + plain_len, 0);
        let tag = self.aead.seal_in_place(nonce, &self.aad, &mut ticket[HEAD_LEN..]);
        ticket.extend_from_slice(&tag);
        Ok(ticket)
    }

    /// Opens a ticket that begins with this key's name.
    ///
    /// # Errors
    /// [`OpenError`] by cause, for counting; whoever sent the ticket is only told that it did not
    /// open.
    #[inline]
    pub fn open(&self, ticket: &[u8]) -> Result<Contents, OpenError> {
        let parts = Parts::split(ticket)?;
        // To be overwritten. Zeroed memory the C library allocates in a slower way.
        let mut plain = parts.ciphertext.to_vec();
        self.aead
            .open(parts.nonce, &aad(parts.name), parts.ciphertext, parts.tag, &mut plain)
            .map_err(|_| OpenError::Forged)?;
        let mut plain = Zeroizing::new(plain);
        let (stamp, len) = parse(&plain)?;
        // The payload moves to the front of the buffer it came in. A copy would have to be erased,
        // which at a byte at a time costs as much as decrypting it did.
        plain.copy_within(INNER_HEAD_LEN..INNER_HEAD_LEN + len, 0);
        plain[len..].fill(0);
        optimization_barrier(&plain[len..]);
        plain.truncate(len);
        Ok(Contents { stamp, payload: plain })
    }
}

impl fmt::Debug for DerivedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DerivedKey").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The key name with which `ticket` begins, if its length is one that a ticket can have.
pub fn key_name_of(ticket: &[u8]) -> Option<&[u8; KeyName::LEN]> {
    Parts::split(ticket).ok().map(|parts| parts.name)
}

struct Parts<'a> {
    name: &'a [u8; KeyName::LEN],
    nonce: &'a [u8; NONCE_LEN],
    ciphertext: &'a [u8],
    tag: &'a [u8; TAG_LEN],
}

impl<'a> Parts<'a> {
    fn split(ticket: &'a [u8]) -> Result<Self, OpenError> {
        if ticket.len() < MIN_TICKET_LEN || ticket.len() > MAX_TICKET_LEN {
            return Err(OpenError::Malformed);
        }
        let malformed = OpenError::Malformed;
        let (name, rest) = ticket.split_first_chunk().ok_or(malformed)?;
        let (nonce, rest) = rest.split_first_chunk().ok_or(malformed)?;
        let (ciphertext, tag) = rest.split_last_chunk().ok_or(malformed)?;
        if !ciphertext.len().is_multiple_of(PADDING) {
            return Err(malformed);
        }
        Ok(Self { name, nonce, ciphertext, tag })
    }
}

fn aad(name: &[u8; KeyName::LEN]) -> [u8; AAD_LEN] {
    let mut aad = [0; AAD_LEN];
    aad[..AAD_LABEL.len()].copy_from_slice(AAD_LABEL);
    aad[AAD_LABEL.len()..].copy_from_slice(name);
    aad
}

/// The instants in `plain` and the length of the payload that follows its header.
fn parse(plain: &[u8]) -> Result<(Stamp, usize), OpenError> {
    let malformed = OpenError::Malformed;
    let (issued_at, rest) = plain.split_first_chunk().ok_or(malformed)?;
    let (authenticated_at, rest) = rest.split_first_chunk().ok_or(malformed)?;
    let (length, rest) = rest.split_first_chunk().ok_or(malformed)?;
    let (payload, padding) =
        rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or(malformed)?;
    // All at once: what authenticates was padded by us, so there is nothing to find out by the time.
    if [0; PADDING - 1].get(..padding.len()) != Some(padding) {
        return Err(malformed);
    }
    let stamp = Stamp {
        issued_at: Timestamp::from_unix(u64::from_be_bytes(*issued_at)),
        authenticated_at: Timestamp::from_unix(u64::from_be_bytes(*authenticated_at)),
    };
    Ok((stamp, payload.len()))
}

#[cfg(test)]
mod tests;
