//! Client certificates over real handshakes: who is let in, and who that is.

use axum::Router;
use axum::extract::Extension;
use axum::routing::get;
use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use tokio::io::AsyncReadExt;

use super::*;
use crate::testing::{self, BRIEF, Running, soon};
use crate::{Channel, Limits, Peer, Proof, TlsMetrics, TlsReload, Transport};

/// Who signs certificates of clients.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// A certificate for this URI that ends with this year.
    fn issue(&self, uri: &str, year: i32) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }
}

/// A listener that takes certificates of some authorities.
struct Site {
    identity: Identity,
    files: Arc<TlsFiles>,
    server: Running,
}

impl Site {
    async fn new(authorities: &[&Authority]) -> Self {
        Self::with(Limits::default(), authorities).await
    }

    async fn with(limits: Limits, authorities: &[&Authority]) -> Self {
        let identity = Identity::new();
        let paths = TlsPaths {
            client_authorities: Some(identity.paths().certificate_chain.with_file_name("ca.pem")),
            ..identity.paths()
        };
        write_bundle(&paths, authorities);
        let files = Arc::new(TlsFiles::load(paths).unwrap());
        let transport = Transport::Tls(Arc::clone(&files));
        let router = Router::new().route("/", get(shown)).route("/proved", get(proved));
        let router = router.route("/hang", get(std::future::pending::<()>));
        let server = Running::start(transport, limits, router).await;
        Self { identity, files, server }
    }

    /// What the server answers at `path` to a client with this certificate; `None` if it is not let in.
    async fn ask(
        &self,
        path: &str,
        certificate: Option<(CertificateDer<'static>, PrivateKeyDer<'static>)>,
        version: &'static SupportedProtocolVersion,
    ) -> Option<String> {
        let anonymous = self.identity.client(&[version], "http/1.1");
        let config = match certificate {
            None => anonymous,
            Some((certificate, key)) => presenting(&anonymous, certificate, key),
        };
        let mut stream = self.server.connect_tls(config).await.ok()?;
        // In TLS 1.3 a client learns of its refusal only after its own last word.
        testing::send(&mut stream, format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n")).await;
        testing::send(&mut stream, "connection: close\r\n\r\n").await;
        let mut answer = Vec::new();
        soon(stream.read_to_end(&mut answer)).await.ok()?;
        let answer = String::from_utf8(answer).unwrap();
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }
}

fn presenting(
    config: &ClientConfig,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
) -> ClientConfig {
    let provider = config.crypto_provider();
    let certified = rustls::sign::CertifiedKey::from_der(vec![certificate], key, provider).unwrap();
    let mut config = config.clone();
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    config
}

fn write_bundle(paths: &TlsPaths, authorities: &[&Authority]) {
    let bundle: String = authorities.iter().map(|authority| authority.0.pem()).collect();
    std::fs::write(paths.client_authorities.as_ref().unwrap(), bundle).unwrap();
}

async fn shown(Extension(peer): Extension<Peer>) -> String {
    match peer.channel {
        Channel::Tls(Some(certificate)) => certificate.principals.shown().to_string(),
        Channel::Tls(None) => "nobody".to_owned(),
        Channel::Plain => "plain".to_owned(),
    }
}

async fn proved(_: Proof) -> &'static str {
    "somebody"
}

const EDGE: &str = "spiffe://td/edge/7";

#[tokio::test]
async fn certificates_of_every_authority_in_the_bundle_are_taken_and_none_is_needed() {
    let (one, two) = (Authority::new(), Authority::new());
    let site = Site::new(&[&one, &two]).await;
    for authority in [&one, &two] {
        let found = site.ask("/", Some(authority.issue(EDGE, 2049)), &TLS13).await;
        assert_eq!(found.as_deref(), Some(EDGE));
    }
    assert_eq!(site.ask("/", None, &TLS13).await.as_deref(), Some("nobody"));
    assert!(site.ask("/proved", None, &TLS13).await.unwrap().contains("unauthenticated"));
    let found = site.ask("/proved", Some(one.issue(EDGE, 2049)), &TLS13).await;
    assert_eq!(found.as_deref(), Some("somebody"));
}

#[tokio::test]
async fn another_authority_an_end_that_has_passed_and_tls_1_2_are_not_let_in() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let site = Site::new(&[&ours]).await;
    assert_eq!(site.ask("/", Some(theirs.issue(EDGE, 2049)), &TLS13).await, None);
    assert_eq!(site.ask("/", Some(ours.issue(EDGE, 2021)), &TLS13).await, None);
    assert_eq!(site.ask("/", Some(ours.issue(EDGE, 2049)), &TLS12).await, None);
    assert_eq!(site.ask("/", Some(ours.issue(EDGE, 2049)), &TLS13).await.as_deref(), Some(EDGE));
}

