//! The prober against servers of this process, on a clock that jumps to when something is due.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::ProducesTickets;
use rustls::{RootCertStore, ServerConfig};
use stek_clock::{Clock, ManualClock};
use stek_core::time::Seconds;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::client::{Client, Options, Tls};
use super::lifetime::{self, Ages, Lifetime};
use super::matrix::{self, Outcome, Reuse};
use super::report::Report;
use super::target::Target;
use super::trust::Trust;

/// A clock on which whoever sleeps is woken at once, at the time that was waited for.
struct Jumping(ManualClock);

#[async_trait]
impl Clock for Jumping {
    fn boot(&self) -> Duration {
        self.0.boot()
    }

    fn wall_millis(&self) -> u64 {
        self.0.wall_millis()
    }

    async fn sleep_until(&self, deadline: Duration) {
        self.0.advance(deadline.saturating_sub(self.0.boot()));
    }
}

/// Tickets in the clear, each under the name of its server, for as long as it says or not.
struct Tickets {
    clock: Arc<dyn Clock>,
    name: [u8; 16],
    opens: Vec<[u8; 16]>,
    hint: u32,
    lives: u64,
}

impl std::fmt::Debug for Tickets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tickets").finish_non_exhaustive()
    }
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        self.hint
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let now = (self.clock.wall_millis() / 1_000).to_be_bytes();
        Some([&self.name[..], &now, plain].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<16>()?;
        let (sealed, plain) = rest.split_first_chunk::<8>()?;
        let age = self.clock.wall_millis() / 1_000 - u64::from_be_bytes(*sealed);
        (self.opens.contains(name) && age <= self.lives).then(|| plain.to_vec())
    }
}

/// What servers have in common.
struct Site {
    clock: Arc<dyn Clock>,
    certificate: CertifiedKey<rcgen::KeyPair>,
}

impl Site {
    fn new() -> Self {
        // 2026-09-21T14:13:20Z.
        let clock = Arc::new(Jumping(ManualClock::at_unix_millis(1_790_000_000_000)));
        let certificate = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        Self { clock, certificate }
    }

    fn config(&self) -> ServerConfig {
        self.config_of(rustls::ALL_VERSIONS)
    }

    fn config_of(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> ServerConfig {
        let key = PrivateKeyDer::Pkcs8(self.certificate.signing_key.serialize_der().into());
        ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.certificate.cert.der().clone()], key)
            .unwrap()
    }

    /// A server that seals under `name` and opens what `opens` names, for `lives` seconds.
    fn sealing(&self, name: u8, opens: &[u8], hint: u32, lives: u64) -> ServerConfig {
        let opens = opens.iter().map(|name| [*name; 16]).collect();
        let clock = Arc::clone(&self.clock);
        let mut config = self.config();
        config.ticketer = Arc::new(Tickets { clock, name: [name; 16], opens, hint, lives });
        config
    }

    async fn serve(&self, config: ServerConfig) -> Target {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = SocketAddr::port(&listener.local_addr().unwrap());
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // The client ends it; whether well or not is its affair.
                    if let Ok(mut tls) = acceptor.accept(tcp).await {
                        let _ = tls.read(&mut [0; 64]).await;
                    }
                });
            }
        });
        Target::parse(&format!("localhost:{port}")).unwrap()
    }

    fn client(&self) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.cert.der().clone()).unwrap();
        Client::new(Options {
            name: ServerName::try_from("localhost").unwrap(),
            trust: Trust::Roots(roots),
            identity: None,
            time_out: Duration::from_secs(20),
            clock: Arc::clone(&self.clock),
        })
        .unwrap()
    }

    async fn lifetime(&self, config: ServerConfig, tls: Tls, ages: &Ages) -> Lifetime {
        let targets = [self.serve(config).await];
        let mut told = 0;
        let tell = |_: &Target, _, _: &Outcome| told += 1;
        let found = lifetime::measure(&self.client(), &targets, tls, ages, tell).await;
        let found = found.into_iter().next().unwrap();
        assert_eq!(told, found.offers.len(), "progress is told");
        found
    }
}

const BOTH: [Tls; 2] = [Tls::V13, Tls::V12];

