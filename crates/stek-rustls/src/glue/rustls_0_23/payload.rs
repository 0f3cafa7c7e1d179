//! The session value of rustls 0.23, which is private to it, as a ticketer is shown it. Strict:
//! what is not exactly this is not known, and what is not known becomes no ticket.
//!
//! ```text
//! session = opt(name u8-long) ‖ version u16 ‖ suite u16 ‖ secret u8-long ‖ ems u8 ‖ opt(chain) ‖
//!           opt(alpn u8-long) ‖ application data u16-long ‖ created u64 ‖ age_add u32
//! chain   = u24-long list of u24-long certificates, the client's own first
//! opt(x)  = 0 | 1 ‖ x;   integers big-endian;   "n-long" = a length of that size before
//! ```

use crate::session::{Session, TlsVersion};

/// Reads a session; never copies any of it.
pub(crate) fn read(bytes: &[u8]) -> Option<Session<'_>> {
    let mut rest = Bytes(bytes);
    // rustls keeps a DNS name.
    if rest.flag()? && !rest.long::<1>()?.is_ascii() {
        return None;
    }
    let version = match rest.number::<2>()? {
        0x0303 => TlsVersion::Tls12,
        0x0304 => TlsVersion::Tls13,
        _ => return None,
    };
    rest.skip(2)?;
    // A master secret has 48 bytes (RFC 5246, 8.1), a resumption key those of the suite's hash.
    match (version, rest.long::<1>()?.len()) {
        (_, 48) | (TlsVersion::Tls13, 32) => {}
        _ => return None,
    }
    rest.flag()?;
    let client_certificate = match rest.flag()? {
        true => Some(own_certificate(rest.long::<3>()?)?),
        false => None,
    };
    if rest.flag()? {
        rest.long::<1>()?;
    }
    rest.long::<2>()?;
    rest.skip(8 + 4)?;
    rest.0.is_empty().then_some(Session { version, client_certificate })
}

/// The first certificate of a chain, all of which must be there.
fn own_certificate(chain: &[u8]) -> Option<&[u8]> {
    let mut rest = Bytes(chain);
    let own = rest.long::<3>()?;
    while !rest.0.is_empty() {
        rest.long::<3>()?;
    }
    Some(own)
}

/// What is not read yet.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// A big-endian integer of `N` bytes, at most 8.
    fn number<const N: usize>(&mut self) -> Option<u64> {
        let (number, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(number.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    /// 0 or 1.
    fn flag(&mut self) -> Option<bool> {
        match self.number::<1>()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.0 = self.0.get(len..)?;
        Some(())
    }

    /// As many bytes as the integer of `N` bytes before them says.
    fn long<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.number::<N>()?).ok()?;
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests;
