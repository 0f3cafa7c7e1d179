//! Servers made by the builder, clients that offer what they have to whomever they meet, and
//! certificates for both.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::sync::Arc;

use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::StoresServerSessions;
use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, RootCertStore, ServerConfig,
    ServerConnection, SupportedProtocolVersion,
};
use stek_clock::{FleetClock, ManualClock};
use stek_core::bundle::Bundle;
use stek_rustls::{Acceptor, ServerBuilder, TicketKeys, TicketMetrics};

use crate::fixture::{START, count, keyset};

/// The names of every server here; a client that asks for [`ADDRESS`] sends no server name.
pub const NAME: &str = "www.example.test";
pub const OTHER_NAME: &str = "shop.example.test";
pub const ADDRESS: &str = "127.0.0.1";

/// The wall clock of all verification: certificates are valid at the start, whenever a test runs.
#[derive(Debug)]
pub struct AtStart;

impl TimeProvider for AtStart {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(START)))
    }
}

/// A certification authority for clients.
pub struct Authority(Issuer<'static, KeyPair>, rcgen::Certificate);

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self(Issuer::new(params, key), certificate)
    }

    /// Its certificate as a file has it.
    pub fn pem(&self) -> String {
        self.1.pem()
    }

    /// A client certificate valid until so many seconds after the start, that second included.
    pub fn issue(&self, end: u64) -> Identity {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        let start = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = start;
        params.not_after = start + std::time::Duration::from_secs(START + end);
        let key = KeyPair::generate().unwrap();
        let own = params.signed_by(&key, &self.0).unwrap().der().clone();
        Identity { chain: vec![own, self.1.der().clone()], key: key.serialize_der() }
    }
}

/// What a client proves.
#[derive(Clone)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

pub fn roots(authorities: &[&Authority]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.1.der().clone()).unwrap();
    }
    roots
}

/// The certificate of every server here.
pub struct Site {
    certified: rcgen::CertifiedKey<KeyPair>,
}

impl Site {
    pub fn new() -> Self {
        let names = [NAME, OTHER_NAME, ADDRESS].map(str::to_owned);
        Self { certified: rcgen::generate_simple_self_signed(names).unwrap() }
    }

    /// Certificate and key as files have them.
    pub fn pem(&self) -> [String; 2] {
        [self.certified.cert.pem(), self.certified.signing_key.serialize_pem()]
    }

