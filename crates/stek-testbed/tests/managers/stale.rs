//! A manager that the database has become out of reach of, and that still answers.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_client::{ClientConfig, ClientOptions};
use stek_clock::Clock;
use stek_core::access::{Grant, KeysetSelector, Role, TokenSecret};
use stek_core::id::Revision;
use stek_core::name::{InstanceName, PrincipalName};
use stek_core::planner::Selection;
use stek_core::principal::PrincipalPattern;
use stek_core::time::Seconds;
use stek_distribution::Distribution;
use stek_http::{Limits, Plaintext, Server, Transport};
use stek_manager::NewToken;
use stek_testbed::Tier;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::site::{PATIENCE, Running, Site, name};

/// A way to the database that can be cut.
struct Link {
    url: String,
    cut: CancellationToken,
}

impl Link {
    async fn to(database: &str) -> Self {
        let mut url = reqwest::Url::parse(database).unwrap();
        let server = (url.host_str().unwrap().to_owned(), url.port().unwrap_or(5432));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let cut = CancellationToken::new();
        let is_cut = cut.clone();
        tokio::spawn(cut.clone().run_until_cancelled_owned(async move {
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut database = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(is_cut.clone().run_until_cancelled_owned(async move {
                    // Either end may go first.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut database).await;
                }));
            }
        }));
        Self { url: url.into(), cut }
    }
}

/// The feed of a manager where replicas find it.
struct Door {
    url: String,
    _open: DropGuard,
}

impl Door {
    async fn of(running: &Running) -> Self {
        let (feed, fleet) = (running.manager.feed(), running.manager.fleet());
        let shutdown = CancellationToken::new();
        let feed = Distribution::start(feed, fleet, &Registry::new(), shutdown.clone()).unwrap();
        let routes = feed.feed_api().into_routes().with_fallbacks();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let transport = Transport::Plain(Plaintext::LoopbackOnly);
        let server = Server::bind(address, transport, Limits::default()).await.unwrap();
        let url = format!("http://{}", server.local_addr());
        tokio::spawn(server.serve(routes, shutdown.clone()));
        Self { url, _open: shutdown.drop_guard() }
    }
}

/// A replica that prefers the first of `doors`.
async fn replica(site: &Site, doors: &[&Door], token: &std::path::Path) -> Tier {
    let config = ClientConfig::try_new(&ClientOptions {
        upstreams: doors.iter().map(|door| door.url.clone()).collect(),
        roots: vec![],
        token: Some(token.to_owned()),
        certificate: None,
        wait: None,
        max_body_bytes: None,
        instance: InstanceName::try_new("replica").unwrap(),
    });
    Tier::start_on(Arc::clone(&site.clock) as Arc<dyn Clock>, &config.unwrap()).await.unwrap()
}

/// A token that may follow the whole feed.
async fn add_token(site: &Site, running: &Running) -> tempfile::NamedTempFile {
    let principal = PrincipalName::try_new("token:replica").unwrap();
    let granted = PrincipalPattern::exactly(&principal).unwrap();
    let secret = TokenSecret::take_from(&mut [9; 32]);
    let grant =
        Grant { principal: granted, keysets: KeysetSelector::All, role: Role::Distribution };
    let expires_at = site.now() + Seconds::from_days(30);
    let new = NewToken { principal, hash: secret.hash(), expires_at, grants: vec![grant] };
    running.manager.operations().add_token(new, "test").await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), secret.expose_text()).unwrap();
    file
}

fn held(tier: &Tier) -> Option<Revision> {
    let feed = tier.feed();
    let state = feed.borrow();
    state.as_ref()?.keysets.get(&name("main")).map(|bundle| bundle.tag().revision)
}

fn metric(tier: &Tier, name: &str) -> f64 {
    let families = tier.registry.gather();
    let family = families.iter().find(|family| family.name() == name).unwrap();
    family.get_metric()[0].get_gauge().get_value()
}

/// Waits while time goes on.
async fn until(site: &Site, what: &str, condition: impl Fn() -> bool) {
    let looking = async {
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while !condition() {
            looks.tick().await;
            site.clock.advance(Duration::from_millis(20));
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("waited for: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_revocation_reaches_who_prefers_a_manager_that_is_cut_off_from_the_database() {
    let site = Site::new().await;
    let link = Link::to(site.database.url()).await;
    let first = site.custody().await;
    let cut_off = site.join_at(&link.url, &first, 1).await;
    let healthy = site.start(first).await;
    let doors = [Door::of(&cut_off).await, Door::of(&healthy).await];
    let operations = healthy.manager.operations();
    let made = operations.create(&name("main"), Default::default(), "test").await.unwrap();
    let token = add_token(&site, &healthy).await;
    let tier = replica(&site, &[&doors[0], &doors[1]], token.path()).await;
    let lonely = replica(&site, &[&doors[0]], token.path()).await;
    let made = Some(Revision::new(made.revision));
    until(&site, "keys", || held(&tier) == made && held(&lonely) == made).await;

    link.cut.cancel();
    let cut_at = site.now();
    let revoked = operations.revoke(&name("main"), Selection::All, "leak", "test").await.unwrap();
    let revoked = Some(Revision::new(revoked.revision));
    until(&site, "the revocation", || held(&tier) >= revoked).await;

    // Who has only that one goes on with what there is, and says how old it is.
    let confirmed = || metric(&lonely, "stek_client_last_success_timestamp_seconds");
    let then = (cut_at + Seconds::new(40)).as_unix() as f64;
    until(&site, "a later answer", || confirmed() > then).await;
    assert_eq!(held(&lonely), made);
    let read = metric(&lonely, "stek_client_database_read_timestamp_seconds");
    assert!(read <= cut_at.as_unix() as f64 + 5.0, "{read} is after {cut_at}");
    for tier in [tier, lonely] {
        tier.stop().await;
    }
    drop(doors);
    cut_off.stop().await;
    healthy.stop().await;
}
