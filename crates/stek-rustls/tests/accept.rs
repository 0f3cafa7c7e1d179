//! The acceptor on asynchronous streams: it resumes, chooses by server name, and counts.

#![cfg(feature = "client")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;

use std::io::{self, Write};
use std::sync::Arc;

use fixture::{TLS13, bundle, clock, planned_key};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind};
use servers::{Authority, NAME, OTHER_NAME, Outcome, Server, Site, roots};
use sessions::{OneProcess, eager, early, early_flight, memory};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsConnector};

/// Connects `client`, lets `serve` accept, and waits until the client has its tickets.
async fn meet<F>(
    client: &Arc<ClientConfig>,
    name: &'static str,
    serve: impl FnOnce(DuplexStream) -> F,
) -> io::Result<HandshakeKind>
where
    F: Future<Output = io::Result<TlsStream<DuplexStream>>>,
{
    let (near, far) = tokio::io::duplex(1 << 16);
    let connecting = async {
        let name = ServerName::try_from(name).unwrap();
        let mut tls = TlsConnector::from(Arc::clone(client)).connect(name, near).await?;
        // The server says a word after its tickets.
        tls.read_u8().await
    };
    let serving = async {
        let mut tls = serve(far).await?;
        tls.write_u8(1).await?;
        tls.flush().await?;
        Ok::<_, io::Error>(tls.get_ref().1.handshake_kind().unwrap())
    };
    let (served, connected) = tokio::join!(serving, connecting);
    let kind = served?;
    connected.map(|_| kind)
}

fn handshakes(server: &Server) -> [u64; 3] {
    ["full", "resumed", "failed"].map(|outcome| count_handshakes(server, outcome))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
fn count_handshakes(server: &Server, outcome: &str) -> u64 {
    let families = server.registry.gather();
    let family = families.iter().find(|family| family.name() == "stek_handshakes_total").unwrap();
    let mut series = family.get_metric().iter();
    let found = series.find(|metric| metric.get_label().iter().any(|l| l.value() == outcome));
    found.unwrap().get_counter().get_value() as u64
}

#[tokio::test]
async fn a_session_resumes_at_another_server_and_is_counted_there() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let [a, b] = [0; 2].map(|_| site.server(&clock, &keys, |builder| builder));
    let client = site.client(TLS13, None);
    for (server, kind) in [(&a, HandshakeKind::Full), (&b, HandshakeKind::Resumed)] {
        let accepted = meet(&client, NAME, |io| server.acceptor.accept(io)).await.unwrap();
        assert_eq!(accepted, kind);
    }
    assert_eq!((handshakes(&a), handshakes(&b)), ([1, 0, 0], [0, 1, 0]));
    // Opened, and yet not resumed: the session was begun under another name.
    let other = meet(&client, OTHER_NAME, |io| b.acceptor.accept(io)).await.unwrap();
    assert_eq!(other, HandshakeKind::Full);
    assert_eq!(b.count("opened", "active"), 2);
    assert_eq!(handshakes(&b), [1, 1, 0]);
}

#[tokio::test]
async fn handshakes_that_fail_are_counted() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let server =
        site.server(&clock, &keys, |b| b.require_client_certificates(roots(&[&authority])));
    let client = site.client(TLS13, None);
    meet(&client, NAME, |io| server.acceptor.accept(io)).await.unwrap_err();
    let (near, far) = tokio::io::duplex(64);
    drop(near);
    server.acceptor.accept(far).await.unwrap_err();
    assert_eq!(handshakes(&server), [0, 0, 2]);
    // One who never says a word, until nobody waits for him any more.
    let (_silent, far) = tokio::io::duplex(64);
    tokio::select! {
        biased;
        _ = server.acceptor.accept(far) => panic!("accepted"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(handshakes(&server), [0, 0, 3]);
}

#[tokio::test]
async fn virtual_hosts_behind_one_socket_do_not_share_tickets() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let authority = Authority::new("clients");
    let open = site.server(&clock, &keys, |builder| builder);
    let closed = site.server(&clock, &keys, |builder| {
        builder
            .require_client_certificates(roots(&[&authority]))
            .resume_client_auth_without_verifying_again()
    });
    let serve = async |io: DuplexStream| {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        let host = match start.client_hello().server_name() {
            Some(NAME) => &open,
            _ => &closed,
        };
        host.acceptor.accept_after_hello(start).await
    };
    let stranger = site.client(TLS13, None);
    assert_eq!(meet(&stranger, NAME, serve).await.unwrap(), HandshakeKind::Full);
    meet(&stranger, OTHER_NAME, serve).await.unwrap_err();
    let known = site.client(TLS13, Some(&authority.issue(86_400)));
    for (name, kind) in [
        (NAME, HandshakeKind::Full),
        (OTHER_NAME, HandshakeKind::Full),
        (OTHER_NAME, HandshakeKind::Resumed),
        (NAME, HandshakeKind::Full),
        (NAME, HandshakeKind::Resumed),
    ] {
        assert_eq!(meet(&known, name, serve).await.unwrap(), kind, "{name}");
    }
    assert_eq!((handshakes(&open), handshakes(&closed)), ([3, 1, 0], [1, 1, 1]));
}

