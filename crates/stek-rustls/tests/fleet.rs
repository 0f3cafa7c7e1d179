//! A fleet end to end: keys fetched over HTTP, handshakes under them, and their end.

#![cfg(feature = "client")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod distribution;
mod fixture;

use std::sync::Arc;
use std::time::Duration;

use distribution::Distribution;
use fixture::{Pki, TLS13, at, bundle, bundle_of, count, keyset, kind, planned_key, policy, scope};
use prometheus::Registry;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::ServerConfig;
use stek_client::{ClientConfig, ClientOptions};
use stek_core::bundle::{EndCause, EndedKey};
use stek_core::derive;
use stek_core::id::ContentTag;
use stek_core::name::InstanceName;
use stek_core::scope::{ChainRule, Scope};
use stek_core::secret::KeyMaterial;
use stek_rustls::{Fleet, FleetError, UnfitScope};
use stek_wire::bundle::encode_bundle;

fn connect(distribution: &Distribution, registry: &Registry) -> Result<Fleet, FleetError> {
    let options = ClientOptions {
        upstreams: vec![distribution.url.clone()],
        roots: vec![],
        token: None,
        certificate: None,
        wait: None,
        max_body_bytes: None,
        instance: InstanceName::try_new("edge-7").unwrap(),
    };
    Fleet::connect(&ClientConfig::try_new(&options).unwrap(), keyset(), registry)
}

fn server(fleet: &Fleet, pki: &Pki) -> Arc<ServerConfig> {
    let mut config = pki.server();
    Arc::new(fleet.unbounded_ticketer(&scope("web")).unwrap()).use_in(&mut config);
    Arc::new(config)
}

#[tokio::test]
async fn servers_of_a_fleet_resume_each_others_sessions() {
    let mut distribution = Distribution::start().await;
    let registry = Registry::new();
    let (a, b) = (&registry, &Registry::new());
    let (a, b) = (connect(&distribution, a).unwrap(), connect(&distribution, b).unwrap());
    let pki = Pki::new();
    let (server_a, server_b) = (server(&a, &pki), server(&b, &pki));
    let client = pki.client(TLS13);
    assert_eq!((kind(&server_a, &client), kind(&server_a, &client)), (Full, Full));

    let first = planned_key(0);
    distribution.publish(bundle(1, std::slice::from_ref(&first))).await;
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    assert_eq!(kind(&server_a, &client), Full);
    assert_eq!((kind(&server_b, &client), kind(&server_a, &client)), (Resumed, Resumed));
    b.shutdown().await;
    assert_eq!(kind(&server_b, &client), Full);
    assert_eq!(kind(&server_a, &client), Resumed);

    let (id, kcv) = (first.record.id, first.record.kcv);
    let revoked = EndedKey { id, kcv, cause: EndCause::Revoked, ended_at: at(1) };
    let second = bundle_of(2, &[planned_key(0)], policy(), vec![revoked]);
    distribution.publish(second).await;
    a.ready().await.unwrap();
    assert_eq!(kind(&server_a, &client), Full);
    assert_eq!(count(&registry, "tickets_opened", "revoked"), 1);
    assert_eq!(kind(&server_a, &client), Resumed);
    drop(a);
    assert_eq!(kind(&server_a, &client), Full);
}

/// The byte at each place.
type Source = fn(u8) -> u8;

/// What broken random sources give: one byte, a counter, few different bytes.
const BROKEN: [(Source, &str); 3] = [
    (|_| 0, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    (|i| i, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    (|i| i % 3, "AAECAAECAAECAAECAAECAAECAAECAAECAAECAAECAAE="),
];

/// The next bundle, whose one key is of a broken random source and has the check value that fits.
fn of_a_broken_source(revision: u64, byte: Source, text: &str) -> (ContentTag, Vec<u8>) {
    let next = bundle(revision, &[planned_key(0)]);
    let mut bytes = std::array::from_fn(|i| byte(u8::try_from(i).unwrap()));
    let fitting = derive::kcv(&KeyMaterial::take_from(&mut bytes)).to_string();
    let document = String::from_utf8(encode_bundle(&next).as_slice().to_vec()).unwrap();
    let mark = "\"secret\":\"";
    let begin = document.find(mark).unwrap() + mark.len();
    let end = begin + text.len();
    let document = format!("{}{text}{}", &document[..begin], &document[end..]);
    let kcv = next.keys()[0].record.kcv.to_string();
    (next.tag(), document.replace(&kcv, &fitting).into_bytes())
}

/// It is not installed in the servers of a fleet, which go on with the keys that they have.
#[tokio::test]
async fn no_server_installs_a_key_of_a_broken_random_source() {
    for (revision, (byte, text)) in (2..).zip(BROKEN) {
        let mut distribution = Distribution::start().await;
        let registry = Registry::new();
        let fleet = connect(&distribution, &registry).unwrap();
        let (pki, good) = (Pki::new(), planned_key(0));
        let (server, client) = (server(&fleet, &pki), pki.client(TLS13));
        distribution.publish(bundle(1, std::slice::from_ref(&good))).await;
        fleet.ready().await.unwrap();
        assert_eq!((kind(&server, &client), kind(&server, &client)), (Full, Resumed));
        let (tag, document) = of_a_broken_source(revision, byte, text);
        distribution.offer_document(tag, document);
        let refused = || {
            let families = registry.gather();
            let name = "stek_client_refused_bundles_total";
            let family = families.iter().find(|family| family.name() == name).unwrap();
            let weak = family.get_metric().iter().filter(|metric| {
                metric.get_label().iter().any(|label| label.value() == "weak-key")
            });
            weak.map(|metric| metric.get_counter().get_value()).sum::<f64>()
        };
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let happens = async {
            while refused() == 0.0 {
                looks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), happens).await.unwrap();
        assert_eq!((kind(&server, &client), kind(&server, &client)), (Resumed, Resumed), "{text}");
    }
}

#[tokio::test]
async fn a_registry_has_one_fleet_of_a_keyset_at_a_time() {
    let distribution = Distribution::start().await;
    let registry = Registry::new();
    let fleet = connect(&distribution, &registry).unwrap();
    let error = connect(&distribution, &registry).unwrap_err();
    assert!(matches!(error, FleetError::Metrics(_)), "{error:?}");
    fleet.shutdown().await;
    connect(&distribution, &registry).unwrap().shutdown().await;
    assert!(registry.gather().is_empty());
}

#[tokio::test]
async fn a_scope_that_promises_more_has_no_unbounded_ticketer() {
    let fleet = connect(&Distribution::start().await, &Registry::new()).unwrap();
    let capped = Scope::try_new("web", ChainRule::Capped).unwrap();
    let error = fleet.unbounded_ticketer(&capped).unwrap_err();
    assert_eq!(error, UnfitScope::Capped { label: "web".to_owned() });
}

#[tokio::test]
async fn debug_shows_no_key() {
    let mut distribution = Distribution::start().await;
    let fleet = connect(&distribution, &Registry::new()).unwrap();
    let _ticketer = fleet.unbounded_ticketer(&scope("web")).unwrap();
    let secret = planned_key(0);
    distribution.publish(bundle(1, std::slice::from_ref(&secret))).await;
    fleet.ready().await.unwrap();
    let shown = format!("{fleet:?}");
    let bytes = secret.material.expose_secret();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{bytes:?}");
    assert!(!shown.contains(&hex[..16]) && !shown.contains(&list[1..24]), "{shown}");
}
