//! A fleet end to end: keys fetched over HTTP, handshakes under them, and their end.

#![cfg(feature = "client")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;

use std::sync::Arc;
use std::time::Duration;

use fixture::{
    Pki, START, TLS13, at, bundle, bundle_of, count, keyset, kind, planned_key, policy, scope,
};
use prometheus::Registry;
use rustls::HandshakeKind::{Full, Resumed};
use rustls::ServerConfig;
use stek_client::{ClientConfig, ClientOptions};
use stek_core::bundle::{Bundle, EndCause, EndedKey};
use stek_core::id::ContentTag;
use stek_core::name::InstanceName;
use stek_core::scope::{ChainRule, Scope};
use stek_rustls::{Fleet, FleetError, UnfitScope};
use stek_wire::bundle::encode_bundle;
use stek_wire::tag::{IfNoneMatch, format_etag};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A server of bundles on loopback. Holds every poll until there is something else than what the
/// asker has installed.
struct Distribution {
    url: String,
    bundles: watch::Sender<Option<Arc<Bundle>>>,
    installed: watch::Receiver<Option<ContentTag>>,
}

impl Distribution {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (checked_in, installed) = watch::channel(None);
        let bundles = watch::Sender::new(None);
        let sent = bundles.subscribe();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, sent.clone(), checked_in.clone()));
            }
        });
        Self { url, bundles, installed }
    }

    fn connect(&self, registry: &Registry) -> Result<Fleet, FleetError> {
        let options = ClientOptions {
            upstreams: vec![self.url.clone()],
            roots: vec![],
            token: None,
            certificate: None,
            wait: None,
            max_body_bytes: None,
            instance: InstanceName::try_new("edge-7").unwrap(),
        };
        Fleet::connect(&ClientConfig::try_new(&options).unwrap(), keyset(), registry)
    }

    /// Sends `bundle` and returns when a poll has named it as installed.
    async fn publish(&mut self, bundle: Bundle) {
        let tag = bundle.tag();
        self.bundles.send_replace(Some(Arc::new(bundle)));
        let checked_in = self.installed.wait_for(|installed| *installed == Some(tag));
        tokio::time::timeout(Duration::from_secs(20), checked_in).await.unwrap().unwrap();
    }
}

async fn answer(
    mut stream: TcpStream,
    mut bundles: watch::Receiver<Option<Arc<Bundle>>>,
    checked_in: watch::Sender<Option<ContentTag>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /v1/keysets/web HTTP/1.1\r\n"), "{head}");
    let installed = head
        .lines()
        .find_map(|line| line.strip_prefix("if-none-match: "))
        .and_then(|value| IfNoneMatch::parse(value)?.installed());
    checked_in.send_replace(installed);
    let is_other = |bundle: &Option<Arc<Bundle>>| {
        bundle.as_ref().is_some_and(|bundle| Some(bundle.tag()) != installed)
    };
    let Ok(bundle) = bundles.wait_for(is_other).await.map(|bundle| bundle.clone()) else { return };
    let bundle = bundle.unwrap();
    let body = encode_bundle(&bundle);
    let head = format!(
        "HTTP/1.1 200 OK\r\netag: {}\r\nstek-time: {}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        format_etag(bundle.tag()),
        START * 1000,
        body.len(),
    );
    // The asker may have gone.
    let _ = stream.write_all(&[head.as_bytes(), body.as_slice()].concat()).await;
}

fn server(fleet: &Fleet, pki: &Pki) -> Arc<ServerConfig> {
    let mut config = pki.server();
    fleet.use_unbounded_tickets(&mut config, &scope("web")).unwrap();
    Arc::new(config)
}

#[tokio::test]
async fn servers_of_a_fleet_resume_each_others_sessions() {
    let mut distribution = Distribution::start().await;
    let registry = Registry::new();
    let (a, b) = (&registry, &Registry::new());
    let (a, b) = (distribution.connect(a).unwrap(), distribution.connect(b).unwrap());
    let pki = Pki::new();
    let (server_a, server_b) = (server(&a, &pki), server(&b, &pki));
    let client = pki.client(TLS13);
    assert_eq!((kind(&server_a, &client), kind(&server_a, &client)), (Full, Full));

    let first = planned_key(0);
    distribution.publish(bundle(1, std::slice::from_ref(&first))).await;
    a.ready().await.unwrap();
    b.ready().await.unwrap();
    assert_eq!(kind(&server_a, &client), Full);
    assert_eq!((kind(&server_b, &client), kind(&server_a, &client)), (Resumed, Resumed));
    b.shutdown().await;
    assert_eq!(kind(&server_b, &client), Full);
    assert_eq!(kind(&server_a, &client), Resumed);

    let (id, kcv) = (first.record.id, first.record.kcv);
    let revoked = EndedKey { id, kcv, cause: EndCause::Revoked, ended_at: at(1) };
    let second = bundle_of(2, &[planned_key(0)], policy(), vec![revoked]);
    distribution.publish(second).await;
    a.ready().await.unwrap();
    assert_eq!(kind(&server_a, &client), Full);
    assert_eq!(count(&registry, "opened", "revoked"), 1);
    assert_eq!(kind(&server_a, &client), Resumed);
    drop(a);
    assert_eq!(kind(&server_a, &client), Full);
}

#[tokio::test]
async fn a_registry_has_one_fleet_of_a_keyset_at_a_time() {
    let distribution = Distribution::start().await;
    let registry = Registry::new();
    let fleet = distribution.connect(&registry).unwrap();
    let error = distribution.connect(&registry).unwrap_err();
    assert!(matches!(error, FleetError::Metrics(_)), "{error:?}");
    fleet.shutdown().await;
    distribution.connect(&registry).unwrap().shutdown().await;
    assert!(registry.gather().is_empty());
}

#[tokio::test]
async fn a_scope_that_promises_more_leaves_the_config_as_it_was() {
    let fleet = Distribution::start().await.connect(&Registry::new()).unwrap();
    let mut config = Pki::new().server();
    config.max_early_data_size = 1;
    let capped = Scope::try_new("web", ChainRule::Capped).unwrap();
    let error = fleet.use_unbounded_tickets(&mut config, &capped).unwrap_err();
    assert_eq!(error, UnfitScope::Capped { label: "web".to_owned() });
    assert!(!config.ticketer.enabled() && config.session_storage.can_cache());
    assert_eq!(config.max_early_data_size, 1);
}

#[tokio::test]
async fn debug_shows_no_key() {
    let mut distribution = Distribution::start().await;
    let fleet = distribution.connect(&Registry::new()).unwrap();
    let _ticketer = fleet.unbounded_ticketer(&scope("web")).unwrap();
    let secret = planned_key(0);
    distribution.publish(bundle(1, std::slice::from_ref(&secret))).await;
    fleet.ready().await.unwrap();
    let shown = format!("{fleet:?}");
    let bytes = secret.material.expose_secret();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let list = format!("{bytes:?}");
    assert!(!shown.contains(&hex[..16]) && !shown.contains(&list[1..24]), "{shown}");
}
