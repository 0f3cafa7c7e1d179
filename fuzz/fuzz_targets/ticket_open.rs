//! A ticket that a client made: it never panics and never opens, unless it is one that was sealed
//! here and not changed. The first byte chooses between foreign bytes and a real ticket with some
//! of its bytes changed, or else no input would come past the tag.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use stek_core::derive::{Schema, Use};
use stek_core::scope::ScopeDigest;
use stek_core::secret::KeyMaterial;
use stek_core::ticket::{DerivedKey, Stamp, key_name_of};
use stek_core::time::Timestamp;

static KEY: LazyLock<DerivedKey> = LazyLock::new(|| {
    let material = KeyMaterial::take_from(&mut [7; 32]);
    let scope = ScopeDigest::from_bytes([1; 32]);
    DerivedKey::derive(&material, Use::Ticket, Schema::RUSTLS_0_23, &scope)
});

const STAMP: Stamp =
    Stamp { issued_at: Timestamp::from_unix(2), authenticated_at: Timestamp::from_unix(1) };

fuzz_target!(|input: &[u8]| {
    let _ = key_name_of(input);
    let Some((choice, bytes)) = input.split_first() else { return };
    if choice % 2 == 0 {
        let mut ticket = KEY.name().as_bytes().to_vec();
        ticket.extend_from_slice(bytes);
        assert!(KEY.open(bytes).is_err());
        assert!(KEY.open(&ticket).is_err(), "a ticket that was never sealed opened");
        return;
    }
    let (payload, changes) = bytes.split_at(bytes.len() / 2);
    let Ok(sealed) = KEY.seal(STAMP, payload, &[*choice; 24]) else { return };
    let mut ticket = sealed.clone();
    // Each change is a position and what is added there; a lone byte at the end cuts the ticket.
    let (pairs, cut) = changes.as_chunks::<3>();
    for [high, low, value] in pairs {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % ticket.len();
        ticket[at] ^= value;
    }
    if let [by, ..] = cut {
        ticket.truncate(ticket.len() - usize::from(*by) % ticket.len());
    }
    match KEY.open(&ticket) {
        Ok(contents) => {
            // The name is authenticated too, so nothing may have been changed at all.
            assert_eq!(ticket, sealed, "a changed ticket opened");
            assert_eq!((contents.payload.as_slice(), contents.stamp), (payload, STAMP));
        }
        Err(_) => assert_ne!(ticket, sealed, "a ticket did not open"),
    }
});
