//! Sessions that servers keep: what is kept, what resumes, and what an attacker who owns the backend
//! gets out of it. Who may resume past which check is the matter of `client_auth.rs`, for sessions
//! kept as for tickets.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{
    HOUR, SKEW, TLS12, TLS13, advance, at, bundle, bundle_of, clock, planned_key, policy, session,
};
use rustls::crypto::aws_lc_rs;
use rustls::server::{ResolvesServerCertUsingSni, ServerSessionMemoryCache, StoresServerSessions};
use servers::Outcome::{Full, Resumed};
use servers::{Counters, NAME, Server, Site};
use sessions::{accepted_early, eager, early, early_flight, memory};
use stek_clock::{FleetClock, ManualClock};
use stek_core::bundle::{Bundle, EndCause, EndedKey};
use stek_core::derive::Use;
use stek_core::scope::{ChainRule, Scope};
use stek_rustls::{
    Acceptor, BuildError, LookUpError, PutError, ResumeClientAuth, Resumption, ServerBuilder,
    SessionBackend, SessionKey, SharedBackend, TicketKeys,
};

/// The secret in the session that the tests here keep: after a name of 16 bytes, version and suite.
fn secret() -> Vec<u8> {
    session(TLS13)[23..][..48].to_vec()
}

fn key(number: u8) -> Vec<u8> {
    vec![number; SessionKey::LEN]
}

/// A server that keeps sessions in `backend`.
fn server(
    site: &Site,
    clock: &Arc<ManualClock>,
    keys: &Bundle,
    backend: Arc<dyn SessionBackend>,
) -> Server {
    site.server(clock, keys, |builder| builder.resumption(Resumption::Store(backend)))
}

/// The same, alone and with one key.
fn lone(backend: Arc<dyn SessionBackend>) -> Server {
    server(&Site::new(), &clock(), &bundle(1, &[planned_key(0)]), backend)
}

/// A backend in the attacker's hands: everything in it can be read and changed.
#[derive(Debug, Default)]
struct Owned {
    values: Mutex<HashMap<SessionKey, Vec<u8>>>,
    lifetimes: Mutex<HashMap<SessionKey, Duration>>,
    look_ups: AtomicUsize,
    /// Leaves what was taken where it was.
    replays: bool,
}

impl Owned {
    fn value(&self, number: u8) -> Vec<u8> {
        self.values.lock().unwrap()[&SessionKey::parse(&key(number)).unwrap()].clone()
    }

    /// For how long the last value was to be kept.
    fn lifetime(&self, number: u8) -> Duration {
        self.lifetimes.lock().unwrap()[&SessionKey::parse(&key(number)).unwrap()]
    }

    fn set(&self, number: u8, value: Vec<u8>) {
        self.values.lock().unwrap().insert(SessionKey::parse(&key(number)).unwrap(), value);
    }
}

