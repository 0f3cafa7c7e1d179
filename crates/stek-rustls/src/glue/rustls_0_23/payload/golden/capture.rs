//! Prints the sessions that rustls asks to be sealed, of each kind that a server meets. Built by
//! `capture.sh` against one version of rustls, and no part of the adapter.

use std::error::Error;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::{ProducesTickets, WebPkiClientVerifier};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection,
    SupportedCipherSuite, SupportedProtocolVersion,
};

/// The end of every client certificate, which the tests know: 2029-08-17T19:30:32Z.
const NOT_AFTER: u64 = 1_881_689_432;
const NAME: &str = "www.example.test";
/// A client that asks for an address sends no server name.
const ADDRESS: &str = "127.0.0.1";

type Chain = Vec<CertificateDer<'static>>;

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
        *self.0.lock().unwrap() = session.to_vec();
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let version = std::env::args().nth(1).ok_or("usage: capture VERSION")?;
    println!(
        "# version, client certificate, server name, ALPN, session as rustls {version} encoded it \
         (notAfter 2029-08-17T19:30:32Z)"
    );
    let site = rcgen::generate_simple_self_signed([NAME, ADDRESS].map(str::to_owned))?;
    let site_key = site.signing_key.serialize_der();
    let (roots, chain, key) = client_identity()?;
    let capture = |of, suite, certified: bool, name, alpn| -> Result<String, Box<dyn Error>> {
        let witness = Arc::new(Witness::default());
        let server = server(&roots, site.cert.der(), &site_key, witness.clone(), alpn)?;
        let identity = certified.then(|| (chain.clone(), key.clone()));
        shake(server, client(of, suite, site.cert.der(), identity, alpn)?, name)?;
        let mut hex = String::new();
        witness.0.lock().unwrap().iter().try_for_each(|byte| write!(hex, "{byte:02x}"))?;
        let client = if certified { "client" } else { "-" };
        let shown = if name == NAME { NAME } else { "-" };
        Ok(format!("{client} {shown} {} {hex}", alpn.unwrap_or("-")))
    };
    for (protocol, of) in [("tls13", &rustls::version::TLS13), ("tls12", &rustls::version::TLS12)] {
        for (certified, name, alpn) in
            [(false, NAME, None), (false, ADDRESS, Some("h2")), (true, NAME, Some("h2"))]
        {
            println!("{protocol} {}", capture(of, None, certified, name, alpn)?);
        }
        // Those above are of the suite that rustls prefers; one of each other.
        let suites = aws_lc_rs::default_provider().cipher_suites.into_iter();
        for suite in suites.filter(|suite| is_served(*suite, of)).skip(1) {
            println!("{protocol} {}", capture(of, Some(suite), false, NAME, None)?);
        }
    }
    Ok(())
}

/// Whether a server whose certificate is of ECDSA chooses `suite` in this version.
fn is_served(suite: SupportedCipherSuite, version: &SupportedProtocolVersion) -> bool {
    let of_version = suite.tls13().is_some() == (version == &rustls::version::TLS13);
    of_version && !format!("{:?}", suite.suite()).contains("RSA")
}

fn client_identity() -> Result<(RootCertStore, Chain, Vec<u8>), Box<dyn Error>> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate()?;
    let authority = params.self_signed(&key)?.der().clone();
    let issuer = Issuer::new(params, key);
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone())?;
    let mut params = CertificateParams::new(vec!["client".to_owned()])?;
    params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(NOT_AFTER);
    let key = KeyPair::generate()?;
    let own = params.signed_by(&key, &issuer)?.der().clone();
    Ok((roots, vec![own, authority], key.serialize_der()))
}

fn server(
    roots: &RootCertStore,
    certificate: &CertificateDer<'static>,
    key: &[u8],
    witness: Arc<Witness>,
    alpn: Option<&str>,
) -> Result<Arc<ServerConfig>, Box<dyn Error>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots.clone()), provider.clone())
            .allow_unauthenticated()
            .build()?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.to_vec()));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.clone()], key)?;
    config.ticketer = witness;
    config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

fn client(
    version: &'static SupportedProtocolVersion,
    suite: Option<SupportedCipherSuite>,
    site: &CertificateDer<'static>,
    identity: Option<(Chain, Vec<u8>)>,
    alpn: Option<&str>,
) -> Result<Arc<ClientConfig>, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(site.clone())?;
    let mut provider = aws_lc_rs::default_provider();
    if let Some(suite) = suite {
        provider = CryptoProvider { cipher_suites: vec![suite], ..provider };
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])?
        .with_root_certificates(roots);
    let mut config = match identity {
        Some((chain, key)) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
            builder.with_client_auth_cert(chain, key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.into_iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}

/// Shakes hands over byte pipes until neither side has anything left to say.
fn shake(
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    name: &str,
) -> Result<(), Box<dyn Error>> {
    let mut client = ClientConnection::new(client, ServerName::try_from(name.to_owned())?)?;
    let mut server = ServerConnection::new(server)?;
    while client.wants_write() || server.wants_write() {
        let (mut there, mut back) = (Vec::new(), Vec::new());
        while client.wants_write() {
            client.write_tls(&mut there)?;
        }
        let mut rest = there.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest)?;
            server.process_new_packets()?;
        }
        while server.wants_write() {
            server.write_tls(&mut back)?;
        }
        let mut rest = back.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest)?;
            client.process_new_packets()?;
        }
    }
    Ok(())
}