    /// What clients trust.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certified.cert.der().clone()).unwrap();
        roots
    }

    /// A server of the fleet with the keys of `bundle`, further as `more` says.
    pub fn server(
        &self,
        clock: &Arc<ManualClock>,
        bundle: &Bundle,
        more: impl FnOnce(ServerBuilder<'_>) -> ServerBuilder<'_>,
    ) -> Server {
        self.counting_server(clock, bundle, Counters::new(), more)
    }

    /// The same of another label.
    pub fn server_of(&self, label: &str, clock: &Arc<ManualClock>, bundle: &Bundle) -> Server {
        self.labelled_server(label, clock, bundle, Counters::new(), |builder| builder)
    }

    /// The same with counters that something else counts in, too.
    pub fn counting_server(
        &self,
        clock: &Arc<ManualClock>,
        bundle: &Bundle,
        counters: Counters,
        more: impl FnOnce(ServerBuilder<'_>) -> ServerBuilder<'_>,
    ) -> Server {
        self.labelled_server("web", clock, bundle, counters, more)
    }

    fn labelled_server(
        &self,
        label: &str,
        clock: &Arc<ManualClock>,
        bundle: &Bundle,
        counters: Counters,
        more: impl FnOnce(ServerBuilder<'_>) -> ServerBuilder<'_>,
    ) -> Server {
        let Counters { registry, metrics } = counters;
        let fleet = Arc::new(FleetClock::new(Arc::<ManualClock>::clone(clock)));
        let mut made = None;
        let builder = ServerBuilder::with_keys(label, metrics, |usage, scope| {
            let keys = Arc::new(TicketKeys::for_use(usage, scope.clone(), fleet));
            keys.install(bundle);
            Arc::clone(made.insert(keys))
        });
        let key = PrivatePkcs8KeyDer::from(self.certified.signing_key.serialize_der());
        let builder = builder
            .certificate(vec![self.certified.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
            .time_provider(Arc::new(AtStart));
        let acceptor = more(builder).build().unwrap();
        Server { acceptor, keys: made.unwrap(), registry }
    }

    /// A client that offers its sessions under whatever name it asks for.
    pub fn client(
        &self,
        version: &'static SupportedProtocolVersion,
        identity: Option<&Identity>,
    ) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_details(provider, Arc::new(AtStart))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match identity {
            Some(Identity { chain, key }) => {
                let key = PrivatePkcs8KeyDer::from(key.clone());
                builder.with_client_auth_cert(chain.clone(), PrivateKeyDer::Pkcs8(key)).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::store(Arc::new(Indiscreet::default()));
        Arc::new(config)
    }
}

/// One server of the fleet.
pub struct Server {
    pub acceptor: Acceptor,
    pub keys: Arc<TicketKeys>,
    pub registry: Registry,
}

/// The metrics of a server before it is built.
#[derive(Debug)]
pub struct Counters {
    pub registry: Registry,
    pub metrics: TicketMetrics,
}

impl Counters {
    pub fn new() -> Self {
        let registry = Registry::new();
        let metrics = TicketMetrics::register(&registry, &keyset()).unwrap();
        Self { registry, metrics }
    }

    /// The counter `stek_sessions_written_total` of this outcome.
    pub fn written(&self, outcome: &str) -> u64 {
        count(&self.registry, "sessions_written", outcome)
    }
}

impl Server {
    /// The counter `stek_tickets_<which>_total` of this outcome.
    pub fn count(&self, which: &str, outcome: &str) -> u64 {
        count(&self.registry, &format!("tickets_{which}"), outcome)
    }

    /// The counter `stek_sessions_<which>_total` of this outcome.
    pub fn stored(&self, which: &str, outcome: &str) -> u64 {
        count(&self.registry, &format!("sessions_{which}"), outcome)
    }

    /// How many tickets or stored sessions were opened with this outcome.
    pub fn opened(&self, outcome: &str) -> u64 {
        self.count("opened", outcome) + self.stored("looked_up", outcome)
    }

    /// How many tickets or stored sessions were to be sealed with this outcome.
    pub fn sealed(&self, outcome: &str) -> u64 {
        let kept = if outcome == "sealed" { "accepted" } else { outcome };
        self.count("sealed", outcome) + self.stored("put", kept)
    }

    /// What rustls asks on a new connection, if the server keeps sessions.
    pub fn storage(&self) -> Arc<dyn StoresServerSessions> {
        Arc::clone(&self.acceptor.per_connection_config().session_storage)
    }

    /// How a connection to it as `name` ends.
    pub fn meet(&self, client: &Arc<ClientConfig>, name: &str) -> Outcome {
        meet(&self.acceptor.per_connection_config(), client, name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Full,
    Resumed,
    /// The server ended the handshake.
    Refused,
}

/// Shakes hands over byte pipes until neither side has anything left to say.
pub fn meet(server: &Arc<ServerConfig>, client: &Arc<ClientConfig>, name: &str) -> Outcome {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::clone(client), name).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.wants_write() || server.wants_write() {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            if server.process_new_packets().is_err() {
                return Outcome::Refused;
            }
        }
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    match server.handshake_kind().unwrap() {
        HandshakeKind::Resumed => Outcome::Resumed,
        HandshakeKind::Full | HandshakeKind::FullWithHelloRetryRequest => Outcome::Full,
    }
}

/// Sessions of all server names in one, as of a client that is led astray.
#[derive(Debug)]
struct Indiscreet(ClientSessionMemoryCache);

impl Default for Indiscreet {
    fn default() -> Self {
        Self(ClientSessionMemoryCache::new(16))
    }
}

fn anywhere() -> ServerName<'static> {
    ServerName::try_from("anywhere.test").unwrap()
}

impl ClientSessionStore for Indiscreet {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(anywhere(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&anywhere())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anywhere(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anywhere())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anywhere());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anywhere(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anywhere())
    }
}
