//! Bundles and feeds for tests, and ways to spoil a document. Every key here says that it is none.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use stek_core::access::{Access, Grant, KeysetSelector, Role, Token, TokenHash};
use stek_core::bundle::{Bundle, BundleKey, EndCause, EndedKey};
use stek_core::check_in::{Census, Holding, KeysetTally, Laggard, ReplicaId, ReplicaTally};
use stek_core::derive;
use stek_core::feed::FeedState;
use stek_core::id::{ContentTag, Incarnation, Kcv, KeyId, Revision};
use stek_core::keyset::{History, KeyRecord, Keyset, TicketFormat};
use stek_core::name::{InstanceName, KeysetName, PrincipalName};
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::principal::PrincipalPattern;
use stek_core::schedule::Schedule;
use stek_core::secret::KeyMaterial;
use stek_core::time::{Seconds, Timestamp};

/// 2026-09-21T14:13:20Z.
const START: u64 = 1_790_000_000;

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(START + seconds)
}

pub(crate) fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

pub(crate) fn incarnation(age: u64) -> Incarnation {
    Incarnation::new(START * 1_000 + age, &[7; 10])
}

/// Readable test material: `stek test key 1, never a secret!`.
pub(crate) fn material(number: u8) -> KeyMaterial {
    let mut bytes = *b"stek test key 0, never a secret!";
    bytes[14] = b'0' + number;
    KeyMaterial::take_from(&mut bytes)
}

/// Material with bytes that look random, the same for the same seed.
pub(crate) fn noise(seed: u64) -> KeyMaterial {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    KeyMaterial::take_from(&mut std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[3]
    }))
}

/// The keys of a keyset that has rotated every six hours since the start.
pub(crate) fn keys(materials: impl IntoIterator<Item = KeyMaterial>) -> Vec<BundleKey> {
    let policy = Policy::try_new(&PolicyRequest::default()).unwrap();
    let period = policy.rotation_period().as_secs();
    (1_u64..)
        .zip(materials)
        .map(|(number, material)| {
            let [published, activate, retire] =
                [number, number + 1, number + 2].map(|n| at(n * period));
            let record = KeyRecord {
                id: KeyId::new(published.as_unix() * 1_000, &[u8::try_from(number).unwrap(); 10]),
                format: TicketFormat::V1,
                kcv: derive::kcv(&material),
                schedule: Schedule::planned(&policy, published, activate, retire).unwrap(),
            };
            BundleKey { record, material: Arc::new(material) }
        })
        .collect()
}

pub(crate) fn ended(number: u8, cause: EndCause) -> EndedKey {
    EndedKey {
        id: KeyId::new(START * 1_000, &[0xe0 + number; 10]),
        kcv: Kcv::from_bytes([0xe0 + number; 8]),
        cause,
        ended_at: at(u64::from(number)),
    }
}

pub(crate) fn bundle_of(
    keyset: &str,
    revision: u64,
    policy: &PolicyRequest,
    keys: Vec<BundleKey>,
    ended: Vec<EndedKey>,
) -> Bundle {
    let policy = Policy::try_new(policy).unwrap();
    let records = keys.iter().map(|key| key.record).collect();
    let digest =
        Keyset::try_new(name(keyset), policy, History::Used, records).unwrap().content_digest();
    let tag = ContentTag { incarnation: incarnation(0), revision: Revision::new(revision), digest };
    Bundle::try_new(tag, name(keyset), policy, keys, ended).unwrap()
}

/// Two keys, none ended.
pub(crate) fn bundle() -> Bundle {
    bundle_of("main", 42, &PolicyRequest::default(), keys([1, 2].map(material)), vec![])
}

/// Two keys, one expired and one revoked, and a policy of its own.
pub(crate) fn bundle_with_ended() -> Bundle {
    let policy = PolicyRequest {
        ticket_lifetime: Some(Seconds::from_hours(12)),
        session_lifetime: Some(Seconds::from_days(2)),
        ..PolicyRequest::default()
    };
    let gone = vec![ended(2, EndCause::Revoked), ended(1, EndCause::Expired)];
    bundle_of("eu-west.edge", 40, &policy, keys([3, 4].map(material)), gone)
}

pub(crate) fn grant(principal: &str, keysets: &str, role: Role) -> Grant {
    Grant {
        principal: PrincipalPattern::try_new(principal).unwrap(),
        keysets: KeysetSelector::parse(keysets).unwrap(),
        role,
    }
}

pub(crate) fn access() -> Access {
    let token = Token {
        id: KeyId::new(START * 1_000, &[0x70; 10]),
        principal: PrincipalName::try_new("token:edge-7").unwrap(),
        hash: TokenHash::from_bytes([0x5a; 32]),
        expires_at: at(7 * 86_400),
    };
    let grants = vec![
        grant("token:edge-7", "main", Role::Terminator),
        grant("spiffe://example.org/edge/\"7\\", "*", Role::Distribution),
    ];
    Access::new(vec![token], grants)
}

