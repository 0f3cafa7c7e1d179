//! What is derived from a ticket key with HKDF-SHA256 (RFC 5869, no salt): its check value, and for
//! each scope the key names and the keys that encrypt. Labels and layout are those of ticket
//! format 1; docs/PROTOCOL.md has the table.

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::id::{Kcv, KeyName};
use crate::scope::ScopeDigest;
use crate::secret::KeyMaterial;

/// What sealed values are for. Tickets and stored sessions never open each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Use {
    /// Tickets that clients keep.
    Ticket,
    /// Sessions in a shared store, to which clients keep a look-up key.
    Store,
}

impl Use {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Ticket => b"ticket",
            Self::Store => b"store",
        }
    }
}

/// How a TLS library encodes the session that a ticket carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schema(u8);

impl Schema {
    /// The session value of rustls 0.23.
    pub const RUSTLS_0_23: Self = Self(1);

    /// The schema with this number.
    pub const fn new(number: u8) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn as_u8(self) -> u8 {
        self.0
    }
}

/// `KCV = HKDF(STEK, "stek/1/check")[..8]`.
pub fn kcv(material: &KeyMaterial) -> Kcv {
    let mut bytes = [0; Kcv::LEN];
    expand(material, &[b"stek/1/check"], &mut bytes);
    Kcv::from_bytes(bytes)
}

/// `key_name = HKDF(STEK, "stek/1/name" ‖ use ‖ schema ‖ scope digest)[..16]`.
pub fn key_name(
    material: &KeyMaterial,
    usage: Use,
    schema: Schema,
    scope: &ScopeDigest,
) -> KeyName {
    let mut bytes = [0; KeyName::LEN];
    expand(material, &scoped(b"stek/1/name", usage, &[schema.0], scope), &mut bytes);
    KeyName::from_bytes(bytes)
}

/// `aead key = HKDF(STEK, "stek/1/aead" ‖ use ‖ schema ‖ scope digest)[..32]`.
pub fn aead_key(
    material: &KeyMaterial,
    usage: Use,
    schema: Schema,
    scope: &ScopeDigest,
) -> Zeroizing<[u8; 32]> {
    let mut key = Zeroizing::new([0; 32]);
    expand(material, &scoped(b"stek/1/aead", usage, &[schema.0], scope), key.as_mut_slice());
    key
}

fn scoped<'a>(
    label: &'a [u8],
    usage: Use,
    schema: &'a [u8; 1],
    scope: &'a ScopeDigest,
) -> [&'a [u8]; 4] {
    [label, usage.label(), schema, scope.as_bytes()]
}

fn expand(material: &KeyMaterial, info: &[&[u8]], okm: &mut [u8]) {
    Hkdf::<Sha256>::new(None, material.expose_secret())
        .expand_multi_info(info, okm)
        .expect("at most 32 bytes are asked, RFC 5869 allows 8160");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::KEY_LEN;

    fn material(byte: u8) -> KeyMaterial {
        KeyMaterial::take_from(&mut [byte; KEY_LEN])
    }

    #[test]
    fn every_input_separates() {
        let scope = ScopeDigest::from_bytes([1; 32]);
        let other = ScopeDigest::from_bytes([2; 32]);
        let schema = Schema::RUSTLS_0_23;
        let inputs = [
            (7, Use::Ticket, schema, &scope),
            (8, Use::Ticket, schema, &scope),
            (7, Use::Store, schema, &scope),
            (7, Use::Ticket, Schema::new(2), &scope),
            (7, Use::Ticket, schema, &other),
        ];
        for (position, one) in inputs.iter().enumerate() {
            for two in &inputs[position + 1..] {
                let names = [one, two].map(|i| key_name(&material(i.0), i.1, i.2, i.3));
                assert_ne!(names[0], names[1]);
                let keys = [one, two].map(|i| aead_key(&material(i.0), i.1, i.2, i.3));
                assert_ne!(*keys[0], *keys[1]);
            }
        }
    }
}
