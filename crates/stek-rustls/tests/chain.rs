//! How long chains of resumptions last, and how much of what one connection offers is tried.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;

use std::sync::Arc;

use fixture::{
    HOUR, Node, SKEW, TLS12, TLS13, advance, at, bundle, clock, key, planned_key, session,
};
use servers::Outcome::{self, Full, Resumed};
use servers::{NAME, Site, meet};
use sessions::memory;
use stek_core::bundle::{Bundle, BundleKey};
use stek_rustls::Resumption;

/// 30 days.
const HOURS: u64 = 30 * 24;

/// The keys that are there at `hour`, of those that seal for 6 h each.
fn bundle_at(keys: &[BundleKey], hour: u64) -> Bundle {
    let now = at(hour * HOUR);
    let is_there = |key: &&BundleKey| {
        let schedule = &key.record.schedule;
        schedule.destroy_at() > now && schedule.activate_at().since(now).as_secs() <= 6 * HOUR
    };
    bundle(hour + 1, &keys.iter().filter(is_there).cloned().collect::<Vec<_>>())
}

/// Lets 30 virtual days pass, gives the keys of each hour to `install`, connects by `connect`, and
/// returns the hours at which the handshake was a full one.
fn full_hours(
    clock: &stek_clock::ManualClock,
    install: impl Fn(&Bundle),
    connect: impl Fn(u64) -> Outcome,
) -> Vec<u64> {
    let keys: Vec<_> = (0..=HOURS / 6).map(|number| planned_key(number * 6 * HOUR)).collect();
    let mut full = Vec::new();
    for hour in 0..=HOURS {
        install(&bundle_at(&keys, hour));
        if connect(hour) == Full {
            full.push(hour);
        }
        advance(clock, HOUR);
    }
    full
}

#[test]
fn thirty_days_of_hourly_resumption_end_at_every_session_lifetime() {
    thirty_days_of(&Resumption::Tickets);
}

#[test]
fn thirty_days_of_stored_sessions_end_there_too() {
    thirty_days_of(&Resumption::Store(memory()));
}

fn thirty_days_of(way: &Resumption) {
    let (clock, site) = (clock(), Site::new());
    let servers = [0; 2]
        .map(|_| site.server(&clock, &bundle(0, &[]), |builder| builder.resumption(way.clone())));
    let client = site.client(TLS13, None);
    let full = full_hours(
        &clock,
        |bundle| servers.iter().for_each(|server| server.keys.install(bundle)),
        |hour| servers[usize::from(hour % 2 == 1)].meet(&client, NAME),
    );
    assert_eq!(full, (0..=HOURS).step_by(24).collect::<Vec<_>>());
    let too_old: u64 = servers.iter().map(|s| s.opened("session-too-old")).sum();
    assert_eq!(too_old, HOURS / 24);
}

#[cfg(feature = "tls12")]
#[test]
fn thirty_days_of_tls12_end_at_every_second_rotation() {
    let (clock, site) = (clock(), Site::new());
    let servers = [0; 2].map(|_| {
        site.server(&clock, &bundle(0, &[]), |builder| {
            builder.resume_tls12_resealing_one_master_secret()
        })
    });
    let client = site.client(TLS12, None);
    let full = full_hours(
        &clock,
        |bundle| servers.iter().for_each(|server| server.keys.install(bundle)),
        |hour| servers[usize::from(hour % 2 == 1)].meet(&client, NAME),
    );
    assert_eq!(full, (0..=HOURS).step_by(12).collect::<Vec<_>>());
}

/// What the two tests above would find without the cap.
#[test]
fn thirty_days_of_unbounded_resumption_never_end() {
    let (clock, site) = (clock(), Site::new());
    let node = Node::new(&clock, "web");
    let template = site.server(&clock, &bundle(0, &[]), |builder| builder);
    let mut config = (*template.acceptor.per_connection_config()).clone();
    node.ticketer.use_in(&mut config);
    let (config, client) = (Arc::new(config), site.client(TLS13, None));
    let full =
        full_hours(&clock, |bundle| node.keys.install(bundle), |_| meet(&config, &client, NAME));
    assert_eq!(full, [0]);
}

/// The master secret of each connection of a client, as a key log has it.
#[cfg(feature = "tls12")]
#[derive(Debug, Default)]
struct MasterSecrets(std::sync::Mutex<Vec<Vec<u8>>>);

