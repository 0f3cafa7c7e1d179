//! Identifiers that the system hands out: keys, revisions, lineages, and what is safe to show of a
//! key. None of them is secret.

use std::fmt;

use uuid::Uuid;
use uuid::fmt::Hyphenated;

/// Identifies one ticket key for its whole life, in the database, the bundle and the log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(Uuid);

impl KeyId {
    /// A UUIDv7 (RFC 9562, 5.7) of the time and ten random bytes given.
    pub fn new(unix_millis: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_millis, random).into_uuid())
    }

    /// The identifier with these sixteen bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The sixteen bytes, as they enter additional authenticated data.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the hyphenated form.
    ///
    /// # Errors
    /// [`ParseIdError`] if it is no UUID.
    pub fn parse(text: &str) -> Result<Self, ParseIdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError)
    }
}

/// One lineage of the database: a restored database gets a later one. A UUIDv7, so that lineages
/// order by age.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(Uuid);

impl Incarnation {
    /// A lineage that begins at this time, told apart by ten random bytes.
    pub fn new(unix_millis: u64, random: &[u8; 10]) -> Self {
        Self(uuid::Builder::from_unix_timestamp_millis(unix_millis, random).into_uuid())
    }

    /// When it began, in milliseconds since the Unix epoch (RFC 9562, 5.7).
    pub fn unix_millis(&self) -> u64 {
        self.as_bytes()[..6].iter().fold(0, |millis, byte| millis << 8 | u64::from(*byte))
    }

    /// The lineage with these sixteen bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// The sixteen bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Reads the hyphenated form.
    ///
    /// # Errors
    /// [`ParseIdError`] if it is no UUID.
    pub fn parse(text: &str) -> Result<Self, ParseIdError> {
        Uuid::try_parse(text).map(Self).map_err(|_| ParseIdError)
    }
}

/// The text is not a UUID.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a UUID such as 0192f0c1-7b6e-7c3a-9d2b-5f0c4a1e8d37")]
pub struct ParseIdError;

/// The number of a keyset's published content. The cluster counter hands revisions out, so they
/// only rise and no two transactions share one; 0 is before the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(u64);

impl Revision {
    /// Before anything was published.
    pub const ZERO: Self = Self(0);

    /// The revision with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The one after it.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

macro_rules! display_inner {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )*};
}
display_inner!(KeyId, Incarnation, Revision);

macro_rules! hex_bytes {
    ($($(#[$doc:meta])* $name:ident, $len:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// How many bytes it has.
            pub const LEN: usize = $len;

            /// From its bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Its bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads lower- or upper-case hexadecimal digits.
            ///
            /// # Errors
            /// [`ParseHexError`] if there are not exactly two for each byte.
            pub fn parse(text: &str) -> Result<Self, ParseHexError> {
                parse_hex(text).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}

hex_bytes! {
    /// Key check value: eight bytes derived from a key, the same on every machine that holds it,
    /// safe to show and log.
    Kcv, 8;
    /// The sixteen bytes that open a ticket on the wire (RFC 5077, section 4).
    KeyName, 16;
    /// Eight bytes that tell two contents of one revision apart, as after a restored database.
    ContentDigest, 8;
}

/// The text has not exactly two hexadecimal digits for each byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not {expected} hexadecimal digits")]
pub struct ParseHexError {
    /// How many digits are needed.
    pub expected: usize,
}

pub(crate) fn parse_hex<const N: usize>(text: &str) -> Result<[u8; N], ParseHexError> {
    let mut bytes = [0; N];
    if decode_hex(text, &mut bytes) { Ok(bytes) } else { Err(ParseHexError { expected: 2 * N }) }
}

/// Whether `text` is hexadecimal and fills `bytes`, which then hold what it says. All digits are
/// looked at, whichever is none: some are secret.
pub(crate) fn decode_hex(text: &str, bytes: &mut [u8]) -> bool {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return false;
    }
    let mut all = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (hex_digit(*high), hex_digit(*low));
        *byte = high << 4 | low & 0xf;
        all |= high | low;
    }
    all <= 0xf
}

/// What the digit stands for; more than 15 if it is none.
const fn hex_digit(digit: u8) -> u8 {
    let (number, letter) = (digit.wrapping_sub(b'0'), (digit | 0x20).wrapping_sub(b'a'));
    if number < 10 {
        number
    } else if letter < 6 {
        letter + 10
    } else {
        u8::MAX
    }
}

/// What an instance has installed, as it travels in an entity tag:
/// `<incarnation>.<revision>.<digest>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ContentTag {
    /// The lineage of the database that published it.
    pub incarnation: Incarnation,
    /// The revision within that lineage.
    pub revision: Revision,
    /// What tells apart two contents under one number.
    pub digest: ContentDigest,
}

impl ContentTag {
    /// Reads the text between the quotes of an entity tag: exactly what [`fmt::Display`] writes, so
    /// that one content has one tag.
    ///
    /// # Errors
    /// [`ParseContentTagError`] if it has not the three parts, or one of them in another form.
    pub fn parse(text: &str) -> Result<Self, ParseContentTagError> {
        Self::parse_parts(text).ok_or(ParseContentTagError)
    }

    /// For each poll of each terminator, so without writing the tag anew to compare.
    fn parse_parts(text: &str) -> Option<Self> {
        // Of 36 bytes a UUID has one form only; others come in braces and bare.
        let (uuid, rest) = text.split_at_checked(Hyphenated::LENGTH)?;
        let incarnation = Incarnation::parse(uuid).ok()?;
        let (number, digits) = rest.strip_prefix('.')?.split_once('.')?;
        // Letters may be upper case, and numbers have signs and leading zeros.
        let is_written_so = !text.bytes().any(|byte| byte.is_ascii_uppercase())
            && (number == "0" || !number.starts_with(['0', '+']));
        let revision = Revision::new(number.parse().ok()?);
        let digest = ContentDigest::parse(digits).ok()?;
        is_written_so.then_some(Self { incarnation, revision, digest })
    }
}

impl fmt::Display for ContentTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.incarnation, self.revision, self.digest)
    }
}

