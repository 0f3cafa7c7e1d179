//! Ends TLS for two virtual hosts and passes bytes on over TCP; the second asks for client
//! certificates:
//! `tls_proxy <listen> <cert.pem> <key.pem> <keyset> <url> <ca.pem> <token file> <name> \
//!            <open host> <backend> <closed host> <backend> <client-ca.pem>`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]
use std::{collections::HashMap, env, error::Error, io, sync::Arc, time::Duration};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use stek_rustls::prometheus::Registry;
use stek_rustls::{Acceptor, ClientConfig, ClientOptions, Fleet, InstanceName, KeysetName};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;

/// A client that does not finish its handshake within this is gone.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// Where the connections of a host go.
struct Host {
    acceptor: Acceptor,
    backend: String,
}

type Hosts = HashMap<String, Host>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, cert, key, keyset, url, ca, token, name, hosts @ ..] = args.as_slice() else {
        return Err("usage: tls_proxy LISTEN CERT KEY KEYSET URL CA TOKEN NAME HOSTS".into());
    };
    let [open, open_backend, closed, closed_backend, client_ca] = hosts else {
        return Err("HOSTS: OPEN BACKEND CLOSED BACKEND CLIENT_CA".into());
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(cert)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(client_ca)? {
        roots.add(certificate?)?;
    }
    let mut options = ClientOptions::new([url], InstanceName::try_new(name)?);
    options.roots = vec![ca.into()];
    options.token = Some(token.into());
    let client = ClientConfig::try_new(&options)?;
    // What Prometheus scrapes: `TextEncoder::new().encode_to_string(&registry.gather())`.
    let registry = Registry::new();
    let fleet = Fleet::connect(&client, KeysetName::try_new(keyset)?, &registry)?;
    // Each host has its scope; a ticket of the one is unknown to the other.
    let everybody = fleet.server(open).certificate(chain.clone(), key.clone_key()).build()?;
    let proven = fleet
        .server(closed)
        .certificate(chain, key)
        .require_client_certificates(roots)
        .resume_client_auth_without_verifying_again()
        .build()?;
    let hosts = Arc::new(Hosts::from([
        (open.clone(), Host { acceptor: everybody, backend: open_backend.clone() }),
        (closed.clone(), Host { acceptor: proven, backend: closed_backend.clone() }),
    ]));
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let Ok((tcp, peer)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors
            continue;
        };
        let hosts = Arc::clone(&hosts);
        tokio::spawn(async move {
            if let Err(error) = serve(&hosts, tcp).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
}

async fn serve(hosts: &Hosts, tcp: TcpStream) -> io::Result<()> {
    let shaking = async {
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await?;
        let host = start.client_hello().server_name().and_then(|name| hosts.get(name));
        let host = host.ok_or_else(|| io::Error::other("no such host"))?;
        Ok::<_, io::Error>((host, host.acceptor.accept_after_hello(start).await?))
    };
    let (host, mut tls) = timeout(HANDSHAKE_LIMIT, shaking).await??;
    let mut backend = TcpStream::connect(&host.backend).await?;
    tokio::io::copy_bidirectional(&mut tls, &mut backend).await?;
    Ok(())
}
