//! Sessions that servers keep: what is kept, what resumes, and what an attacker who owns the backend
//! gets out of it.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod sessions;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{
    HOUR, Node, Pki, SKEW, TLS12, TLS13, advance, at, bundle, bundle_of, clock, kind, planned_key,
    policy, scope,
};
use rustls::HandshakeKind::{Full, Resumed};
use rustls::server::StoresServerSessions;
use sessions::{Counters, Server, accepted_early, capped, eager, early_flight, memory};
use stek_clock::FleetClock;
use stek_core::bundle::{EndCause, EndedKey};
use stek_core::scope::ClientAuth;
use stek_rustls::{
    LookUpError, PutError, Resumption, ResumptionStore, SessionBackend, SessionKey, SharedBackend,
    TicketKeys, UnfitKeys,
};

const CANARY: &[u8; 32] = b"a canary in the place of secrets";

/// As rustls 0.23 encodes one: no server name, this version, a suite, the secret with its length,
/// then nothing but zeros where something could be.
fn session_of(version: [u8; 2]) -> Vec<u8> {
    [&[0][..], &version, &[0x13, 1, 32], CANARY, &[1, 0, 0, 0, 0], &[0; 12]].concat()
}

fn session() -> Vec<u8> {
    session_of([3, 4])
}

fn key(number: u8) -> Vec<u8> {
    vec![number; SessionKey::LEN]
}

/// A backend in the attacker's hands: everything in it can be read and changed.
#[derive(Debug, Default)]
struct Owned {
    values: Mutex<HashMap<SessionKey, Vec<u8>>>,
    /// Leaves what was taken where it was.
    replays: bool,
}

impl Owned {
    fn value(&self, number: u8) -> Vec<u8> {
        self.values.lock().unwrap()[&SessionKey::parse(&key(number)).unwrap()].clone()
    }

    fn set(&self, number: u8, value: Vec<u8>) {
        self.values.lock().unwrap().insert(SessionKey::parse(&key(number)).unwrap(), value);
    }
}

impl SessionBackend for Owned {
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError> {
        assert!(lifetime > Duration::ZERO && lifetime <= Duration::from_secs(6 * HOUR));
        self.values.lock().unwrap().insert(*key, value);
        Ok(())
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        let mut values = self.values.lock().unwrap();
        Ok(if self.replays { values.get(key).cloned() } else { values.remove(key) })
    }
}

/// One process is the whole fleet of these tests.
impl SharedBackend for Owned {}

/// A backend that must not be asked.
#[derive(Debug)]
struct Untouchable;

impl SessionBackend for Untouchable {
    fn put(&self, _: &SessionKey, _: Vec<u8>, _: Duration) -> Result<(), PutError> {
        panic!("the backend was given a session")
    }

    fn take(&self, _: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        panic!("the backend was asked for a session")
    }
}

#[test]
fn a_session_of_one_server_resumes_on_another_that_shares_the_backend() {
    let (clock, pki, backend) = (clock(), Pki::new(), memory());
    let keys = bundle(1, &[planned_key(0)]);
    let server = || Server::with(&clock, scope("web"), &keys, backend.clone());
    let (a, b) = (server(), server());
    let client = pki.client(TLS13);
    assert_eq!(kind(&a.config(&pki), &client), Full);
    assert_eq!(kind(&b.config(&pki), &client), Resumed);
    assert_eq!(kind(&a.config(&pki), &client), Resumed);
    assert_eq!((a.counters.looked_up("active"), b.counters.looked_up("active")), (1, 1));
    // Two for each handshake.
    assert_eq!((a.counters.put("accepted"), b.counters.put("accepted")), (4, 2));
    assert_eq!(backend.len(), 4);
}

#[test]
fn a_session_resumes_nowhere_else() {
    let (clock, pki, backend) = (clock(), Pki::new(), memory());
    let keys = bundle(1, &[planned_key(0)]);
    let web = Server::with(&clock, scope("web"), &keys, backend.clone());
    let shop = Server::with(&clock, scope("shop"), &keys, backend.clone());
    let other = Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), backend);
    for elsewhere in [shop, other] {
        let client = pki.client(TLS13);
        assert_eq!(kind(&web.config(&pki), &client), Full);
        assert_eq!(kind(&elsewhere.config(&pki), &client), Full);
        assert_eq!(elsewhere.counters.looked_up("unknown"), 1);
    }
}

