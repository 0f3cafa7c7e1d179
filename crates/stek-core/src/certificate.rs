//! When a certificate ends. Nothing else is read of it: whoever asks has verified it, or it is its own.

use crate::time::Timestamp;
use der::asn1::{GeneralizedTime, UtcTime};
use der::{Decode, Header, Reader, SliceReader, Tag, TagNumber};

/// `notAfter` of a DER certificate (RFC 5280, 4.1): the last second at which it is valid. `None` if
/// it cannot be found.
///
/// ```text
/// Certificate    = SEQUENCE { TBSCertificate, … }
/// TBSCertificate = SEQUENCE { [0] version OPTIONAL, serialNumber, signature, issuer, Validity, … }
/// Validity       = SEQUENCE { notBefore Time, notAfter Time }
/// ```
pub fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let mut outer = SliceReader::new(certificate).ok()?;
    let mut certificate = enter(&mut outer)?;
    let mut tbs = enter(&mut certificate)?;
    let version = Tag::ContextSpecific { constructed: true, number: TagNumber(0) };
    if Header::peek(&tbs).ok()?.tag() == version {
        tbs.tlv_bytes().ok()?;
    }
    for _ in ["serialNumber", "signature", "issuer"] {
        tbs.tlv_bytes().ok()?;
    }
    let mut validity = enter(&mut tbs)?;
    validity.tlv_bytes().ok()?;
    let since_epoch = match Header::peek(&validity).ok()?.tag() {
        Tag::UtcTime => UtcTime::decode(&mut validity).ok()?.to_unix_duration(),
        Tag::GeneralizedTime => GeneralizedTime::decode(&mut validity).ok()?.to_unix_duration(),
        _ => return None,
    };
    validity.is_finished().then(|| Timestamp::from_unix(since_epoch.as_secs()))
}

/// Takes a SEQUENCE and gives a reader of what is in it.
fn enter<'a>(reader: &mut SliceReader<'a>) -> Option<SliceReader<'a>> {
    let header = Header::decode(reader).ok()?;
    if header.tag() != Tag::Sequence {
        return None;
    }
    SliceReader::new(reader.read_slice(header.length()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(year: i32) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["client".to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 3, 1);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn both_forms_of_time_are_read() {
        // UTCTime until 2049, GeneralizedTime from 2050 on.
        for (year, unix) in [(2049, 2_498_169_600), (2050, 2_529_705_600)] {
            assert_eq!(not_after(&certificate(year)), Some(Timestamp::from_unix(unix)), "{year}");
        }
    }

    #[test]
    fn what_is_cut_short_has_no_end() {
        let whole = certificate(2049);
        for len in 0..whole.len() {
            assert_eq!(not_after(&whole[..len]), None, "{len}");
        }
        assert_eq!(not_after(b"not a certificate"), None);
    }
}
