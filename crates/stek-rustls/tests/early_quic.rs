//! Early data over QUIC, end to end with quinn: read once, and not from a copy at a second server.

#![allow(clippy::unwrap_used, reason = "only tests use it")]

mod fixture;
mod servers;
mod sessions;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fixture::{TLS13, bundle, clock, planned_key};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{Connection, Endpoint, ZeroRttAccepted};
use rustls::ClientConfig;
use servers::{NAME, Server, Site};
use sessions::{OneProcess, eager, early, memory};
use stek_rustls::{LookUpError, PutError, SessionBackend, SessionKey, SharedBackend};
use tokio::net::UdpSocket;

/// How long anything here may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const DATA: &[u8] = b"POST /pay";

/// A server of the fleet behind quinn.
struct Quic {
    server: Server,
    endpoint: Endpoint,
}

impl Quic {
    fn start(server: Server) -> Self {
        let config = config(&server);
        let endpoint = Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
        Self { server, endpoint }
    }

    fn address(&self) -> SocketAddr {
        self.endpoint.local_addr().unwrap()
    }

    /// The next connection, as soon as early data can be read from it.
    async fn accept(&self) -> (Connection, ZeroRttAccepted) {
        let incoming = self.endpoint.accept().await.unwrap();
        incoming.accept_with(Arc::new(config(&self.server))).unwrap().into_0rtt().unwrap()
    }
}

fn config(server: &Server) -> quinn::ServerConfig {
    let config = QuicServerConfig::try_from(server.acceptor.per_connection_quic_config()).unwrap();
    quinn::ServerConfig::with_crypto(Arc::new(config))
}

fn client(config: &Arc<ClientConfig>) -> Endpoint {
    let mut config = (**config).clone();
    config.alpn_protocols = vec![b"pay".to_vec()];
    let config = QuicClientConfig::try_from(config).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    endpoint
}

