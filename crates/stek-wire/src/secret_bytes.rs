//! A byte buffer for documents that hold keys. It never leaves a copy behind: growing wipes the
//! memory it moves out of, dropping wipes the rest. What others do with the bytes is not its say.

use std::fmt;

use base64ct::{Base64, Encoding};
use stek_core::secret::{KEY_LEN, KeyMaterial};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a key in base64 with padding (RFC 4648, section 4).
pub(crate) const KEY_TEXT_LEN: usize = KEY_LEN.div_ceil(3) * 4;

/// Bytes that are overwritten on drop, and wherever growing moves them away from.
///
/// Not `Clone`. It is `AsRef<[u8]> + Send + 'static`, so an HTTP body can own it and wipe it once
/// the last reader is done.
#[derive(Default)]
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// An empty buffer without memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty buffer that takes `capacity` bytes before it has to grow.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    /// What was written.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes were written.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends `bytes`. Whoever holds them elsewhere wipes them there.
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        self.reserve(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Appends a key in base64, encoded in place and in constant time. The one spot at which a
    /// key becomes part of a document.
    pub(crate) fn push_key(&mut self, material: &KeyMaterial) {
        let start = self.0.len();
        self.reserve(KEY_TEXT_LEN);
        self.0.resize(start + KEY_TEXT_LEN, b'=');
        Base64::encode(material.expose_secret(), &mut self.0[start..])
            .expect("the room is that of one key");
    }

    fn reserve(&mut self, additional: usize) {
        let needed = self.0.len().saturating_add(additional);
        if needed > self.0.capacity() {
            let capacity = needed.max(self.0.capacity().saturating_mul(2));
            self.0 = move_out(&mut self.0, capacity);
        }
    }
}

/// The same bytes in a new buffer; `old` is wiped.
fn move_out(old: &mut [u8], capacity: usize) -> Vec<u8> {
    let mut grown = Vec::with_capacity(capacity);
    grown.extend_from_slice(old);
    old.zeroize();
    grown
}

impl Drop for SecretBytes {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for SecretBytes {}

impl AsRef<[u8]> for SecretBytes {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretBytes({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_omits_the_bytes() {
        let mut bytes = SecretBytes::new();
        bytes.extend_from_slice(b"canary");
        assert_eq!(format!("{bytes:?} {bytes:#?}"), "SecretBytes(6 bytes) SecretBytes(6 bytes)");
    }

    #[test]
    fn growing_keeps_the_bytes_and_wipes_the_old_memory() {
        let mut old = *b"canary";
        let grown = move_out(&mut old, 64);
        assert_eq!((grown.as_slice(), grown.capacity() >= 64), (&b"canary"[..], true));
        assert_eq!(old, [0; 6]);

        let mut bytes = SecretBytes::with_capacity(1);
        let expected: Vec<u8> = (0..=255).cycle().take(5_000).collect();
        for chunk in expected.chunks(7) {
            bytes.extend_from_slice(chunk);
        }
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!((bytes.len(), bytes.is_empty()), (5_000, false));
    }

    #[test]
    fn enough_room_means_no_second_allocation() {
        let mut bytes = SecretBytes::with_capacity(KEY_TEXT_LEN);
        let home = bytes.as_slice().as_ptr();
        bytes.push_key(&KeyMaterial::take_from(&mut [0xff; KEY_LEN]));
        assert_eq!(bytes.as_slice().as_ptr(), home);
        assert_eq!(bytes.as_slice(), format!("{}8=", "/".repeat(42)).as_bytes());
    }

    #[test]
    fn an_http_body_can_own_it() {
        fn owned<T: AsRef<[u8]> + Send + Sync + 'static>(_: &T) {}
        owned(&SecretBytes::new());
    }
}
