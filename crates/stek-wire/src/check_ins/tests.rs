//! What the reader of reports accepts and refuses.

use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::samples;

fn document() -> Value {
    serde_json::from_slice(encode_check_ins(&samples::census()).as_slice()).unwrap()
}

fn decode(document: &Value) -> Result<Census, DecodeError> {
    decode_check_ins(document.to_string().as_bytes())
}

#[test]
fn every_field_is_needed_but_those_that_may_be_null() {
    for (field, spoilt) in samples::with_one_missing(&document()) {
        let nullable = ["principal", "twice_since", "clock_offset_ms"];
        let is_nullable = nullable.iter().any(|name| field.ends_with(name));
        match decode(&spoilt) {
            Err(error) => assert!(error.to_string().contains(&field), "{field}: {error}"),
            Ok(_) => assert!(is_nullable, "{field}"),
        }
    }
}

#[test]
fn other_values_are_refused_by_name() {
    let replace = |pointer: &str, value: Value| {
        let mut document = document();
        *document.pointer_mut(pointer).unwrap() = value;
        decode(&document).map_err(|error| error.to_string())
    };
    for (pointer, value, field) in [
        ("/version", 2.into(), "version"),
        ("/replicas/0/replica", "a b".into(), "replicas[0].replica"),
        ("/replicas/0/age_ms", (-1).into(), "replicas[0].age_ms"),
        ("/replicas/1/keysets/0/keyset", "Main".into(), "replicas[1].keysets[0].keyset"),
        (
            "/replicas/0/keysets/0/holdings/0/instances",
            4_294_967_296_u64.into(),
            "replicas[0].keysets[0].holdings[0].instances",
        ),
        (
            "/replicas/0/keysets/0/laggards/0/clock_offset_ms",
            86_400_001.into(),
            "replicas[0].keysets[0].laggards[0].clock_offset_ms",
        ),
        (
            "/replicas/0/keysets/0/laggards/0/clock_offset_ms",
            (-86_400_001).into(),
            "replicas[0].keysets[0].laggards[0].clock_offset_ms",
        ),
    ] {
        let error = replace(pointer, value).unwrap_err();
        assert!(error.contains(field), "{pointer}: {error}");
    }
}

#[test]
fn lists_are_bounded() {
    for (pointer, limit) in [
        ("/replicas", MAX_REPLICAS),
        ("/replicas/0/keysets/0/holdings", MAX_HOLDINGS),
        ("/replicas/0/keysets/0/laggards", MAX_LAGGARDS),
    ] {
        let mut document = document();
        let list = document.pointer_mut(pointer).unwrap().as_array_mut().unwrap();
        let one = list[0].clone();
        list.resize(limit, one.clone());
        decode(&document).unwrap();
        document.pointer_mut(pointer).unwrap().as_array_mut().unwrap().push(one);
        let error = decode(&document).unwrap_err();
        assert!(matches!(error, DecodeError::TooManyItems { limit: l, .. } if l == limit));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = decode_check_ins(&bytes);
    }
}
