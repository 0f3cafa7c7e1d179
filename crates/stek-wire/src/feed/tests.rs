//! What the feed's reader accepts and refuses, and that following differences ends where a snapshot
//! does and never goes back.

use proptest::prelude::*;
use serde_json::{Value, json};
use stek_core::access::Role;
use stek_core::bundle::{EndCause, Refusal};
use stek_core::feed::FeedState;
use stek_core::policy::PolicyRequest;

use super::*;
use crate::DecodeError;
use crate::samples::{self, CANARY, assert_silent, incarnation, name};

fn text(since: Option<u64>, state: &FeedState, access: AccessPart) -> String {
    let bytes = encode_feed(since.map(Revision::new), state, access);
    String::from_utf8(bytes.as_slice().to_vec()).unwrap()
}

/// The state as one text, for comparing.
fn whole(state: &FeedState) -> String {
    text(None, state, AccessPart::Included)
}

fn snapshot(state: &FeedState) -> FeedUpdate {
    decode_feed(whole(state).as_bytes()).unwrap()
}

fn delta(since: u64, state: &FeedState) -> FeedUpdate {
    decode_feed(text(Some(since), state, AccessPart::Omitted).as_bytes()).unwrap()
}

fn document() -> Value {
    serde_json::from_str(&whole(&samples::feed())).unwrap()
}

fn decode(document: &Value) -> Result<FeedUpdate, DecodeError> {
    decode_feed(document.to_string().as_bytes())
}

/// A state at `revision` with these keysets, each at its revision.
fn state(revision: u64, keysets: &[(&str, u64)]) -> FeedState {
    let bundle = |(keyset, revision): &(&str, u64)| {
        let keys = samples::keys([samples::noise(*revision)]);
        let bundle = samples::bundle_of(keyset, *revision, &PolicyRequest::default(), keys, vec![]);
        (name(keyset), Arc::new(bundle))
    };
    FeedState {
        revision: Revision::new(revision),
        keysets: keysets.iter().map(bundle).collect(),
        ..FeedState::empty(incarnation(0), samples::at(0))
    }
}

/// The same state with the deletion of one keyset in it.
fn deleted(mut state: FeedState, keyset: &str, revision: u64) -> FeedState {
    state.keysets.remove(&name(keyset));
    state.tombstones.insert(name(keyset), Revision::new(revision));
    state
}

/// The same state in another lineage.
fn reborn(state: &FeedState, age: u64) -> FeedState {
    let lineage = incarnation(age);
    let text = whole(state).replace(&state.incarnation.to_string(), &lineage.to_string());
    decode_feed(text.as_bytes()).unwrap().apply(None).unwrap()
}

#[test]
fn every_missing_field_is_named() {
    for (field, document) in samples::with_one_missing(&document()) {
        assert_eq!(decode(&document).unwrap_err(), DecodeError::Missing { field });
    }
}

#[test]
fn every_wrong_value_is_named_and_no_secret_shown() {
    let spoilt = samples::with_one_wrong(&document(), CANARY);
    assert!(spoilt.len() > 500);
    for (path, document) in spoilt {
        let result = decode(&document);
        // These two may be null; and any visible characters are a principal.
        if path == "since" && document["since"].as_u64() == Some(7)
            || path == "access" && document["access"].is_null()
        {
            result.unwrap();
            continue;
        }
        let error = result.expect_err(&path);
        assert_silent(&error, &document.to_string());
        if path.ends_with(".secret") && matches!(error, DecodeError::Bundle { .. }) {
            continue; // The canary is a key, and another one.
        }
        let field = error.field().unwrap();
        let digest = field == "access_digest" && path.starts_with("access.");
        assert!(
            digest || field == path || field.starts_with(&format!("{path}[")),
            "{path}: {error}"
        );
    }
}

#[test]
fn whatever_is_cut_off_or_flipped_is_survived_in_silence() {
    let text = whole(&samples::feed());
    for end in 0..text.len() {
        assert_silent(&decode_feed(&text.as_bytes()[..end]).unwrap_err(), &text);
    }
    for position in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[position] ^= 1;
        if let Err(error) = decode_feed(&bytes) {
            assert_silent(&error, &text);
        }
    }
}

#[test]
fn unknown_fields_are_passed_over() {
    let mut grown = document();
    for pointer in samples::pointers(&document()).into_iter().chain([String::new()]) {
        if let Some(Value::Object(fields)) = grown.pointer_mut(&pointer) {
            fields.insert("a_later_field".into(), json!([{"version": 2}]));
        }
    }
    assert_eq!(whole(&decode(&grown).unwrap().apply(None).unwrap()), whole(&samples::feed()));
}