#[test]
fn tls12_is_never_kept() {
    let (clock, pki) = (clock(), Pki::new());
    let server =
        Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), Arc::new(Untouchable));
    let (config, client) = (server.config(&pki), pki.client(TLS12));
    for _ in 0..3 {
        assert_eq!(kind(&config, &client), Full);
    }
    assert!(server.counters.put("not-tls13") >= 3);
}

#[test]
fn what_is_kept_is_sealed_and_comes_back_once() {
    let (clock, backend) = (clock(), Arc::new(Owned::default()));
    let server = Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), backend.clone());
    assert!(server.store.put(key(1), session()));
    let value = backend.value(1);
    for secret in [CANARY, &CANARY[..12], &key(1)] {
        assert!(!value.windows(secret.len()).any(|window| window == secret));
    }
    assert_eq!(server.store.get(&key(1)), None);
    assert_eq!(server.store.take(&key(1)), Some(session()));
    assert_eq!(server.store.take(&key(1)), None);
    assert_eq!(server.counters.looked_up("absent"), 1);
}

#[test]
fn real_sessions_are_sealed_too() {
    let (clock, pki, backend) = (clock(), Pki::new(), Arc::new(Owned::default()));
    let server = Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), backend.clone());
    assert_eq!(kind(&server.config(&pki), &pki.client(TLS13)), Full);
    let values = backend.values.lock().unwrap();
    assert_eq!(values.len(), 2);
    // The server name is part of every session.
    assert!(values.values().all(|value| !value.windows(9).any(|window| window == b"localhost")));
}

#[test]
fn values_swapped_between_keys_are_refused() {
    let (clock, backend) = (clock(), Arc::new(Owned::default()));
    let server = Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), backend.clone());
    assert!(server.store.put(key(1), session()) && server.store.put(key(2), session()));
    let (one, two) = (backend.value(1), backend.value(2));
    backend.set(1, two);
    backend.set(2, one);
    assert_eq!((server.store.take(&key(1)), server.store.take(&key(2))), (None, None));
    assert_eq!(server.counters.looked_up("swapped"), 2);
}

#[test]
fn every_altered_value_is_refused() {
    let (clock, backend) = (clock(), Arc::new(Owned::default()));
    let server = Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), backend.clone());
    assert!(server.store.put(key(1), session()));
    let value = backend.value(1);
    for bit in 0..value.len() * 8 {
        let mut altered = value.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        backend.set(1, altered);
        assert_eq!(server.store.take(&key(1)), None, "bit {bit}");
    }
    for len in 0..value.len() {
        backend.set(1, value[..len].to_vec());
        assert_eq!(server.store.take(&key(1)), None, "{len} bytes");
    }
    backend.set(1, value);
    assert_eq!(server.store.take(&key(1)), Some(session()));
}

#[test]
fn keys_of_another_length_never_reach_the_backend() {
    let clock = clock();
    let server =
        Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), Arc::new(Untouchable));
    let connection = server.store.for_connection();
    let lengths = [0, 1, 31, 33, 64, 16_384, 65_535];
    for len in lengths {
        assert_eq!(server.store.take(&vec![1; len]), None, "{len} bytes");
        assert_eq!(connection.take(&vec![1; len]), None, "{len} bytes");
        assert_eq!(server.store.get(&vec![1; len]), None);
        assert!(!server.store.put(vec![1; len], session()));
    }
    let expected = lengths.len() as u64;
    assert_eq!(server.counters.looked_up("key-length"), 2 * expected);
    assert_eq!(server.counters.put("key-length"), expected);
}

