//! Bundles, feeds and certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest, Sha256};
use stek_core::access::{Access, Grant, KeysetSelector, Role};
use stek_core::bundle::{Bundle, BundleKey};
use stek_core::derive;
use stek_core::feed::FeedState;
use stek_core::id::{ContentDigest, ContentTag, Incarnation, KeyId, Revision};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::principal::PrincipalPattern;
use stek_core::schedule::Schedule;
use stek_core::secret::KeyMaterial;
use stek_core::time::{Seconds, Timestamp};

/// Wall time at which every test begins, Unix seconds.
pub const T0: u64 = 1_790_000_000;

/// Poll interval 3 s, clock skew 10 s, lead 100 s.
pub fn policy() -> Policy {
    let seconds = |n| Some(Seconds::new(n));
    Policy::try_new(&PolicyRequest {
        rotation_period: seconds(100),
        ticket_lifetime: seconds(90),
        poll_interval: seconds(3),
        clock_skew: seconds(10),
        lead: seconds(100),
        session_lifetime: seconds(300),
        ..PolicyRequest::default()
    })
    .unwrap()
}

/// An instant `offset` seconds after [`T0`].
pub fn at(offset: u64) -> Timestamp {
    Timestamp::from_unix(T0 + offset)
}

/// The secret bytes of the key with this seed.
pub fn secret(seed: u8) -> [u8; 32] {
    Sha256::digest([seed]).into()
}

/// Each byte of weak material, and how all of it is written.
pub type Weak = (fn(u8) -> u8, &'static str);

/// What broken random sources give: one byte, a counter, few different bytes.
pub const WEAK: [Weak; 3] = [
    (|_| 0, "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
    (|i| i, "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="),
    (|i| i % 3, "AAECAAECAAECAAECAAECAAECAAECAAECAAECAAECAAE="),
];

/// `document` with other material for the key of `seed`, and the check value that fits it.
pub fn with_weak_key(document: &str, seed: u8, (byte, text): Weak) -> String {
    let mut bytes = std::array::from_fn(|i| byte(u8::try_from(i).unwrap()));
    let fitting = derive::kcv(&KeyMaterial::take_from(&mut bytes)).to_string();
    let kcv = key(seed, 0, 1).record.kcv.to_string();
    let begin = document.find(&kcv).expect("the key is there");
    let secret = "\"secret\":\"";
    let at = begin + document[begin..].find(secret).unwrap() + secret.len();
    let end = at + document[at..].find('"').unwrap();
    assert_eq!(end - at, text.len());
    format!("{}{text}{}", &document[..at], &document[end..]).replace(&kcv, &fitting)
}

/// A key that seals from `activate` to `retire` and opens for 100 s more; seconds after [`T0`].
pub fn key(seed: u8, activate: u64, retire: u64) -> BundleKey {
    let material = Arc::new(KeyMaterial::take_from(&mut secret(seed)));
    let schedule =
        Schedule::try_new(at(0), at(activate), at(retire), at(retire + 100), at(retire + 200));
    let record = KeyRecord {
        id: KeyId::from_bytes([seed; 16]),
        format: TicketFormat::V1,
        kcv: derive::kcv(&material),
        schedule: schedule.unwrap(),
    };
    BundleKey { record, material }
}

/// `incarnation` 1 is the usual one.
pub fn tag(incarnation: u64, revision: u64) -> ContentTag {
    ContentTag {
        incarnation: Incarnation::new(incarnation * 1000, &[0; 10]),
        revision: Revision::new(revision),
        digest: ContentDigest::from_bytes([7; 8]),
    }
}

pub fn named(name: &str, tag: ContentTag, keys: Vec<BundleKey>) -> Bundle {
    Bundle::try_new(tag, KeysetName::try_new(name).unwrap(), policy(), keys, vec![]).unwrap()
}

/// A bundle of keyset `main` with two keys, which end 200 s and 300 s after [`T0`].
pub fn bundle(revision: u64) -> Bundle {
    named("main", tag(1, revision), vec![key(1, 0, 100), key(2, 100, 200)])
}

/// A feed at `revision` with these bundles and one grant.
pub fn feed(incarnation: u64, revision: u64, bundles: Vec<Bundle>) -> FeedState {
    let grants = vec![Grant {
        principal: PrincipalPattern::try_new("token:edge").unwrap(),
        keysets: KeysetSelector::All,
        role: Role::Terminator,
    }];
    FeedState {
        incarnation: tag(incarnation, 0).incarnation,
        revision: Revision::new(revision),
        keysets: bundles.into_iter().map(|b| (b.name().clone(), Arc::new(b))).collect(),
        tombstones: BTreeMap::new(),
        access: Arc::new(Access::new(vec![], grants)),
        access_read_at: at(0),
    }
}

/// A CA for tests.
pub fn ca() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A server of `versions` with a certificate for these names, changed by `change`.
pub fn server_config(
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
    change: impl FnOnce(&mut CertificateParams),
) -> rustls::ServerConfig {
    server_config_for(WebPkiClientVerifier::no_client_auth(), ca, names, versions, change)
}

/// The same for such clients.
pub fn server_config_for(
    clients: Arc<dyn ClientCertVerifier>,
    ca: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
    change: impl FnOnce(&mut CertificateParams),
) -> rustls::ServerConfig {
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    change(&mut params);
    let pair = KeyPair::generate().unwrap();
    let certificate = params.signed_by(&pair, ca).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap()
}