#[test]
fn a_document_that_contradicts_itself_is_refused() {
    let later = incarnation(1).to_string();
    let digest = "0000000000000000";
    let cases = [
        ("/version", json!(2), "version"),
        ("/keysets/0/version", json!(2), "keysets[0].version"),
        ("/keysets/1/incarnation", json!(later), "keysets[1].incarnation"),
        ("/incarnation", json!(later), "keysets[0].incarnation"),
        ("/keysets/1/revision", json!(43), "keysets[1].revision"),
        ("/tombstones/0/revision", json!(43), "tombstones[0].revision"),
        ("/tombstones/0/keyset", json!("main"), "tombstones[0].keyset"),
        ("/tombstones/1", document()["tombstones"][0].clone(), "tombstones[1].keyset"),
        ("/keysets/2", document()["keysets"][0].clone(), "keysets[2].keyset"),
        ("/since", json!(43), "since"),
        ("/access_digest", json!(digest), "access_digest"),
        ("/access/grants/0/role", json!("operator"), "access_digest"),
        ("/keysets/0/keys/0/kcv", json!(digest), "keysets[0]"),
    ];
    for (pointer, value, field) in cases {
        let mut spoilt = document();
        let (parent, last) = pointer.rsplit_once('/').unwrap();
        match spoilt.pointer_mut(parent).unwrap() {
            Value::Array(items) if last.parse() == Ok(items.len()) => items.push(value),
            parent => *parent.pointer_mut(&format!("/{last}")).unwrap() = value,
        }
        let error = decode(&spoilt).unwrap_err();
        assert_eq!(error.field(), Some(field), "{pointer}: {error}");
    }
}

#[test]
fn the_order_of_tokens_and_grants_makes_no_difference() {
    let mut turned = samples::feed();
    let access = samples::access();
    let grants = access.grants().iter().rev().cloned().collect();
    turned.access = Arc::new(Access::new(access.tokens().to_vec(), grants));
    assert_eq!(whole(&turned), whole(&samples::feed()));
}

#[test]
fn a_difference_holds_only_what_is_later() {
    let feed = samples::feed();
    let names =
        |since| delta(since, &feed).keysets().keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names(39), ["eu-west.edge", "main"]);
    assert_eq!(names(40), ["main"]);
    assert_eq!(names(42), [""; 0]);
    assert_eq!(delta(40, &feed).tombstones().len(), 1);
    assert_eq!(delta(41, &feed).tombstones().len(), 0);
    // Nothing but the time at which the manager last looked.
    assert_eq!(whole(&delta(42, &feed).apply(Some(&feed)).unwrap()), whole(&feed));
}

#[test]
fn a_difference_joins_only_the_state_that_it_was_asked_from() {
    let next = state(9, &[("a", 9)]);
    let update = || delta(7, &next);
    let error = update().apply(None).unwrap_err();
    assert_eq!(error, FeedError::NoBase { since: Revision::new(7) });
    assert!(error.wants_snapshot());
    for base in [state(6, &[]), state(8, &[]), state(10, &[]), reborn(&state(7, &[]), 1)] {
        let error = update().apply(Some(&base)).unwrap_err();
        assert!(matches!(error, FeedError::OtherBase { .. }) && error.wants_snapshot(), "{error}");
    }
    assert_eq!(whole(&update().apply(Some(&state(7, &[]))).unwrap()), whole(&next));
}

#[test]
fn a_snapshot_replaces_everything() {
    let before = deleted(state(7, &[("a", 5), ("b", 7)]), "c", 6);
    let after = state(7, &[("b", 7)]);
    assert_eq!(whole(&snapshot(&after).apply(Some(&before)).unwrap()), whole(&after));
}

#[test]
fn the_feed_never_goes_back() {
    let present = state(7, &[("a", 5)]);
    let error = snapshot(&state(6, &[("a", 5)])).apply(Some(&present)).unwrap_err();
    assert_eq!(error.to_string(), "revision 6 is lower than the installed 7");
    assert!(!error.wants_snapshot());
    let later = reborn(&present, 1);
    let error = snapshot(&present).apply(Some(&later)).unwrap_err();
    assert!(matches!(error, FeedError::EarlierIncarnation { .. }) && !error.wants_snapshot());
    let restored = reborn(&state(3, &[("a", 2)]), 1);
    assert_eq!(whole(&snapshot(&restored).apply(Some(&present)).unwrap()), whole(&restored));
}

#[test]
fn no_keyset_goes_back_under_a_feed_that_goes_forward() {
    let present = state(7, &[("a", 5)]);
    let error = snapshot(&state(8, &[("a", 4)])).apply(Some(&present)).unwrap_err();
    let FeedError::Keyset { keyset, source: Refusal::LowerRevision { .. } } = &error else {
        panic!()
    };
    assert_eq!(*keyset, name("a"));
    assert!(!error.wants_snapshot());

    let keys = samples::keys([samples::noise(99)]);
    let twin = samples::bundle_of("a", 5, &PolicyRequest::default(), keys, vec![]);
    let mut other = state(8, &[]);
    other.keysets.insert(name("a"), Arc::new(twin));
    let error = snapshot(&other).apply(Some(&present)).unwrap_err();
    assert!(matches!(error, FeedError::Keyset { source: Refusal::OtherContent { .. }, .. }));
    let mut again = state(8, &[("a", 5)]);
    again.access_read_at = samples::at(9);
    assert_eq!(whole(&delta(7, &again).apply(Some(&present)).unwrap()), whole(&again));
}

