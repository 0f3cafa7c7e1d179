//! What a connection must be like, and what an answer may cost.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Version;
use common::material::{bundle, ca, server_config, server_config_for};
use common::server::{Reply, Server};
use common::{Bench, PATIENCE, no_wait};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};
use stek_client::{CertificateFiles, CheckInReporter, ClientConfig, ClientOptions, KeysetFollower};
use stek_clock::Clock;
use stek_core::check_in::{Census, ReplicaId, ReplicaTally};
use stek_core::id::Incarnation;
use tempfile::NamedTempFile;
use tokio::sync::watch;

fn file(content: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    file
}

fn token() -> NamedTempFile {
    file(&format!("stek_{}", "ca".repeat(32)))
}

/// Follows one TLS server, trusting `roots`.
async fn follow(config: rustls::ServerConfig, roots: &NamedTempFile) -> (Bench, KeysetFollower) {
    let bench = Bench::with_tls(config).await;
    let token = token();
    let options = ClientOptions {
        roots: vec![roots.path().into()],
        token: Some(token.path().into()),
        ..bench.options()
    };
    let follower = bench.follow(&options);
    (bench, follower)
}

async fn expect_no_connection(config: rustls::ServerConfig, roots: &NamedTempFile, cause: &str) {
    let (mut bench, follower) = follow(config, roots).await;
    bench.metric_is("stek_client_polls_total", "unreachable", 1.0).await;
    let wait = async {
        loop {
            if let Some(failure) = follower.status().failure {
                return failure.cause;
            }
            tokio::task::yield_now().await;
        }
    };
    let shown = tokio::time::timeout(PATIENCE, wait).await.unwrap();
    assert!(shown.contains(cause), "{shown}");
    assert!(!bench.has_request());
}

