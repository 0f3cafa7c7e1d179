//! Who may do what: every kind of proof against every keyset in every role, over real TLS, asked with
//! the client that ships and answered by a manager and a distribution behind one listener.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use reqwest::{Method, StatusCode};
use stek_client::{CertificateFiles, ClientConfig, ClientOptions};
use stek_clock::{Clock, ManualClock, SystemClock};
use stek_core::access::{Grant, KeysetSelector, Role, TokenSecret};
use stek_core::id::Incarnation;
use stek_core::name::{InstanceName, KeysetName, PrincipalName};
use stek_core::principal::PrincipalPattern;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::{RandomSource, SystemRandom};
use stek_distribution::Distribution;
use stek_http::{Limits, Server, TlsFiles, TlsPaths, Transport};
use stek_manager::{EngineParts, Manager, NewToken, Operations, claim_ratchet};
use stek_store::MemoryStore;
use stek_wire::admin::PolicyDocument;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);

/// `main` and `other` exist, `nowhere` does not.
const KEYSETS: [&str; 3] = ["main", "other", "nowhere"];

/// What is granted: principal or pattern, keyset, role.
const GRANTS: [(&str, &str, Role); 12] = [
    ("spiffe://td/edge/*", "main", Role::Terminator),
    ("spiffe://td/edge/7", "nowhere", Role::Terminator),
    ("*.lab.example", "main", Role::Distribution),
    ("*.lab.example", "other", Role::Auditor),
    ("ops.example", "*", Role::Operator),
    ("token:edge", "other", Role::Terminator),
    ("token:audit", "main", Role::Auditor),
    ("token:all", "*", Role::Terminator),
    ("token:all", "*", Role::Distribution),
    ("token:all", "*", Role::Operator),
    ("token:all", "*", Role::Auditor),
    ("CN-only", "*", Role::Operator),
];

/// How somebody proves who he is.
#[derive(Debug, Clone, Copy)]
enum Shows {
    Nothing,
    /// A certificate with these names, of which those with a colon are URIs.
    Certificate(&'static [&'static str]),
    /// A certificate with a common name and no other.
    CommonName(&'static str),
    Token(&'static str),
    /// A token of `token:all` that has expired.
    Expired,
    /// A token of `token:all` that was revoked.
    Revoked,
    /// A token that nobody made.
    Unknown,
    /// A good certificate and a token: the token decides.
    Both(&'static [&'static str], &'static str),
    /// A good certificate and a token that nobody made.
    BothUnknown(&'static [&'static str]),
}

/// Everybody who asks, and who of the principals in [`GRANTS`] that is.
const VISITORS: [(Shows, &[&str]); 20] = [
    (Shows::Nothing, &[]),
    (Shows::Certificate(&["spiffe://td/edge/7"]), &["spiffe://td/edge/*", "spiffe://td/edge/7"]),
    (Shows::Certificate(&["spiffe://td/edge/8"]), &["spiffe://td/edge/*"]),
    (Shows::Certificate(&["spiffe://td/edge/7/8"]), &["nobody"]),
    (Shows::Certificate(&["spiffe://td/edge"]), &["nobody"]),
    (Shows::Certificate(&["spiffe://other/edge/7"]), &["nobody"]),
    (Shows::Certificate(&["a.lab.example"]), &["*.lab.example"]),
    (Shows::Certificate(&["a.b.lab.example"]), &["nobody"]),
    (Shows::Certificate(&["ops.example"]), &["ops.example"]),
    (
        Shows::Certificate(&["spiffe://td/edge/8", "a.lab.example"]),
        &["spiffe://td/edge/*", "*.lab.example"],
    ),
    // A name that no certificate may bear spoils the good one beside it.
    (Shows::Certificate(&["ops.example", "token:all"]), &[]),
    (Shows::Certificate(&["manager"]), &[]),
    (Shows::CommonName("CN-only"), &[]),
    (Shows::Token("token:edge"), &["token:edge"]),
    (Shows::Token("token:all"), &["token:all"]),
    (Shows::Expired, &[]),
    (Shows::Revoked, &[]),
    (Shows::Unknown, &[]),
    (Shows::Both(&["ops.example"], "token:audit"), &["token:audit"]),
    (Shows::BothUnknown(&["ops.example"]), &[]),
];

