//! The ticketer asked directly, as rustls asks it: caps, nonces, counters, and what it shows.

mod fixture;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{
    HOUR, Node, SKEW, TLS12, TLS13, advance, at, bundle, bundle_of, clock, count, hours, key,
    keyset, planned_key, policy, scope, session, session_of,
};
use prometheus::Registry;
use rustls::server::ProducesTickets;
use stek_clock::{Clock, FleetClock, ManualClock};
use stek_core::bundle::{EndCause, EndedKey};
use stek_core::derive::{Schema, Use};
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::scope::{ChainRule, ClientAuth, Scope};
use stek_core::ticket::{DerivedKey, MAX_PAYLOAD_LEN, MAX_TICKET_LEN, Stamp};
use stek_core::xaes::NONCE_LEN;
use stek_rustls::{
    NoRandomness, NonceSource, TicketKeys, TicketMetrics, UnboundedTicketer, UnfitScope,
};

fn node() -> (Arc<ManualClock>, Node) {
    let clock = clock();
    let node = Node::with(&clock, "web", &bundle(1, &[planned_key(0)]));
    (clock, node)
}

#[test]
fn what_was_sealed_opens() {
    let (_, node) = node();
    for len in [93, 853, 4096, MAX_PAYLOAD_LEN] {
        let session = session_of(len);
        let ticket = node.ticketer.encrypt(&session).unwrap();
        assert!(ticket.len() <= MAX_TICKET_LEN);
        assert_eq!(node.ticketer.decrypt(&ticket), Some(session), "{len}");
    }
}

#[test]
fn no_flipped_bit_and_no_truncation_opens() {
    let (_, node) = node();
    let ticket = node.ticketer.encrypt(&session(TLS13)).unwrap();
    for bit in 0..ticket.len() * 8 {
        let mut flipped = ticket.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(node.ticketer.decrypt(&flipped), None, "bit {bit}");
    }
    for len in 0..ticket.len() {
        assert_eq!(node.ticketer.decrypt(&ticket[..len]), None, "length {len}");
    }
    let longer = [ticket.as_slice(), &[0; 64]].concat();
    assert_eq!(node.ticketer.decrypt(&longer), None);
    assert_eq!(node.count("opened", "active"), 0);
}

#[test]
fn nothing_over_the_cap_is_looked_up() {
    let (clock, node) = node();
    let name = node.ticketer.encrypt(&session(TLS13)).unwrap()[..16].to_vec();
    for len in [MAX_TICKET_LEN + 1, MAX_TICKET_LEN + 56, 65_535] {
        let mut ticket = vec![0; len];
        ticket[..16].copy_from_slice(&name);
        assert_eq!(node.ticketer.decrypt(&ticket), None);
    }
    assert_eq!((node.count("opened", "malformed"), node.count("opened", "forged")), (3, 0));
    // Without a snapshot there is nothing in which it could have been looked up.
    let empty = Node::new(&clock, "web");
    assert_eq!(empty.ticketer.decrypt(&[0; MAX_TICKET_LEN + 1]), None);
    assert_eq!(empty.ticketer.decrypt(&[0; MAX_TICKET_LEN]), None);
    assert_eq!((empty.count("opened", "malformed"), empty.count("opened", "unknown")), (1, 1));
}

#[test]
fn a_fresh_node_opens_longer_tickets_than_it_ever_sealed() {
    let clock = clock();
    let keys = bundle(1, &[planned_key(0)]);
    let (old, fresh) = (Node::with(&clock, "web", &keys), Node::with(&clock, "web", &keys));
    let session = session_of(MAX_PAYLOAD_LEN);
    let long = old.ticketer.encrypt(&session).unwrap();
    assert_eq!(fresh.ticketer.decrypt(&long).as_ref(), Some(&session));
    fresh.ticketer.encrypt(&session_of(93)).unwrap();
    assert_eq!(fresh.ticketer.decrypt(&long), Some(session));
}

