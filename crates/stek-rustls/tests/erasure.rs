//! Keys leave the memory of a terminator at their `destroy_at`, and sessions when they are refused.
//! The process searches
//! its own memory for them, before, when they must be found, and after. Whoever makes and serves
//! the keys is another process, and what is searched for is kept masked, so that all that is found
//! was left there by the terminator.

#![cfg(all(feature = "client", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{
    HOUR, Node, START, TLS13, advance, at, bundle, clock, key, keyset, planned_key, session,
};
use prometheus::Registry;
use rustls::server::{ProducesTickets, ResolvesServerCertUsingSni};
use servers::Site;
use sessions::memory;
use stek_client::{ClientConfig, ClientOptions};
use stek_core::bundle::BundleKey;
use stek_core::derive::{self, Schema, Use};
use stek_core::name::InstanceName;
use stek_core::scope::{ChainRule, Scope};
use stek_core::ticket::{DerivedKey, Stamp};
use stek_core::xaes::NONCE_LEN;
use stek_rustls::{Fleet, LookUpError, PutError, Resumption, SessionBackend, SessionKey};
use stek_wire::bundle::encode_bundle;
use stek_wire::tag::format_etag;
use zeroize::Zeroizing;

/// Set for the process that serves the keys.
const SERVES: &str = "STEK_TEST_SERVES_KEYS";
const MASK: u8 = 0x5a;
/// Held by each test, for a search reads all memory, and another would find what it has just read.
static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
/// How long anything may take before the test fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes to look for, each under the mask.
struct Needle(Vec<u8>);

/// A place that is read into, and in which nothing counts as found.
struct Searcher(Vec<u8>);

impl Searcher {
    fn new() -> Self {
        Self(vec![0; 1 << 20])
    }

    /// How often each needle is in the writable memory of this process.
    fn count(&mut self, needles: &[Needle]) -> Vec<usize> {
        let mut found = vec![0; needles.len()];
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let mut memory = File::open("/proc/self/mem").unwrap();
        for line in maps.lines() {
            let mut fields = line.split_whitespace();
            let range = fields.next().unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let [start, end] = [start, end].map(|hex| u64::from_str_radix(hex, 16).unwrap());
            if fields.next().unwrap().starts_with("rw") && !line.ends_with("[vvar]") {
                self.search(&mut memory, (start, end), needles, &mut found);
            }
        }
        self.0.fill(0);
        std::hint::black_box(&self.0);
        found
    }

