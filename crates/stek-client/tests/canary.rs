//! No secret reaches a log or a `Debug`, at the most talkative level of every library below. Alone
//! in its program, for it sets the logger of the process.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use std::io::Write;

use common::log::Log;
use common::material::{bundle, ca, key, named, secret, server_config, tag};
use common::server::Reply;
use common::{Bench, PATIENCE};
use rustls::version::TLS13;
use stek_client::{ClientConfig, ClientOptions};
use stek_wire::bundle::encode_bundle;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn decimal(bytes: &[u8]) -> String {
    bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ")
}

/// How the secrets of keys 1 and 2 and of the token could show.
fn canaries() -> Vec<String> {
    let document = String::from_utf8(encode_bundle(&bundle(5)).as_slice().to_vec()).unwrap();
    let in_base64 = document.split("\"secret\":\"").skip(1).map(|rest| rest[..40].to_owned());
    let mut canaries: Vec<_> = in_base64.collect();
    assert_eq!(canaries.len(), 2);
    for bytes in [secret(1), secret(2), [0xca; 32]] {
        // A part is enough: a library may cut what it shows.
        canaries.push(hex(&bytes[..8]));
        canaries.push(decimal(&bytes[..8]));
    }
    canaries
}

#[tokio::test]
async fn secrets_show_nowhere() {
    let log = Log::install(tracing::Level::TRACE);
    let mut shown = String::new();
    for alpn in [vec![], vec![b"h2".to_vec()]] {
        shown += &follow_through_good_and_bad(alpn).await;
    }
    let logged = log.text();
    for canary in canaries() {
        assert!(!shown.contains(&canary), "a secret is shown");
        assert!(!logged.contains(&canary), "a secret is logged");
    }
    for expected in ["installed", "poll failed", "hyper", "h2::", "rustls"] {
        assert!(logged.contains(expected), "the log does not reach as far as {expected}");
    }
}

async fn follow_through_good_and_bad(alpn: Vec<Vec<u8>>) -> String {
    let ca = ca();
    let mut config = server_config(&ca, &["127.0.0.1"], &[&TLS13], |_| {});
    config.alpn_protocols = alpn;
    let mut bench = Bench::with_tls(config).await;
    let mut roots = tempfile::NamedTempFile::new().unwrap();
    roots.write_all(ca.pem().as_bytes()).unwrap();
    let mut token = tempfile::NamedTempFile::new().unwrap();
    writeln!(token, "stek_{}", "ca".repeat(32)).unwrap();
    let options = ClientOptions {
        roots: vec![roots.path().into()],
        token: Some(token.path().into()),
        ..bench.options()
    };
    let follower = bench.follow(&options);
    bench.next().await.answer(Reply::bundle(&bundle(5)));
    let ready = tokio::time::timeout(PATIENCE, follower.ready()).await.unwrap().unwrap();
    let document = String::from_utf8(encode_bundle(&bundle(6)).as_slice().to_vec()).unwrap();
    let other = named("other", tag(1, 7), vec![key(1, 0, 100)]);
    let mut failures = String::new();
    for reply in [
        Reply::document(tag(1, 6), &document.as_bytes()[..document.len() / 2]),
        Reply::document(tag(1, 6), document.replacen("\"kcv\"", "\"secret\"", 1).as_bytes()),
        Reply::document(tag(1, 6), document.replacen("\"secret\"", "\"kcv\"", 1).as_bytes()),
        Reply::document(tag(1, 6), document.replacen("=\"", "*\"", 1).as_bytes()),
        Reply::bundle(&other),
        Reply::status(401).with_body(b"{\"title\":\"unknown token\"}"),
        Reply::status(500),
    ] {
        bench.next().await.answer(reply);
        let asked = bench.next().await;
        failures += &format!("{:?}", follower.status());
        asked.answer(Reply::not_modified());
    }
    let config = ClientConfig::try_new(&options).unwrap();
    let shown = format!("{follower:?} {ready:?} {config:?} {options:?} {failures}");
    follower.shutdown().await;
    shown
}