/// The text is not `<incarnation>.<revision>.<digest>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not <incarnation>.<revision>.<digest>")]
pub struct ParseContentTagError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_order_by_time() {
        assert!(KeyId::new(1_000, &[255; 10]) < KeyId::new(1_001, &[0; 10]));
        assert!(Incarnation::new(1_000, &[255; 10]) < Incarnation::new(1_001, &[0; 10]));
    }

    #[test]
    fn hexadecimal_reads_what_it_writes() {
        let kcv = Kcv::from_bytes([0, 1, 0x7f, 0x80, 0xfe, 0xff, 0xab, 0xcd]);
        assert_eq!(kcv.to_string(), "00017f80feffabcd");
        assert_eq!(Kcv::parse("00017F80feffABCD"), Ok(kcv));
        for bad in [
            "",
            "00",
            "00017f80feffabcg",
            "00017f80feffabcdef",
            "0x017f80feffabcd",
            "+1+1+1+1+1+1+1+1",
        ] {
            assert_eq!(Kcv::parse(bad), Err(ParseHexError { expected: 16 }), "{bad}");
        }
    }

    #[test]
    fn content_tags_read_what_they_write() {
        let tag = ContentTag {
            incarnation: Incarnation::new(1_790_000_000_000, &[7; 10]),
            revision: Revision::new(42),
            digest: ContentDigest::from_bytes([9; 8]),
        };
        assert_eq!(ContentTag::parse(&tag.to_string()), Ok(tag));
        for bad in ["", "x.1.0909090909090909", "a.b", &tag.to_string().replace(".42.", ".-1.")] {
            assert_eq!(ContentTag::parse(bad), Err(ParseContentTagError), "{bad}");
        }
    }

    #[test]
    fn a_content_tag_has_one_form_only() {
        let tag = ContentTag {
            incarnation: Incarnation::from_bytes([0xab; 16]),
            revision: Revision::new(42),
            digest: ContentDigest::from_bytes([0xcd; 8]),
        };
        let (text, lineage) = (tag.to_string(), tag.incarnation.to_string());
        for other in [
            text.replace(".42.", ".042."),
            text.replace(".42.", ".+42."),
            text.replace(&lineage, &lineage.to_uppercase()),
            text.replace(&lineage, &lineage.replace('-', "")),
            text.replace(&lineage, &format!("{{{lineage}}}")),
            text.replace(&lineage, &format!("urn:uuid:{lineage}")),
            text.replace("cdcd", "CDCD"),
            format!("{text} "),
            format!("{text}.0"),
        ] {
            assert_eq!(ContentTag::parse(&other), Err(ParseContentTagError), "{other}");
        }
    }
}
