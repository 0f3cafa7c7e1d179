//! What the bundle's reader accepts, what it refuses, and that it says so without a secret.

use proptest::prelude::*;
use serde_json::{Value, json};
use stek_core::bundle::BundleError;
use stek_core::policy::PolicyError;
use stek_core::time::Seconds;

use super::*;
use crate::Found;
use crate::samples::{self, CANARY, assert_silent, pointers, printed};

fn document() -> Value {
    serde_json::from_slice(encode_bundle(&samples::bundle_with_ended()).as_slice()).unwrap()
}

fn text() -> String {
    String::from_utf8(encode_bundle(&samples::bundle_with_ended()).as_slice().to_vec()).unwrap()
}

fn decode(document: &Value) -> Result<Bundle, DecodeError> {
    decode_bundle(document.to_string().as_bytes())
}

/// The error of the document with another value at `pointer`.
fn refusal(pointer: &str, value: Value) -> DecodeError {
    let mut spoilt = document();
    *spoilt.pointer_mut(pointer).unwrap() = value;
    let error = decode(&spoilt).unwrap_err();
    assert_silent(&error, &spoilt.to_string());
    error
}

fn value_error(field: &str, found: Found, allowed: &'static str) -> DecodeError {
    DecodeError::Value { field: field.into(), found, allowed }
}

#[test]
fn every_missing_field_is_named() {
    let spoilt = samples::with_one_missing(&document());
    assert_eq!(spoilt.len(), 8 + 6 + 2 * 9 + 2 * 4);
    for (field, document) in spoilt {
        assert_eq!(decode(&document).unwrap_err(), DecodeError::Missing { field });
    }
}

#[test]
fn every_wrong_value_is_named_and_no_secret_shown() {
    let spoilt = samples::with_one_wrong(&document(), CANARY);
    assert!(spoilt.len() > 200);
    for (path, document) in spoilt {
        let error = decode(&document).expect_err(&path);
        assert_silent(&error, &document.to_string());
        if path.ends_with(".secret") && matches!(error, DecodeError::Bundle { .. }) {
            continue; // The canary is a key, and another one.
        }
        let field = error.field().unwrap();
        assert!(field == path || field.starts_with(&format!("{path}[")), "{path}: {error}");
        assert!(error.to_string().starts_with(field) && error.allowed().is_some(), "{error}");
    }
}

#[test]
fn numbers_out_of_range_are_shown() {
    assert_eq!(
        refusal("/version", 2.into()).to_string(),
        "version is 2, this program reads version 1"
    );
    assert_eq!(
        refusal("/keys/1/format", 2.into()).to_string(),
        "keys[1].format is 2, allowed is 1, the one ticket format that this program knows"
    );
    for number in [0, 65_537, u64::MAX] {
        assert_eq!(refusal("/keys/0/format", number.into()).field(), Some("keys[0].format"));
    }
    let error = refusal("/policy/lead_seconds", 1.into());
    assert_eq!(error.to_string(), "policy is unsound");
    assert!(printed(&error).contains("lead is 1s, must be at least 4 × poll_interval"));
    assert!(matches!(error, DecodeError::Policy { source: PolicyError::LeadTooShort { .. }, .. }));
}

#[test]
fn another_version_is_said_before_anything_else() {
    let error = decode(&json!({"version": 2, "keys": "in another way"})).unwrap_err();
    assert_eq!(error, DecodeError::Version { field: "version".into(), found: 2 });
}

#[test]
fn instants_out_of_order_name_the_key() {
    let error = refusal("/keys/1/activate_at", "9999-12-31T23:59:59Z".into());
    assert!(matches!(&error, DecodeError::Schedule { field, .. } if field == "keys[1]"));
    assert!(printed(&error).contains("activate_at must be before retire_at"));
    for bad in ["2026-09-21", "2026-09-21T00:00:00.5Z", ""] {
        assert_eq!(refusal("/keys/1/activate_at", bad.into()).field(), Some("keys[1].activate_at"));
    }
}