#[test]
fn a_session_resumes_under_a_retired_key_and_for_its_lifetime() {
    let (clock, pki, backend) = (clock(), Pki::new(), memory());
    let keys = bundle(1, &[planned_key(0), planned_key(6 * HOUR)]);
    let server = Server::with(&clock, scope("web"), &keys, backend);
    let config = server.config(&pki);
    advance(&clock, 5 * HOUR);
    let (early, late) = (pki.client(TLS13), pki.client(TLS13));
    assert_eq!((kind(&config, &early), kind(&config, &late)), (Full, Full));
    advance(&clock, 6 * HOUR + SKEW - 1);
    assert_eq!(kind(&config, &early), Resumed);
    assert_eq!(server.counters.looked_up("decrypt-only"), 1);
    advance(&clock, 1);
    assert_eq!(kind(&config, &late), Full);
    assert_eq!(server.counters.looked_up("expired"), 1);
}

#[test]
fn a_revoked_key_resumes_nothing() {
    let (clock, pki, backend) = (clock(), Pki::new(), memory());
    let (gone, fresh) = (planned_key(0), planned_key(0));
    let keys = bundle(1, std::slice::from_ref(&gone));
    let server = Server::with(&clock, scope("web"), &keys, backend);
    let (config, client) = (server.config(&pki), pki.client(TLS13));
    assert_eq!(kind(&config, &client), Full);
    let (id, kcv) = (gone.record.id, gone.record.kcv);
    let ended = EndedKey { id, kcv, cause: EndCause::Revoked, ended_at: at(1) };
    server.keys.install(&bundle_of(2, &[fresh], policy(), vec![ended]));
    assert_eq!(kind(&config, &client), Full);
    assert_eq!(server.counters.looked_up("revoked"), 1);
    assert_eq!(kind(&config, &client), Resumed);
}

#[test]
fn without_keys_every_handshake_is_full_and_the_backend_is_left_alone() {
    let (clock, pki) = (clock(), Pki::new());
    let mode = Resumption::Store(Arc::new(Untouchable));
    let server = Server::new(&clock, scope("web"), &mode, Counters::new());
    assert!(server.store.can_cache());
    let client = pki.client(TLS13);
    for _ in 0..3 {
        assert_eq!(kind(&server.config(&pki), &client), Full);
    }
    assert_eq!(server.counters.put("no-active-key"), 6);
    assert_eq!(server.store.take(&key(1)), None);
    assert_eq!(server.counters.looked_up("no-keys"), 1);
}

#[test]
fn only_what_is_known_to_be_tls13_without_a_client_certificate_is_kept() {
    let server =
        Server::with(&clock(), scope("web"), &bundle(1, &[planned_key(0)]), Arc::new(Untouchable));
    let mut certified = session();
    let after_secret = 6 + CANARY.len() + 1;
    certified[after_secret] = 1;
    certified.splice(after_secret + 1..after_secret + 1, [0, 0, 4, 0, 0, 1, b'c']);
    let mut trailing = session();
    trailing.push(0);
    let sessions = [Vec::new(), session_of([3, 5]), trailing, certified];
    for session in sessions {
        assert!(!server.store.put(key(1), session));
    }
    let counted = ["unreadable", "client-certificate"].map(|why| server.counters.put(why));
    assert_eq!(counted, [3, 1]);
}

#[test]
fn a_connection_looks_up_once() {
    let (clock, backend) = (clock(), Arc::new(Owned::default()));
    let server = Server::with(&clock, capped("web"), &bundle(1, &[planned_key(0)]), backend);
    let connection = server.store.for_connection();
    assert!(connection.put(key(1), session()));
    // What cannot be a key does not use it up.
    assert_eq!(connection.take(&[1; 16]), None);
    assert_eq!(connection.take(&key(2)), None);
    assert_eq!(connection.take(&key(1)), None);
    assert_eq!(server.counters.looked_up("not-the-first"), 1);
    assert_eq!(server.store.for_connection().take(&key(1)), Some(session()));
}

#[test]
fn a_chain_of_resumptions_ends_with_the_session_lifetime() {
    let (clock, pki, backend) = (clock(), Pki::new(), memory());
    let keys: Vec<_> = (0..24).map(|slot| planned_key(slot * 6 * HOUR)).collect();
    let server = Server::with(&clock, capped("web"), &bundle(1, &keys), backend);
    let client = pki.client(TLS13);
    let mut full = Vec::new();
    for hour in 0..5 * 24 {
        if kind(&server.connection(&pki), &client) == Full {
            full.push(hour);
        }
        advance(&clock, HOUR);
    }
    assert_eq!(full, [0, 24, 48, 72, 96]);
}