#[test]
fn a_session_that_does_not_fit_gets_no_ticket() {
    let (_, node) = node();
    assert_eq!(node.ticketer.encrypt(&session_of(MAX_PAYLOAD_LEN + 1)), None);
    assert_eq!(node.count("sealed", "too-long"), 1);
}

#[test]
fn what_is_no_session_gets_no_ticket() {
    let (_, node) = node();
    let whole = session(TLS13);
    let (shorter, longer) = (&whole[1..], [whole.as_slice(), &[0]].concat());
    for bytes in [&b""[..], b"a session of another library", shorter, &longer] {
        assert_eq!(node.ticketer.encrypt(bytes), None);
    }
    assert_eq!((node.count("sealed", "unreadable"), node.count("sealed", "sealed")), (4, 0));
}

/// Tickets of this fleet whose contents rustls may not be shown: of another node with other rules,
/// or of one that did not look.
#[test]
fn what_may_not_be_sealed_is_not_opened_either() {
    let (clock, secret) = (clock(), planned_key(0));
    let node = Node::with(&clock, "web", &bundle(1, std::slice::from_ref(&secret)));
    let digest = scope("web").digest();
    let derived = DerivedKey::derive(&secret.material, Use::Ticket, Schema::RUSTLS_0_23, &digest);
    let stamp = Stamp { issued_at: at(0), authenticated_at: at(0) };
    let sealed = derived.seal(stamp, b"something else", &[7; NONCE_LEN]).unwrap();
    assert_eq!(node.ticketer.decrypt(&sealed), None);
    let metrics = TicketMetrics::register(&Registry::new(), &keyset()).unwrap();
    let strict = UnboundedTicketer::try_new(Arc::clone(&node.keys), metrics).unwrap();
    let tls12 = derived.seal(stamp, &session(TLS12), &[8; NONCE_LEN]).unwrap();
    assert_eq!(strict.decrypt(&tls12), None);
    assert_eq!(node.ticketer.decrypt(&tls12).is_some(), cfg!(feature = "tls12"));
    let refused = 1 + u64::from(!cfg!(feature = "tls12"));
    assert_eq!(node.count("opened", "not-allowed"), refused);
}

#[test]
fn tls12_is_not_sealed_without_the_opt_in() {
    let (_, node) = node();
    let registry = Registry::new();
    let metrics = TicketMetrics::register(&registry, &keyset()).unwrap();
    let strict = UnboundedTicketer::try_new(Arc::clone(&node.keys), metrics).unwrap();
    assert_eq!(strict.encrypt(&session(TLS12)), None);
    assert!(strict.encrypt(&session(TLS13)).is_some());
    assert_eq!(count(&registry, "tickets_sealed", "not-allowed"), 1);
    assert_eq!(node.ticketer.encrypt(&session(TLS12)).is_some(), cfg!(feature = "tls12"));
}

/// Gives 1, 2, 3, … and fails while it is told to.
#[derive(Default)]
struct Scripted {
    broken: AtomicBool,
    drawn: std::sync::atomic::AtomicU8,
    boots: Mutex<Vec<Duration>>,
}

impl NonceSource for Scripted {
    fn draw(&self, boot: Duration) -> Result<[u8; NONCE_LEN], NoRandomness> {
        self.boots.lock().expect("nobody panics with it").push(boot);
        if self.broken.load(Ordering::Relaxed) {
            return Err(NoRandomness);
        }
        Ok([self.drawn.fetch_add(1, Ordering::Relaxed) + 1; NONCE_LEN])
    }
}

