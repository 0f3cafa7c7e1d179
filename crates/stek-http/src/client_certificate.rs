//! What a client certificate says of its holder. It was verified in the handshake; here it is only
//! read, by the same parser. What its holder may do is decided by others.

use rustls::pki_types::CertificateDer;
use stek_core::certificate::not_after;
use stek_core::name::PrincipalName;
use stek_core::principal::{MAX_NAMES, Principals, RESERVED, TOKEN_PREFIX};
use stek_core::time::Timestamp;

/// A verified client certificate that names its holder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// Its URI and DNS names as they stand there: URIs before DNS names, both by bytes, each once.
    /// The common name is no name.
    pub principals: Principals,
    /// The last second at which it is valid. Connections outlast their handshake.
    pub not_after: Timestamp,
}

/// Why a verified certificate names nobody. One name that is not allowed spoils all of them; what the
/// parser takes for no URI or DNS name at all is passed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Nameless {
    #[error("it cannot be read")]
    Unreadable,
    #[error("it has no URI or DNS name, or more than {MAX_NAMES}")]
    Count,
    #[error("its name {0:?} is not 1 to 512 visible ASCII characters without '*'")]
    Form(String),
    #[error("its name {0:?} is one that no certificate may bear")]
    Reserved(String),
}

impl ClientCertificate {
    pub(crate) fn read(der: &CertificateDer<'_>) -> Result<Self, Nameless> {
        let not_after = not_after(der).ok_or(Nameless::Unreadable)?;
        let parsed = webpki::EndEntityCert::try_from(der).map_err(|_| Nameless::Unreadable)?;
        let mut names = names(parsed.valid_uri_names())?;
        for name in self::names(parsed.valid_dns_names())? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let principals = Principals::try_new(names).ok_or(Nameless::Count)?;
        Ok(Self { principals, not_after })
    }
}

fn names<'a>(texts: impl Iterator<Item = &'a str>) -> Result<Vec<PrincipalName>, Nameless> {
    // Bounded before anything is made of them: a certificate may be long.
    let mut names = Vec::with_capacity(MAX_NAMES);
    for text in texts {
        if names.len() == MAX_NAMES {
            return Err(Nameless::Count);
        }
        names.push(name(text)?);
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

fn name(text: &str) -> Result<PrincipalName, Nameless> {
    let shown = || text.chars().take(80).collect();
    // The scheme of a URI is the same in upper case, and nobody should be able to tell them apart.
    let head = text.get(..TOKEN_PREFIX.len()).unwrap_or("");
    let is_reserved = |reserved: &str| text.eq_ignore_ascii_case(reserved);
    if head.eq_ignore_ascii_case(TOKEN_PREFIX) || RESERVED.into_iter().any(is_reserved) {
        return Err(Nameless::Reserved(shown()));
    }
    match PrincipalName::try_new(text) {
        Ok(name) if !text.contains('*') => Ok(name),
        _ => Err(Nameless::Form(shown())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType, date_time_ymd};

    fn read(names: &[&str]) -> Result<Vec<String>, Nameless> {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "common.example");
        params.not_after = date_time_ymd(2049, 3, 1);
        params.subject_alt_names = names
            .iter()
            .map(|name| match name.contains(':') {
                true => SanType::URI((*name).try_into().unwrap()),
                false => SanType::DnsName((*name).try_into().unwrap()),
            })
            .collect();
        params.subject_alt_names.push(SanType::IpAddress([192, 0, 2, 7].into()));
        let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
        let read = ClientCertificate::read(certificate.der())?;
        assert_eq!(read.not_after, Timestamp::from_unix(2_498_169_600));
        let all = |n: &&&str| read.principals.fit(&(**n).parse_pattern());
        let mut found: Vec<_> = names.iter().filter(all).map(|n| (*n).to_owned()).collect();
        found.insert(0, read.principals.shown().to_string());
        Ok(found)
    }

    trait ParsePattern {
        fn parse_pattern(&self) -> stek_core::principal::PrincipalPattern;
    }

    impl ParsePattern for &str {
        fn parse_pattern(&self) -> stek_core::principal::PrincipalPattern {
            stek_core::principal::PrincipalPattern::try_new(self).unwrap()
        }
    }

    #[test]
    fn uris_come_first_and_order_in_the_certificate_makes_no_difference() {
        let (uri, dns) = ("spiffe://td/edge/7", "a.example");
        assert_eq!(read(&[dns, uri, dns]).unwrap()[0], uri);
        assert_eq!(read(&[uri, dns]).unwrap(), [uri, uri, dns]);
        assert_eq!(read(&["b.example", dns]).unwrap(), [dns, "b.example", dns]);
    }

    #[test]
    fn a_certificate_without_alternative_names_names_nobody() {
        assert_eq!(read(&[]), Err(Nameless::Count));
    }

    #[test]
    fn the_number_of_names_is_bounded() {
        let names: Vec<_> = (0..=MAX_NAMES).map(|n| format!("n{n}.example")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        assert!(read(&names[1..]).is_ok());
        assert_eq!(read(&names), Err(Nameless::Count));
    }

    #[test]
    fn names_of_tokens_and_of_the_audit_trail_spoil_a_certificate() {
        for bad in ["token:edge", "TOKEN:edge", "manager", "Manager", "offline"] {
            let error = read(&["spiffe://td/edge/7", bad]).unwrap_err();
            assert_eq!(error, Nameless::Reserved(bad.to_owned()));
        }
        assert!(matches!(read(&["*.edge.example"]), Err(Nameless::Form(_))));
        assert!(matches!(read(&["spiffe://td/edge/*"]), Err(Nameless::Form(_))));
        assert_eq!(read(&["manager.example"]).unwrap()[0], "manager.example");
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        let read = |bytes: &[u8]| ClientCertificate::read(&CertificateDer::from(bytes.to_vec()));
        assert_eq!(read(b""), Err(Nameless::Unreadable));
        assert_eq!(read(b"0\x03\x02\x01\x01"), Err(Nameless::Unreadable));
    }
}
