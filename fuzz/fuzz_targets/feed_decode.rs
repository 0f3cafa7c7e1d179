//! A feed of a manager that may be anybody: it is refused when it is decoded or when it is applied to
//! nothing or to a state, and never panics.

#![no_main]

use libfuzzer_sys::fuzz_target;
use stek_wire::feed::decode_feed;

fuzz_target!(|input: &[u8]| {
    let Ok(update) = decode_feed(input) else { return };
    if let Ok(state) = update.apply(None) {
        // Once more on top of itself.
        if let Ok(update) = decode_feed(input) {
            let _ = update.apply(Some(&state));
        }
    }
});