#[test]
fn each_ticket_has_its_nonce_and_none_without_one() {
    let (_, node) = node();
    let registry = Registry::new();
    let metrics = TicketMetrics::register(&registry, &keyset()).unwrap();
    let nonces = Arc::new(Scripted::default());
    let source = Arc::<Scripted>::clone(&nonces);
    let ticketer =
        UnboundedTicketer::try_with_nonces(Arc::clone(&node.keys), metrics, source).unwrap();
    let nonce_of = |ticket: Vec<u8>| ticket[16..16 + NONCE_LEN].to_vec();
    assert_eq!(nonce_of(ticketer.encrypt(&session(TLS13)).unwrap()), [1; NONCE_LEN]);
    assert_eq!(nonce_of(ticketer.encrypt(&session(TLS13)).unwrap()), [2; NONCE_LEN]);
    nonces.broken.store(true, Ordering::Relaxed);
    assert_eq!(ticketer.encrypt(&session(TLS13)), None);
    assert_eq!(ticketer.encrypt(&session(TLS13)), None);
    assert!(ticketer.enabled());
    nonces.broken.store(false, Ordering::Relaxed);
    assert_eq!(nonce_of(ticketer.encrypt(&session(TLS13)).unwrap()), [3; NONCE_LEN]);
    assert_eq!(count(&registry, "tickets_sealed", "no-randomness"), 2);
    assert_eq!(count(&registry, "tickets_sealed", "sealed"), 3);
}

/// Copies of a machine share what its pool held; boot time keeps their nonces apart.
#[test]
fn each_nonce_is_drawn_for_the_boot_time_at_which_it_is_used() {
    let (clock, node) = node();
    let nonces = Arc::new(Scripted::default());
    let source = Arc::<Scripted>::clone(&nonces);
    let metrics = TicketMetrics::register(&Registry::new(), &keyset()).unwrap();
    let ticketer =
        UnboundedTicketer::try_with_nonces(Arc::clone(&node.keys), metrics, source).unwrap();
    let begin = clock.boot();
    assert!(ticketer.encrypt(&session(TLS13)).is_some());
    advance(&clock, 5);
    assert!(ticketer.encrypt(&session(TLS13)).is_some());
    assert_eq!(*nonces.boots.lock().unwrap(), [begin, begin + Duration::from_secs(5)]);
}

#[test]
fn tickets_of_the_system_source_share_no_nonce() {
    let (_, node) = node();
    let mut nonces: Vec<_> = (0..1000)
        .map(|_| node.ticketer.encrypt(&session(TLS13)).unwrap()[16..40].to_vec())
        .collect();
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 1000);
}

/// `session` with so much data that the server keeps with it: before the last 12 bytes there is its
/// length, else 0.
fn keeping(session: &[u8], data: u16) -> Vec<u8> {
    let (head, tail) = session.split_at(session.len() - 12);
    let head = head.strip_suffix(&[0, 0]).expect("a session without data");
    [head, &data.to_be_bytes(), &vec![7; usize::from(data)], tail].concat()
}

/// What somebody on the path sees of the tickets of many sessions of all lengths, at two sites.
#[test]
fn lengths_and_names_of_tickets_tell_the_site_and_the_key_and_little_else() {
    let (clock, keys) = (clock(), bundle(1, &[planned_key(0), planned_key(6 * HOUR)]));
    let sites = ["web", "shop"].map(|label| Node::with(&clock, label, &keys));
    let session = session(TLS13);
    let (mut lengths, mut names) = (BTreeMap::new(), BTreeMap::new());
    let mut rest = BTreeSet::new();
    for (site, key) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        if (site, key) == (0, 1) {
            advance(&clock, 6 * HOUR);
        }
        for data in 0..640 {
            let ticket = sites[site].ticketer.encrypt(&keeping(&session, data)).unwrap();
            *lengths.entry(ticket.len()).or_insert(0) += 1;
            names.entry(ticket[..16].to_vec()).or_insert_with(BTreeSet::new).insert((site, key));
            // Nonces, and the bytes under them, which are the same in many sessions.
            rest.insert(ticket[16..56].to_vec());
        }
    }
    let spans: Vec<_> = lengths.keys().zip(lengths.keys().skip(1)).map(|(a, b)| b - a).collect();
    assert_eq!(spans, [64; 10], "{lengths:?}");
    // 64 lengths of sessions look alike, in each of four.
    let whole = lengths.values().filter(|count| **count == 64 * 4).count();
    assert!(whole >= 9, "{lengths:?}");
    assert_eq!(names.len(), 4);
    assert!(names.values().all(|of| of.len() == 1), "{names:?}");
    assert_eq!(rest.len(), 4 * 640);
}

