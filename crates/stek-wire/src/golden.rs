//! The exact bytes of the contract, in `golden/`. After a change on purpose, write them anew with
//! `STEK_GOLDEN=write cargo test -p stek-wire golden` and read the difference before keeping it:
//! programs of the version before must still understand it.

use std::path::PathBuf;

use stek_core::bundle::Bundle;
use stek_core::feed::FeedState;
use stek_core::id::Revision;

use crate::SecretBytes;
use crate::bundle::{decode_bundle, encode_bundle};
use crate::check_ins::{decode_check_ins, encode_check_ins};
use crate::feed::{AccessPart, decode_feed, encode_feed};
use crate::samples;

/// Fails unless the file `name` holds exactly `document`; returns what the file holds.
fn golden(name: &str, document: &SecretBytes) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden").join(name);
    if std::env::var_os("STEK_GOLDEN").is_some_and(|mode| mode == "write") {
        std::fs::write(&path, document.as_slice()).unwrap();
    }
    let kept = std::fs::read(&path).unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(text(document.as_slice()), text(&kept), "{name} differs, see the head of golden.rs");
    kept
}

fn assert_same_bundle(one: &Bundle, two: &Bundle) {
    assert_eq!((one.tag(), one.keyset(), one.ended()), (two.tag(), two.keyset(), two.ended()));
    assert_eq!(one.keys().len(), two.keys().len());
    for (one, two) in one.keys().iter().zip(two.keys()) {
        assert_eq!(one.record, two.record);
        assert!(one.material.is_same_as(&two.material));
    }
}

fn assert_same_feed(one: &FeedState, two: &FeedState) {
    assert_eq!((one.tag(), one.access_read_at), (two.tag(), two.access_read_at));
    assert_eq!(one.tombstones, two.tombstones);
    assert!(one.keysets.keys().eq(two.keysets.keys()));
    for (one, two) in one.keysets.values().zip(two.keysets.values()) {
        assert_same_bundle(one, two);
    }
}

#[test]
fn bundle() {
    let bundle = samples::bundle();
    let kept = golden("bundle.json", &encode_bundle(&bundle));
    assert_same_bundle(&decode_bundle(&kept).unwrap(), &bundle);
}

#[test]
fn bundle_with_ended() {
    let bundle = samples::bundle_with_ended();
    let kept = golden("bundle-with-ended.json", &encode_bundle(&bundle));
    assert_same_bundle(&decode_bundle(&kept).unwrap(), &bundle);
}

#[test]
fn feed_snapshot() {
    let state = samples::feed();
    let kept = golden("feed-snapshot.json", &encode_feed(None, &state, AccessPart::Included));
    let update = decode_feed(&kept).unwrap();
    assert_eq!((update.since(), update.tag()), (None, state.tag()));
    assert_same_feed(&update.apply(None).unwrap(), &state);
}

#[test]
fn feed_delta() {
    let mut before = samples::feed();
    before.revision = Revision::new(40);
    before.keysets.remove(&samples::name("main"));
    before.tombstones.clear();
    let state = samples::feed();
    let since = Some(before.revision);
    let kept = golden("feed-delta.json", &encode_feed(since, &state, AccessPart::Omitted));
    let update = decode_feed(&kept).unwrap();
    assert_eq!((update.since(), update.access()), (since, None));
    assert_same_feed(&update.apply(Some(&before)).unwrap(), &state);
}

#[test]
fn check_ins() {
    let census = samples::census();
    let kept = golden("check-ins.json", &encode_check_ins(&census));
    assert_eq!(decode_check_ins(&kept).unwrap(), census);
}