impl SessionBackend for Owned {
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError> {
        assert!(lifetime > Duration::ZERO && lifetime <= Duration::from_secs(6 * HOUR));
        self.values.lock().unwrap().insert(*key, value);
        self.lifetimes.lock().unwrap().insert(*key, lifetime);
        Ok(())
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        self.look_ups.fetch_add(1, Ordering::Relaxed);
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
    let (clock, site, backend) = (clock(), Site::new(), memory());
    let keys = bundle(1, &[planned_key(0)]);
    let [a, b] = [0; 2].map(|_| server(&site, &clock, &keys, backend.clone()));
    let client = site.client(TLS13, None);
    assert_eq!(a.meet(&client, NAME), Full);
    assert_eq!((b.meet(&client, NAME), a.meet(&client, NAME)), (Resumed, Resumed));
    assert_eq!((a.stored("looked_up", "active"), b.stored("looked_up", "active")), (1, 1));
    // Two for each handshake.
    assert_eq!((a.stored("put", "accepted"), b.stored("put", "accepted")), (4, 2));
    assert_eq!(backend.len(), 4);
    assert_eq!((a.count("sealed", "sealed"), a.count("opened", "active")), (0, 0));
}

#[test]
fn a_session_resumes_nowhere_else() {
    let (clock, site, backend) = (clock(), Site::new(), memory());
    let keys = bundle(1, &[planned_key(0)]);
    let web = server(&site, &clock, &keys, backend.clone());
    let shop = site.server(&clock, &keys, |builder| {
        builder.server_names(["shop"]).resumption(Resumption::Store(backend.clone()))
    });
    let other = server(&site, &clock, &bundle(1, &[planned_key(0)]), backend);
    for elsewhere in [shop, other] {
        let client = site.client(TLS13, None);
        assert_eq!(web.meet(&client, NAME), Full);
        assert_eq!(elsewhere.meet(&client, NAME), Full);
        assert_eq!(elsewhere.stored("looked_up", "unknown"), 1);
    }
}

#[test]
fn tls12_is_never_kept() {
    let site = Site::new();
    let server = server(&site, &clock(), &bundle(1, &[planned_key(0)]), Arc::new(Untouchable));
    let client = site.client(TLS12, None);
    for _ in 0..3 {
        assert_eq!(server.meet(&client, NAME), Full);
    }
    assert!(server.stored("put", "not-allowed") >= 3);
    assert_eq!(server.storage().get(&key(1)), None);
    assert!(server.stored("looked_up", "not-allowed") > 0);
}

#[test]
fn what_is_kept_is_sealed_and_comes_back_once() {
    let backend = Arc::new(Owned::default());
    let server = lone(backend.clone());
    assert!(server.storage().put(key(1), session(TLS13)));
    let value = backend.value(1);
    let secret = secret();
    assert!(session(TLS13).windows(48).any(|window| window == secret));
    for secret in [&secret[..], &secret[..12], &key(1), NAME.as_bytes()] {
        assert!(!value.windows(secret.len()).any(|window| window == secret));
    }
    assert_eq!(server.storage().take(&key(1)), Some(session(TLS13)));
    assert_eq!(server.storage().take(&key(1)), None);
    assert_eq!(server.stored("looked_up", "absent"), 1);
}

#[test]
fn values_swapped_between_keys_are_refused() {
    let backend = Arc::new(Owned::default());
    let server = lone(backend.clone());
    let storage = server.storage();
    assert!(storage.put(key(1), session(TLS13)) && storage.put(key(2), session(TLS13)));
    let (one, two) = (backend.value(1), backend.value(2));
    backend.set(1, two);
    backend.set(2, one);
    assert_eq!((storage.take(&key(1)), server.storage().take(&key(2))), (None, None));
    assert_eq!(server.stored("looked_up", "swapped"), 2);
}

#[test]
fn every_altered_value_is_refused() {
    let backend = Arc::new(Owned::default());
    let server = lone(backend.clone());
    assert!(server.storage().put(key(1), session(TLS13)));
    let value = backend.value(1);
    for bit in 0..value.len() * 8 {
        let mut altered = value.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        backend.set(1, altered);
        assert_eq!(server.storage().take(&key(1)), None, "bit {bit}");
    }
    for len in 0..value.len() {
        backend.set(1, value[..len].to_vec());
        assert_eq!(server.storage().take(&key(1)), None, "{len} bytes");
    }
    backend.set(1, value);
    assert_eq!(server.storage().take(&key(1)), Some(session(TLS13)));
}

/// What a server of other rules, or none, may have kept under the keys of the fleet.
#[test]
fn a_ticket_is_no_stored_session() {
    let (clock, site, backend) = (clock(), Site::new(), Arc::new(Owned::default()));
    let keys = bundle(1, &[planned_key(0)]);
    let stores = server(&site, &clock, &keys, backend.clone());
    let gives = site.server(&clock, &keys, |builder| builder);
    let ticketer = Arc::clone(&gives.acceptor.per_connection_config().ticketer);
    backend.set(1, ticketer.encrypt(&session(TLS13)).unwrap());
    assert_eq!(stores.storage().take(&key(1)), None);
    assert_eq!(stores.stored("looked_up", "unknown"), 1);
    assert!(stores.storage().put(key(2), session(TLS13)));
    assert_eq!(ticketer.decrypt(&backend.value(2)), None);
    assert_eq!(gives.count("opened", "unknown"), 1);
}

#[test]
fn keys_of_another_length_never_reach_the_backend() {
    let server = lone(Arc::new(Untouchable));
    let storage = server.storage();
    let lengths = [0, 1, 31, 33, 64, 16_384, 65_535];
    for len in lengths {
        assert_eq!(storage.take(&vec![1; len]), None, "{len} bytes");
        assert_eq!(storage.get(&vec![1; len]), None);
        assert!(!storage.put(vec![1; len], session(TLS13)));
    }
    let expected = lengths.len() as u64;
    assert_eq!(server.stored("looked_up", "key-length"), expected);
    assert_eq!(server.stored("put", "key-length"), expected);
}

#[test]
fn a_session_resumes_under_a_retired_key_and_for_its_lifetime() {
    let (clock, site) = (clock(), Site::new());
    let keys = bundle(1, &[planned_key(0), planned_key(6 * HOUR)]);
    let server = server(&site, &clock, &keys, memory());
    advance(&clock, 5 * HOUR);
    let (soon, late) = (site.client(TLS13, None), site.client(TLS13, None));
    assert_eq!((server.meet(&soon, NAME), server.meet(&late, NAME)), (Full, Full));
    advance(&clock, 6 * HOUR + SKEW - 1);
    assert_eq!(server.meet(&soon, NAME), Resumed);
    assert_eq!(server.stored("looked_up", "decrypt-only"), 1);
    advance(&clock, 1);
    assert_eq!(server.meet(&late, NAME), Full);
    assert_eq!(server.stored("looked_up", "expired"), 1);
}

#[test]
fn a_revoked_key_resumes_nothing() {
    let (clock, site) = (clock(), Site::new());
    let (gone, fresh) = (planned_key(0), planned_key(0));
    let server = server(&site, &clock, &bundle(1, std::slice::from_ref(&gone)), memory());
    let client = site.client(TLS13, None);
    assert_eq!(server.meet(&client, NAME), Full);
    let (id, kcv) = (gone.record.id, gone.record.kcv);
    let ended = EndedKey { id, kcv, cause: EndCause::Revoked, ended_at: at(1) };
    server.keys.install(&bundle_of(2, &[fresh], policy(), vec![ended]));
    assert_eq!(server.meet(&client, NAME), Full);
    assert_eq!(server.stored("looked_up", "revoked"), 1);
    assert_eq!(server.meet(&client, NAME), Resumed);
}

#[test]
fn without_keys_every_handshake_is_full_and_the_backend_is_left_alone() {
    let site = Site::new();
    let server = server(&site, &clock(), &bundle(0, &[]), Arc::new(Untouchable));
    server.keys.clear();
    let client = site.client(TLS13, None);
    for _ in 0..3 {
        assert_eq!(server.meet(&client, NAME), Full);
    }
    assert_eq!(server.stored("put", "no-active-key"), 6);
    assert!(server.storage().can_cache());
    assert_eq!(server.storage().take(&key(1)), None);
    assert_eq!(server.stored("looked_up", "no-keys"), 1);
}

#[test]
fn what_is_no_session_is_not_kept() {
    let server = lone(Arc::new(Untouchable));
    let trailing = [session(TLS13), vec![0]].concat();
    for bytes in [Vec::new(), b"something else".to_vec(), trailing] {
        assert!(!server.storage().put(key(1), bytes));
    }
    assert_eq!(server.stored("put", "unreadable"), 3);
}

#[test]
fn a_connection_has_one_look_up_whatever_is_said() {
    let (clock, site, backend) = (clock(), Site::new(), Arc::new(Owned::default()));
    let keys = bundle(1, &[planned_key(0)]);
    let said = |tries: u32| {
        let resumption = Resumption::Store(backend.clone());
        site.server(&clock, &keys, |builder| {
            builder.resumption(resumption).max_tries_per_connection(tries.try_into().unwrap())
        })
    };
    for server in [server(&site, &clock, &keys, backend.clone()), said(1), said(u32::MAX)] {
        let look_ups = |offer: &dyn Fn(&dyn StoresServerSessions)| {
            let before = backend.look_ups.load(Ordering::Relaxed);
            offer(&*server.storage());
            backend.look_ups.load(Ordering::Relaxed) - before
        };
        assert!(server.storage().put(key(1), session(TLS13)));
        let missed = look_ups(&|connection| {
            assert_eq!(connection.take(&key(2)), None);
            (0..1000).for_each(|_| assert_eq!(connection.take(&key(1)), None));
        });
        assert_eq!((missed, server.stored("looked_up", "too-many")), (1, 1000));
        let found = look_ups(&|connection| {
            // What cannot be a key does not use the look-up up.
            assert_eq!(connection.take(&[1; 16]), None);
            assert!(connection.take(&key(1)).is_some());
        });
        assert_eq!(found, 1);
    }
}

#[test]
fn what_is_kept_continues_the_chain_that_was_resumed() {
    let (clock, backend) = (clock(), Arc::new(Owned::default()));
    let keys: Vec<_> = (0..6).map(|number| planned_key(number * 6 * HOUR)).collect();
    let server = server(&Site::new(), &clock, &bundle(1, &keys), backend.clone());
    assert!(server.storage().put(key(0), session(TLS13)));
    // Six hours of lifetime, of a session of 24 h.
    for (number, left) in [(1, 6), (2, 6), (3, 6), (4, 4)] {
        advance(&clock, 5 * HOUR);
        let connection = server.storage();
        assert!(connection.take(&key(number - 1)).is_some(), "{number}");
        assert!(connection.put(key(number), session(TLS13)));
        assert_eq!(backend.lifetime(number).as_secs(), left * HOUR, "{number}");
    }
    advance(&clock, 4 * HOUR);
    assert_eq!(server.storage().take(&key(4)), None);
    assert_eq!(server.stored("looked_up", "session-too-old"), 1);
}

#[test]
fn each_mode_fixes_ticketer_storage_and_early_data() {
    let (clock, site, backend) = (clock(), Site::new(), Arc::new(Owned::default()));
    let keys = bundle(1, &[planned_key(0)]);
    let modes = [
        (Resumption::Tickets, 0),
        (Resumption::Store(backend.clone()), 0),
        (early(backend), 16_384),
    ];
    for (mode, bytes) in modes {
        let tickets = matches!(mode, Resumption::Tickets);
        let built = site.server(&clock, &keys, |builder| builder.resumption(mode.clone()));
        // From a mix that must not survive.
        let foreign = aws_lc_rs::Ticketer::new().unwrap();
        let mut config = (*built.acceptor.per_connection_config()).clone();
        config.ticketer = Arc::clone(&foreign);
        let cache: Arc<dyn StoresServerSessions> = ServerSessionMemoryCache::new(16);
        config.session_storage = Arc::clone(&cache);
        config.max_early_data_size = 77;
        let (metrics, keys) = (Counters::new().metrics, Arc::clone(&built.keys));
        let never = ResumeClientAuth::Never;
        let given = Acceptor::with_unchecked_client_auth(config, keys, metrics, mode, never);
        for acceptor in [&built.acceptor, &given.unwrap()] {
            let config = acceptor.per_connection_config();
            assert!(!Arc::ptr_eq(&config.ticketer, &foreign));
            assert!(!Arc::ptr_eq(&config.session_storage, &cache));
            assert_eq!(config.ticketer.enabled(), tickets);
            assert_eq!(config.session_storage.can_cache(), !tickets);
            assert_eq!(config.max_early_data_size, bytes);
        }
    }
}

#[test]
fn a_hook_sets_the_rest_and_undoes_no_mode() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    for mode in [Resumption::Tickets, Resumption::Store(memory())] {
        let tickets = matches!(mode, Resumption::Tickets);
        let server = site.server(&clock, &keys, |builder| {
            builder.resumption(mode).alpn(["h2"]).configure(|config| {
                config.ticketer = aws_lc_rs::Ticketer::new().unwrap();
                config.session_storage = ServerSessionMemoryCache::new(16);
                config.max_early_data_size = 77;
                config.alpn_protocols = Vec::new();
                config.cert_resolver = Arc::new(ResolvesServerCertUsingSni::new());
                config.send_tls13_tickets = 5;
                config.max_fragment_size = Some(1_400);
            })
        });
        let client = site.client(TLS13, None);
        assert_eq!((server.meet(&client, NAME), server.meet(&client, NAME)), (Full, Resumed));
        assert_eq!(server.sealed("sealed"), 10);
        let config = server.acceptor.per_connection_config();
        assert_eq!(config.ticketer.enabled(), tickets);
        assert_eq!(config.session_storage.can_cache(), !tickets);
        assert_eq!(config.max_early_data_size, 0);
        assert_eq!(config.alpn_protocols, [b"h2"]);
        assert_eq!(config.max_fragment_size, Some(1_400));
    }
}

