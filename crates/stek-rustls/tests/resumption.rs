//! Real handshakes: which tickets resume where, and for how long.

mod fixture;

use std::sync::Arc;

use fixture::{
    HOUR, Node, Pki, RESUMED, SKEW, TLS12, TLS13, Tampering, advance, at, bundle, bundle_of, clock,
    key, keyset, kind, planned_key, policy,
};
#[cfg(feature = "tls12")]
use fixture::{START, shake};
use prometheus::Registry;
use rustls::HandshakeKind::{Full, Resumed};
#[cfg(feature = "tls12")]
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::ProducesTickets;
use stek_core::bundle::{EndCause, EndedKey};
use stek_rustls::{TicketMetrics, UnboundedTicketer};

#[test]
fn a_ticket_of_one_server_resumes_on_another_of_the_fleet() {
    let (clock, pki) = (clock(), Pki::new());
    let keys = bundle(1, &[planned_key(0), planned_key(6 * HOUR)]);
    let (a, b) = (Node::with(&clock, "web", &keys), Node::with(&clock, "web", &keys));
    let (server_a, server_b) = (a.server(&pki), b.server(&pki));
    for &version in RESUMED {
        let client = pki.client(version);
        assert_eq!(kind(&server_a, &client), Full, "{version:?}");
        assert_eq!(kind(&server_b, &client), Resumed, "{version:?}");
        assert_eq!(kind(&server_a, &client), Resumed, "{version:?}");
    }
    let versions = RESUMED.len() as u64;
    assert_eq!((a.count("opened", "active"), b.count("opened", "active")), (versions, versions));
    // Two for each TLS 1.3 handshake, one for each of TLS 1.2.
    let sealed = (a.count("sealed", "sealed"), b.count("sealed", "sealed"));
    assert_eq!(sealed, (2 + 2 * versions, 1 + versions));
}

#[test]
fn sessions_of_every_cipher_suite_resume() {
    let (clock, pki) = (clock(), Pki::new());
    let node = Node::with(&clock, "web", &bundle(1, &[planned_key(0)]));
    let server = node.server(&pki);
    let mut resumed = 0;
    for suite in aws_lc_rs::default_provider().cipher_suites {
        let version = if suite.tls13().is_some() { TLS13 } else { TLS12 };
        // The certificate of the server is of ECDSA.
        if !RESUMED.contains(&version) || format!("{:?}", suite.suite()).contains("RSA") {
            continue;
        }
        let client = pki.client_of(version, vec![suite]);
        assert_eq!(kind(&server, &client), Full, "{suite:?}");
        assert_eq!(kind(&server, &client), Resumed, "{suite:?}");
        resumed += 1;
    }
    assert_eq!(resumed, 3 * RESUMED.len());
}

#[test]
fn tls12_does_not_resume_without_the_opt_in() {
    let (clock, pki) = (clock(), Pki::new());
    let node = Node::with(&clock, "web", &bundle(1, &[planned_key(0)]));
    let metrics = TicketMetrics::register(&Registry::new(), &keyset()).unwrap();
    let strict = Arc::new(UnboundedTicketer::try_new(Arc::clone(&node.keys), metrics).unwrap());
    let mut config = pki.server();
    strict.use_in(&mut config);
    let (config, client) = (Arc::new(config), pki.client(TLS12));
    for _ in 0..3 {
        assert_eq!(kind(&config, &client), Full);
    }
    let modern = pki.client(TLS13);
    assert_eq!((kind(&config, &modern), kind(&config, &modern)), (Full, Resumed));
}

#[test]
fn no_ticket_resumes_in_another_scope() {
    let (clock, pki) = (clock(), Pki::new());
    let keys = bundle(1, &[planned_key(0)]);
    let (web, shop) = (Node::with(&clock, "web", &keys), Node::with(&clock, "shop", &keys));
    for &version in RESUMED {
        let client = pki.client(version);
        assert_eq!(kind(&web.server(&pki), &client), Full);
        assert_eq!(kind(&shop.server(&pki), &client), Full, "{version:?}");
    }
    assert_eq!(shop.count("opened", "unknown"), RESUMED.len() as u64);
}

