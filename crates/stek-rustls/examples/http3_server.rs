//! An HTTP/3 server whose sessions resume at its whole fleet, each connection of quinn with a
//! configuration of its own:
//! `http3_server <listen> <cert.pem> <key.pem> <keyset> <url> <ca.pem> <token file> <name>`
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for a terminal")]
use std::{env, error::Error, io::Cursor, sync::Arc, time::Duration};

use quinn::crypto::rustls::QuicServerConfig;
use quinn::{Endpoint, Incoming, ServerConfig};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use stek_rustls::prometheus::Registry;
use stek_rustls::{Acceptor, ClientConfig, ClientOptions, Fleet, InstanceName, KeysetName};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [listen, cert, key, keyset, url, ca, token, name] = args.as_slice() else {
        return Err("usage: http3_server LISTEN CERT KEY KEYSET URL CA TOKEN NAME".into());
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
    // QUIC has TLS 1.3 alone, so nothing has to be said of versions. A label for each site: servers of
    // one label take each other's clients.
    let acceptor = fleet.server("www").certificate(chain, key).alpn(["h3"]).build()?;
    // What all connections share, such as the keys of address validation.
    let shared = ServerConfig::with_crypto(crypto(&acceptor)?);
    let endpoint = Endpoint::server(shared.clone(), listen.parse()?)?;
    println!("listening on {}", endpoint.local_addr()?);
    while let Some(incoming) = endpoint.accept().await {
        let mut config = shared.clone();
        config.crypto = crypto(&acceptor)?;
        let name = name.clone();
        tokio::spawn(async move {
            let peer = incoming.remote_address();
            if let Err(error) = serve(incoming, config, &name).await {
                eprintln!("{peer}: {error}");
            }
        });
    }
    Ok(())
}

/// TLS for one connection.
fn crypto(acceptor: &Acceptor) -> Result<Arc<QuicServerConfig>, Box<dyn Error>> {
    Ok(Arc::new(QuicServerConfig::try_from(acceptor.per_connection_quic_config())?))
}

async fn serve(
    incoming: Incoming,
    config: ServerConfig,
    name: &str,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    // quinn ends a handshake that takes too long. Whether one resumed it does not tell, so none is
    // counted; `stek_tickets_opened_total` tells how many tickets opened.
    let connection = incoming.accept_with(Arc::new(config))?.await?;
    let mut http = h3::server::Connection::new(h3_quinn::Connection::new(connection)).await?;
    while let Some(request) = http.accept().await? {
        let (_, mut stream) = request.resolve_request().await?;
        stream.send_response(http::Response::new(())).await?;
        stream.send_data(Cursor::new(format!("{name}\n").into_bytes())).await?;
        timeout(Duration::from_secs(10), stream.finish()).await??;
    }
    Ok(())
}