#[test]
fn deletions_do_not_go_back_either() {
    let gone = deleted(state(7, &[]), "a", 6);
    let error = snapshot(&state(8, &[("a", 6)])).apply(Some(&gone)).unwrap_err();
    assert!(matches!(error, FeedError::Undeleted { .. }), "{error}");
    let anew = state(8, &[("a", 8)]);
    assert_eq!(whole(&delta(7, &anew).apply(Some(&gone)).unwrap()), whole(&anew));

    let present = state(7, &[("a", 6)]);
    let error = snapshot(&deleted(state(8, &[]), "a", 6)).apply(Some(&present)).unwrap_err();
    assert!(matches!(error, FeedError::EarlierDeletion { .. }), "{error}");
    let gone = deleted(state(8, &[]), "a", 8);
    assert_eq!(whole(&delta(7, &gone).apply(Some(&present)).unwrap()), whole(&gone));

    let reborn_without = reborn(&state(2, &[("a", 1)]), 1);
    let gone = deleted(state(7, &[]), "a", 6);
    assert!(snapshot(&reborn_without).apply(Some(&gone)).is_ok());
}

#[test]
fn a_keyset_created_again_has_no_tombstone() {
    let mut both = state(8, &[("a", 8)]);
    both.tombstones.insert(name("a"), Revision::new(6));
    assert_eq!(whole(&both), whole(&state(8, &[("a", 8)])));
}

#[test]
fn tokens_and_grants_left_out_are_those_that_are_there() {
    let present = samples::feed();
    let omitted =
        |since| decode_feed(text(since, &present, AccessPart::Omitted).as_bytes()).unwrap();
    assert_eq!(whole(&omitted(None).apply(Some(&present)).unwrap()), whole(&present));
    let mut other = samples::feed();
    other.access = Arc::default();
    for error in
        [omitted(None).apply(None), omitted(Some(42)).apply(Some(&other))].map(Result::unwrap_err)
    {
        assert!(matches!(error, FeedError::AccessMissing { .. }) && error.wants_snapshot());
    }
    let included = text(Some(42), &present, AccessPart::Included);
    let joined = decode_feed(included.as_bytes()).unwrap().apply(Some(&other)).unwrap();
    assert_eq!(whole(&joined), whole(&present));
}

#[test]
fn length_and_values_are_limited() {
    let long = vec![b' '; MAX_FEED_BYTES + 1];
    assert!(matches!(decode_feed(&long).unwrap_err(), DecodeError::TooLong { .. }));
    let values = format!("{{\"keysets\":[{}0]}}", "0,".repeat(8 * 1024 * 1024));
    assert!(matches!(
        decode_feed(values.as_bytes()).unwrap_err(),
        DecodeError::TooManyValues { .. }
    ));
}

/// What happens to one of four keysets, or to the grants.
#[derive(Debug, Clone, Copy)]
enum Event {
    Publish(usize),
    Delete(usize),
    Grant(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0_usize..4).prop_map(Event::Publish),
        1 => (0_usize..4).prop_map(Event::Delete),
        1 => any::<u8>().prop_map(Event::Grant),
    ]
}

/// The state after each event, each with a revision of its own.
fn history(events: &[Event]) -> Vec<FeedState> {
    let names = ["a", "b", "c", "d"];
    let mut states = vec![state(0, &[])];
    for (revision, event) in (1..).zip(events) {
        let mut next = states[states.len() - 1].clone();
        next.revision = Revision::new(revision);
        match *event {
            Event::Publish(which) => {
                next.keysets.extend(state(revision, &[(names[which], revision)]).keysets);
                next.tombstones.remove(&name(names[which]));
            }
            Event::Delete(which) if next.keysets.contains_key(&name(names[which])) => {
                next = deleted(next, names[which], revision);
            }
            Event::Delete(_) => {}
            Event::Grant(number) => {
                let grant = samples::grant(&format!("p{number}"), "*", Role::Terminator);
                next.access = Arc::new(Access::new(vec![], vec![grant]));
            }
        }
        states.push(next);
    }
    states
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn differences_end_where_a_snapshot_does(events in proptest::collection::vec(event(), 0..10)) {
        let states = history(&events);
        for (since, before) in states.iter().enumerate() {
            for after in &states[since..] {
                let same = before.tag().digest == after.tag().digest;
                let access = if same { AccessPart::Omitted } else { AccessPart::Included };
                let update = text(Some(u64::try_from(since).unwrap()), after, access);
                let joined = decode_feed(update.as_bytes()).unwrap().apply(Some(before)).unwrap();
                prop_assert_eq!(whole(&joined), whole(after));
                prop_assert_eq!(whole(&snapshot(after).apply(Some(before)).unwrap()), whole(after));
                let back = snapshot(before).apply(Some(after));
                prop_assert_eq!(back.is_err(), before.revision < after.revision);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(decode_feed(&bytes).is_err());
    }
}

#[test]
fn bundles_that_remember_ended_keys_travel_whole() {
    let update = snapshot(&samples::feed());
    let causes: Vec<_> =
        update.keysets()[&name("eu-west.edge")].ended().iter().map(|key| key.cause).collect();
    assert_eq!(causes, [EndCause::Revoked, EndCause::Expired]);
}