/// A manager with a distribution behind one listener, and who signs certificates.
struct Site {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    manager: Manager,
    servers: CertifiedIssuer<'static, KeyPair>,
    clients: CertifiedIssuer<'static, KeyPair>,
    address: SocketAddr,
    registry: Registry,
    shutdown: CancellationToken,
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Writes a certificate of these names and its key, and says where.
fn issue(
    dir: &Path,
    by: &CertifiedIssuer<'static, KeyPair>,
    names: &[&str],
    common_name: &str,
) -> CertificateFiles {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let name = |name: &&str| match name.contains(':') {
        true => SanType::URI((*name).try_into().unwrap()),
        false => SanType::DnsName((*name).try_into().unwrap()),
    };
    params.subject_alt_names = names.iter().map(name).collect();
    let key = KeyPair::generate().unwrap();
    let pem = params.signed_by(&key, by).unwrap().pem();
    let (certificate, private_key) = (dir.join("some.pem"), dir.join("some.key"));
    std::fs::write(&certificate, pem).unwrap();
    std::fs::write(&private_key, key.serialize_pem()).unwrap();
    CertificateFiles { certificate, private_key }
}

fn store(clock: &Arc<ManualClock>) -> MemoryStore {
    let time = Arc::clone(clock);
    let now = Arc::new(move || time.wall_millis());
    MemoryStore::new(Incarnation::new(clock.wall_millis(), &[7; 10]), now)
}

impl Site {
    async fn start(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Certificates are dated by the machine's clock, so time begins there.
        let clock = Arc::new(ManualClock::at_unix_millis(SystemClock.wall_millis()));
        let store = store(&clock);
        let secret = ClusterSecret::generate_text(&SystemRandom).unwrap();
        let cluster = Arc::new(ClusterSecret::parse(&secret).unwrap());
        let (random, path) = (SystemRandom, dir.path().join("ratchet"));
        let ratchet =
            claim_ratchet(&store, &cluster, &path, &random, clock.as_ref()).await.unwrap();
        let parts = EngineParts {
            store: Arc::new(store),
            custody: Arc::new(ratchet),
            cluster,
            random: Arc::new(random),
            clock: Arc::clone(&clock) as Arc<dyn Clock>,
            audit_retention: None,
            rules: stek_manager::RatchetRules::default(),
        };
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let manager = Manager::start(parts, &registry, shutdown.clone()).unwrap();
        let (feed, fleet) = (manager.feed(), manager.fleet());
        let distribution = Distribution::start(feed, fleet, &registry, shutdown.clone()).unwrap();
        let api = manager.admin_api().merge(distribution.bundle_api());
        let routes = api.merge(distribution.feed_api()).into_routes().with_fallbacks();

        let (servers, clients) = (authority(), authority());
        let pair = issue(dir.path(), &servers, &["localhost"], "server");
        std::fs::write(dir.path().join("clients.pem"), clients.pem()).unwrap();
        std::fs::write(dir.path().join("servers.pem"), servers.pem()).unwrap();
        let files = TlsFiles::load(TlsPaths {
            certificate_chain: pair.certificate,
            private_key: pair.private_key,
            client_authorities: Some(dir.path().join("clients.pem")),
        });
        let transport = Transport::Tls(Arc::new(files.unwrap()));
        let server = Server::bind(([127, 0, 0, 1], 0).into(), transport, limits);
        let server = server.await.unwrap();
        let address = server.local_addr();
        tokio::spawn(server.serve(routes, shutdown.clone()));
        Self { dir, clock, manager, servers, clients, address, registry, shutdown }
    }

    fn operations(&self) -> &Operations {
        self.manager.operations()
    }

    /// Makes the keysets and grants of the table.
    async fn furnish(&self) {
        for keyset in ["main", "other"] {
            let name = KeysetName::try_new(keyset).unwrap();
            self.operations().create(&name, PolicyDocument::default(), "test").await.unwrap();
        }
        for (principal, keysets, role) in GRANTS {
            let principal = PrincipalPattern::try_new(principal).unwrap();
            let grant = Grant { principal, keysets: KeysetSelector::parse(keysets).unwrap(), role };
            assert!(self.operations().add_grant(grant.clone(), "test").await.unwrap());
            assert!(!self.operations().add_grant(grant, "test").await.unwrap());
        }
    }

