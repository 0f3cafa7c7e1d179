//! An HTTPS server that resumes sessions of its whole fleet and says in each answer how it did:
//! `https_server <listen> <cert.pem> <key.pem> <keyset> <url> <ca.pem> <token file> <name>`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]
use std::{env, error::Error, time::Duration};

use rustls::HandshakeKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use stek_rustls::prometheus::Registry;
use stek_rustls::{Acceptor, ClientConfig, ClientOptions, Fleet, InstanceName, KeysetName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::{net::TcpListener, net::TcpStream, time::timeout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, cert, key, keyset, url, ca, token, name] = args.as_slice() else {
        return Err("usage: https_server LISTEN CERT KEY KEYSET URL CA TOKEN NAME".into());
    };
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut options = ClientOptions::new([url], InstanceName::try_new(name)?);
    options.roots = vec![ca.into()];
    options.token = Some(token.into());
    let client = ClientConfig::try_new(&options)?;
    // What Prometheus scrapes: `TextEncoder::new().encode_to_string(&registry.gather())`.
    let registry = Registry::new();
    let fleet = Fleet::connect(&client, KeysetName::try_new(keyset)?, &registry)?;
    // A label for each site: servers of one label take each other's clients.
    let acceptor = fleet.server("www").certificate(chain, key).build()?;
    let listener = TcpListener::bind(listen).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => drop(tokio::spawn(serve(acceptor.clone(), tcp, name.clone()))),
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await; // out of file descriptors
            }
        }
    }
}

async fn serve(acceptor: Acceptor, tcp: TcpStream, name: String) -> std::io::Result<()> {
    let limit = Duration::from_secs(10);
    let mut tls = timeout(limit, acceptor.accept(tcp)).await??;
    let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    timeout(limit, tls.read(&mut [0; 4096])).await??;
    let body = format!("{name}: {} handshake\n", if resumed { "resumed" } else { "full" });
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close", body.len());
    timeout(limit, tls.write_all(format!("{head}\r\n\r\n{body}").as_bytes())).await??;
    timeout(limit, tls.shutdown()).await?
}
