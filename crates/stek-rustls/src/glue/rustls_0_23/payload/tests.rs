//! Sessions captured from real handshakes, one file for each version of rustls: a ticketer that
//! writes down what `encrypt` is shown, in a program of its own that depends on exactly that
//! version, for two versions compatible by number cannot be in one build. The newest supported is
//! also met alive by all tests that resume.

use super::*;
use stek_core::certificate::not_after;

/// The oldest 0.23, one on the way, and the one that this workspace requires at least.
const GOLDEN: [&str; 3] = [
    include_str!("golden/rustls-0.23.0.txt"),
    include_str!("golden/rustls-0.23.37.txt"),
    include_str!("golden/rustls-0.23.46.txt"),
];

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn payloads() -> impl Iterator<Item = ([&'static str; 4], Vec<u8>)> {
    let lines = GOLDEN.into_iter().flat_map(str::lines).filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [version, client, name, alpn, hex] = fields[..] else { panic!("{line}") };
        ([version, client, name, alpn], bytes(hex))
    })
}

#[test]
fn captured_sessions_are_read() {
    let mut number = 0;
    for ([version, client, name, alpn], payload) in payloads() {
        let session = read(&payload).unwrap();
        let expected = if version == "tls13" { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
        assert_eq!(session.version, expected);
        assert_eq!(session.server_name.unwrap_or("-"), name);
        assert_eq!(session.alpn.unwrap_or(b"-"), alpn.as_bytes());
        let ended = session.client_certificate.map(|der| not_after(der).unwrap().as_unix());
        assert_eq!(ended, (client == "client").then_some(1_881_689_432));
        let suites = if version == "tls13" { 0x1301..=0x1303 } else { 0xc02b..=0xcca9 };
        assert!(suites.contains(&session.cipher_suite), "{:x}", session.cipher_suite);
        assert_eq!(session.created_at / 100_000_000, 17, "in the year of the capture");
        number += 1;
    }
    assert_eq!(number, 18);
}

#[test]
fn nothing_shorter_or_longer_is_a_session() {
    for (_, payload) in payloads() {
        for len in 0..payload.len() {
            assert_eq!(read(&payload[..len]), None, "{len}");
        }
        assert_eq!(read(&[payload.as_slice(), &[0]].concat()), None);
    }
}

#[test]
fn no_field_may_be_what_rustls_does_not_write() {
    let ([..], payload) = payloads().next().unwrap();
    // Offsets: flag of the name, version, length of the secret, extended master secret, flags of
    // chain and ALPN.
    let name = 1 + usize::from(payload[1]) + 1;
    for (at, byte) in [
        (0, 2),
        (2, 0xff),
        (name + 1, 5),
        (name + 4, 47),
        (name + 5 + 48, 2),
        (name + 6 + 48, 2),
        (name + 7 + 48, 2),
    ] {
        let mut other = payload.clone();
        other[at] = byte;
        assert_eq!(read(&other), None, "{at}");
    }
}

#[test]
fn a_chain_without_certificates_is_none() {
    let mut payload = payloads().next().unwrap().1;
    let flag = payload.len() - 4 - 8 - 2 - 1 - 1;
    assert_eq!(payload[flag], 0);
    payload.splice(flag..=flag, [1, 0, 0, 0]);
    assert_eq!(read(&payload), None);
}
