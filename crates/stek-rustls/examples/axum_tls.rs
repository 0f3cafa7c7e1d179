//! A web application on axum whose sessions resume at its whole fleet:
//! `axum_tls <listen> <cert.pem> <key.pem> <keyset> <url> <ca.pem> <token file> <name>`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]
use std::{env, error::Error, io, net::SocketAddr, time::Duration};

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, State};
use axum::serve::{IncomingStream, Listener};
use axum::{Router, routing::get};
use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use stek_rustls::prometheus::{Registry, TextEncoder};
use stek_rustls::{Acceptor, ClientConfig, ClientOptions, Fleet, InstanceName, KeysetName};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;

/// A client that does not finish its handshake within this is gone.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, cert, key, keyset, url, ca, token, name] = args.as_slice() else {
        return Err("usage: axum_tls LISTEN CERT KEY KEYSET URL CA TOKEN NAME".into());
    };
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut options = ClientOptions::new([url], InstanceName::try_new(name)?);
    options.roots = vec![ca.into()];
    options.token = Some(token.into());
    let client = ClientConfig::try_new(&options)?;
    let registry = Registry::new();
    let fleet = Fleet::connect(&client, KeysetName::try_new(keyset)?, &registry)?;
    // A label for each site: servers of one label take each other's clients.
    let acceptor = fleet.server("www").certificate(chain, key).alpn(["http/1.1"]).build()?;
    let listener = TlsListener::start(TcpListener::bind(listen).await?, acceptor)?;
    println!("listening on {}", listener.address);
    let app = Router::new().route("/", get(how)).route("/metrics", get(metrics));
    let app = app.with_state(registry);
    axum::serve(listener, app.into_make_service_with_connect_info::<Handshake>()).await?;
    Ok(())
}

async fn how(ConnectInfo(Handshake(kind)): ConnectInfo<Handshake>) -> String {
    format!("{} handshake\n", if kind == HandshakeKind::Resumed { "resumed" } else { "full" })
}

/// What Prometheus scrapes; better on a listener of its own, which only Prometheus reaches.
async fn metrics(State(registry): State<Registry>) -> String {
    TextEncoder::new().encode_to_string(&registry.gather()).unwrap_or_default()
}

/// Connections whose handshake is done, so that a slow client keeps nobody waiting.
struct TlsListener {
    done: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
    address: SocketAddr,
}

impl TlsListener {
    fn start(tcp: TcpListener, acceptor: Acceptor) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, done) = mpsc::channel(64);
        tokio::spawn(async move {
            loop {
                let Ok((stream, peer)) = tcp.accept().await else {
                    // Out of file descriptors, most likely.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                };
                let (acceptor, sender) = (acceptor.clone(), sender.clone());
                tokio::spawn(async move {
                    match timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
                        Ok(Ok(tls)) => drop(sender.send((tls, peer)).await),
                        Ok(Err(error)) => eprintln!("handshake with {peer}: {error}"),
                        Err(_) => eprintln!("handshake with {peer}: too slow"),
                    }
                });
            }
        });
        Ok(Self { done, address })
    }
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.done.recv().await {
            Some(accepted) => accepted,
            // The task above never ends before the listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

/// How the handshake of a request's connection was.
#[derive(Clone, Copy)]
struct Handshake(HandshakeKind);

impl Connected<IncomingStream<'_, TlsListener>> for Handshake {
    fn connect_info(stream: IncomingStream<'_, TlsListener>) -> Self {
        Self(stream.io().get_ref().1.handshake_kind().unwrap_or(HandshakeKind::Full))
    }
}