    /// Waits until the manager has published what `is_out` looks for.
    async fn until(&self, is_out: impl FnMut(&Option<Arc<stek_core::feed::FeedState>>) -> bool) {
        let mut feed = self.manager.feed();
        tokio::time::timeout(PATIENCE, feed.wait_for(is_out)).await.unwrap().unwrap();
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_unix(self.clock.wall_millis() / 1000)
    }

    /// A token of `principal` that is good for a day, or an hour.
    async fn token(&self, principal: &str, hours: u64) -> (TokenSecret, stek_core::id::KeyId) {
        let mut bytes = [0; 32];
        SystemRandom.fill(&mut bytes).unwrap();
        let secret = TokenSecret::take_from(&mut bytes);
        let new = NewToken {
            principal: PrincipalName::try_new(principal).unwrap(),
            hash: secret.hash(),
            expires_at: self.now() + Seconds::from_hours(hours),
            grants: vec![],
        };
        let token = self.operations().add_token(new, "test").await.unwrap();
        (secret, token.id)
    }

    /// The client that ships, with this certificate.
    fn client(&self, certificate: Option<CertificateFiles>) -> reqwest::Client {
        // Some proof is needed; whether the token is sent is up to each request.
        let token = self.dir.path().join("unused-token");
        std::fs::write(&token, format!("stek_{}", "0".repeat(64))).unwrap();
        let config = ClientConfig::try_new(&ClientOptions {
            upstreams: vec![format!("https://localhost:{}", self.address.port())],
            roots: vec![self.dir.path().join("servers.pem")],
            token: Some(token),
            certificate,
            wait: None,
            max_body_bytes: None,
            instance: InstanceName::try_new("test").unwrap(),
        });
        stek_client::http_client(&config.unwrap()).unwrap()
    }
}

/// Somebody who asks.
struct Visitor<'a> {
    site: &'a Site,
    client: reqwest::Client,
    token: Option<TokenSecret>,
}

impl Visitor<'_> {
    async fn ask(&self, method: Method, path: &str, body: &'static str) -> (StatusCode, String) {
        let url = format!("https://localhost:{}{path}", self.site.address.port());
        let mut request = self.client.request(method, url).body(body);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_text());
        }
        // Who was refused before proving anything loses the connection, maybe as this is sent.
        let again = request.try_clone().unwrap();
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(_) => again.send().await.unwrap(),
        };
        (answer.status(), answer.text().await.unwrap())
    }

    /// The answer in each role about `keyset`.
    async fn answers(&self, keyset: &str) -> [(Role, StatusCode, String); 4] {
        let admin = format!("/admin/v1/keysets/{keyset}");
        let (bundle, bundle_text) =
            self.ask(Method::GET, &format!("/v1/keysets/{keyset}"), "").await;
        let (feed, feed_text) = self.ask(Method::GET, "/v1/feed", "").await;
        // The feed is one for all keysets: one that is not in it is not had.
        let is_in = feed_text.contains(&format!("\"keyset\":\"{keyset}\""));
        let (feed, feed_text) = match feed {
            StatusCode::OK if is_in => (StatusCode::OK, String::new()),
            StatusCode::OK => (StatusCode::NOT_FOUND, String::new()),
            refused => (refused, feed_text),
        };
        let (shown, shown_text) = self.ask(Method::GET, &admin, "").await;
        let (changed, text) =
            self.ask(Method::PUT, &format!("{admin}/policy"), "{\"policy\":{}}").await;
        [
            (Role::Terminator, bundle, bundle_text),
            (Role::Distribution, feed, feed_text),
            (Role::Auditor, shown, shown_text),
            (Role::Operator, changed, text),
        ]
    }
}

