//! The two handshake messages that matter: `NewSessionTicket`, and `ServerHello` for whether it
//! takes up the session that was offered. All else is passed over.

use super::record::{HANDSHAKE, Reader, messages, records};

/// Message types (RFC 8446, appendix B.3).
pub(super) const SERVER_HELLO: u8 = 2;
pub(super) const NEW_SESSION_TICKET: u8 = 4;
pub(super) const KEY_UPDATE: u8 = 24;

/// Extension `pre_shared_key` (RFC 8446, section 4.2.11).
const PRE_SHARED_KEY: u16 = 41;

/// Bytes that name a key at the front of a ticket, where servers follow RFC 5077, section 4.
const KEY_NAME: usize = 16;

/// The random of a `ServerHello` that is a `HelloRetryRequest` (RFC 8446, section 4.1.3).
const HELLO_RETRY_REQUEST: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// A ticket as the server sent it. Without the secret of its session it is of use to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SentTicket {
    /// For how long the server says that it may be used, in seconds; in TLS 1.2, 0 says nothing.
    pub(crate) lifetime_hint: u32,
    /// What the client gives back.
    pub(crate) ticket: Vec<u8>,
}

impl SentTicket {
    /// `struct { uint32 ticket_lifetime; uint32 ticket_age_add; opaque ticket_nonce<0..255>; opaque
    /// ticket<1..2^16-1>; Extension extensions<0..2^16-2>; }` (RFC 8446, section 4.6.1).
    pub(super) fn read_tls13(body: &[u8]) -> Option<Self> {
        let mut body = Reader(body);
        let (lifetime_hint, _age_add, _nonce) = (body.u32()?, body.u32()?, body.short()?);
        let ticket = body.long().filter(|ticket| !ticket.is_empty())?.to_vec();
        body.long()?;
        Some(Self { lifetime_hint, ticket })
    }

    /// `struct { uint32 ticket_lifetime_hint; opaque ticket<0..2^16-1>; }` (RFC 5077, section 3.3).
    pub(super) fn read_tls12(body: &[u8]) -> Option<Self> {
        let mut body = Reader(body);
        let lifetime_hint = body.u32()?;
        let ticket = body.long().filter(|ticket| !ticket.is_empty())?.to_vec();
        Some(Self { lifetime_hint, ticket })
    }

    /// Its first 16 bytes: the name of the key that sealed it, if the server writes one there.
    pub(crate) fn key_name(&self) -> Option<[u8; KEY_NAME]> {
        self.ticket.first_chunk().copied()
    }
}

/// The tickets that a TLS 1.2 server sent: they stand in the clear, before it begins to encrypt.
pub(super) fn tls12_tickets(stream: &[u8]) -> Vec<SentTicket> {
    let clear = clear_handshake(stream);
    let bodies = messages(&clear).filter(|(kind, _)| *kind == NEW_SESSION_TICKET);
    bodies.filter_map(|(_, body)| SentTicket::read_tls12(body)).collect()
}

/// The payloads of the records in the clear at the start of a stream: hellos, and no more in TLS
/// 1.3.
pub(super) fn clear_handshake(stream: &[u8]) -> Vec<u8> {
    let clear = records(stream).take_while(|record| record.kind == HANDSHAKE);
    clear.flat_map(|record| record.payload.iter().copied()).collect()
}

/// Whether the `ServerHello` at the start of `stream` takes up the session that was offered in TLS
/// 1.3. `None` if it is not there, or asks for another `ClientHello` first.
pub(super) fn takes_up_session(stream: &[u8]) -> Option<bool> {
    let clear = clear_handshake(stream);
    let (_, body) = messages(&clear).next().filter(|(kind, _)| *kind == SERVER_HELLO)?;
    let mut body = Reader(body);
    body.u16()?;
    if body.take(32)? == HELLO_RETRY_REQUEST {
        return None;
    }
    let (_session_id, _suite, _compression) = (body.short()?, body.u16()?, body.u8()?);
    let mut extensions = Reader(body.long()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        extensions.long()?;
        if kind == PRE_SHARED_KEY {
            return Some(true);
        }
    }
    Some(false)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn server_hello(extensions: &[u8], random: [u8; 32]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend_from_slice(&random);
        body.extend_from_slice(&[0, 0x13, 0x01, 0]);
        body.extend_from_slice(&u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend_from_slice(extensions);
        let mut stream = vec![22, 3, 3, 0, u8::try_from(body.len() + 4).unwrap(), 2, 0, 0];
        stream.push(u8::try_from(body.len()).unwrap());
        stream.extend_from_slice(&body);
        stream
    }

    #[test]
    fn a_server_hello_says_whether_it_resumes() {
        let versions = [0, 43, 0, 2, 3, 4];
        let chosen = [0, 43, 0, 2, 3, 4, 0, 41, 0, 2, 0, 0];
        assert_eq!(takes_up_session(&server_hello(&versions, [7; 32])), Some(false));
        assert_eq!(takes_up_session(&server_hello(&chosen, [7; 32])), Some(true));
        assert_eq!(takes_up_session(&server_hello(&chosen, HELLO_RETRY_REQUEST)), None);
        let whole = server_hello(&chosen, [7; 32]);
        for cut in 0..whole.len() {
            assert_eq!(takes_up_session(&whole[..cut]), None);
        }
        let alert = [21, 3, 3, 0, 2, 2, 40];
        assert_eq!(takes_up_session(&alert), None);
    }

    #[test]
    fn tickets_are_read_from_their_messages() {
        let mut tls12 = vec![0, 0, 0x1c, 0x20, 0, 18];
        tls12.extend_from_slice(&[9; 18]);
        let read = SentTicket::read_tls12(&tls12).unwrap();
        assert_eq!((read.lifetime_hint, read.key_name()), (7200, Some([9; 16])));
        let empty = [0, 0, 0, 0, 0, 0];
        assert_eq!(SentTicket::read_tls12(&empty), None, "a server may send an empty one");
        let tls13 = [0, 0, 0, 30, 1, 2, 3, 4, 2, 0, 0, 0, 3, 7, 8, 9, 0, 0];
        let read = SentTicket::read_tls13(&tls13).unwrap();
        assert_eq!((read.lifetime_hint, &*read.ticket), (30, &[7, 8, 9][..]));
        assert_eq!(read.key_name(), None, "too short for a name");
        for cut in 0..tls13.len() {
            assert_eq!(SentTicket::read_tls13(&tls13[..cut]), None);
        }
    }

    proptest! {
        #[test]
        fn whatever_came_is_read_without_a_panic(bytes: Vec<u8>, kind in 20_u8..24) {
            let mut stream = vec![kind, 3, 3, 0, u8::try_from(bytes.len().min(255)).unwrap()];
            stream.extend_from_slice(&bytes);
            let _ = (takes_up_session(&stream), tls12_tickets(&stream));
            let _ = (SentTicket::read_tls13(&bytes), SentTicket::read_tls12(&bytes));
        }
    }
}
