//! Sessions in a real Redis: shared, taken once, and what happens when it dies or does not answer.

#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;
mod testredis;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fixture::{HOUR, TLS13, bundle, clock, keyset, planned_key};
use servers::Outcome::{Full, Resumed};
use servers::{Counters, NAME, Server, Site};
use sessions::{accepted_early, eager, early, early_flight, until};
use stek_clock::ManualClock;
use stek_core::bundle::Bundle;
use stek_core::name::KeysetName;
use stek_rustls::{LookUpError, PutError, RedisBackend, RedisConfig, SessionBackend, SessionKey};
use testredis::TestRedis;
use testredis::proxy::Proxy;
use tokio::time::Instant;

/// Where the machine being busy must not look like Redis being slow.
const PATIENT: Duration = Duration::from_secs(10);
/// Where Redis is to look slow.
const DEADLINE: Duration = Duration::from_millis(100);
const SPAN: Duration = Duration::from_secs(30);
const LIFETIME: Duration = Duration::from_secs(60);

fn config(url: &str) -> RedisConfig {
    let config = RedisConfig::try_new(url, &keyset()).unwrap();
    config.with_deadline(PATIENT).and_then(|config| config.with_breaker_span(SPAN)).unwrap()
}

fn backend(clock: &Arc<ManualClock>, config: RedisConfig, counters: &Counters) -> RedisBackend {
    let clock = Arc::<ManualClock>::clone(clock);
    RedisBackend::start(config, clock, counters.metrics.clone()).unwrap()
}

/// A server that keeps its sessions in Redis and takes early data.
fn server(site: &Site, clock: &Arc<ManualClock>, keys: &Bundle, config: RedisConfig) -> Server {
    let counters = Counters::new();
    let backend = Arc::new(backend(clock, config, &counters));
    site.counting_server(clock, keys, counters, |builder| builder.resumption(early(backend)))
}

fn written(counters: &Counters, sessions: u64) {
    until("sessions are written", || counters.written("written") == sessions);
}

fn has_written(server: &Server, sessions: u64) {
    until("sessions are written", || server.stored("written", "written") == sessions);
}

fn random_key() -> SessionKey {
    let mut bytes = [0; SessionKey::LEN];
    getrandom::fill(&mut bytes).unwrap();
    SessionKey::from_bytes(bytes)
}

#[test]
fn two_servers_share_sessions() {
    let (clock, site) = (clock(), Site::new());
    let (url, _redis) = testredis::any().unwrap();
    let keys = bundle(1, &[planned_key(0)]);
    let (a, b) =
        (server(&site, &clock, &keys, config(&url)), server(&site, &clock, &keys, config(&url)));
    let client = site.client(TLS13, None);
    assert_eq!(a.meet(&client, NAME), Full);
    has_written(&a, 2);
    assert_eq!(b.meet(&client, NAME), Resumed);
    has_written(&b, 2);
    assert_eq!(a.meet(&client, NAME), Resumed);
    assert_eq!((a.stored("looked_up", "active"), b.stored("looked_up", "active")), (1, 1));
}