/// Two keysets, one deleted, one token, two grants, at revision 42.
pub(crate) fn feed() -> FeedState {
    let keysets = [bundle(), bundle_with_ended()];
    FeedState {
        incarnation: incarnation(0),
        revision: Revision::new(42),
        keysets: keysets.into_iter().map(|b| (b.name().clone(), Arc::new(b))).collect(),
        tombstones: BTreeMap::from([(name("old"), Revision::new(41))]),
        access: Arc::new(access()),
        access_read_at: at(60),
    }
}

/// Two replicas, the second of which reports through the first; one instance lags.
pub(crate) fn census() -> Census {
    let principal = |text| PrincipalName::try_new(text).unwrap();
    let instance = |text| InstanceName::try_new(text).unwrap();
    let holding = |revision, instances, twice_since| Holding {
        revision: Revision::new(revision),
        instances,
        twice_since,
    };
    let laggard = Laggard {
        principal: principal("token:edge-7"),
        instance: instance("edge-7#\"2"),
        revision: Revision::new(41),
        last_seen: at(90),
        clock_offset_millis: Some(-12),
    };
    let here = KeysetTally {
        newest: Revision::new(42),
        holdings: vec![holding(42, 9_998, Some(at(100))), holding(41, 1, Some(at(60)))],
        laggards: vec![laggard],
        uncounted: 2,
    };
    let there = KeysetTally {
        newest: Revision::new(42),
        holdings: vec![holding(42, 3, None)],
        laggards: vec![],
        uncounted: 0,
    };
    let tally = |principal, replica, age, tally| ReplicaTally {
        replica: ReplicaId { principal, name: instance(replica) },
        age: std::time::Duration::from_millis(age),
        incarnation: incarnation(0),
        keysets: BTreeMap::from([(name("main"), Arc::new(tally))]),
    };
    Census {
        replicas: vec![
            tally(None, "eu-1", 0, here),
            tally(Some(principal("spiffe://example.org/eu-2")), "eu-2", 140, there),
        ],
    }
}

/// Every pointer (RFC 6901) into `document` but the empty one.
pub(crate) fn pointers(document: &Value) -> Vec<String> {
    let children: Vec<(String, &Value)> = match document {
        Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), v)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, v)| (i.to_string(), v)).collect(),
        _ => vec![],
    };
    let below = |(step, value): (String, &Value)| {
        let deeper = pointers(value).into_iter().map(|rest| format!("/{step}{rest}"));
        std::iter::once(format!("/{step}")).chain(deeper).collect::<Vec<_>>()
    };
    children.into_iter().flat_map(below).collect()
}

/// A pointer as errors write it: `/keys/0/kcv` is `keys[0].kcv`.
pub(crate) fn path(pointer: &str) -> String {
    let mut path = String::new();
    for step in pointer.split('/').skip(1) {
        match step.parse::<usize>() {
            Ok(index) => path.push_str(&format!("[{index}]")),
            Err(_) => crate::node::push_name(&mut path, step),
        }
    }
    path
}

/// Documents that lack one field each, with the path of that field.
pub(crate) fn with_one_missing(document: &Value) -> Vec<(String, Value)> {
    let mut spoilt = vec![];
    for pointer in pointers(document) {
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        let mut copy = document.clone();
        if let Some(Value::Object(fields)) = copy.pointer_mut(parent) {
            fields.remove(field).unwrap();
            spoilt.push((path(&pointer), copy));
        }
    }
    spoilt
}

/// Documents with one value of another type each, or with `text` in the place of another string;
/// with the path of that value.
pub(crate) fn with_one_wrong(document: &Value, text: &str) -> Vec<(String, Value)> {
    let wrong = [
        Value::Null,
        true.into(),
        7.into(),
        (-1).into(),
        0.5.into(),
        text.into(),
        vec![text].into(),
        Value::Object([(text.to_owned(), text.into())].into_iter().collect()),
    ];
    let mut spoilt = vec![];
    for pointer in pointers(document) {
        for value in &wrong {
            let mut copy = document.clone();
            let spot = copy.pointer_mut(&pointer).unwrap();
            let same_type = std::mem::discriminant(spot) == std::mem::discriminant(value);
            if !same_type || value.is_string() || value.as_u64().is_none() && value.is_number() {
                *spot = value.clone();
                spoilt.push((path(&pointer), copy));
            }
        }
    }
    spoilt
}

/// Everything that an error could print, with its sources.
pub(crate) fn printed(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    text
}

/// A secret that must turn up nowhere, in the form in which documents carry one.
pub(crate) const CANARY: &str = "Y2FuYXJ5LWNhbmFyeS1jYW5hcnktY2FuYXJ5LTAwMDE=";

/// Fails if an error prints a part of [`CANARY`] or of a secret in `document`.
pub(crate) fn assert_silent(error: &dyn std::error::Error, document: &str) {
    let text = printed(error);
    let secrets =
        document.match_indices("\"secret\":\"").map(|(at, tag)| &document[at + tag.len()..]);
    for secret in secrets.chain([CANARY, "canary"]) {
        let head: String = secret.chars().take(12).collect();
        assert!(head.len() < 6 || !text.contains(&head), "{text}");
    }
}