    /// The same when those of `gone` are in memory no more.
    async fn until_gone(&mut self, needles: &[Needle], gone: Range<usize>) -> Vec<usize> {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let found = self.count(needles);
            if found[gone.clone()].iter().all(|found| *found == 0) {
                return found;
            }
            assert!(tokio::time::Instant::now() < end, "{gone:?} of {found:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn search(
        &mut self,
        memory: &mut File,
        (start, end): (u64, u64),
        needles: &[Needle],
        found: &mut [usize],
    ) {
        let own = self.0.as_ptr().addr() as u64;
        let own = own..own + self.0.len() as u64;
        // Overlapping by less than a needle.
        let mut at = start;
        while at < end {
            let len = usize::try_from(end - at).unwrap().min(self.0.len());
            memory.seek(SeekFrom::Start(at)).unwrap();
            let Ok(read) = memory.read(&mut self.0[..len]) else { return };
            for (needle, found) in needles.iter().zip(&mut *found) {
                let first = needle.0[0] ^ MASK;
                let windows = self.0[..read].windows(needle.0.len());
                let places = windows.enumerate().filter(|(_, window)| {
                    window[0] == first && window.iter().zip(&needle.0).all(|(a, b)| a ^ MASK == *b)
                });
                *found += places.filter(|(place, _)| !own.contains(&(at + *place as u64))).count();
            }
            if read < len || at + read as u64 >= end {
                return;
            }
            at += read as u64 - 31;
        }
    }
}

/// The other process.
struct Server {
    child: Child,
    url: String,
    /// For each key the ticket key itself and what it seals tickets and stored sessions with.
    needles: Vec<Needle>,
}

impl Server {
    fn start() -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "serves_keys_to_the_other_process", "--nocapture"])
            .env(SERVES, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let told = output
            .lines()
            .map(Result::unwrap)
            .find_map(|line| Some(line.split_once("serves ")?.1.to_owned()));
        let told = told.unwrap();
        let mut words = told.split(' ');
        let url = words.next().unwrap().to_owned();
        let byte = |hex: &str, at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        let needles = words
            .map(|hex| Needle((0..hex.len()).step_by(2).map(|at| byte(hex, at)).collect()))
            .collect();
        Self { child, url, needles }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn scope() -> Scope {
    Scope::try_new("web", ChainRule::Capped).unwrap()
}

fn masked(key: &BundleKey) -> [String; 3] {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{:02x}", byte ^ MASK)).collect();
    let derived = |usage| {
        let schema = Schema::RUSTLS_0_23;
        let key = derive::aead_key(&key.material, usage, schema, &scope().digest());
        hex(key.as_slice())
    };
    [hex(key.material.expose_secret()), derived(Use::Ticket), derived(Use::Store)]
}

/// Not a test by itself: the process that [`Server::start`] starts.
#[test]
fn serves_keys_to_the_other_process() {
    if std::env::var_os(SERVES).is_none() {
        return;
    }
    let keys = [planned_key(0), planned_key(6 * HOUR)];
    let bundle = bundle(1, &keys);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let needles: Vec<_> = keys.iter().flat_map(masked).collect();
    println!("serves http://{} {}", listener.local_addr().unwrap(), needles.join(" "));
    // The first poll is answered, further ones wait for ever.
    let mut waiting = Vec::new();
    for (number, stream) in listener.incoming().enumerate() {
        let mut stream = stream.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        if number > 0 {
            waiting.push(stream);
            continue;
        }
        let body = encode_bundle(&bundle);
        let (etag, time) = (format_etag(bundle.tag()), START * 1000);
        let head = format!(
            "HTTP/1.1 200 OK\r\netag: {etag}\r\nstek-time: {time}\r\ncontent-length: {}\r\n\
             connection: close\r\n\r\n",
            body.len(),
        );
        stream.write_all(&[head.as_bytes(), body.as_slice()].concat()).unwrap();
    }
}

#[tokio::test]
async fn keys_leave_memory_when_their_time_has_come() {
    let _alone = ALONE.lock().await;
    let server = Server::start();
    let options = ClientOptions {
        upstreams: vec![server.url.clone()],
        roots: vec![],
        token: None,
        certificate: None,
        wait: None,
        max_body_bytes: None,
        instance: InstanceName::try_new("edge-7").unwrap(),
    };
    let (config, clock) = (ClientConfig::try_new(&options).unwrap(), clock());
    let time = Arc::<stek_clock::ManualClock>::clone(&clock);
    let fleet = Fleet::connect_with_clock(&config, keyset(), time, &Registry::new()).unwrap();
    let certificates = Arc::new(ResolvesServerCertUsingSni::new());
    let builder = || fleet.server("web").certificate_resolver(certificates.clone());
    let acceptor = builder().build().unwrap();
    let keeps = builder().resumption(Resumption::Store(memory())).build().unwrap();
    assert_eq!((acceptor.scope(), keeps.scope()), (&scope(), &scope()));
    tokio::time::timeout(PATIENCE, fleet.ready()).await.unwrap().unwrap();
    let seal = || acceptor.per_connection_config().ticketer.encrypt(&session(TLS13)).unwrap();
    let ticket = seal();
    assert!(acceptor.per_connection_config().ticketer.decrypt(&ticket).is_some());
    let storage = || Arc::clone(&keeps.per_connection_config().session_storage);
    assert!(storage().put(vec![1; 32], session(TLS13)));
    assert!(storage().take(&[1; 32]).is_some());

    let mut searcher = Searcher::new();
    let before = searcher.count(&server.needles);
    assert!(before.iter().all(|found| *found > 0), "{before:?}");
    // The first key ends after 12 h and the skew; the second has more than five hours left.
    advance(&clock, 13 * HOUR);
    let after = searcher.until_gone(&server.needles, 0..3).await;
    assert!(after[3..].iter().all(|found| *found > 0), "{after:?}");
    fleet.shutdown().await;
    searcher.until_gone(&server.needles, 3..6).await;
    drop((acceptor, keeps));
}

/// Gives the one value that it has for whatever key.
#[derive(Debug, Default)]
struct Swaps(Mutex<Option<Vec<u8>>>);

impl SessionBackend for Swaps {
    fn put(&self, _: &SessionKey, value: Vec<u8>, _: Duration) -> Result<(), PutError> {
        *self.0.lock().unwrap() = Some(value);
        Ok(())
    }

    fn take(&self, _: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        Ok(self.0.lock().unwrap().take())
    }
}

#[test]
fn a_session_that_opens_and_is_refused_leaves_memory() {
    let _alone = ALONE.blocking_lock();
    let (clock, secret) = (clock(), key(0, 24 * HOUR, 48 * HOUR));
    let keys = bundle(1, std::slice::from_ref(&secret));
    let node = Node::with(&clock, "web", &keys);
    let store = Resumption::Store(Arc::new(Swaps::default()));
    let stores = Site::new().server(&clock, &keys, |builder| builder.resumption(store));
    // A secret of 48 bytes, after a name of 16 bytes, version and suite.
    let mut session = Zeroizing::new(session(TLS13));
    getrandom::fill(&mut session[23..][..48]).unwrap();
    let needle = [Needle(session[23..][16..48].iter().map(|byte| byte ^ MASK).collect())];
    let mut searcher = Searcher::new();
    let mut found = || searcher.count(&needle)[0];
    let good = node.ticketer.encrypt(&session).unwrap();
    let unreadable = {
        let digest = fixture::scope("web").digest();
        let (usage, schema) = (Use::Ticket, Schema::RUSTLS_0_23);
        let derived = DerivedKey::derive(&secret.material, usage, schema, &digest);
        let stamp = Stamp { issued_at: at(0), authenticated_at: at(0) };
        derived.seal(stamp, &session[1..], &[7; NONCE_LEN]).unwrap()
    };
    assert!(stores.storage().put(vec![1; 32], session.to_vec()));
    assert_eq!(found(), 1);
    drop(session);
    assert_eq!(found(), 0);
    let opened = Zeroizing::new(node.ticketer.decrypt(&good).unwrap());
    assert_eq!(found(), 1);
    drop(opened);
    assert_eq!(node.ticketer.decrypt(&unreadable), None);
    assert_eq!(stores.storage().take(&[2; 32]), None);
    advance(&clock, 7 * HOUR);
    assert_eq!(node.ticketer.decrypt(&good), None);
    assert_eq!(found(), 0);
    let refused = [node.count("opened", "not-allowed"), node.count("opened", "expired")];
    assert_eq!((refused, stores.stored("looked_up", "swapped")), ([1, 1], 1));
}