/// An attacker on the path: passes datagrams on and keeps those of the client.
struct Path {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Path {
    async fn to(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (address, kept) = (socket.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let keeps = Arc::clone(&kept);
        tokio::spawn(async move {
            let (mut bytes, mut client) = (vec![0; 1 << 16], None);
            loop {
                let (len, from) = socket.recv_from(&mut bytes).await.unwrap();
                let datagram = &bytes[..len];
                if from == server {
                    socket.send_to(datagram, client.unwrap()).await.unwrap();
                } else {
                    client = Some(from);
                    keeps.lock().unwrap().push(datagram.to_vec());
                    socket.send_to(datagram, server).await.unwrap();
                }
            }
        });
        Self { address, kept }
    }

    /// What of the last connection was sent before the server had answered: all to the connection
    /// identifier that the client made up.
    fn first_flight(&self) -> Vec<Vec<u8>> {
        let mut kept = std::mem::take(&mut *self.kept.lock().unwrap());
        // A long header has it after a byte of flags and four of the version, its length before.
        let to = |datagram: &[u8]| {
            let long = datagram[0] & 0x80 != 0;
            long.then(|| datagram[6..][..usize::from(datagram[5])].to_vec())
        };
        let first = kept.iter().find_map(|datagram| to(datagram));
        kept.retain(|datagram| first.is_some() && to(datagram) == first);
        kept
    }
}

/// Resumes with early data; before that makes a full handshake, until the client has its ticket.
async fn hurry(client: &Endpoint, path: &Path, server: &Quic) -> (Connection, ZeroRttAccepted) {
    loop {
        path.kept.lock().unwrap().clear();
        let connecting = client.connect(path.address, NAME).unwrap();
        let connecting = match connecting.into_0rtt() {
            Ok(early) => return early,
            Err(connecting) => connecting,
        };
        let (connection, (accepted, _)) = tokio::join!(connecting, server.accept());
        // The server says a word after its tickets.
        let mut word = accepted.open_uni().await.unwrap();
        word.write_all(b"word").await.unwrap();
        word.finish().unwrap();
        let mut word = connection.unwrap().accept_uni().await.unwrap();
        word.read_to_end(16).await.unwrap();
    }
}

/// What a server reads of the early data on `connection`, once it has seen `datagrams` and looked
/// the session up.
async fn read_early(quic: &Quic, connection: &Connection, datagrams: usize) -> Option<Vec<u8>> {
    let looked_up = || {
        let outcomes = ["active", "absent"];
        outcomes.iter().map(|outcome| quic.server.stored("looked_up", outcome)).sum::<u64>()
    };
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    // The first of them began the connection and is not counted.
    while looked_up() == 0 || connection.stats().udp_rx.datagrams + 1 < datagrams as u64 {
        looks.tick().await;
    }
    tokio::select! {
        biased;
        stream = connection.accept_uni() => Some(stream.unwrap().read_to_end(64).await.unwrap()),
        // What could be read is there by now.
        () = std::future::ready(()) => None,
    }
}

/// What two servers that share `backend` read early, the second from a copy.
async fn read_and_replayed(backend: Arc<dyn SharedBackend>) -> [Option<Vec<u8>>; 2] {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let [a, b] = [0; 2].map(|_| {
        let way = early(Arc::clone(&backend));
        Quic::start(site.server(&clock, &keys, |b| b.resumption(way).alpn(["pay"])))
    });
    let path = Path::to(a.address()).await;
    let client = client(&eager(&site.client(TLS13, None)));
    let (sending, taken) = hurry(&client, &path, &a).await;
    let mut stream = sending.open_uni().await.unwrap();
    stream.write_all(DATA).await.unwrap();
    stream.finish().unwrap();
    let (connection, _) = a.accept().await;
    let read = connection.accept_uni().await.unwrap().read_to_end(64).await.unwrap();
    let flight = path.first_flight();
    let read = taken.await.then_some(read);

    let attacker = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for datagram in &flight {
        attacker.send_to(datagram, b.address()).await.unwrap();
    }
    let (connection, _) = b.accept().await;
    [read, read_early(&b, &connection, flight.len()).await]
}

#[tokio::test]
async fn early_data_over_quic_is_read_once_and_not_at_a_second_server() {
    let reading = read_and_replayed(Arc::new(OneProcess(memory())));
    let read = tokio::time::timeout(PATIENCE, reading).await.unwrap();
    assert_eq!(read, [Some(DATA.to_vec()), None]);
}

/// Leaves what was taken where it was.
#[derive(Debug)]
struct Replays(OneProcess);

impl SessionBackend for Replays {
    fn put(&self, key: &SessionKey, value: Vec<u8>, lifetime: Duration) -> Result<(), PutError> {
        self.0.put(key, value, lifetime)
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        let taken = self.0.take(key)?;
        if let Some(value) = &taken {
            self.0.put(key, value.clone(), PATIENCE).unwrap();
        }
        Ok(taken)
    }
}

impl SharedBackend for Replays {}

/// What the test above would find without single use.
#[tokio::test]
async fn a_backend_that_keeps_what_was_taken_lets_a_copy_in() {
    let reading = read_and_replayed(Arc::new(Replays(OneProcess(memory()))));
    let read = tokio::time::timeout(PATIENCE, reading).await.unwrap();
    assert_eq!(read, [Some(DATA.to_vec()), Some(DATA.to_vec())]);
}

#[test]
fn each_transport_has_the_early_data_that_it_knows() {
    let (clock, site, keys) = (clock(), Site::new(), bundle(1, &[planned_key(0)]));
    let mode = early(Arc::new(OneProcess(memory())));
    let with = site.server(&clock, &keys, |builder| builder.resumption(mode)).acceptor;
    let without = site.server(&clock, &keys, |builder| builder).acceptor;
    let sizes = |acceptor: stek_rustls::Acceptor| {
        [acceptor.per_connection_config(), acceptor.per_connection_quic_config()]
            .map(|config| config.max_early_data_size)
    };
    assert_eq!((sizes(with), sizes(without)), ([16_384, u32::MAX], [0, 0]));
}