#[tokio::test]
async fn the_pair_that_does_not_resume_is_named() {
    let site = Site::new();
    // The second opens what the first seals, and not the other way round.
    let first = site.serve(site.sealing(1, &[1], 100, 100)).await;
    let second = site.serve(site.sealing(2, &[1, 2], 100, 100)).await;
    let targets = [first, second];
    for tls in BOTH {
        let matrix = matrix::measure(&site.client(), &targets, tls, |_| ()).await;
        let [first, second] = &matrix.pairs[..] else { panic!() };
        assert_eq!(first[..], [Outcome::Resumed, Outcome::Resumed]);
        assert_eq!(second[..], [Outcome::Full, Outcome::Resumed]);
        for (seen, name) in matrix.seen.iter().zip([1, 2]) {
            assert_eq!(seen.hint, Some(100));
            assert_eq!(seen.key_names().unwrap().into_iter().collect::<Vec<_>>(), [[name; 16]]);
            assert_eq!(seen.reuse, Reuse::Accepted);
        }
        let mut report = Report::new("localhost".into());
        report.add(tls, &targets, &matrix, &[], true);
        assert!(!report.ok);
        let [fault] = &report.faults[..] else { panic!("{:?}", report.faults) };
        let named = format!("{} → {}", targets[1], targets[0]);
        assert!(fault.contains(&named) && fault.contains("different keys"), "{fault}");
    }
}

#[tokio::test]
async fn sessions_for_single_use_are_told_from_tickets() {
    let site = Site::new();
    // Without a ticketer rustls keeps sessions; those of TLS 1.3 it gives out once.
    let targets = [site.serve(site.config()).await];
    for (tls, reuse) in [(Tls::V13, Reuse::Refused), (Tls::V12, Reuse::Accepted)] {
        let matrix = matrix::measure(&site.client(), &targets, tls, |_| ()).await;
        assert_eq!(matrix.pairs, [[Outcome::Resumed]]);
        assert_eq!(matrix.seen[0].reuse, reuse, "{tls:?}");
        assert_eq!(matrix.seen[0].key_names(), None, "{tls:?}");
    }
}

#[tokio::test]
async fn a_server_without_tickets_is_said_to_give_none() {
    let site = Site::new();
    let mut config = site.config();
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    let targets = [site.serve(config).await];
    for tls in BOTH {
        let matrix = matrix::measure(&site.client(), &targets, tls, |_| ()).await;
        assert_eq!(matrix.pairs, [[Outcome::NoTicket]], "{tls:?}");
        assert_eq!((matrix.seen[0].ticket_bytes, matrix.seen[0].hint), (None, None));
    }
}

#[tokio::test]
async fn two_servers_without_a_version_in_common_are_a_fault() {
    let site = Site::new();
    let config = |version: &'static rustls::SupportedProtocolVersion| {
        let mut config = site.config_of(&[version]);
        config.ticketer = site.sealing(1, &[1], 100, 100).ticketer;
        config
    };
    let old = site.serve(config(&rustls::version::TLS12)).await;
    let new = site.serve(config(&rustls::version::TLS13)).await;
    let both = site.serve(site.sealing(1, &[1], 100, 100)).await;
    let targets = [old, new, both];
    let mut report = Report::new("localhost".into());
    for tls in BOTH {
        let matrix = matrix::measure(&site.client(), &targets, tls, |_| ()).await;
        report.add(tls, &targets, &matrix, &[], false);
    }
    assert!(report.ok, "{:?}", report.faults);
    let report = report.complete();
    let [old, new, _] = &targets;
    let named = |from, to, fault: &String| fault.starts_with(&format!("{from} → {to}: "));
    let [there, back] = &report.faults[..] else { panic!("{:?}", report.faults) };
    assert!(!report.ok && named(old, new, there) && named(new, old, back), "{there}; {back}");
}

#[tokio::test]
async fn tickets_are_offered_past_their_hint() {
    let site = Site::new();
    let ages = Ages::Listed([10, 99, 100, 101, 250, 1_001].map(Seconds::new).into());
    for tls in BOTH {
        let found = site.lifetime(site.sealing(1, &[1], 100, 1_000), tls, &ages).await;
        assert_eq!(found.hint, Some(100));
        assert_eq!(found.resumed_at(), Some(Seconds::new(250)), "{tls:?}");
        assert_eq!(found.refused_at(), Some(Seconds::new(1_001)));
        assert!(!found.breaks_its_word(), "a ticket may live longer than its hint");
    }
}

#[tokio::test]
async fn a_hint_that_is_not_kept_is_a_fault() {
    let site = Site::new();
    for tls in BOTH {
        let found = site.lifetime(site.sealing(1, &[1], 1_000, 600), tls, &Ages::OfHint).await;
        let ages: Vec<_> = found.offers.iter().map(|(age, _)| age.as_secs()).collect();
        assert_eq!(ages, [250, 500, 750, 900], "two refusals in a row are enough");
        assert_eq!(found.resumed_at(), Some(Seconds::new(500)));
        assert_eq!(found.refused_at(), Some(Seconds::new(750)));
        assert!(found.breaks_its_word());
    }
}