#[test]
fn no_ticket_resumes_under_another_keyset() {
    let (clock, pki) = (clock(), Pki::new());
    let a = Node::with(&clock, "web", &bundle(1, &[planned_key(0)]));
    let b = Node::with(&clock, "web", &bundle(1, &[planned_key(0)]));
    let client = pki.client(TLS13);
    assert_eq!(kind(&a.server(&pki), &client), Full);
    assert_eq!(kind(&b.server(&pki), &client), Full);
    assert_eq!(b.count("opened", "unknown"), 1);
}

#[test]
fn a_ticket_resumes_under_a_retired_key_and_for_its_lifetime() {
    let (clock, pki) = (clock(), Pki::new());
    let keys = bundle(1, &[planned_key(0), planned_key(6 * HOUR)]);
    let node = Node::with(&clock, "web", &keys);
    let server = node.server(&pki);
    advance(&clock, 5 * HOUR);
    let (early, late) = (pki.client(TLS13), pki.client(TLS13));
    assert_eq!((kind(&server, &early), kind(&server, &late)), (Full, Full));
    advance(&clock, 6 * HOUR + SKEW - 1);
    assert_eq!(kind(&server, &early), Resumed);
    assert_eq!(node.count("opened", "decrypt-only"), 1);
    advance(&clock, 1);
    assert_eq!(kind(&server, &late), Full);
    assert_eq!(node.count("opened", "expired"), 1);
}

#[test]
fn a_ticket_ends_with_its_key() {
    let (clock, pki) = (clock(), Pki::new());
    let short = key(0, HOUR, 2 * HOUR);
    let keys = bundle(1, &[short, planned_key(HOUR)]);
    let node = Node::with(&clock, "web", &keys);
    let server = node.server(&pki);
    let clients = [0; 3].map(|_| pki.client(TLS13));
    for client in &clients {
        assert_eq!(kind(&server, client), Full);
    }
    advance(&clock, 2 * HOUR - 1);
    assert_eq!(kind(&server, &clients[0]), Resumed);
    // The bundle has not been replaced.
    advance(&clock, 1);
    assert_eq!(kind(&server, &clients[1]), Full);
    // The same bundle again, now without the ended key, whose name is remembered.
    node.keys.install(&keys);
    assert_eq!(kind(&server, &clients[2]), Full);
    assert_eq!((node.count("opened", "expired"), node.count("opened", "unknown")), (2, 0));
}

#[test]
fn a_revoked_key_resumes_nothing() {
    let (clock, pki) = (clock(), Pki::new());
    let (gone, fresh) = (planned_key(0), planned_key(0));
    let node = Node::with(&clock, "web", &bundle(1, std::slice::from_ref(&gone)));
    let server = node.server(&pki);
    let client = pki.client(TLS13);
    assert_eq!(kind(&server, &client), Full);
    let ended = EndedKey {
        id: gone.record.id,
        kcv: gone.record.kcv,
        cause: EndCause::Revoked,
        ended_at: at(1),
    };
    node.keys.install(&bundle_of(2, &[fresh], policy(), vec![ended]));
    assert_eq!(kind(&server, &client), Full);
    assert_eq!(node.count("opened", "revoked"), 1);
    assert_eq!(kind(&server, &client), Resumed);
}

#[test]
fn without_keys_every_handshake_is_full() {
    let (clock, pki) = (clock(), Pki::new());
    let never = Node::new(&clock, "web");
    let no_longer = Node::with(&clock, "web", &bundle(1, &[key(0, 1, 2)]));
    advance(&clock, HOUR);
    for node in [never, no_longer] {
        let server = node.server(&pki);
        assert!(node.ticketer.enabled());
        assert_eq!(node.ticketer.lifetime(), 0);
        for version in [TLS13, TLS12] {
            let client = pki.client(version);
            for _ in 0..3 {
                assert_eq!(kind(&server, &client), Full, "{version:?}");
            }
        }
        let asked = if cfg!(feature = "tls12") { 9 } else { 6 };
        assert_eq!(node.count("sealed", "no-active-key"), asked);
        assert_eq!(node.count("sealed", "sealed"), 0);
    }
}