/// A tenant whose site differs from another's by its label alone, and who sends clients there.
#[tokio::test]
async fn a_client_that_is_redirected_to_another_tenant_makes_a_full_handshake() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let [shop, bank] = ["shop", "bank"].map(|label| site.server_of(label, &clock, &keys));
    let client = site.client(TLS13, None);
    for (tenant, kind) in [
        (&shop, HandshakeKind::Full),
        (&shop, HandshakeKind::Resumed),
        (&bank, HandshakeKind::Full),
        (&bank, HandshakeKind::Resumed),
        (&shop, HandshakeKind::Full),
    ] {
        let accepted = meet(&client, NAME, |io| tenant.acceptor.accept(io)).await.unwrap();
        assert_eq!(accepted, kind);
    }
    assert_eq!((shop.count("opened", "unknown"), bank.count("opened", "unknown")), (1, 1));
    assert_eq!((handshakes(&shop), handshakes(&bank)), ([2, 1, 0], [1, 1, 0]));
}

/// Sends `data` early and, if the server refuses that, again after the handshake; then closes.
async fn hurry(client: &Arc<ClientConfig>, io: &mut DuplexStream, data: &[u8]) -> io::Result<()> {
    let name = ServerName::try_from(NAME).unwrap();
    let mut tls = ClientConnection::new(Arc::clone(client), name).unwrap();
    tls.early_data().expect("the session allows it").write_all(data)?;
    while tls.is_handshaking() {
        send(&mut tls, io).await?;
        let mut bytes = [0; 4096];
        let read = io.read(&mut bytes).await?;
        let mut rest = &bytes[..read];
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            tls.process_new_packets().map_err(io::Error::other)?;
        }
    }
    if !tls.is_early_data_accepted() {
        tls.writer().write_all(data)?;
    }
    tls.send_close_notify();
    send(&mut tls, io).await
}

async fn send(tls: &mut ClientConnection, io: &mut DuplexStream) -> io::Result<()> {
    let mut bytes = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut bytes)?;
    }
    io.write_all(&bytes).await
}

#[tokio::test]
async fn what_a_client_sends_early_is_not_lost() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let mode = early(Arc::new(OneProcess(memory())));
    let server = site.server(&clock, &keys, |builder| builder.resumption(mode));
    let client = eager(&site.client(TLS13, None));
    let accept = async |io: DuplexStream| server.acceptor.accept(io).await;
    let after_hello = async |io: DuplexStream| {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await?;
        server.acceptor.accept_after_hello(start).await
    };
    for after in [false, true] {
        // Where 0-RTT is taken, sessions allow it.
        assert_ne!(server.meet(&client, NAME), Outcome::Refused);
        let (mut near, far) = tokio::io::duplex(1 << 16);
        let serving = async {
            let mut tls = if after { after_hello(far).await? } else { accept(far).await? };
            let mut read = Vec::new();
            tls.read_to_end(&mut read).await?;
            Ok::<_, io::Error>((tls.get_ref().1.handshake_kind().unwrap(), read))
        };
        let (served, sent) = tokio::join!(serving, hurry(&client, &mut near, b"GET /"));
        assert_eq!(served.unwrap(), (HandshakeKind::Resumed, b"GET /".to_vec()));
        sent.unwrap();
    }
    // Nor do sessions that were begun here tell clients to try.
    let client = eager(&site.client(TLS13, None));
    meet(&client, NAME, accept).await.unwrap();
    assert_eq!(early_flight(&client, b"GET /"), None);
}
