//! Whether the server is who it says. Certificates are judged at the present time, also where a
//! ticket is offered on a clock that is held back.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, RootCertStore, SignatureScheme};
use stek_clock::Clock;

/// Whom the client believes.
pub(crate) enum Trust {
    /// Certificates of these authorities.
    Roots(RootCertStore),
    /// Everybody: the probe then shows what somebody in between makes of the servers, too.
    Anyone,
}

/// [`Trust`] as rustls asks for it.
pub(super) struct Verifier {
    inner: Option<Arc<WebPkiServerVerifier>>,
    algorithms: WebPkiSupportedAlgorithms,
    clock: Arc<dyn Clock>,
}

impl Verifier {
    pub(super) fn new(
        trust: Trust,
        provider: &Arc<CryptoProvider>,
        clock: Arc<dyn Clock>,
    ) -> anyhow::Result<Self> {
        let inner = match trust {
            Trust::Anyone => None,
            Trust::Roots(roots) => {
                let provider = Arc::clone(provider);
                let roots = Arc::new(roots);
                Some(WebPkiServerVerifier::builder_with_provider(roots, provider).build()?)
            }
        };
        Ok(Self { inner, algorithms: provider.signature_verification_algorithms, clock })
    }
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(inner) = &self.inner else { return Ok(ServerCertVerified::assertion()) };
        let now = UnixTime::since_unix_epoch(Duration::from_millis(self.clock.wall_millis()));
        inner.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
