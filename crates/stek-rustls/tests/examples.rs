//! Every example as a process of its own, two of each: keys from a server of bundles, a full
//! handshake with the one, a resumed one with the other.

#![cfg(feature = "client")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod distribution;
mod fixture;
mod quic;
mod servers;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use distribution::Distribution;
use fixture::{HOUR, TLS13, bundle, keyset, planned_key};
use quic::QuicClient;
use rustls::ClientConfig;
use rustls::HandshakeKind::{self, Full, Resumed};
use rustls::pki_types::ServerName;
use servers::{Authority, NAME, OTHER_NAME, Site};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::TlsConnector;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an example needs: certificates and a token in files, and somebody who has keys.
struct Setup {
    site: Site,
    authority: Authority,
    distribution: Distribution,
    files: TempDir,
}

impl Setup {
    async fn new() -> Self {
        let (site, authority) = (Site::new(), Authority::new("clients"));
        let files = tempfile::tempdir().unwrap();
        let [cert, key] = site.pem();
        let token = format!("stek_{}", "5a".repeat(32));
        for (name, content) in
            [("cert", cert), ("key", key), ("token", token), ("client-ca", authority.pem())]
        {
            std::fs::write(files.path().join(name), content).unwrap();
        }
        let distribution = Distribution::start().await;
        distribution.offer(&bundle(1, &[planned_key(0)]));
        Self { site, authority, distribution, files }
    }

    fn file(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    /// Two processes of an example, with what all examples are told and with `more`.
    async fn start(&self, example: &str, more: &[String]) -> [Running; 2] {
        let [cert, key, ca, token] = ["cert", "key", "cert", "token"].map(|name| self.file(name));
        let (keyset, url) = (keyset().to_string(), self.distribution.url.clone());
        let listen = "127.0.0.1:0".to_owned();
        let start = async |name: &str| {
            let all = [&listen, &cert, &key, &keyset, &url, &ca, &token, &name.to_owned()];
            Running::start(example, all.into_iter().chain(more)).await
        };
        [start("edge-1").await, start("edge-2").await]
    }
}

/// A process that listens. Ends with the value.
struct Running {
    child: Child,
    address: SocketAddr,
}

impl Running {
    async fn start(example: &str, args: impl Iterator<Item = &String>) -> Self {
        let mut command = Command::new(program(example));
        command.args(args).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = told.expect("says where it listens").unwrap().expect("does not end");
        let address = line.strip_prefix("listening on ").unwrap().parse().unwrap();
        Self { child, address }
    }

    /// Fails if the process has ended by itself.
    async fn end(mut self) {
        assert_eq!(self.child.try_wait().unwrap(), None);
        self.child.kill().await.unwrap();
    }
}

/// The program of an example. A run of all tests has built it; a run of this one alone may not have.
fn program(example: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let built = own.parent().unwrap().parent().unwrap().join("examples").join(example);
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let changed = |path: PathBuf| std::fs::metadata(path)?.modified();
    let source = changed(sources.join(format!("{example}.rs"))).unwrap();
    if changed(built.clone()).is_ok_and(|built| built > source) {
        return built;
    }
    let mut cargo = std::process::Command::new(env!("CARGO"));
    cargo.args(["build", "-p", "stek-rustls", "--example", example]);
    let status = cargo.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
    assert!(status.success(), "{example} cannot be built");
    built
}

/// Asks over TLS for `/` and returns how the handshake was and all that came back.
async fn ask(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    name: &'static str,
) -> std::io::Result<(HandshakeKind, String)> {
    let asking = async {
        let tcp = TcpStream::connect(address).await?;
        let server = ServerName::try_from(name).unwrap();
        let mut tls = TlsConnector::from(Arc::clone(client)).connect(server, tcp).await?;
        let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
        tls.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        tls.read_to_string(&mut answer).await?;
        Ok((tls.get_ref().1.handshake_kind().unwrap(), answer))
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("an answer")
}

/// Makes a full handshake with the first and another with the second, with a new client each time,
/// until that one is resumed: the keys may not be there at first. Returns both answers.
async fn resume(
    [first, second]: &[Running; 2],
    client: impl Fn() -> Arc<ClientConfig>,
    name: &'static str,
) -> [String; 2] {
    let resuming = async {
        loop {
            let client = client();
            let (kind, full) = ask(first.address, &client, name).await.unwrap();
            assert_eq!(kind, Full);
            let (kind, resumed) = ask(second.address, &client, name).await.unwrap();
            if kind == Resumed {
                return [full, resumed];
            }
        }
    };
    tokio::time::timeout(PATIENCE, resuming).await.expect("a session resumes")
}

async fn serves_https(example: &str) {
    let setup = Setup::new().await;
    let running = setup.start(example, &[]).await;
    let [full, resumed] = resume(&running, || setup.site.client(TLS13, None), NAME).await;
    assert!(full.starts_with("HTTP/1.1 200 OK\r\n") && full.contains("full handshake"), "{full}");
    assert!(resumed.contains("resumed handshake"), "{resumed}");
    for process in running {
        process.end().await;
    }
}

#[tokio::test]
async fn https_server() {
    serves_https("https_server").await;
}

#[tokio::test]
async fn axum_tls() {
    serves_https("axum_tls").await;
}

/// Answers every connection with `word` and closes it.
async fn backend(word: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                // The request, so that closing does not reset the connection.
                assert_ne!(tcp.read(&mut [0; 1024]).await.unwrap(), 0);
                tcp.write_all(word.as_bytes()).await.unwrap();
            });
        }
    });
    address
}

#[tokio::test]
async fn tls_proxy() {
    let setup = Setup::new().await;
    let [open, closed] = [backend("open").await, backend("closed").await];
    let hosts = [NAME.into(), open, OTHER_NAME.into(), closed, setup.file("client-ca")];
    let running = setup.start("tls_proxy", &hosts).await;
    let identity = setup.authority.issue(24 * HOUR);
    let (stranger, known) =
        (|| setup.site.client(TLS13, None), || setup.site.client(TLS13, Some(&identity)));
    assert_eq!(resume(&running, stranger, NAME).await, ["open", "open"]);
    assert_eq!(resume(&running, known, OTHER_NAME).await, ["closed", "closed"]);
    // With a ticket of the open host, in TLS 1.3 the refusal comes with the first answer.
    let client = stranger();
    ask(running[0].address, &client, NAME).await.unwrap();
    ask(running[0].address, &client, OTHER_NAME).await.unwrap_err();
    let client = known();
    ask(running[0].address, &client, NAME).await.unwrap();
    let (kind, word) = ask(running[0].address, &client, OTHER_NAME).await.unwrap();
    assert_eq!((kind, word.as_str()), (Full, "closed"));
    for process in running {
        process.end().await;
    }
}

#[tokio::test]
async fn http3_server() {
    let setup = Setup::new().await;
    let [first, second] = setup.start("http3_server", &[]).await;
    let resuming = async {
        loop {
            let client = QuicClient::new(&setup.site);
            assert_eq!(client.ask(first.address).await, (Full, "edge-1\n".into()));
            let (kind, answer) = client.ask(second.address).await;
            assert_eq!(answer, "edge-2\n");
            if kind == Resumed {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, resuming).await.expect("a session resumes");
    first.end().await;
    second.end().await;
}