#[tokio::test]
async fn a_server_under_a_pinned_root_is_asked_over_http_1_or_2() {
    let ca = ca();
    let roots = file(&ca.pem());
    for (alpn, version) in [(vec![], Version::HTTP_11), (vec![b"h2".to_vec()], Version::HTTP_2)] {
        let mut config = server_config(&ca, &["127.0.0.1"], &[&TLS13], |_| {});
        config.alpn_protocols = alpn;
        let (mut bench, follower) = follow(config, &roots).await;
        let asked = bench.next().await;
        assert_eq!(asked.version, version);
        asked.answer(Reply::bundle(&bundle(5)));
        tokio::time::timeout(PATIENCE, follower.ready()).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn other_servers_are_not_asked_at_all() {
    let (trusted, stranger) = (ca(), ca());
    let roots = file(&trusted.pem());
    let config = server_config(&stranger, &["127.0.0.1"], &[&TLS13], |_| {});
    expect_no_connection(config, &roots, "invalid peer certificate").await;
    let config = server_config(&trusted, &["127.0.0.2"], &[&TLS13], |_| {});
    expect_no_connection(config, &roots, "not valid for name").await;
    let config = server_config(&trusted, &["127.0.0.1"], &[&TLS12], |_| {});
    expect_no_connection(config, &roots, "ProtocolVersion").await;
    let config = server_config(&trusted, &["127.0.0.1"], &[&TLS13], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    expect_no_connection(config, &roots, "expired").await;
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Writes a certificate of this authority to the files.
fn issue(ca: &Authority, files: &CertificateFiles) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["edge.example".to_owned()]).unwrap();
    std::fs::write(&files.certificate, params.signed_by(&key, ca).unwrap().pem()).unwrap();
    std::fs::write(&files.private_key, key.serialize_pem()).unwrap();
}

/// A server that wants a certificate of `clients`.
async fn bench_for(servers: &Authority, clients: &Authority) -> Bench {
    let mut of_clients = RootCertStore::empty();
    of_clients.add(clients.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(of_clients), provider).build();
    let verifier = verifier.unwrap();
    let config = server_config_for(verifier, servers, &["127.0.0.1"], &[&TLS13], |_| {});
    Bench::with_tls(config).await
}

/// A client whose certificate is not of the authority of clients, and the server that wants one of it.
struct Stranger {
    bench: Bench,
    clients: Authority,
    /// Where its certificate is, to be replaced.
    files: CertificateFiles,
    options: ClientOptions,
    _kept: (tempfile::TempDir, NamedTempFile),
}

async fn stranger() -> Stranger {
    let (servers, clients) = (ca(), ca());
    let roots = file(&servers.pem());
    let bench = bench_for(&servers, &clients).await;
    let folder = tempfile::tempdir().unwrap();
    let path = |name| folder.path().join(name);
    let files = CertificateFiles { certificate: path("edge.pem"), private_key: path("edge.key") };
    issue(&ca(), &files);
    let options = ClientOptions {
        roots: vec![roots.path().into()],
        certificate: Some(files.clone()),
        ..bench.options()
    };
    Stranger { bench, clients, files, options, _kept: (folder, roots) }
}

#[tokio::test]
async fn a_client_certificate_stands_in_for_a_token_and_is_read_again_when_it_changes() {
    let Stranger { mut bench, clients, files, options, _kept } = stranger().await;
    let follower = bench.follow(&options);
    bench.metric_is("stek_client_polls_total", "unreachable", 1.0).await;
    assert!(!bench.has_request());

    issue(&clients, &files);
    let asked = bench.next().await;
    assert!(asked.header("authorization").is_none());
    asked.answer(Reply::bundle(&bundle(5)));
    tokio::time::timeout(PATIENCE, follower.ready()).await.unwrap().unwrap();
}

#[tokio::test]
async fn reports_too_are_sent_with_the_certificate_that_is_there_by_now() {
    let Stranger { mut bench, clients, files, options, _kept } = stranger().await;
    let config = ClientConfig::try_new(&options).unwrap();
    let clock = Arc::clone(&bench.clock) as Arc<dyn Clock>;
    let replica = ReplicaTally {
        replica: ReplicaId { principal: None, name: config.instance().clone() },
        age: Duration::ZERO,
        incarnation: Incarnation::new(1, &[0; 10]),
        keysets: BTreeMap::new(),
    };
    let (_counts, counts) = watch::channel(Arc::new(Census { replicas: vec![replica] }));
    let reporter = CheckInReporter::start(&config, &counts, &clock, &bench.registry).unwrap();
    bench.metric_is("stek_client_reports_total", "failed", 1.0).await;
    assert!(!bench.has_request());

    issue(&clients, &files);
    // The longest pause after a first failure; the time-out of the next report is not jumped over.
    bench.clock.advance(Duration::from_millis(250));
    let asked = bench.arrives().await;
    assert!(asked.header("authorization").is_none());
    asked.answer(Reply::status(204));
    bench.metric_is("stek_client_reports_total", "sent", 1.0).await;
    reporter.shutdown().await;
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_carries_no_token_away() {
    let mut bench = Bench::new(2).await;
    let token = token();
    let options = ClientOptions {
        upstreams: vec![bench.servers[0].url.clone()],
        token: Some(token.path().into()),
        ..bench.options()
    };
    let follower = bench.follow(&options);
    let elsewhere = format!("{}/v1/keysets/main", bench.servers[1].url);
    for status in [301, 302, 307, 308] {
        let asked = bench.next().await;
        assert_eq!(asked.upstream, 0, "redirected");
        assert!(asked.header("authorization").is_some());
        asked.answer(Reply::status(status).with("location", elsewhere.clone()));
    }
    assert_eq!(bench.next().await.upstream, 0);
    assert_eq!(bench.metric("stek_client_polls_total", "refused"), 4.0);
    let cause = follower.status().failure.unwrap().cause;
    assert_eq!(cause, "status 308: the server gave no reason");
}

/// Follows a server that sends these bytes and then nothing.
async fn follow_raw(bytes: &str, max_body_bytes: Option<usize>) -> (Bench, KeysetFollower, Server) {
    let bench = Bench::new(0).await;
    let server = Server::raw(bytes.as_bytes().to_vec()).await;
    let upstreams = vec![server.url.clone()];
    let options = ClientOptions { upstreams, max_body_bytes, ..no_wait(bench.options()) };
    let follower = bench.follow(&options);
    (bench, follower, server)
}

fn head(more: &str) -> String {
    let etag = stek_wire::tag::format_etag(bundle(5).tag());
    format!("HTTP/1.1 200 OK\r\netag: {etag}\r\n{more}\r\n\r\n")
}

#[tokio::test]
async fn a_body_over_the_limit_is_not_read_to_its_end() {
    let long = "x".repeat(1025);
    for (more, body, limit) in [
        ("content-length: 1025", "", Some(1024)),
        ("content-length: 8388609", "", None),
        ("content-length: 18446744073709551613", "", None),
        ("transfer-encoding: chunked", &*format!("401\r\n{long}"), Some(1024)),
        ("connection: close", &long, Some(1024)),
    ] {
        let (bench, _follower, _server) = follow_raw(&(head(more) + body), limit).await;
        bench.metric_is("stek_client_polls_total", "invalid", 1.0).await;
    }
    let (bench, _follower, _server) = follow_raw(&head("content-length: 8388608"), None).await;
    bench.clock.sleeper(Duration::from_secs(10)).await;
    assert_eq!(bench.metric("stek_client_polls_total", "invalid"), 0.0);
}

#[tokio::test]
async fn an_answer_that_does_not_come_whole_is_given_up() {
    // A limit above that of a bundle gives the body a second more than the head.
    let limit = Some(9 * 1024 * 1024);
    let begun = head("content-length: 100");
    for (bytes, seconds) in
        [("", 10), ("HTTP/1.1 200 OK\r\n", 10), (&*begun, 11), (&*format!("{begun}{{"), 11)]
    {
        let (bench, follower, _server) = follow_raw(bytes, limit).await;
        let seconds = Duration::from_secs(seconds);
        bench.clock.sleeper(seconds).await;
        bench.clock.advance(seconds);
        bench.metric_is("stek_client_polls_total", "unreachable", 1.0).await;
        follower.shutdown().await;
    }
}

#[tokio::test]
async fn a_connection_that_ends_within_a_body_installs_nothing() {
    let mut bench = Bench::new(1).await;
    let follower = bench.follow(&bench.options());
    drop(bench.next().await);
    let asked = bench.next().await;
    assert_eq!(asked.installed(), None);
    assert!(follower.bundles().borrow().is_none());
}
