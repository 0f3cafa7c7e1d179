//! Sessions to seal, as rustls encoded them in real handshakes: without a client certificate, and
//! with a chain of two.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, ensure};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};

use crate::handshake::{Pki, exchange};

/// With this name a session without certificate has 93 bytes.
pub(crate) const NAME: &str = "www.bench.example.com";

/// Clients that prove a certificate, and who trusts them.
pub(crate) struct Clients {
    pub(crate) roots: RootCertStore,
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Clients {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate()?;
        let authority = params.self_signed(&key)?.der().clone();
        let issuer = Issuer::new(params, key);
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let key = KeyPair::generate()?;
        let own = CertificateParams::new(vec!["client".to_owned()])?.signed_by(&key, &issuer)?;
        Ok(Self { roots, chain: vec![own.der().clone(), authority], key: key.serialize_der() })
    }
}

/// Writes down what it is asked to seal.
#[derive(Debug, Default)]
struct Witness(Mutex<Vec<u8>>);

impl ProducesTickets for Witness {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = session.to_vec();
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// A session of `len` bytes: without a certificate if it is that short, else with the chain of
/// `clients` and as much data as the server has to keep with it to make up the rest.
pub(crate) fn session_of(len: usize, pki: &Pki, clients: &Clients) -> anyhow::Result<Vec<u8>> {
    let bare = capture(pki, clients, false, 0)?;
    if bare.len() == len {
        return Ok(bare);
    }
    let shortest = capture(pki, clients, true, 0)?.len();
    let data = len.checked_sub(shortest).with_context(|| format!("{shortest} bytes at least"))?;
    let session = capture(pki, clients, true, data)?;
    ensure!(session.len() == len, "{} bytes instead of {len}", session.len());
    Ok(session)
}

fn capture(
    pki: &Pki,
    clients: &Clients,
    certificate: bool,
    data: usize,
) -> anyhow::Result<Vec<u8>> {
    let witness = Arc::new(Witness::default());
    let server = server(pki, clients, Arc::<Witness>::clone(&witness))?;
    let name = ServerName::try_from(NAME)?;
    let mut client = ClientConnection::new(client(pki, clients, certificate)?, name)?;
    let mut server = ServerConnection::new(server)?;
    server.set_resumption_data(&vec![7; data]);
    exchange(&mut client, &mut server)?;
    let session = std::mem::take(&mut *witness.0.lock().unwrap_or_else(PoisonError::into_inner));
    ensure!(!session.is_empty(), "the handshake gave no session");
    Ok(session)
}

fn server(
    pki: &Pki,
    clients: &Clients,
    witness: Arc<Witness>,
) -> anyhow::Result<Arc<ServerConfig>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let roots = Arc::new(clients.roots.clone());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .allow_unauthenticated()
        .build()?;
    let (chain, key) = pki.identity();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    config.ticketer = witness;
    Ok(Arc::new(config))
}

fn client(pki: &Pki, clients: &Clients, certificate: bool) -> anyhow::Result<Arc<ClientConfig>> {
    let builder = pki.client_builder()?;
    Ok(Arc::new(if certificate {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(clients.key.clone()));
        builder.with_client_auth_cert(clients.chain.clone(), key)?
    } else {
        builder.with_no_client_auth()
    }))
}
