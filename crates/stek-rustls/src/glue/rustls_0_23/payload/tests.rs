//! Sessions captured from real handshakes, one file for each version of rustls; `golden/capture.sh`
//! makes them. The version in Cargo.lock is also met alive by all tests that resume.

use std::collections::BTreeMap;

use super::*;
use stek_core::certificate::not_after;

/// The oldest 0.23, one on the way, the lowest that this workspace takes, and the highest there is.
const GOLDEN: [(&str, &str); 4] = [
    ("0.23.0", include_str!("golden/rustls-0.23.0.txt")),
    ("0.23.37", include_str!("golden/rustls-0.23.37.txt")),
    ("0.23.45", include_str!("golden/rustls-0.23.45.txt")),
    ("0.23.46", include_str!("golden/rustls-0.23.46.txt")),
];

#[test]
fn the_lowest_and_the_locked_version_are_captured() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |name: &str| std::fs::read_to_string(format!("{root}/{name}")).unwrap();
    let (manifest, lock) = (read("Cargo.toml"), read("Cargo.lock"));
    let after = |text: &str, before: &str| {
        let rest = text.split_once(before).unwrap().1;
        rest.split('"').next().unwrap().to_owned()
    };
    let lowest = after(&manifest, "\nrustls = { version = \"");
    let locked = after(&lock, "\nname = \"rustls\"\nversion = \"");
    for version in [lowest, locked] {
        let captured = GOLDEN.iter().any(|(golden, _)| *golden == version);
        assert!(captured, "{version}: run golden/capture.sh {version} and name the file here");
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn payloads() -> impl Iterator<Item = ([&'static str; 4], Vec<u8>)> {
    let lines = GOLDEN.into_iter().flat_map(|(_, text)| text.lines());
    let lines = lines.filter(|line| !line.starts_with('#'));
    lines.map(|line| {
        let fields: Vec<_> = line.split(' ').collect();
        let [version, client, name, alpn, hex] = fields[..] else { panic!("{line}") };
        ([version, client, name, alpn], bytes(hex))
    })
}

#[test]
fn captured_sessions_are_read() {
    let mut suites = BTreeMap::<_, Vec<_>>::new();
    for ([version, client, ..], payload) in payloads() {
        let session = read(&payload).unwrap();
        let expected = if version == "tls13" { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
        assert_eq!(session.version, expected);
        let ended = session.client_certificate.map(|der| not_after(der).unwrap().as_unix());
        assert_eq!(ended, (client == "client").then_some(1_881_689_432));
        // After the flag, the name and the version.
        let name = if payload[0] == 1 { 1 + usize::from(payload[1]) } else { 0 };
        let [high, low, len] = payload[name + 3..][..3] else { panic!("{version}") };
        suites.entry((u16::from_be_bytes([high, low]), len)).or_default().push(payload);
    }
    // Of TLS 1.3, whose secrets are as long as the hash of the suite, and of TLS 1.2.
    let (thirteen, twelve) = ([(0x1301, 32), (0x1302, 48), (0x1303, 32)], [0xc02b, 0xc02c, 0xcca9]);
    let expected = thirteen.into_iter().chain(twelve.map(|suite| (suite, 48)));
    assert!(suites.keys().copied().eq(expected), "{:?}", suites.keys());
    // Of each version of rustls, three of the suite that it prefers and one of each other.
    let of = |suite| suites[&suite].len();
    assert_eq!((of((0x1302, 48)), of((0xc02c, 48)), of((0x1301, 32))), (12, 12, 4));
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
