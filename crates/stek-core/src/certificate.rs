//! When a certificate ends. Nothing else is read of it: whoever asks has verified it, or it is its own.
//!
//! Read by hand, because it is done for every session that is sealed or opened, and for a reader of
//! all of DER these nine headers are a good part of the cost; the tests compare it with one.

use crate::time::Timestamp;

const INTEGER: u8 = 0x02;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
/// `[0]`, explicit.
const VERSION: u8 = 0xa0;

/// `notAfter` of a DER certificate (RFC 5280, 4.1): the last second at which it is valid.
///
/// ```text
/// Certificate    = SEQUENCE { TBSCertificate, … }
/// TBSCertificate = SEQUENCE { [0] version OPTIONAL, serialNumber, signature, issuer, Validity, … }
/// Validity       = SEQUENCE { notBefore Time, notAfter Time }
/// ```
pub fn not_after(certificate: &[u8]) -> Option<Timestamp> {
    let mut certificate = Der(Der(certificate).take(SEQUENCE)?);
    let mut tbs = Der(certificate.take(SEQUENCE)?);
    if tbs.0.first() == Some(&VERSION) {
        tbs.take(VERSION)?;
    }
    for field in [INTEGER, SEQUENCE, SEQUENCE] {
        tbs.take(field)?;
    }
    let mut validity = Der(tbs.take(SEQUENCE)?);
    validity.value()?;
    let not_after = validity.time()?;
    validity.0.is_empty().then_some(not_after)
}

/// DER that is not read yet (ITU-T X.690).
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The contents of the next value, which must have this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, contents) = self.value()?;
        (found == tag).then_some(contents)
    }

    /// The tag and the contents of the next value.
    fn value(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, first], rest) = self.0.split_first_chunk()?;
        // The shortest form of all, and no certificate is longer than 65,535 bytes.
        let (len, shortest, rest) = match first {
            0..=0x7f => (usize::from(first), 0, rest),
            0x81 => rest.split_first().map(|(len, rest)| (usize::from(*len), 0x80, rest))?,
            0x82 => {
                let (len, rest) = rest.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*len)), 0x100, rest)
            }
            _ => return None,
        };
        if len < shortest {
            return None;
        }
        let (contents, rest) = rest.split_at_checked(len)?;
        self.0 = rest;
        Some((tag, contents))
    }

    /// `Time`: the years 1950 to 2049 in two digits (RFC 5280, 4.1.2.5.1), others in four.
    fn time(&mut self) -> Option<Timestamp> {
        let (tag, contents) = self.value()?;
        let (century, rest) = match tag {
            UTC_TIME => (None, contents),
            GENERALIZED_TIME => {
                let (century, rest) = contents.split_first_chunk()?;
                (Some(number(century)?), rest)
            }
            _ => return None,
        };
        // Of a length that is known no digit is asked whether it is there.
        let ([year, month, day, hour, minute, second], b"Z") = rest.as_chunks() else {
            return None;
        };
        let year = number(year)?;
        let century = century.unwrap_or(if year < 50 { 20 } else { 19 });
        let days = days_since_1970(century * 100 + year, number(month)?, number(day)?)?;
        let (hour, minute, second) = (number(hour)?, number(minute)?, number(second)?);
        let is_time = hour < 24 && minute < 60 && second < 60;
        is_time.then(|| Timestamp::from_unix(((days * 24 + hour) * 60 + minute) * 60 + second))
    }
}

/// Two decimal digits.
fn number(digits: &[u8; 2]) -> Option<u64> {
    let [tens, ones] = digits.map(|digit| digit.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u64::from(tens) * 10 + u64::from(ones))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, `None` if there is no such day or it is
/// earlier.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days_of_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + u64::from(leap),
        _ => return None,
    };
    if year < 1970 || day == 0 || day > days_of_month {
        return None;
    }
    // Years that begin in March end with the day that some of them have not.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let before = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day;
    // What that gives for the first day of 1970.
    before.checked_sub(719_469)
}

#[cfg(test)]
mod tests {
    use der::Decode;
    use der::asn1::{GeneralizedTime, UtcTime};
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

    /// What a reader of all of DER makes of one `Time`.
    fn reference(time: &[u8]) -> Option<u64> {
        let since_epoch = match *time.first()? {
            UTC_TIME => UtcTime::from_der(time).ok()?.to_unix_duration(),
            _ => GeneralizedTime::from_der(time).ok()?.to_unix_duration(),
        };
        Some(since_epoch.as_secs())
    }

    fn own(time: &[u8]) -> Option<u64> {
        let mut der = Der(time);
        let time = der.time()?;
        der.0.is_empty().then_some(time.as_unix())
    }

    fn der(tag: u8, text: &str) -> Vec<u8> {
        [&[tag, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
    }

    #[test]
    fn every_day_is_what_another_reader_says() {
        for year in 1970..2400 {
            for month in 0..=13 {
                for day in [0, 1, 28, 29, 30, 31, 32] {
                    let text = format!("{year:04}{month:02}{day:02}235958Z");
                    let general = der(GENERALIZED_TIME, &text);
                    assert_eq!(own(&general), reference(&general), "{text}");
                    if (1970..2050).contains(&year) {
                        let short = der(UTC_TIME, &text[2..]);
                        assert_eq!(own(&short), reference(&short), "{text}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_no_time_is_none_for_both() {
        let texts = [
            "",
            "Z",
            "20300101000000",
            "20300101000000+0000",
            "20300101240000Z",
            "20300101006000Z",
            "20300101000060Z",
            "2030010100000aZ",
            "20300101000000ZZ",
            "300101000000Z",
        ];
        for text in texts {
            let time = der(GENERALIZED_TIME, text);
            assert_eq!((own(&time), reference(&time)), (None, None), "{text}");
        }
        assert_eq!(own(&der(0x04, "20300101000000Z")), None);
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