#[cfg(feature = "tls12")]
impl rustls::KeyLog for MasterSecrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        assert_eq!(label, "CLIENT_RANDOM");
        self.0.lock().unwrap().push(secret.to_vec());
    }
}

/// Why TLS 1.2 takes an opt-in, and what the cap is for.
#[cfg(feature = "tls12")]
#[test]
fn renewed_tls12_tickets_carry_one_master_secret_until_the_cap() {
    let (clock, site) = (clock(), Site::new());
    let server = site.server(&clock, &bundle(0, &[]), |builder| {
        builder.resume_tls12_resealing_one_master_secret()
    });
    let secrets = Arc::new(MasterSecrets::default());
    let mut client = (*site.client(TLS12, None)).clone();
    client.key_log = Arc::<MasterSecrets>::clone(&secrets);
    let client = Arc::new(client);
    let keys: Vec<_> = (0..3).map(|number| planned_key(number * 6 * HOUR)).collect();
    for hour in 0..=12 {
        server.keys.install(&bundle_at(&keys, hour));
        let expected = if hour % 12 == 0 { Full } else { Resumed };
        assert_eq!(server.meet(&client, NAME), expected, "{hour}");
        advance(&clock, HOUR);
    }
    // Twelve connections under two keys, one secret; then a new one.
    let secrets = secrets.0.lock().unwrap();
    assert_eq!(secrets.len(), 13);
    assert!(secrets[..12].iter().all(|secret| *secret == secrets[0]));
    assert_ne!(secrets[12], secrets[0]);
}

#[test]
fn the_cap_is_not_laundered_away_by_an_unbounded_ticketer() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let server = site.server(&clock, &keys, |builder| builder);
    let node = Node::with(&clock, "web", &keys);
    let mut plain = (*server.acceptor.per_connection_config()).clone();
    node.ticketer.use_in(&mut plain);
    let (plain, client) = (Arc::new(plain), site.client(TLS13, None));
    assert_eq!(server.meet(&client, NAME), Full);
    assert_eq!(meet(&plain, &client, NAME), Full);
    assert_eq!(node.count("opened", "unknown"), 1);
    assert_eq!(meet(&plain, &client, NAME), Resumed);
    assert_eq!(server.meet(&client, NAME), Full);
    assert_eq!(server.count("opened", "unknown"), 1);
}

#[test]
fn tls12_sessions_do_not_resume_by_default() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let server = site.server(&clock, &keys, |builder| builder);
    let client = site.client(TLS12, None);
    for _ in 0..3 {
        assert_eq!(server.meet(&client, NAME), Full);
    }
    assert_eq!((server.count("sealed", "sealed"), server.count("sealed", "not-allowed")), (0, 3));
    #[cfg(feature = "tls12")]
    {
        let opted = site.server(&clock, &keys, |b| b.resume_tls12_resealing_one_master_secret());
        assert_eq!((opted.meet(&client, NAME), opted.meet(&client, NAME)), (Full, Resumed));
        // The ticket is of the same scope, the server's rule is another.
        assert_eq!(server.meet(&client, NAME), Full);
        assert_eq!(server.count("opened", "not-allowed"), 1);
    }
}

#[test]
fn a_connection_has_four_tickets_opened_and_any_number_looked_up() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let server = site.server(&clock, &keys, |builder| builder);
    let connection = || Arc::clone(&server.acceptor.per_connection_config().ticketer);
    let good = connection().encrypt(&session(TLS13)).unwrap();
    let forged = {
        let mut ticket = good.clone();
        *ticket.last_mut().unwrap() ^= 1;
        ticket
    };
    let three = connection();
    (0..3).for_each(|_| assert_eq!(three.decrypt(&forged), None));
    assert!(three.decrypt(&good).is_some());
    assert_eq!(three.decrypt(&good), None);
    let four = connection();
    (0..4).for_each(|_| assert_eq!(four.decrypt(&forged), None));
    (0..1000).for_each(|_| assert_eq!(four.decrypt(&good), None));
    assert_eq!((server.count("opened", "forged"), server.count("opened", "too-many")), (7, 1001));
    let many = connection();
    (0..7000).for_each(|_| assert_eq!(many.decrypt(&[9; 120]), None));
    assert!(many.decrypt(&good).is_some());
    let twice = std::num::NonZeroU32::new(2).unwrap();
    let few = site.server(&clock, &keys, |b| b.max_tries_per_connection(twice));
    let few = Arc::clone(&few.acceptor.per_connection_config().ticketer);
    let opened = [&good; 3].map(|ticket| few.decrypt(ticket).is_some());
    assert_eq!(opened, [true, true, false]);
}