#[test]
fn of_many_who_take_one_session_exactly_one_gets_it() {
    let clock = clock();
    let (url, _redis) = testredis::any().unwrap();
    let counters = [Counters::new(), Counters::new()];
    let backends: Vec<_> =
        counters.iter().map(|counters| backend(&clock, config(&url), counters)).collect();
    for round in 0..50 {
        let key = random_key();
        backends[0].put(&key, vec![round], LIFETIME).unwrap();
        written(&counters[0], u64::from(round) + 1);
        let (start, won) = (std::sync::Barrier::new(8), AtomicUsize::new(0));
        std::thread::scope(|threads| {
            for thread in 0..8 {
                let (backends, start, won) = (&backends, &start, &won);
                threads.spawn(move || {
                    start.wait();
                    if let Some(value) = backends[thread % 2].take(&key).unwrap() {
                        assert_eq!(value, [round]);
                        won.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(won.into_inner(), 1, "round {round}");
    }
}

#[test]
fn replayed_early_data_is_refused_by_a_second_server() {
    let (clock, site) = (clock(), Site::new());
    let (url, _redis) = testredis::any().unwrap();
    let keys = bundle(1, &[planned_key(0)]);
    let (a, b) =
        (server(&site, &clock, &keys, config(&url)), server(&site, &clock, &keys, config(&url)));
    let client = eager(&site.client(TLS13, None));
    assert_eq!(a.meet(&client, NAME), Full);
    has_written(&a, 2);
    let flight = early_flight(&client, b"POST /pay").unwrap();
    assert_eq!(accepted_early(&a, &flight).as_deref(), Some(&b"POST /pay"[..]));
    assert_eq!(accepted_early(&b, &flight), None);
    assert_eq!(accepted_early(&a, &flight), None);
    assert_eq!((b.stored("looked_up", "absent"), a.stored("looked_up", "absent")), (1, 1));
}

#[test]
fn sessions_lie_below_their_keyset_and_expire() {
    let clock = clock();
    let redis = TestRedis::start().unwrap();
    let counters = Counters::new();
    let web = backend(&clock, config(&redis.url()), &counters);
    let shop = KeysetName::try_new("shop").unwrap();
    let shop = RedisConfig::try_new(&redis.url(), &shop).unwrap().with_deadline(PATIENT).unwrap();
    let shop = backend(&clock, shop, &Counters::new());
    let key = random_key();
    web.put(&key, vec![1], Duration::from_secs(6 * HOUR)).unwrap();
    written(&counters, 1);
    assert_eq!(shop.take(&key), Ok(None));
    let name = [b"stek/web/", &key.as_bytes()[..]].concat();
    let mut inside = redis::Client::open(redis.url()).unwrap().get_connection().unwrap();
    let left: i64 = redis::cmd("PTTL").arg(&name).query(&mut inside).unwrap();
    assert!((21_500_000..=21_600_000).contains(&left), "{left} ms");
    assert_eq!(web.take(&key), Ok(Some(vec![1])));
}

#[test]
fn a_runtime_with_a_single_thread_is_held_but_not_deadlocked() {
    let (clock, site) = (clock(), Site::new());
    let (url, _redis) = testredis::any().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = server(&site, &clock, &bundle(1, &[planned_key(0)]), config(&url));
        let client = site.client(TLS13, None);
        assert_eq!(server.meet(&client, NAME), Full);
        has_written(&server, 2);
        let resumed = tokio::spawn(async move { server.meet(&client, NAME) });
        assert_eq!(resumed.await.unwrap(), Resumed);
    });
}

#[test]
fn when_redis_dies_handshakes_are_full_until_it_is_back() {
    let (clock, site) = (clock(), Site::new());
    let mut redis = TestRedis::start().unwrap();
    let server = server(&site, &clock, &bundle(1, &[planned_key(0)]), config(&redis.url()));
    let client = site.client(TLS13, None);
    assert_eq!(server.meet(&client, NAME), Full);
    has_written(&server, 2);
    assert_eq!(server.meet(&client, NAME), Resumed);
    has_written(&server, 4);

    redis.kill();
    let began = Instant::now();
    // Clients come with tickets of before.
    for number in 0..10 {
        assert_eq!(server.storage().take(&[number; 32]), None);
    }
    assert_eq!(server.meet(&client, NAME), Full);
    // Nobody waited for the deadline: there is no connection to wait on.
    assert!(began.elapsed() < PATIENT);
    assert_eq!(server.stored("looked_up", "unavailable"), 3);
    // Seven keys, and what the client had.
    assert_eq!(server.stored("looked_up", "breaker-open"), 8);
    // No ticket promises what nobody keeps.
    assert_eq!(server.stored("put", "breaker-open"), 2);

    redis.start_again().unwrap();
    until("a client resumes again", || {
        clock.advance(SPAN);
        server.meet(&client, NAME) == Resumed
    });
}

#[test]
fn a_slow_redis_costs_three_deadlines_and_is_asked_again_later() {
    let clock = clock();
    let redis = TestRedis::start().unwrap();
    let (proxy, counters) = (Proxy::start(&redis.socket()), Counters::new());
    let backend = backend(&clock, config(&proxy.url()).with_deadline(DEADLINE).unwrap(), &counters);
    let key = random_key();
    until("there is a connection", || {
        backend.take(&key) == Ok(None) || {
            clock.advance(SPAN);
            false
        }
    });

    proxy.stall();
    for _ in 0..3 {
        let began = Instant::now();
        assert_eq!(backend.take(&key), Err(LookUpError::TimedOut));
        // The rest is the scheduler's.
        assert!((DEADLINE..DEADLINE + PATIENT).contains(&began.elapsed()));
    }
    let asked = proxy.asked();
    for _ in 0..100 {
        assert_eq!(backend.take(&key), Err(LookUpError::BreakerOpen));
    }
    assert_eq!(backend.put(&key, vec![1], LIFETIME), Err(PutError::BreakerOpen));
    assert!(proxy.asked() - asked < 100, "only a connection may have been made");

    // One probe for a span, and it fails too.
    clock.advance(SPAN);
    assert_eq!(backend.take(&key), Err(LookUpError::TimedOut));
    assert_eq!(backend.take(&key), Err(LookUpError::BreakerOpen));

    proxy.resume();
    // Whoever is asked for a session too late has given it away all the same.
    until("a session is put and taken", || {
        clock.advance(SPAN);
        let _ = backend.put(&key, vec![1], LIFETIME);
        backend.take(&key) == Ok(Some(vec![1]))
    });
    assert!(counters.written("written") > 0);
}

#[test]
fn what_does_not_fit_into_the_queue_is_not_accepted() {
    let clock = clock();
    let redis = TestRedis::start().unwrap();
    let (proxy, counters) = (Proxy::start(&redis.socket()), Counters::new());
    proxy.stall();
    let small = config(&proxy.url()).with_queue(4).unwrap();
    let backend = backend(&clock, small, &counters);
    let began = Instant::now();
    // One batch may be under way besides.
    let puts: Vec<_> = (0..20).map(|_| backend.put(&random_key(), vec![1], LIFETIME)).collect();
    // One that is stalled may take as long as a look-up.
    assert!(began.elapsed() < PATIENT, "nobody waits for a write");
    assert_eq!(puts.last(), Some(&Err(PutError::QueueFull)));
    let accepted = puts.iter().filter(|put| put.is_ok()).count() as u64;
    assert!((4..=8).contains(&accepted), "{accepted}");
    proxy.resume();
    until("all that was accepted is accounted for", || {
        counters.written("written") + counters.written("failed") == accepted
    });
}

#[test]
fn no_more_look_ups_at_once_than_allowed() {
    let clock = clock();
    let redis = TestRedis::start().unwrap();
    let (proxy, counters) = (Proxy::start(&redis.socket()), Counters::new());
    let single = config(&proxy.url()).with_look_ups(1).unwrap();
    let backend = backend(&clock, single, &counters);
    assert_eq!(backend.take(&random_key()), Ok(None));
    proxy.stall();
    let asked = proxy.asked();
    std::thread::scope(|threads| {
        let first = threads.spawn(|| backend.take(&random_key()));
        until("the first has asked", || proxy.asked() > asked);
        assert_eq!(backend.take(&random_key()), Err(LookUpError::Busy));
        proxy.resume();
        assert_eq!(first.join().unwrap(), Ok(None));
    });
}

/// Prints what a look-up costs: `cargo test --release -p stek-rustls --features redis --test redis
/// -- --ignored --nocapture`.
#[test]
#[ignore = "measures"]
fn how_long_a_look_up_holds_its_thread() {
    let clock = clock();
    let redis = TestRedis::start().unwrap();
    let proxy = Proxy::start(&redis.socket());
    for (way, url) in [("unix", redis.url()), ("tcp-proxy", proxy.url())] {
        let counters = Counters::new();
        let backend = backend(&clock, config(&url), &counters);
        for (what, found) in [("hit", true), ("miss", false)] {
            let mut held: Vec<_> = (0..2_000)
                .map(|_| {
                    let key = random_key();
                    if found {
                        let before = counters.written("written");
                        backend.put(&key, vec![7; 400], LIFETIME).unwrap();
                        written(&counters, before + 1);
                    }
                    let began = Instant::now();
                    assert_eq!(backend.take(&key).unwrap().is_some(), found);
                    began.elapsed()
                })
                .collect();
            held.sort_unstable();
            let micros = |part: usize| held[part * (held.len() - 1) / 100].as_micros();
            println!(
                "look-up {way} {what}: median {} us, 99 % {} us, max {} us",
                micros(50),
                micros(99),
                micros(100)
            );
        }
    }
}

/// Prints for how long a task of a runtime with one thread had to wait while others on it looked
/// sessions up; run as the one above.
#[test]
#[ignore = "measures"]
fn how_long_look_ups_hold_a_runtime() {
    let clock = clock();
    let redis = TestRedis::start().unwrap();
    let (proxy, counters) = (Proxy::start(&redis.socket()), Counters::new());
    let measured = |backend: RedisBackend| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let looking = tokio::spawn(async move {
                for _ in 0..2_000 {
                    let _ = backend.take(&random_key());
                    tokio::task::yield_now().await;
                }
            });
            let mut waits = Vec::new();
            while !looking.is_finished() {
                let began = Instant::now();
                tokio::task::yield_now().await;
                waits.push(began.elapsed());
            }
            waits.sort_unstable();
            let total: Duration = waits.iter().sum();
            (waits[waits.len() / 2].as_micros(), waits[waits.len() - 1].as_micros(), total)
        })
    };
    let usual = |url: &str| RedisConfig::try_new(url, &keyset()).unwrap();
    let healthy = backend(&clock, usual(&redis.url()), &counters);
    until("there is a connection", || healthy.take(&random_key()) == Ok(None));
    println!("runtime/unix (median us, max us, total): {:?}", measured(healthy));
    let slow = backend(&clock, usual(&proxy.url()), &counters);
    until("there is a connection", || slow.take(&random_key()) == Ok(None));
    proxy.stall();
    println!("runtime/stalled (median us, max us, total): {:?}", measured(slow));
}