#[test]
fn keys_for_something_else_are_refused() {
    let fleet = Arc::new(FleetClock::new(clock()));
    let build = |mode: Resumption, usage: Use, label: &str| {
        let scope = Scope::try_new(label, ChainRule::Capped).unwrap();
        let keys = Arc::new(TicketKeys::for_use(usage, scope, fleet.clone()));
        ServerBuilder::with_keys("web", Counters::new().metrics, |_, _| keys)
            .certificate_resolver(Arc::new(ResolvesServerCertUsingSni::new()))
            .resumption(mode)
            .build()
    };
    let store = || Resumption::Store(memory());
    for (mode, usage, label) in [
        (store(), Use::Ticket, "web"),
        (Resumption::Tickets, Use::Store, "web"),
        (store(), Use::Store, "shop"),
    ] {
        let error = build(mode, usage, label).unwrap_err();
        assert!(matches!(error, BuildError::UnfitKeys { label: l } if l == label));
    }
    build(store(), Use::Store, "web").unwrap();
    build(Resumption::Tickets, Use::Ticket, "web").unwrap();
}

#[cfg(feature = "tls12")]
#[test]
fn a_store_does_not_go_with_tls12() {
    let error = ServerBuilder::with_keys("web", Counters::new().metrics, |_, _| unreachable!())
        .resumption(Resumption::Store(memory()))
        .resume_tls12_resealing_one_master_secret()
        .build()
        .unwrap_err();
    assert!(matches!(error, BuildError::StoredTls12), "{error:?}");
}

/// What the second server accepts of early data that the first has accepted.
fn replayed(backend: &Arc<Owned>) -> Option<Vec<u8>> {
    let (clock, site) = (clock(), Site::new());
    let keys = bundle(1, &[planned_key(0)]);
    let [a, b] = [0; 2]
        .map(|_| site.server(&clock, &keys, |builder| builder.resumption(early(backend.clone()))));
    let client = eager(&site.client(TLS13, None));
    assert_eq!(a.meet(&client, NAME), Full);
    let flight = early_flight(&client, b"POST /pay").unwrap();
    assert_eq!(accepted_early(&a, &flight).as_deref(), Some(&b"POST /pay"[..]));
    accepted_early(&b, &flight)
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
    let (clock, site) = (clock(), Site::new());
    let server = server(&site, &clock, &bundle(1, &[planned_key(0)]), memory());
    let client = eager(&site.client(TLS13, None));
    assert_eq!(server.meet(&client, NAME), Full);
    assert_eq!(early_flight(&client, b"POST /pay"), None);
}