#[test]
fn the_hint_is_what_the_chain_has_left() {
    let clock = clock();
    let keys: Vec<_> = (0..6).map(|number| planned_key(number * 6 * HOUR)).collect();
    let server = Site::new().server(&clock, &bundle(1, &keys), |builder| builder);
    let mut ticket: Option<Vec<u8>> = None;
    // Six hours of lifetime, of a session of 24 h.
    for (hours, expected) in [(0, 6), (5, 6), (10, 6), (15, 6), (20, 4), (23, 1)] {
        let passed = clock_hours(&clock);
        advance(&clock, (hours - passed) * HOUR);
        let connection = Arc::clone(&server.acceptor.per_connection_config().ticketer);
        assert_eq!(connection.lifetime(), 0);
        if let Some(ticket) = ticket {
            assert!(connection.decrypt(&ticket).is_some(), "{hours}");
        }
        ticket = connection.encrypt(&session(TLS13));
        assert_eq!(u64::from(connection.lifetime()), expected * HOUR, "{hours}");
    }
    advance(&clock, HOUR);
    let connection = Arc::clone(&server.acceptor.per_connection_config().ticketer);
    assert_eq!(connection.decrypt(&ticket.unwrap()), None);
}

fn clock_hours(clock: &stek_clock::ManualClock) -> u64 {
    (stek_clock::Clock::wall_millis(clock) / 1000 - fixture::START) / HOUR
}

#[test]
fn the_oldest_of_the_opened_tickets_counts() {
    let clock = clock();
    let keys = bundle(1, &[key(0, 24 * HOUR, 30 * HOUR + SKEW)]);
    let server = Site::new().server(&clock, &keys, |builder| builder);
    let connection = || Arc::clone(&server.acceptor.per_connection_config().ticketer);
    let old = connection().encrypt(&session(TLS13)).unwrap();
    advance(&clock, 5 * HOUR);
    let new = connection().encrypt(&session(TLS13)).unwrap();
    let end_of = |tickets: [&Vec<u8>; 2]| {
        let both = connection();
        assert!(tickets.iter().all(|ticket| both.decrypt(ticket).is_some()));
        both.encrypt(&session(TLS13)).unwrap()
    };
    let mut renewed = [end_of([&old, &new]), end_of([&new, &old])];
    for hours in [10, 15, 20] {
        advance(&clock, 5 * HOUR);
        for ticket in &mut renewed {
            let next = connection();
            assert!(next.decrypt(ticket).is_some(), "{hours}");
            *ticket = next.encrypt(&session(TLS13)).unwrap();
            assert_eq!(u64::from(next.lifetime()), (24 - hours).min(6) * HOUR);
        }
    }
    advance(&clock, 4 * HOUR);
    assert!(renewed.iter().all(|ticket| connection().decrypt(ticket).is_none()));
}

#[test]
fn what_cannot_be_read_becomes_no_ticket() {
    let clock = clock();
    let server = Site::new().server(&clock, &bundle(1, &[planned_key(0)]), |builder| builder);
    let ticketer = Arc::clone(&server.acceptor.per_connection_config().ticketer);
    for bytes in [&b""[..], b"a session of another library", &session(TLS13)[1..]] {
        assert_eq!(ticketer.encrypt(bytes), None);
        assert_eq!(ticketer.lifetime(), 0);
    }
    assert_eq!(server.count("sealed", "unreadable"), 3);
}

#[test]
fn handshakes_are_counted_by_their_kind() {
    use rustls::HandshakeKind;
    let server = Site::new().server(&clock(), &bundle(0, &[]), |builder| builder);
    let kinds = [
        Some(HandshakeKind::Full),
        Some(HandshakeKind::FullWithHelloRetryRequest),
        Some(HandshakeKind::Resumed),
        None,
    ];
    kinds.into_iter().for_each(|kind| server.acceptor.count_handshake(kind));
    let family = |outcome| {
        let families = server.registry.gather();
        let family = families.iter().find(|f| f.name() == "stek_handshakes_total").unwrap();
        let mut series = family.get_metric().iter();
        let found = series.find(|metric| metric.get_label().iter().any(|l| l.value() == outcome));
        found.unwrap().get_counter().get_value()
    };
    assert_eq!(["full", "resumed", "failed"].map(family), [2.0, 1.0, 1.0]);
}