#[tokio::test]
async fn a_certificate_that_speaks_for_a_token_proves_nothing() {
    let authority = Authority::new();
    let site = Site::new(&[&authority]).await;
    let certificate = authority.issue("token:operator", 2049);
    assert_eq!(site.ask("/", Some(certificate), &TLS13).await.as_deref(), Some("nobody"));
}

#[tokio::test]
async fn a_changed_bundle_is_in_force_without_a_restart() {
    let (first, second) = (Authority::new(), Authority::new());
    let site = Site::new(&[&first]).await;
    let ask = |authority: &Authority| site.ask("/", Some(authority.issue(EDGE, 2049)), &TLS13);
    assert_eq!((ask(&first).await.is_some(), ask(&second).await.is_some()), (true, false));

    let registry = Registry::new();
    let metrics = TlsMetrics::register(&registry).unwrap();
    let reload = TlsReload::new(Arc::clone(&site.files), "test", metrics);
    let watch = tokio::spawn(reload.clone().watch(testing::BRIEF));
    let taken = |count: u64| {
        let registry = &registry;
        soon(async move {
            while reloads(registry, "taken") < count {
                tokio::task::yield_now().await;
            }
        })
    };
    write_bundle(&site.files.paths, &[&first, &second]);
    taken(1).await;
    assert_eq!((ask(&first).await.is_some(), ask(&second).await.is_some()), (true, true));
    write_bundle(&site.files.paths, &[&second]);
    taken(2).await;
    assert_eq!((ask(&first).await.is_some(), ask(&second).await.is_some()), (false, true));
    // An empty bundle would shut everybody out; it is refused and the last one stays.
    write_bundle(&site.files.paths, &[]);
    reload.now();
    assert_eq!(reloads(&registry, "refused"), 1);
    assert!(ask(&second).await.is_some());
    watch.abort();
}

fn reloads(registry: &Registry, outcome: &str) -> u64 {
    let families = registry.gather();
    let family = families.iter().find(|one| one.name() == "stek_tls_reloads_total").unwrap();
    let of_outcome = |one: &&prometheus::proto::Metric| {
        one.get_label().iter().any(|pair| pair.value() == outcome)
    };
    let counter = family.get_metric().iter().find(of_outcome).unwrap().get_counter().get_value();
    counter as u64
}

#[tokio::test]
async fn open_connections_end_when_an_authority_is_taken_out() {
    let (one, two, three) = (Authority::new(), Authority::new(), Authority::new());
    let limits = Limits { drain_timeout: BRIEF, ..Limits::default() };
    let site = Site::with(limits, &[&one, &two]).await;
    let anonymous = site.identity.client(&[&TLS13], "http/1.1");
    let (certificate, key) = one.issue(EDGE, 2049);
    let trusted = presenting(&anonymous, certificate, key);
    let mut rests = site.server.connect_tls(trusted.clone()).await.unwrap();
    let mut waits = site.server.connect_tls(trusted).await.unwrap();
    let mut nobody = site.server.connect_tls(anonymous).await.unwrap();
    testing::get(&mut waits, "/").await;
    testing::send(&mut waits, "GET /hang HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    // One more is no reason to cut anybody.
    write_bundle(&site.files.paths, &[&one, &two, &three]);
    site.files.reload().unwrap();
    assert_eq!(*site.files.withdrawn().borrow(), 0);
    for stream in [&mut rests, &mut nobody] {
        testing::get(stream, "/").await;
    }
    write_bundle(&site.files.paths, &[&two, &three]);
    site.files.reload().unwrap();
    assert_eq!(testing::rest(&mut rests).await, "");
    assert_eq!(testing::rest(&mut waits).await, "");
    assert_eq!(testing::get(&mut nobody, "/").await.1, "nobody");
}

#[tokio::test]
async fn the_end_of_the_certificate_is_shown() {
    let registry = Registry::new();
    let files = Arc::new(TlsFiles::load(Identity::new().paths()).unwrap());
    TlsReload::new(files, "test", TlsMetrics::register(&registry).unwrap());
    let families = registry.gather();
    let name = "stek_tls_certificate_not_after_seconds";
    let family = families.iter().find(|one| one.name() == name).unwrap();
    assert_eq!(family.get_metric()[0].get_gauge().get_value(), 67_090_118_400.0);
}
