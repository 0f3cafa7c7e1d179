//! The schemas against the bytes that they describe.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use super::*;
use crate::admin::{ChangePolicy as Change, CreateKeyset as Create, RevokeKeys as Revoke};
use crate::check_ins::decode_check_ins;

fn validator<T: JsonSchema>() -> jsonschema::Validator {
    let settings = SchemaSettings::draft2020_12();
    let schema = settings.into_generator().into_root_schema_for::<T>();
    let options = jsonschema::options().should_validate_formats(true);
    options.build(schema.as_value()).unwrap()
}

fn golden(name: &str) -> Value {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// Every object of the document, by the way to it.
fn objects(document: &Value, way: &str, found: &mut Vec<String>) {
    match document {
        Value::Object(fields) => {
            found.push(way.to_owned());
            for (name, value) in fields {
                objects(value, &format!("{way}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                objects(item, &format!("{way}/{index}"), found);
            }
        }
        _ => {}
    }
}

fn describes<T: JsonSchema>(names: &[&str]) {
    let validator = validator::<T>();
    for name in names {
        let document = golden(name);
        if let Err(error) = validator.validate(&document) {
            panic!("{name}: {error} at {}", error.instance_path());
        }
        // Each field of each object counts: taken away, the document is none any more.
        let mut ways = Vec::new();
        objects(&document, "", &mut ways);
        for way in ways {
            let object = document.pointer(&way).and_then(Value::as_object).unwrap();
            for field in object.keys() {
                let mut without = document.clone();
                let place = without.pointer_mut(&way).and_then(Value::as_object_mut).unwrap();
                place.insert(field.clone(), json!([[]]));
                assert!(!validator.is_valid(&without), "{name}: {way}/{field} is not described");
            }
        }
    }
}

#[test]
fn bundles_are_as_described() {
    describes::<Bundle>(&["bundle.json", "bundle-with-ended.json"]);
}

#[test]
fn feeds_are_as_described() {
    describes::<Feed>(&["feed-snapshot.json", "feed-delta.json"]);
}

#[test]
fn reports_are_as_described() {
    describes::<CheckIns>(&["check-ins.json"]);
}

/// What is refused here is refused there, and the reverse.
fn agrees<T: JsonSchema>(bodies: &[Value], decode: impl Fn(&[u8]) -> bool) {
    let validator = validator::<T>();
    let mut seen = [false; 2];
    for body in bodies {
        let taken = decode(body.to_string().as_bytes());
        assert_eq!(validator.is_valid(body), taken, "{body}");
        seen[usize::from(taken)] = true;
    }
    assert_eq!(seen, [true; 2], "both kinds are tried");
}

#[test]
fn requests_are_read_as_described() {
    let good = json!({"name": "main", "policy": {"lead_seconds": 60, "activation_quorum": "off"}});
    agrees::<CreateKeyset>(
        &[
            good.clone(),
            json!({"name": "main"}),
            json!({"name": "main", "policy": null}),
            json!({"name": "main", "policy": {"lead_seconds": null}}),
            json!({"name": "Main"}),
            json!({}),
            json!({"name": "main", "policies": {}}),
            json!({"name": "main", "policy": {"lead_second": 1}}),
            json!({"name": "main", "policy": {"lead_seconds": -1}}),
            json!({"name": "main", "policy": {"activation_quorum": "most"}}),
        ],
        |body| Create::decode(body).is_ok(),
    );
    agrees::<ChangePolicy>(
        &[json!({"policy": {}}), json!({"policy": null}), json!({}), good],
        |body| Change::decode(body).is_ok(),
    );
    agrees::<RevokeKeys>(
        &[
            json!({"reason": "leak"}),
            json!({"reason": "leak", "key": null, "dry_run": null}),
            json!({"reason": "leak", "dry_run": "yes"}),
            json!({"reason": "leak", "key": "main"}),
            json!({"reason": "  "}),
            json!({"reason": ""}),
        ],
        |body| Revoke::decode(body).is_ok(),
    );
    agrees::<CheckIns>(
        &[json!({"version": 1, "replicas": []}), json!({"version": 2, "replicas": []}), json!({})],
        |body| decode_check_ins(body).is_ok(),
    );
}