#[test]
fn only_the_exact_base64_of_a_key_is_a_secret() {
    let allowed = "the base64 of 32 bytes, with padding and without escapes";
    let good = document()["keys"][0]["secret"].as_str().unwrap().to_owned();
    for bad in [
        String::new(),
        good[..43].to_owned(),
        format!("{good}="),
        format!("{good}\n"),
        // Well-formed, and 31 bytes.
        format!("{}A==", &good[..41]),
        format!(" {}", &good[..43]),
        good.replacen(&good[5..6], "-", 1),
        // The last digit with a bit set that belongs to no byte.
        format!("{}F=", &good[..42]),
        good.replacen(&good[..1], "ü", 1),
        CANARY[..40].to_owned(),
    ] {
        let error = refusal("/keys/0/secret", bad.into());
        assert_eq!(error, value_error("keys[0].secret", Found::Hidden, allowed));
    }
    for bad in [json!(1_234_567), json!([1, 2]), json!({}), json!(null), json!(true)] {
        let error = refusal("/keys/0/secret", bad);
        assert_eq!(error, value_error("keys[0].secret", Found::Hidden, allowed));
    }
    let escaped = format!("\\u{:04x}", u32::from(good.chars().next().unwrap()));
    let document = text().replacen(&good, &format!("{escaped}{}", &good[1..]), 1);
    assert_eq!(serde_json::from_str::<Value>(&document).unwrap(), self::document());
    let error = decode_bundle(document.as_bytes()).unwrap_err();
    assert_eq!(error, value_error("keys[0].secret", Found::Hidden, allowed));
}

#[test]
fn a_secret_under_another_check_value_is_refused() {
    let other = document()["keys"][1]["kcv"].clone();
    let error = refusal("/keys/0/kcv", other);
    let DecodeError::Bundle { field, source: BundleError::WrongKcv { .. } } = &error else {
        panic!()
    };
    assert_eq!(
        (field.as_str(), error.to_string().as_str()),
        ("document", "document is no bundle to install")
    );
    let error = refusal("/keys/0/secret", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into());
    assert!(matches!(error, DecodeError::Bundle { source: BundleError::Weak { .. }, .. }));
}

#[test]
fn overlapping_keys_are_refused() {
    let first = document()["keys"][0]["activate_at"].clone();
    let mut spoilt = document();
    spoilt["keys"][1]["activate_at"] = first.clone();
    spoilt["keys"][1]["published_at"] = first;
    let error = decode(&spoilt).unwrap_err();
    assert!(matches!(error, DecodeError::Bundle { source: BundleError::Keyset(_), .. }), "{error}");
}

#[test]
fn a_field_given_twice_is_refused() {
    for (once, field) in [("\"revision\":40,", "revision"), ("\"format\":1,", "keys[0].format")] {
        let twice = text().replacen(once, &format!("{once}{once}"), 1);
        let error = decode_bundle(twice.as_bytes()).unwrap_err();
        assert_eq!(error, DecodeError::Repeated { field: field.into() });
    }
}

#[test]
fn unknown_fields_are_passed_over() {
    let mut grown = document();
    for pointer in pointers(&document()).into_iter().chain([String::new()]) {
        if let Some(Value::Object(fields)) = grown.pointer_mut(&pointer) {
            fields.insert(
                "a_later_field".into(),
                json!({"keys": [{"version": 2}], "n": [-1.5, null]}),
            );
        }
    }
    let bundle = decode(&grown).unwrap();
    assert_eq!(encode_bundle(&bundle).as_slice(), text().as_bytes());
}

#[test]
fn whatever_is_cut_off_or_flipped_is_survived_in_silence() {
    let text = text();
    for end in 0..text.len() {
        let error = decode_bundle(&text.as_bytes()[..end]).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
        assert_silent(&error, &text);
    }
    for position in 0..text.len() {
        for change in [1, 2, 0x20, 0x80, 0xff] {
            let mut bytes = text.clone().into_bytes();
            bytes[position] ^= change;
            if let Err(error) = decode_bundle(&bytes) {
                assert_silent(&error, &text);
            }
        }
    }
}