#[test]
fn the_session_cache_and_early_data_are_off() {
    let node = Node::new(&clock(), "web");
    let mut config = Pki::new().server();
    config.max_early_data_size = 16_384;
    assert!(config.session_storage.can_cache());
    node.ticketer.use_in(&mut config);
    assert!(!config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);
    assert!(config.ticketer.enabled());
}

#[test]
fn tampered_tickets_make_full_handshakes() {
    let (clock, pki) = (clock(), Pki::new());
    let node = Node::with(&clock, "web", &bundle(1, &[planned_key(0)]));
    // Key name, nonce, ciphertext, tag; then lengths.
    let flips = [0, 15, 16, 39, 40, 100].map(|at| (at, usize::MAX));
    // No ticket at all is not for a ticketer to give: clients refuse an empty one.
    let cuts = [1, 15, 16, 40, 56, 119, 120, 183].map(|len| (usize::MAX, len));
    for &version in RESUMED {
        for (flipped, len) in flips.into_iter().chain(cuts) {
            let inner = Arc::clone(&node.ticketer);
            let mut config = pki.server();
            node.ticketer.use_in(&mut config);
            config.ticketer = Arc::new(Tampering { inner, flipped, len });
            let (server, client) = (Arc::new(config), pki.client(version));
            assert_eq!(kind(&server, &client), Full);
            assert_eq!(kind(&server, &client), Full, "{version:?} {flipped} {len}");
        }
    }
    assert_eq!(node.count("opened", "active"), 0);
    assert!(node.count("opened", "forged") > 0);
}

/// The `NewSessionTicket` of TLS 1.2, which travels in the clear: its hint and the ticket's length.
#[cfg(feature = "tls12")]
fn tls12_hint(server: &Arc<ServerConfig>, pki: &Pki) -> (u32, usize) {
    let bytes = shake(server, &pki.client(TLS12)).from_server;
    let mut records = bytes.as_slice();
    while let [kind, _, _, high, low, rest @ ..] = records {
        let (body, next) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        if let (22, [4, _, _, _, a, b, c, d, e, f, ticket @ ..]) = (*kind, body) {
            assert_eq!(usize::from(u16::from_be_bytes([*e, *f])), ticket.len());
            return (u32::from_be_bytes([*a, *b, *c, *d]), ticket.len());
        }
        records = next;
    }
    panic!("no ticket");
}

#[cfg(feature = "tls12")]
#[test]
fn the_hint_on_the_wire_is_what_is_left() {
    let (clock, pki) = (clock(), Pki::new());
    let long = key(0, 3 * HOUR, 9 * HOUR + SKEW);
    let short = key(3 * HOUR, 4 * HOUR, 5 * HOUR);
    let node = Node::with(&clock, "web", &bundle(1, &[long, short]));
    let server = node.server(&pki);
    let six_hours = 6 * 3600;
    let steps = [
        (0, six_hours),
        (3 * HOUR - 1, six_hours),
        // The key ends in two hours; peers may be ahead by the skew.
        (3 * HOUR, 7200 - 60),
        (4 * HOUR - 1, 3601 - 60),
    ];
    let mut now = 0;
    for (then, hint) in steps {
        advance(&clock, then - now);
        now = then;
        assert_eq!(node.ticketer.lifetime(), hint, "at {then}");
        let (wire, len) = tls12_hint(&server, &pki);
        assert_eq!(wire, hint);
        assert!(len > 0);
    }
    advance(&clock, 1);
    assert_eq!(tls12_hint(&server, &pki), (0, 0));
    assert_eq!(clock_seconds(&clock), START + 4 * HOUR);
}

#[cfg(feature = "tls12")]
fn clock_seconds(clock: &stek_clock::ManualClock) -> u64 {
    stek_clock::Clock::wall_millis(clock) / 1000
}
