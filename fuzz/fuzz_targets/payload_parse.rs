//! What rustls gives a ticketer to seal, or anything else: it is read or not, the client's
//! certificate in it has an end or not, and nothing panics. The sources are the adapter's own,
//! where they are private.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "one function of each module is used")]

use libfuzzer_sys::fuzz_target;
use stek_core::certificate::not_after;

#[path = "../../crates/stek-rustls/src/glue/rustls_0_23/payload.rs"]
mod payload;
#[path = "../../crates/stek-rustls/src/session.rs"]
mod session;

fuzz_target!(|input: &[u8]| {
    let _ = not_after(input);
    let Some(session) = payload::read(input) else { return };
    if let Some(certificate) = session.client_certificate {
        let _ = not_after(certificate);
    }
    // Strict: neither less nor more is the same session.
    assert!(payload::read(&input[..input.len() - 1]).is_none());
    assert!(payload::read(&[input, &[0]].concat()).is_none());
});