#[test]
fn broken_json_is_placed_without_repeating_it() {
    let cases = [
        (format!("{{\"keys\":[{{\"{CANARY}\": nonsense"), "keys[0].?"),
        (format!("{{\"{CANARY}\": {{\"keys\": tru}}}}"), "?"),
        (format!("{{\"keys\":[{{\"secret\": {CANARY}}}]}}"), "keys[0].secret"),
        (format!("{} {CANARY}", text()), "document"),
        (format!("\"{CANARY}"), "document"),
    ];
    for (input, field) in cases {
        let error = decode_bundle(input.as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
        assert_eq!(error.field(), Some(field), "{error}");
        assert_silent(&error, &input);
    }
}

#[test]
fn what_is_no_object_is_refused() {
    for input in ["null", "[]", "7", "\"x\"", "-1", "true"] {
        let error = decode_bundle(input.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("document is "), "{error}");
    }
    assert!(matches!(decode_bundle(b"").unwrap_err(), DecodeError::Malformed { .. }));
}

#[test]
fn counts_are_limited() {
    let mut many = document();
    many["keys"] = vec![many["keys"][0].clone(); 257].into();
    assert_eq!(decode(&many).unwrap_err().to_string(), "keys has 257 items, allowed are 256");
    let mut many = document();
    many["ended"] = vec![many["ended"][0].clone(); 257].into();
    assert_eq!(decode(&many).unwrap_err().to_string(), "ended has 257 items, allowed are 256");
}

#[test]
fn depth_length_and_values_are_limited() {
    let long = vec![b' '; MAX_BUNDLE_BYTES + 1];
    assert!(matches!(decode_bundle(&long).unwrap_err(), DecodeError::TooLong { .. }));
    let values = format!("{{\"keys\":[{}0]}}", "0,".repeat(MAX_BUNDLE_BYTES / 2 - 8));
    assert!(matches!(
        decode_bundle(values.as_bytes()).unwrap_err(),
        DecodeError::TooManyValues { .. }
    ));
    for open in ["[", "{\"keys\":", "{\"later\":"] {
        let deep = open.repeat(MAX_BUNDLE_BYTES / open.len());
        let error = decode_bundle(deep.as_bytes()).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { .. }), "{error:?}");
    }
}

#[test]
fn the_fullest_bundle_fits_the_limits() {
    let policy = PolicyRequest {
        rotation_period: Some(Seconds::from_hours(24)),
        ..PolicyRequest::default()
    };
    let keys = samples::keys((1..=255).map(samples::noise));
    let ended = (0..256).map(|_| samples::ended(1, EndCause::Expired)).collect();
    let bundle = samples::bundle_of(&"x".repeat(63), u64::MAX, &policy, keys, ended);
    let encoded = encode_bundle(&bundle);
    assert!((100_000..170_000).contains(&encoded.len()), "{}", encoded.len());
    assert_eq!(
        encode_bundle(&decode_bundle(encoded.as_slice()).unwrap()).as_slice(),
        encoded.as_slice()
    );
}

#[test]
fn debug_of_what_was_read_shows_no_key() {
    let bundle = decode_bundle(text().as_bytes()).unwrap();
    let debug = format!("{bundle:?} {:?}", encode_bundle(&bundle));
    assert!(!debug.contains("never a secret") && debug.contains("KeyMaterial(..)"), "{debug}");
}

proptest! {
    #[test]
    fn bundles_read_what_they_write(
        seed in any::<u32>(),
        count in 0_u64..12,
        revision in any::<u64>(),
        causes in proptest::collection::vec(any::<bool>(), 0..8),
        hours in 1_u64..=24,
        keyset in "[a-z0-9][a-z0-9._-]{0,62}",
    ) {
        let policy = PolicyRequest {
            rotation_period: Some(Seconds::from_hours(hours)),
            ..PolicyRequest::default()
        };
        let keys = samples::keys((0..count).map(|n| samples::noise(u64::from(seed) + n + 1)));
        let ended = (0..).zip(causes).map(|(n, expired)| {
            samples::ended(n, if expired { EndCause::Expired } else { EndCause::Revoked })
        });
        let bundle = samples::bundle_of(&keyset, revision, &policy, keys, ended.collect());
        let encoded = encode_bundle(&bundle);
        let again = decode_bundle(encoded.as_slice()).unwrap();
        prop_assert_eq!(again.tag(), bundle.tag());
        prop_assert_eq!(again.keyset(), bundle.keyset());
        prop_assert_eq!(again.ended(), bundle.ended());
        for (one, two) in again.keys().iter().zip(bundle.keys()) {
            prop_assert!(one.material.is_same_as(&two.material));
        }
        let same = encode_bundle(&again);
        prop_assert_eq!(same.as_slice(), encoded.as_slice());
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_bundle(&bytes).is_err());
    }
}