#[test]
fn where_chains_are_capped_nothing_is_kept_without_a_connection() {
    let (clock, pki) = (clock(), Pki::new());
    let server =
        Server::with(&clock, capped("web"), &bundle(1, &[planned_key(0)]), Arc::new(Untouchable));
    let client = pki.client(TLS13);
    for _ in 0..2 {
        assert_eq!(kind(&server.config(&pki), &client), Full);
    }
    assert_eq!(server.counters.put("no-connection"), 4);
    assert_eq!(server.store.take(&key(1)), None);
    assert_eq!(server.counters.looked_up("no-connection"), 1);
}

#[test]
fn keys_for_something_else_are_refused() {
    let fleet = Arc::new(FleetClock::new(clock()));
    let store = |keys: TicketKeys| {
        ResumptionStore::try_new(Arc::new(keys), memory(), Counters::new().metrics).map(drop)
    };
    let label = "web".to_owned();
    let for_tickets = TicketKeys::new(scope("web"), fleet.clone());
    assert_eq!(store(for_tickets), Err(UnfitKeys::ForTickets { label: label.clone() }));
    let asks = scope("web").with_client_auth(ClientAuth::Optional, Vec::new()).unwrap();
    let for_clients = TicketKeys::for_store(asks, fleet.clone());
    assert_eq!(store(for_clients), Err(UnfitKeys::AsksClients { label }));
    store(TicketKeys::for_store(scope("web"), fleet)).unwrap();
}

#[test]
fn each_mode_fixes_ticketer_storage_and_early_data() {
    let (clock, pki, backend) = (clock(), Pki::new(), Arc::new(Owned::default()));
    let keys = bundle(1, &[planned_key(0)]);
    let node = Node::with(&clock, "web", &keys);
    let tickets = Resumption::Tickets
        .prepare(
            || -> Result<_, UnfitKeys> { Ok(node.ticketer.clone()) },
            |_| unreachable!("no mode with a store"),
        )
        .unwrap();
    // From a mix that must not survive.
    let mut config = pki.server();
    config.max_early_data_size = 77;
    tickets.apply(&mut config);
    assert!(config.ticketer.enabled() && !config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 0);

    let store = Server::with(&clock, scope("web"), &keys, backend.clone());
    let early = Server::early(&clock, scope("web"), &keys, backend, Counters::new());
    for (server, bytes) in [(store, 0), (early, 16_384)] {
        for config in [server.config(&pki), server.connection(&pki)] {
            assert!(!config.ticketer.enabled() && config.session_storage.can_cache());
            assert_eq!(config.max_early_data_size, bytes);
        }
    }
}

/// What the second server accepts of early data that the first has accepted.
fn replayed(backend: &Arc<Owned>) -> Option<Vec<u8>> {
    let (clock, pki) = (clock(), Pki::new());
    let keys = bundle(1, &[planned_key(0)]);
    let server = || Server::early(&clock, capped("web"), &keys, backend.clone(), Counters::new());
    let (a, b) = (server(), server());
    let client = eager(&pki.client(TLS13));
    assert_eq!(kind(&a.connection(&pki), &client), Full);
    let flight = early_flight(&client, b"POST /pay").unwrap();
    assert_eq!(accepted_early(&a.connection(&pki), &flight).as_deref(), Some(&b"POST /pay"[..]));
    accepted_early(&b.connection(&pki), &flight)
}

#[test]
fn replayed_early_data_is_refused_by_a_second_server() {
    assert_eq!(replayed(&Arc::default()), None);
    // It is the single use that prevents it.
    let replaying = Arc::new(Owned { replays: true, ..Owned::default() });
    assert_eq!(replayed(&replaying).as_deref(), Some(&b"POST /pay"[..]));
}

#[test]
fn without_the_mode_there_is_no_early_data() {
    let (clock, pki) = (clock(), Pki::new());
    let server = Server::with(&clock, scope("web"), &bundle(1, &[planned_key(0)]), memory());
    let client = eager(&pki.client(TLS13));
    assert_eq!(kind(&server.config(&pki), &client), Full);
    assert_eq!(early_flight(&client, b"POST /pay"), None);
}