impl Visitor<'_> {
    /// Asks everything and checks what comes of it; returns how much that was.
    async fn check(&self, shows: Shows, who: &[&str]) -> usize {
        let (mut checked, mut refusals) = (0, Vec::<(Role, StatusCode, String)>::new());
        for keyset in KEYSETS {
            for (role, status, text) in self.answers(keyset).await {
                let expected = expected(who, role, keyset);
                assert_eq!(status, expected, "{shows:?} as {role:?} on {keyset}: {text}");
                checked += 1;
                let is_refused = [StatusCode::NOT_FOUND, StatusCode::FORBIDDEN].contains(&status);
                // A feed without the keyset is no refusal.
                if !is_refused || text.is_empty() {
                    continue;
                }
                // Unknown and not granted are the same to the last byte but for the request's name.
                let (said, name) = text.split_once("urn:stekd:request:").unwrap();
                assert_eq!(name.len(), "0123456789abcdef\"}".len(), "{text}");
                let same =
                    |before: &&(Role, StatusCode, String)| (before.0, before.1) == (role, status);
                match refusals.iter().find(same) {
                    Some((_, _, before)) => assert_eq!(said, before, "{shows:?} as {role:?}"),
                    None => refusals.push((role, status, said.to_owned())),
                }
            }
        }
        checked
    }
}

