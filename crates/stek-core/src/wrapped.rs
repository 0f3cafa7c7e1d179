//! A ticket key as it is stored: encrypted under a key-encryption key that dies with its epoch.
//! How it is wrapped is decided in custody; that it fits its columns, here.

use std::fmt;

use uuid::Uuid;

use crate::id::ParseIdError;
use crate::secret::KEY_LEN;
use crate::time::{Seconds, Timestamp};

/// Length of an epoch of the ratchet.
pub const EPOCH_LEN: Seconds = Seconds::from_hours(1);

/// Nonce of the wrapping AES-256-GCM (NIST SP 800-38D, 8.2.2).
pub const WRAP_NONCE_LEN: usize = 12;

/// Ciphertext and tag of a wrapped ticket key.
pub const WRAP_CIPHERTEXT_LEN: usize = KEY_LEN + 16;

macro_rules! identities {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            /// The identifier with these sixteen bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }

            /// The sixteen bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// Reads a UUID in any of its usual forms.
            ///
            /// # Errors
            /// [`ParseIdError`] if it is no UUID.
            pub fn parse(text: &str) -> Result<Self, ParseIdError> {
                Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}

identities! {
    /// Identifies one seed of the ratchet; every manager of a cluster holds a state of the same seed.
    SeedId;
    /// Identifies one manager's copy of the ratchet: its state file, whatever process has it open.
    ReplicaId;
}

/// A step of the ratchet: `floor(unix time / 1 h)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The epoch in which `instant` lies.
    pub const fn of(instant: Timestamp) -> Self {
        Self(instant.as_unix() / EPOCH_LEN.as_secs())
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The first instant after it.
    pub fn end(self) -> Timestamp {
        Timestamp::from_unix(self.0.saturating_add(1).saturating_mul(EPOCH_LEN.as_secs()))
    }
}

/// An encrypted ticket key and what is needed to find its key-encryption key.
#[derive(Clone, PartialEq, Eq)]
pub struct WrappedKey {
    /// The seed of the ratchet it was wrapped under.
    pub seed: SeedId,
    /// The last epoch in which it can be unwrapped.
    pub epoch: Epoch,
    /// The nonce.
    pub nonce: [u8; WRAP_NONCE_LEN],
    /// Ciphertext, then tag.
    pub ciphertext: [u8; WRAP_CIPHERTEXT_LEN],
}

impl fmt::Debug for WrappedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WrappedKey({}, epoch {}, ..)", self.seed, self.epoch.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_an_hour() {
        let epoch = Epoch::of(Timestamp::from_unix(7199));
        assert_eq!(epoch, Epoch::new(1));
        assert_eq!(epoch.end(), Timestamp::from_unix(7200));
        assert_eq!(Epoch::of(epoch.end()), Epoch::new(2));
    }
}