#[test]
fn every_opening_is_counted_by_outcome() {
    let clock = clock();
    // Sessions end with tickets, so that between the two ends lies the skew.
    let policy =
        Policy::try_new(&PolicyRequest { session_lifetime: hours(6), ..Default::default() })
            .unwrap();
    let keys = [planned_key(0), planned_key(6 * HOUR)];
    let node = Node::with(&clock, "web", &bundle_of(1, &keys, policy, vec![]));
    let derived = |index: usize| {
        let digest = scope("web").digest();
        DerivedKey::derive(&keys[index].material, Use::Ticket, Schema::RUSTLS_0_23, &digest)
    };
    let sealed_at = |index: usize, seconds: u64| {
        let stamp = Stamp { issued_at: at(seconds), authenticated_at: at(seconds) };
        derived(index).seal(stamp, &session(TLS13), &[7; NONCE_LEN]).unwrap()
    };
    let open = |ticket: &[u8], outcome: &str, opens: bool| {
        let before = node.count("opened", outcome);
        assert_eq!(node.ticketer.decrypt(ticket).is_some(), opens, "{outcome}");
        assert_eq!(node.count("opened", outcome), before + 1, "{outcome}");
    };
    let of_first = sealed_at(0, 0);
    let mut forged = of_first.clone();
    forged[40] ^= 1;
    open(&of_first, "active", true);
    open(&sealed_at(1, SKEW), "pending", true);
    open(b"", "malformed", false);
    open(&[0; 120], "unknown", false);
    open(&forged, "forged", false);
    open(&sealed_at(0, SKEW + 1), "from-the-future", false);
    let late = sealed_at(0, 6 * HOUR - 1);
    advance(&clock, 6 * HOUR);
    open(&of_first, "session-too-old", false);
    open(&late, "decrypt-only", true);
    advance(&clock, SKEW);
    open(&of_first, "expired", false);
    let revoked = EndedKey {
        id: keys[0].record.id,
        kcv: keys[0].record.kcv,
        cause: EndCause::Revoked,
        ended_at: at(6 * HOUR),
    };
    node.keys.install(&bundle_of(2, &keys[1..], policy, vec![revoked]));
    open(&of_first, "revoked", false);
}

#[test]
fn the_age_of_opened_tickets_is_observed() {
    let (clock, node) = node();
    let ticket = node.ticketer.encrypt(&session(TLS13)).unwrap();
    advance(&clock, 100);
    node.ticketer.decrypt(&ticket).unwrap();
    advance(&clock, 900);
    node.ticketer.decrypt(&ticket).unwrap();
    node.ticketer.decrypt(b"not a ticket");
    let families = node.registry.gather();
    let ages = families.iter().find(|f| f.name() == "stek_ticket_age_at_open_seconds").unwrap();
    let ages = ages.get_metric()[0].get_histogram();
    assert_eq!(ages.get_sample_count(), 2);
    assert!((ages.get_sample_sum() - 1100.0).abs() < f64::EPSILON);
}

#[test]
fn the_hint_is_no_longer_than_tls12_resumes() {
    let clock = clock();
    let request = PolicyRequest {
        rotation_period: hours(1),
        ticket_lifetime: hours(6),
        ..PolicyRequest::default()
    };
    let keys = [key(0, HOUR, 8 * HOUR)];
    let node =
        Node::with(&clock, "web", &bundle_of(1, &keys, Policy::try_new(&request).unwrap(), vec![]));
    let metrics = TicketMetrics::register(&Registry::new(), &keyset()).unwrap();
    let strict = UnboundedTicketer::try_new(Arc::clone(&node.keys), metrics).unwrap();
    let two = if cfg!(feature = "tls12") { 2 } else { 6 };
    assert_eq!((strict.lifetime(), node.ticketer.lifetime()), (6 * 3600, two * 3600));
    if let Some(ticket) = node.ticketer.encrypt(&session(TLS12)) {
        advance(&clock, 2 * HOUR - 1);
        assert!(node.ticketer.decrypt(&ticket).is_some());
        advance(&clock, 1);
        assert_eq!(node.ticketer.decrypt(&ticket), None);
    }
}

