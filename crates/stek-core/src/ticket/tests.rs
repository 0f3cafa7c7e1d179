use sha2::{Digest, Sha256};

use super::*;
use crate::secret::KEY_LEN;

fn material() -> KeyMaterial {
    KeyMaterial::take_from(&mut std::array::from_fn(|i| u8::try_from(i * 7 + 3).unwrap()))
}

/// The digest of the scope `edge` in the tests of [`crate::scope`].
fn scope() -> ScopeDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(&unhex(
        "743e502c5d3581778722b6c2abbc7aefd6db192da6cfad5c4dcaf47766f336a9",
    ));
    ScopeDigest::from_bytes(bytes)
}

fn key() -> DerivedKey {
    DerivedKey::derive(&material(), Use::Ticket, Schema::RUSTLS_0_23, &scope())
}

fn nonce() -> [u8; NONCE_LEN] {
    std::array::from_fn(|i| u8::try_from(i).unwrap())
}

fn stamp(issued: u64, authenticated: u64) -> Stamp {
    Stamp {
        issued_at: Timestamp::from_unix(issued),
        authenticated_at: Timestamp::from_unix(authenticated),
    }
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

const GOLDEN: &str = "e26c0da629086da61af1e5203b556d08000102030405060708090a0b0c0d0e0f1011121314\
    15161748f424979d8fa83d2abbab0685f89bedbca28c2b92198205d40160b6d66b8e9522bb840545bef7ec02a9d4ff\
    c0f462283125032f94e6a0337a0a22757c9ad6b9a2b2b3cf81dc4894132ec15abd30630c";

const GOLDEN_EMPTY: &str = "e26c0da629086da61af1e5203b556d08000102030405060708090a0b0c0d0e0f101112\
    131415161748f424979d8fa83d2abbab0685f8b41dbca5ff4ee16aeb6aba0160b6d66b8e9522bb840545bef7ec02a9\
    d4ffc0f462283125032f94e6a0337a0a22757c9ad6b9cb915a8276e04e55f8436bc28f3a3f30";

/// All expected bytes were computed by another implementation of the layout: Python, with the
/// `cryptography` package for AES-GCM and HKDF.
#[test]
fn golden_vectors() {
    assert_eq!(derive::kcv(&material()).to_string(), "bc2211dde6fa8719");
    for (usage, expected) in [
        (Use::Ticket, "e26c0da629086da61af1e5203b556d08"),
        (Use::Store, "166ca00f3ef359f07c0194b9891e52ee"),
    ] {
        let name = derive::key_name(&material(), usage, Schema::RUSTLS_0_23, &scope());
        assert_eq!(name.to_string(), expected);
    }
    assert_eq!(
        *derive::aead_key(&material(), Use::Ticket, Schema::RUSTLS_0_23, &scope()),
        *unhex("de9efdcfe499f86cc1eccfcb13865566b33e424c5665cc0cf65822bd9b9a4519")
    );
    let seal = |stamp, payload: &[u8]| key().seal(stamp, payload, &nonce()).unwrap();
    assert_eq!(seal(stamp(1_790_000_000, 1_789_990_000), b"session"), unhex(GOLDEN));
    assert_eq!(seal(stamp(1_790_000_000, 1_790_000_000), b""), unhex(GOLDEN_EMPTY));
    let payload: Vec<u8> = (0..853u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
    let long = seal(stamp(1_790_000_000, 1_790_000_000), &payload);
    assert_eq!(long.len(), 952);
    assert_eq!(
        Sha256::digest(&long).to_vec(),
        unhex("198324264042f58ca5300bb1b76a304f8022274231517a7cfd2860ffbd26f821")
    );
}

#[test]
fn golden_tickets_open() {
    let contents = key().open(&unhex(GOLDEN)).unwrap();
    assert_eq!(contents.payload.as_slice(), b"session");
    assert_eq!(contents.stamp, stamp(1_790_000_000, 1_789_990_000));
    assert_eq!(key().open(&unhex(GOLDEN_EMPTY)).unwrap().payload.as_slice(), b"");
}

#[test]
fn every_flipped_bit_is_refused() {
    let ticket = unhex(GOLDEN);
    for position in 0..ticket.len() {
        for bit in 0..8 {
            let mut altered = ticket.clone();
            altered[position] ^= 1 << bit;
            // A flipped name does not lead to this key; asked all the same, the tag covers it.
            if position < KeyName::LEN {
                assert_ne!(key_name_of(&altered), Some(key().name().as_bytes()));
            }
            assert!(key().open(&altered).is_err(), "byte {position} bit {bit}");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    let ticket = key().seal(stamp(1, 1), &[7; 200], &nonce()).unwrap();
    for length in 0..ticket.len() {
        assert!(key().open(&ticket[..length]).is_err(), "{length}");
    }
    for extra in 1..=PADDING * 2 {
        let longer: Vec<u8> = ticket.iter().copied().chain(std::iter::repeat_n(0, extra)).collect();
        assert!(key().open(&longer).is_err(), "{extra}");
    }
}

#[test]
fn another_key_use_schema_or_scope_refuses() {
    let ticket = key().seal(stamp(1, 1), b"session", &nonce()).unwrap();
    let mut bytes = *material().expose_secret();
    bytes[31] ^= 1;
    let other_material = KeyMaterial::take_from(&mut bytes);
    let other_scope = ScopeDigest::from_bytes([0; 32]);
    for other in [
        DerivedKey::derive(&other_material, Use::Ticket, Schema::RUSTLS_0_23, &scope()),
        DerivedKey::derive(&material(), Use::Store, Schema::RUSTLS_0_23, &scope()),
        DerivedKey::derive(&material(), Use::Ticket, Schema::new(2), &scope()),
        DerivedKey::derive(&material(), Use::Ticket, Schema::RUSTLS_0_23, &other_scope),
    ] {
        assert_ne!(other.name(), key().name());
        assert_eq!(other.open(&ticket).unwrap_err(), OpenError::Forged);
        // Not even with the name put in its place.
        let mut spliced = ticket.clone();
        spliced[..KeyName::LEN].copy_from_slice(other.name().as_bytes());
        assert_eq!(other.open(&spliced).unwrap_err(), OpenError::Forged);
    }
}

#[test]
fn lengths_are_multiples_of_the_padding_up_to_the_longest() {
    for length in [0, 1, 45, 46, 47, 93, 853, 4096, MAX_PAYLOAD_LEN] {
        let payload = vec![0xa5; length];
        let ticket = key().seal(stamp(1, 1), &payload, &nonce()).unwrap();
        assert!((ticket.len() - ENVELOPE_LEN).is_multiple_of(PADDING));
        assert!((MIN_TICKET_LEN..=MAX_TICKET_LEN).contains(&ticket.len()));
        assert_eq!(key().open(&ticket).unwrap().payload.as_slice(), payload);
    }
    let too_long = vec![0; MAX_PAYLOAD_LEN + 1];
    let error = key().seal(stamp(1, 1), &too_long, &nonce()).unwrap_err();
    assert_eq!(error.to_string(), "session of 16303 bytes, at most 16302 fit into a ticket");
}

#[test]
fn padding_that_is_not_zero_or_too_long_is_refused() {
    let seal_raw = |plain: &mut [u8]| {
        let mut ticket = key().name().as_bytes().to_vec();
        ticket.extend_from_slice(&nonce());
        let tag = key().aead.seal_in_place(&nonce(), &aad(key().name().as_bytes()), plain);
        ticket.extend_from_slice(plain);
        ticket.extend_from_slice(&tag);
        ticket
    };
    assert!(key().open(&seal_raw(&mut [0; 64])).is_ok());
    let mut dirty = [0; 64];
    dirty[63] = 1;
    assert_eq!(key().open(&seal_raw(&mut dirty)).unwrap_err(), OpenError::Malformed);
    assert_eq!(key().open(&seal_raw(&mut [0; 128])).unwrap_err(), OpenError::Malformed);
    let mut overlong = [0; 64];
    overlong[17] = 47;
    assert_eq!(key().open(&seal_raw(&mut overlong)).unwrap_err(), OpenError::Malformed);
}

#[test]
fn debug_omits_keys_and_sessions() {
    let contents = key().open(&unhex(GOLDEN)).unwrap();
    let shown = format!("{:?} {contents:?}", key());
    let key_bytes = derive::aead_key(&material(), Use::Ticket, Schema::RUSTLS_0_23, &scope());
    assert!(!shown.contains("115, 101, 115"), "{shown}");
    assert!(!shown.contains(&format!("{}, {}", key_bytes[0], key_bytes[1])), "{shown}");
    assert_eq!(KEY_LEN, key_bytes.len());
}
