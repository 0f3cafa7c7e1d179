//! The admin documents: strict requests, lenient answers, and what core types become in them.

use serde_json::{Value, json};
use stek_core::access::TokenSecret;
use stek_core::bundle::EndCause;
use stek_core::policy::{ActivationQuorum, PolicyError};

use super::*;
use crate::DecodeError;
use crate::samples;

fn create(text: &str) -> Result<CreateKeyset, DecodeError> {
    CreateKeyset::decode(text.as_bytes())
}

fn said(text: &str) -> String {
    create(text).unwrap_err().to_string()
}

fn keyset_document() -> KeysetDocument {
    let bundle = samples::bundle_with_ended();
    let now = bundle.keys()[1].record.schedule.activate_at();
    let times = KeysetTimes { next_due: Some(samples::at(9)), created_at: samples::at(0), now };
    KeysetDocument::new(bundle.keyset(), bundle.tag(), bundle.ended(), times)
}

#[test]
fn requests_read_what_they_write() {
    let policy = PolicyDocument { lead_seconds: Some(7_200), ..PolicyDocument::default() };
    let request = CreateKeyset { name: samples::name("main"), policy };
    assert_eq!(request.encode(), r#"{"name":"main","policy":{"lead_seconds":7200}}"#);
    assert_eq!(create(&request.encode()), Ok(request));
    let request = ChangePolicy { policy };
    assert_eq!(ChangePolicy::decode(request.encode().as_bytes()), Ok(request));
    let full = PolicyDocument::from(samples::bundle().policy());
    let request = ChangePolicy { policy: full };
    assert_eq!(ChangePolicy::decode(request.encode().as_bytes()), Ok(request));
}

#[test]
fn the_policy_of_a_new_keyset_may_be_left_out() {
    for text in
        [r#"{"name":"main"}"#, r#"{"name":"main","policy":null}"#, r#"{"policy":{},"name":"main"}"#]
    {
        assert_eq!(create(text).unwrap().policy, PolicyDocument::default());
    }
    let null = r#"{"name":"main","policy":{"lead_seconds":null}}"#;
    assert_eq!(create(null).unwrap().policy.lead_seconds, None);
    assert_eq!(ChangePolicy::decode(b"{}").unwrap_err().to_string(), "policy is missing");
}

#[test]
fn a_slip_is_refused_by_name_and_value() {
    assert_eq!(
        said(r#"{"name":"main","policy":{"rotation_perod_seconds":60}}"#),
        "policy.rotation_perod_seconds is not known, allowed are rotation_period_seconds, \
         ticket_lifetime_seconds, poll_interval_seconds, clock_skew_seconds, lead_seconds, \
         session_lifetime_seconds, activation_quorum, activation_deadline_seconds"
    );
    // Known elsewhere, not here.
    assert_eq!(said(r#"{"name":"main","keys":[]}"#), "keys is not known, allowed are name, policy");
    assert_eq!(
        said(r#"{"name":"main","policy":{"lead_seconds":"6h"}}"#),
        "policy.lead_seconds is \"6h\", allowed is a whole number of seconds"
    );
    assert_eq!(
        said(r#"{"name":"main","policy":{"lead_seconds":-1}}"#),
        "policy.lead_seconds is a number with a sign, a fraction or too many digits, allowed is a \
         whole number of seconds"
    );
    assert_eq!(
        said(r#"{"name":"main","policy":{"activation_quorum":"most"}}"#),
        "policy.activation_quorum is \"most\", allowed is all or off"
    );
    assert_eq!(
        said(r#"{"name":"Main\n"}"#),
        "name is \"Main\\n\", allowed is 1 to 63 of a-z, 0-9, '-', '.' and '_', beginning with a \
         letter or digit"
    );
    assert_eq!(said(r#"{"name":"a","name":"b"}"#), "name is given more than once");
    assert_eq!(said(r#"{"name":"a","policy":7}"#), "policy is 7, allowed is an object");
    assert_eq!(said(r#"["a"]"#), "document is an array, allowed is an object");
    assert_eq!(said(r#"{"name":"a"} x"#), "document is not well-formed JSON at line 1, column 14");
    assert!(said(&format!("{{\"name\":\"{}\"}}", "X".repeat(5_000))).len() < 300);
    assert!(said(&format!("{{\"{}\":1}}", "x".repeat(5_000))).len() < 300);
    assert!(said(&" ".repeat(MAX_REQUEST_BYTES + 1)).contains("allowed are 65536"));
}

#[test]
fn a_token_pasted_into_a_request_is_not_repeated() {
    let token = TokenSecret::take_from(&mut [9; 32]).expose_text();
    let text = said(&format!("{{\"name\":\" {token}\"}}"));
    assert!(text.starts_with("name is a string of 70 characters, allowed is 1 to 63"), "{text}");
}

#[test]
fn a_change_keeps_what_it_leaves_out() {
    let present = *samples::bundle_with_ended().policy();
    let asked = PolicyDocument { lead_seconds: Some(7_200), ..PolicyDocument::default() };
    let changed = Policy::try_new(&asked.over(&present)).unwrap();
    assert_eq!(changed.lead(), Seconds::from_hours(2));
    assert_eq!(changed.ticket_lifetime(), present.ticket_lifetime());
    assert_eq!(changed.activation_deadline(), changed.lead(), "a whole lead follows the lead");
    assert_eq!(Policy::try_new(&PolicyDocument::default().over(&present)), Ok(present));
    let fields = PolicyDocument {
        rotation_period_seconds: Some(1),
        ticket_lifetime_seconds: Some(2),
        poll_interval_seconds: Some(3),
        clock_skew_seconds: Some(4),
        lead_seconds: Some(5),
        session_lifetime_seconds: Some(6),
        activation_quorum: Some(ActivationQuorum::Off),
        activation_deadline_seconds: Some(7),
    };
    let asked = fields.over(&present);
    assert_eq!(asked, fields.to_request());
    assert_eq!(
        [asked.rotation_period, asked.ticket_lifetime, asked.poll_interval].map(Option::unwrap),
        [1, 2, 3].map(Seconds::new)
    );
    assert_eq!(
        [asked.clock_skew, asked.lead, asked.session_lifetime].map(Option::unwrap),
        [4, 5, 6].map(Seconds::new)
    );
    assert_eq!(asked.activation_quorum, Some(ActivationQuorum::Off));
    assert_eq!(asked.activation_deadline, Some(Seconds::new(7)));
    assert!(matches!(Policy::try_new(&asked), Err(PolicyError::OutOfLimits { .. })));
}

#[test]
fn a_keyset_is_shown_with_states_and_without_secrets() {
    let document = keyset_document();
    let shown: Value = serde_json::to_value(&document).unwrap();
    assert_eq!(shown["name"], "eu-west.edge");
    assert_eq!(shown["revision"], 40);
    assert_eq!(shown["policy"]["ticket_lifetime_seconds"], 43_200);
    assert_eq!(shown["keys"][0]["state"], "decrypt-only");
    assert_eq!(shown["keys"][1]["state"], "active");
    assert_eq!(shown["ended"][0]["cause"], EndCause::Revoked.as_str());
    assert_eq!(shown["next_due"], "2026-09-21T14:13:29Z");
    assert_eq!(shown["now"], shown["keys"][1]["activate_at"]);
    assert!(!shown.to_string().contains("secret"));
    assert_eq!(serde_json::from_value::<KeysetDocument>(shown).unwrap(), document);
}

#[test]
fn answers_of_a_newer_manager_are_understood() {
    let mut shown = serde_json::to_value(keyset_document()).unwrap();
    for pointer in ["", "/policy", "/keys/0", "/ended/0"] {
        let Some(Value::Object(fields)) = shown.pointer_mut(pointer) else { panic!() };
        fields.insert("a_later_field".into(), json!([1]));
    }
    let list = json!({"keysets": [shown], "total": 1});
    let list: KeysetList = serde_json::from_value(list).unwrap();
    assert_eq!(list, KeysetList { keysets: vec![keyset_document()], next: None });
    let effect = json!({"keyset": "main", "revision": 7, "effects": [{"action": "mint", "reason": "r", "x": 1}]});
    let effect: EffectDocument = serde_json::from_value(effect).unwrap();
    assert_eq!((effect.effects[0].key.as_ref(), effect.warnings.len()), (None, 0));
    let plan = json!({"keyset": "main", "until": "u", "steps": [{"at": "t", "action": "mint", "detail": "d"}]});
    assert_eq!(serde_json::from_value::<PlanDocument>(plan).unwrap().steps[0].key, None);
}