#[test]
fn debug_shows_which_keys_and_not_their_bytes() {
    let clock = clock();
    let secret = planned_key(0);
    let node = Node::with(&clock, "web", &bundle(1, std::slice::from_ref(&secret)));
    let shown = format!("{:?} {:#?}", node.ticketer, node.keys);
    assert!(shown.contains(&secret.record.id.to_string()), "{shown}");
    let bytes = secret.material.expose_secret();
    let digest = scope("web").digest();
    let derived =
        stek_core::derive::aead_key(&secret.material, Use::Ticket, Schema::RUSTLS_0_23, &digest);
    for key in [bytes, &*derived] {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        let list = format!("{key:?}");
        let list = list.trim_matches(['[', ']']);
        for form in [&hex[..16], &list[..24]] {
            assert!(!shown.to_lowercase().contains(form), "{shown}");
        }
    }
}

#[test]
fn scopes_that_promise_more_are_refused() {
    let clock = Arc::new(FleetClock::new(clock()));
    let try_scope = |scope: Scope| {
        let keys = Arc::new(TicketKeys::new(scope, Arc::clone(&clock)));
        UnboundedTicketer::try_new(
            keys,
            TicketMetrics::register(&Registry::new(), &keyset()).unwrap(),
        )
    };
    let label = || "web".to_owned();
    let capped = try_scope(Scope::try_new("web", ChainRule::Capped).unwrap()).unwrap_err();
    assert_eq!(capped, UnfitScope::Capped { label: label() });
    for mode in [ClientAuth::Optional, ClientAuth::Required] {
        let asking = scope("web").with_client_auth(mode, Vec::new()).unwrap();
        let error = try_scope(asking).unwrap_err();
        assert_eq!(error, UnfitScope::AsksClients { label: label() });
    }
    try_scope(scope("web")).unwrap();
}

#[test]
fn handshakes_go_on_while_keys_are_replaced() {
    let (_, node) = node();
    let keys = [planned_key(0), planned_key(6 * HOUR)];
    node.keys.install(&bundle(2, &keys));
    let done = AtomicBool::new(false);
    std::thread::scope(|threads| {
        let sealing: Vec<_> = (0..3)
            .map(|_| {
                threads.spawn(|| {
                    let mut rounds = 0_u32;
                    while rounds < 100 || !done.load(Ordering::Relaxed) {
                        let ticket = node.ticketer.encrypt(&session(TLS13)).unwrap();
                        assert_eq!(node.ticketer.decrypt(&ticket).unwrap(), session(TLS13));
                        rounds += 1;
                    }
                })
            })
            .collect();
        for revision in 3..300 {
            let count = 1 + usize::from(revision % 2 == 0);
            node.keys.install(&bundle(revision, &keys[..count]));
        }
        done.store(true, Ordering::Relaxed);
        for thread in sealing {
            thread.join().unwrap();
        }
    });
}

#[test]
fn tickets_of_erased_keys_are_missed_as_expired() {
    let clock = clock();
    let node = Node::with(&clock, "web", &bundle(1, &[key(0, 10, 20), key(10, 20, 30)]));
    let ticket = node.ticketer.encrypt(&session(TLS13)).unwrap();
    for seconds in [20, 10] {
        advance(&clock, seconds);
        node.keys.erase_ended();
        assert_eq!(node.ticketer.decrypt(&ticket), None);
    }
    assert_eq!(node.count("opened", "expired"), 2);
    assert_eq!(node.keys.tag(), Some(bundle(1, &[]).tag()));
    node.keys.install(&bundle_of(2, &[planned_key(30)], policy(), vec![]));
    assert!(node.ticketer.encrypt(&session(TLS13)).is_some());
}
