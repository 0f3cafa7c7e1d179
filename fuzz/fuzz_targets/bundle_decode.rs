//! A bundle of a distribution server that may be anybody: it is refused, or says the same again when
//! it is encoded.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stek_wire::bundle::{decode_bundle, encode_bundle};

fuzz_target!(|input: &[u8]| {
    if let Ok(bundle) = decode_bundle(input) {
        let once = encode_bundle(&bundle);
        let again = decode_bundle(once.as_slice()).expect("what was encoded decodes");
        let twice = encode_bundle(&again);
        assert_eq!(once.as_slice(), twice.as_slice());
    }
});
