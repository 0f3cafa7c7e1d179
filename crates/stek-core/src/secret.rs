//! The secret bytes of a ticket key, and nothing about when it may be used. Boxed, so that moving
//! the value moves a pointer and leaves no copy behind; overwritten on drop; shown by nothing.

use std::fmt;

use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Length of a ticket key in bytes.
pub const KEY_LEN: usize = 32;

/// The 32 secret bytes of a ticket key.
///
/// Not `Clone`: whoever needs the key shares it behind an `Arc`, so that one drop erases it.
pub struct KeyMaterial(Box<[u8; KEY_LEN]>);

impl KeyMaterial {
    /// Lets `fill` write the bytes where they will stay.
    ///
    /// # Errors
    /// Whatever `fill` returns; what it wrote until then is erased.
    pub fn try_from_fill<E>(
        fill: impl FnOnce(&mut [u8; KEY_LEN]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let mut material = Self(Box::new([0; KEY_LEN]));
        fill(&mut material.0)?;
        Ok(material)
    }

    /// Takes the bytes out of `source` and erases them there.
    pub fn take_from(source: &mut [u8; KEY_LEN]) -> Self {
        let material = Self(Box::new(*source));
        source.zeroize();
        material
    }

    /// The bytes themselves. Whoever calls this keeps them from leaving the process.
    pub fn expose_secret(&self) -> &[u8; KEY_LEN] {
        &self.0
    }

    /// Whether both are the same key, in time that does not depend on where they differ.
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Drop for KeyMaterial {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl ZeroizeOnDrop for KeyMaterial {}

impl fmt::Debug for KeyMaterial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyMaterial(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_omits_the_bytes() {
        let material = KeyMaterial::take_from(&mut [0xab; KEY_LEN]);
        assert_eq!(format!("{material:?}"), "KeyMaterial(..)");
    }

    #[test]
    fn taking_erases_the_source() {
        let mut source = [0xab; KEY_LEN];
        let material = KeyMaterial::take_from(&mut source);
        assert_eq!(source, [0; KEY_LEN]);
        assert_eq!(material.expose_secret(), &[0xab; KEY_LEN]);
    }

    #[test]
    fn comparison_sees_every_byte() {
        let one = KeyMaterial::take_from(&mut [7; KEY_LEN]);
        for position in 0..KEY_LEN {
            let mut bytes = [7; KEY_LEN];
            assert!(one.is_same_as(&KeyMaterial::take_from(&mut bytes.clone())));
            bytes[position] ^= 1;
            assert!(!one.is_same_as(&KeyMaterial::take_from(&mut bytes)));
        }
    }
}