/// What the answer must be to somebody who is these principals of the table.
fn expected(who: &[&str], role: Role, keyset: &str) -> StatusCode {
    if who.is_empty() {
        return StatusCode::UNAUTHORIZED;
    }
    // Operators may look at what they change.
    let counts = |held: Role| held == role || (role == Role::Auditor && held == Role::Operator);
    let mine: Vec<_> =
        GRANTS.iter().filter(|(name, _, held)| who.contains(name) && counts(*held)).collect();
    let is_admin = matches!(role, Role::Operator | Role::Auditor);
    if is_admin && mine.is_empty() {
        return StatusCode::FORBIDDEN;
    }
    let granted = mine.iter().any(|(_, keysets, _)| *keysets == "*" || *keysets == keyset);
    if granted && keyset != "nowhere" { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proof_in_every_role_on_every_keyset() {
    let site = Site::start(Limits::default()).await;
    site.until(Option::is_some).await;
    site.furnish().await;
    let (expired, _) = site.token("token:all", 1).await;
    let (revoked, revoked_id) = site.token("token:all", 24).await;
    let mut tokens = Vec::new();
    for principal in ["token:edge", "token:audit", "token:all"] {
        tokens.push((principal, site.token(principal, 24).await.0.expose_text()));
    }
    assert!(site.operations().revoke_token(revoked_id, "test").await.unwrap());
    site.clock.advance(Duration::from_secs(3600));
    site.until(|feed| {
        let access =
            feed.as_ref().map(|feed| (feed.access.tokens().len(), feed.access.grants().len()));
        access == Some((4, GRANTS.len())) || access == Some((3, GRANTS.len()))
    })
    .await;

    let token_of = |principal: &str| {
        let text = &tokens.iter().find(|(name, _)| *name == principal).unwrap().1;
        TokenSecret::parse(text).unwrap()
    };
    let unknown = || TokenSecret::take_from(&mut [9; 32]);
    let copy = |secret: &TokenSecret| TokenSecret::parse(&secret.expose_text()).unwrap();
    let mut checked = 0;
    for (shows, who) in VISITORS {
        let files = |names| issue(site.dir.path(), &site.clients, names, "nobody");
        let (certificate, token) = match shows {
            Shows::Nothing => (None, None),
            Shows::Certificate(names) => (Some(files(names)), None),
            Shows::CommonName(name) => {
                (Some(issue(site.dir.path(), &site.clients, &[], name)), None)
            }
            Shows::Token(name) => (None, Some(token_of(name))),
            Shows::Expired => (None, Some(copy(&expired))),
            Shows::Revoked => (None, Some(copy(&revoked))),
            Shows::Unknown => (None, Some(unknown())),
            Shows::Both(names, token) => (Some(files(names)), Some(token_of(token))),
            Shows::BothUnknown(names) => (Some(files(names)), Some(unknown())),
        };
        let visitor = Visitor { site: &site, client: site.client(certificate), token };
        checked += visitor.check(shows, who).await;
    }
    assert_eq!(checked, VISITORS.len() * KEYSETS.len() * 4);
    site.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_not_let_in_and_a_removed_grant_ends_at_once() {
    let site = Site::start(Limits::default()).await;
    site.until(Option::is_some).await;
    let name = KeysetName::try_new("main").unwrap();
    site.operations().create(&name, PolicyDocument::default(), "test").await.unwrap();
    let grant = Grant {
        principal: PrincipalPattern::try_new("spiffe://td/edge/*").unwrap(),
        keysets: KeysetSelector::All,
        role: Role::Terminator,
    };
    site.operations().add_grant(grant.clone(), "test").await.unwrap();
    site.until(|feed| feed.as_ref().is_some_and(|feed| !feed.access.grants().is_empty())).await;
    let url = format!("https://localhost:{}/v1/keysets/main", site.address.port());

    let stranger = issue(site.dir.path(), &site.servers, &["spiffe://td/edge/7"], "nobody");
    let error = site.client(Some(stranger)).get(&url).send().await.unwrap_err();
    assert!(!error.is_status(), "no answer at all: {error:?}");

    let edge = issue(site.dir.path(), &site.clients, &["spiffe://td/edge/7"], "nobody");
    let client = site.client(Some(edge));
    let ask = async |prefer: &str, etag: &str| {
        let request = client.get(&url).header("prefer", prefer).header("if-none-match", etag);
        let answer = request.send().await.unwrap();
        let etag = answer.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        (answer.status(), etag.unwrap_or_default())
    };
    let (status, etag) = ask("wait=0", "").await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(ask("wait=0", &etag).await.0, StatusCode::NOT_MODIFIED);
    assert!(site.operations().remove_grant(&grant, "test").await.unwrap());
    assert!(!site.operations().remove_grant(&grant, "test").await.unwrap());
    site.until(|feed| feed.as_ref().is_some_and(|feed| feed.access.grants().is_empty())).await;
    assert_eq!(ask("wait=0", &etag).await.0, StatusCode::NOT_FOUND);
    site.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_principal_that_asks_too_much_is_told_to_wait_and_others_are_not() {
    let limits =
        Limits { requests_per_second: 1, request_burst: 20, max_waiting: 1, ..Limits::default() };
    let site = Site::start(limits).await;
    site.until(Option::is_some).await;
    let name = KeysetName::try_new("main").unwrap();
    site.operations().create(&name, PolicyDocument::default(), "test").await.unwrap();
    let grant = Grant {
        principal: PrincipalPattern::try_new("spiffe://td/edge/*").unwrap(),
        keysets: KeysetSelector::All,
        role: Role::Terminator,
    };
    site.operations().add_grant(grant, "test").await.unwrap();
    site.until(|feed| feed.as_ref().is_some_and(|feed| !feed.access.grants().is_empty())).await;
    let client = |uri| site.client(Some(issue(site.dir.path(), &site.clients, &[uri], "nobody")));
    let (greedy, modest) = (client("spiffe://td/edge/1"), client("spiffe://td/edge/2"));
    let url = format!("https://localhost:{}/v1/keysets/main", site.address.port());

    let first = greedy.get(&url).send().await.unwrap();
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    let wait = |client: &reqwest::Client| {
        client.get(&url).header("prefer", "wait=55").header("if-none-match", &etag).send()
    };
    let waiting = tokio::spawn(wait(&greedy));
    tokio::time::timeout(PATIENCE, async {
        while waiting_requests(&site.registry) < 1.0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let second = wait(&greedy).await.unwrap();
    assert_eq!(second.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(second.headers()["retry-after"], "5");

    // Far more than the burst, in less time than they would be allowed in.
    let mut refused = None;
    for _ in 0..1000 {
        let answer = greedy.get(&url).send().await.unwrap();
        if answer.status() != StatusCode::OK {
            refused = Some((answer.status(), answer.headers()["retry-after"].clone()));
            break;
        }
    }
    assert_eq!(refused.unwrap(), (StatusCode::TOO_MANY_REQUESTS, "1".parse().unwrap()));
    assert_eq!(modest.get(&url).send().await.unwrap().status(), StatusCode::OK);
    waiting.abort();
    site.shutdown.cancel();
}

fn waiting_requests(registry: &Registry) -> f64 {
    let families = registry.gather();
    let name = "stek_distribution_waiting_requests";
    let family = families.iter().find(|family| family.name() == name).unwrap();
    family.get_metric()[0].get_gauge().get_value()
}
