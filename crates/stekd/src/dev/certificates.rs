//! Certificates for development: an authority that is forgotten after it has signed one server
//! certificate.

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use zeroize::Zeroizing;

/// An authority's certificate, and a server's certificate and key, all PEM.
pub(crate) struct DevCertificates {
    pub(crate) authority: String,
    pub(crate) certificate: String,
    pub(crate) private_key: Zeroizing<String>,
}

/// New certificates for a server of these DNS names and IP addresses.
pub(crate) fn make(names: &[String]) -> Result<DevCertificates> {
    let authority_key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    authority.distinguished_name.push(DnType::CommonName, "stekd development authority");
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(names)?;
    // Clients go by the names above; this one is for people, and has a limit that they have not.
    server.distinguished_name.push(DnType::CommonName, "stekd development server");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = server.signed_by(&key, &issuer)?;
    Ok(DevCertificates {
        authority: authority_certificate.pem(),
        certificate: certificate.pem(),
        private_key: Zeroizing::new(key.serialize_pem()),
    })
}
