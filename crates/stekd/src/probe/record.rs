//! TLS records and handshake messages out of bytes as they came (RFC 8446, sections 5.1 and 4).
//! Whatever does not hold together ends the sequence; nothing here fails or panics.

/// Content type of handshake messages in the clear.
pub(super) const HANDSHAKE: u8 = 22;
/// Content type of what is encrypted, in TLS 1.3.
pub(super) const APPLICATION_DATA: u8 = 23;

/// Bytes of a record before its payload.
const HEADER: usize = 5;
/// The longest payload, TLS 1.2's (RFC 5246, section 6.2.3).
const MAX_PAYLOAD: usize = 16_384 + 2_048;

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// Its content type.
    pub(super) kind: u8,
    /// Its header, which TLS 1.3 authenticates.
    pub(super) header: [u8; HEADER],
    /// What follows the header.
    pub(super) payload: &'a [u8],
}

/// The whole records at the start of `stream`.
pub(super) fn records(stream: &[u8]) -> impl Iterator<Item = Record<'_>> {
    let mut rest = Reader(stream);
    std::iter::from_fn(move || {
        let header: [u8; HEADER] = rest.take(HEADER)?.try_into().ok()?;
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        let payload = rest.take(length).filter(|_| length <= MAX_PAYLOAD)?;
        Some(Record { kind: header[0], header, payload })
    })
    .fuse()
}

/// The whole handshake messages at the start of `bytes`, by type.
pub(super) fn messages(bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = Reader(bytes);
    std::iter::from_fn(move || {
        let kind = rest.u8()?;
        let length = u32::from_be_bytes([0, rest.u8()?, rest.u8()?, rest.u8()?]);
        Some((kind, rest.take(usize::try_from(length).ok()?)?))
    })
    .fuse()
}

/// Takes bytes from the front; `None` where there are too few.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Bytes behind a length of one byte.
    pub(super) fn short(&mut self) -> Option<&'a [u8]> {
        let length = self.u8()?;
        self.take(usize::from(length))
    }

    /// Bytes behind a length of two bytes.
    pub(super) fn long(&mut self) -> Option<&'a [u8]> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn records_end_where_the_bytes_do() {
        let stream = [22, 3, 3, 0, 2, 1, 2, 23, 3, 3, 0, 0, 23, 3, 3, 0, 9, 1];
        let found: Vec<_> = records(&stream).map(|record| (record.kind, record.payload)).collect();
        assert_eq!(found, [(22, &[1, 2][..]), (23, &[])]);
    }

    #[test]
    fn a_record_longer_than_tls_allows_is_none() {
        let mut stream = vec![23, 3, 3];
        stream.extend_from_slice(&18_433_u16.to_be_bytes());
        stream.resize(5 + 18_433, 0);
        assert_eq!(records(&stream).count(), 0);
    }

    #[test]
    fn messages_may_share_bytes_and_be_cut() {
        let found: Vec<_> = messages(&[4, 0, 0, 1, 7, 20, 0, 0, 0, 4, 0, 0, 2, 1]).collect();
        assert_eq!(found, [(4, &[7][..]), (20, &[])]);
    }

    proptest! {
        #[test]
        fn whatever_came_is_read_without_a_panic(bytes: Vec<u8>) {
            let payloads: usize = records(&bytes).map(|record| record.payload.len() + HEADER).sum();
            prop_assert!(payloads <= bytes.len());
            let bodies: usize = messages(&bytes).map(|(_, body)| body.len() + 4).sum();
            prop_assert!(bodies <= bytes.len());
        }
    }
}
