//! The HTTP client with which servers are asked: TLS 1.3 under pinned roots, no redirects, no proxies,
//! and the client certificate that is in its files by now. What is asked is decided by others.

use std::sync::Arc;
use std::time::Duration;

use rustls::sign::{CertifiedKey, SingleCertAndKey};
use stek_clock::Clock;

use crate::certificate::{CertificateFiles, Changing};
use crate::config::{CONNECT_TIMEOUT, ClientConfig};
use crate::follower::StartError;
use crate::reader::Reader;
use crate::transport::chain;

/// A connection that says nothing for so long is asked whether it is alive, and dropped if it does
/// not answer within the same span.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A client whose certificate may change under it.
pub(crate) struct Http {
    client: reqwest::Client,
    config: ClientConfig,
    certificate: Option<Changing>,
    reader: Reader<(Changing, Option<Arc<CertifiedKey>>)>,
}

impl Http {
    /// A client with the certificate that is there now, if there is a whole one.
    pub(crate) fn try_new(config: &ClientConfig) -> Result<Self, StartError> {
        let mut certificate = config.certificate().cloned().map(Changing::new);
        let presented = certificate.as_mut().and_then(Changing::look);
        Ok(Self {
            client: client_with(config, presented)?,
            config: config.clone(),
            certificate,
            reader: Reader::new("client certificate"),
        })
    }

    /// The client as it was last renewed.
    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Presents the certificate that is in its files by now. Connections begun with another are
    /// not used again, for they would go on in its name.
    pub(crate) async fn renew(&mut self, clock: &dyn Clock) {
        let Some(mut certificate) = self.certificate.clone() else { return };
        let look = move || {
            let found = certificate.look();
            (certificate, found)
        };
        let Some((looked, found)) = self.reader.read(clock, look).await else { return };
        self.certificate = Some(looked);
        let Some(found) = found else { return };
        match client_with(&self.config, Some(found)) {
            Ok(client) => {
                self.client = client;
                tracing::info!("client certificate reloaded");
            }
            Err(error) => {
                tracing::warn!(error = %chain(&error), "client certificate not reloaded");
            }
        }
    }
}

/// The HTTP client with which servers are asked: TLS 1.3 under the configured roots alone, without
/// redirects, proxies or retries. Also for whoever asks the same servers something else; requests
/// have no time-out but that of connecting, so give each its own.
///
/// # Errors
/// [`StartError::Certificate`] if its files have changed to something else, [`StartError::Tls`] or
/// [`StartError::Http`] if the libraries below refuse.
pub fn http_client(config: &ClientConfig) -> Result<reqwest::Client, StartError> {
    let presented = config.certificate().map(CertificateFiles::read).transpose();
    client_with(config, presented.map_err(StartError::Certificate)?)
}

fn client_with(
    config: &ClientConfig,
    presented: Option<Arc<CertifiedKey>>,
) -> Result<reqwest::Client, StartError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(StartError::Tls)?
        .with_root_certificates(Arc::clone(config.roots()));
    let mut tls = match presented {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))),
        None => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        // `http` is for this machine only, whatever a resolver says.
        .resolve_to_addrs(
            "localhost",
            &[([127, 0, 0, 1], 0).into(), ([0, 0, 0, 0, 0, 0, 0, 1], 0).into()],
        )
        .user_agent(concat!("stek-client/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIMEOUT)
        // A long poll is silent by intention, so a peer that vanished is found out below it.
        .http2_keep_alive_interval(KEEP_ALIVE)
        .http2_keep_alive_timeout(KEEP_ALIVE)
        .tcp_keepalive(KEEP_ALIVE)
        .build()
        .map_err(StartError::Http)
}
