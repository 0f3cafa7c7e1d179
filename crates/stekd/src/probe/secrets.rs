//! Tickets of TLS 1.3 out of a recorded connection. A TLS library keeps the tickets that it was
//! sent to itself, so they are read as a packet analyser does with a key log: the records under the
//! server's first application traffic secret are decrypted (RFC 8446, sections 5.2 and 7.3).

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{self, KeyType, Prk};
use rustls::CipherSuite;
use zeroize::Zeroizing;

use super::handshake::{KEY_UPDATE, NEW_SESSION_TICKET, SentTicket};
use super::record::{APPLICATION_DATA, HANDSHAKE, Record, messages, records};

/// Bytes of a nonce of every suite.
const NONCE: usize = 12;

/// What a cipher suite of TLS 1.3 decrypts with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Suite {
    aead: &'static aead::Algorithm,
    hkdf: hkdf::Algorithm,
}

impl Suite {
    /// The suites of RFC 8446, appendix B.4, without CCM, which the client never offers.
    pub(super) fn new(suite: CipherSuite) -> Option<Self> {
        let (aead, hkdf) = match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (&aead::AES_128_GCM, hkdf::HKDF_SHA256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (&aead::AES_256_GCM, hkdf::HKDF_SHA384),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => {
                (&aead::CHACHA20_POLY1305, hkdf::HKDF_SHA256)
            }
            _ => return None,
        };
        Some(Self { aead, hkdf })
    }
}

/// The tickets that a server sent under `secret`, its `SERVER_TRAFFIC_SECRET_0`.
///
/// Records before that epoch, those of the handshake, do not open under it and are passed over.
/// Behind a key update nothing is read: tickets come first.
pub(super) fn tls13_tickets(stream: &[u8], suite: Suite, secret: &[u8]) -> Vec<SentTicket> {
    let Some(mut epoch) = Epoch::new(suite, secret) else { return Vec::new() };
    let sealed = records(stream).filter(|record| record.kind == APPLICATION_DATA);
    let mut handshake = Vec::new();
    for record in sealed {
        let Some((kind, content)) = epoch.open(&record) else {
            // Nothing opens any more once one record of the epoch is broken.
            if epoch.sequence > 0 { break } else { continue }
        };
        if kind == HANDSHAKE {
            handshake.extend_from_slice(&content);
        }
        if messages(&handshake).any(|(kind, _)| kind == KEY_UPDATE) {
            break;
        }
    }
    let bodies = messages(&handshake).filter(|(kind, _)| *kind == NEW_SESSION_TICKET);
    bodies.filter_map(|(_, body)| SentTicket::read_tls13(body)).collect()
}

/// The records under one traffic secret, in order.
struct Epoch {
    key: LessSafeKey,
    iv: [u8; NONCE],
    sequence: u64,
}

impl Epoch {
    fn new(suite: Suite, secret: &[u8]) -> Option<Self> {
        let hash = suite.hkdf.hmac_algorithm().digest_algorithm().output_len();
        let secret = (secret.len() == hash).then(|| Prk::new_less_safe(suite.hkdf, secret))?;
        let key = expand_label(&secret, b"key", suite.aead.key_len())?;
        let key = LessSafeKey::new(UnboundKey::new(suite.aead, &key).ok()?);
        let iv = expand_label(&secret, b"iv", NONCE)?.first_chunk().copied()?;
        Some(Self { key, iv, sequence: 0 })
    }

    /// The content type and content of a record, if it is the next one.
    fn open(&mut self, record: &Record<'_>) -> Option<(u8, Zeroizing<Vec<u8>>)> {
        let mut nonce = self.iv;
        for (byte, count) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        let mut sealed = Zeroizing::new(record.payload.to_vec());
        let nonce = Nonce::assume_unique_for_key(nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(record.header), &mut sealed);
        let length = opened.ok()?.len();
        self.sequence += 1;
        // `TLSInnerPlaintext`: content, its type, zeros.
        let end = sealed[..length].iter().rposition(|byte| *byte != 0)?;
        let kind = sealed[end];
        sealed.truncate(end);
        Some((kind, sealed))
    }
}

/// `HKDF-Expand-Label` without context (RFC 8446, section 7.1).
fn expand_label(secret: &Prk, label: &[u8], length: usize) -> Option<Zeroizing<Vec<u8>>> {
    struct Length(usize);
    impl KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let total = u16::try_from(length).ok()?.to_be_bytes();
    let label_length = [u8::try_from(b"tls13 ".len() + label.len()).ok()?];
    let info = [&total[..], &label_length, b"tls13 ", label, &[0]];
    let mut expanded = Zeroizing::new(vec![0; length]);
    secret.expand(&info, Length(length)).ok()?.fill(&mut expanded).ok()?;
    Some(expanded)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 8448, section 3: `server_application_traffic_secret_0`.
    const SECRET: &str = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643";
    /// The complete record of its `NewSessionTicket`.
    const RECORD: &str = "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6\
        b580dcf3d11d63c758db289a015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da7\
        73b9ca7f2b9fa1b6c0d4a3d03f75e09c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5\
        b406f16e3fc181a77ca475840025db2f0a77f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143\
        f9605d64f650db4d023e70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c8153556b\
        3b6c6779b37bf15985684f";
    /// The first 16 bytes of the ticket in it.
    const NAME: &str = "2c035d829359ee5ff7af4ec900000000";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.chars().filter_map(|digit| digit.to_digit(16)).collect();
        digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
    }

    fn suite() -> Suite {
        Suite::new(CipherSuite::TLS13_AES_128_GCM_SHA256).unwrap()
    }

    #[test]
    fn the_ticket_of_rfc_8448_is_read() {
        // The records before it belong to other epochs.
        let handshake =
            [23, 3, 3, 0, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17];
        let stream = [&handshake[..], &bytes(RECORD)].concat();
        let tickets = tls13_tickets(&stream, suite(), &bytes(SECRET));
        let [ticket] = &tickets[..] else { panic!("{tickets:?}") };
        assert_eq!((ticket.lifetime_hint, ticket.ticket.len()), (30, 0xb2));
        assert_eq!(ticket.key_name().unwrap()[..], bytes(NAME));
    }

    #[test]
    fn every_record_of_the_epoch_is_read() {
        let epoch = Epoch::new(suite(), &bytes(SECRET)).unwrap();
        let mut stream = Vec::new();
        for sequence in 0..3_u8 {
            // A ticket of one byte, its content type, and padding.
            let mut inner = vec![4, 0, 0, 14, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 1, sequence, 0, 0];
            inner.extend_from_slice(&[22, 0, 0, 0]);
            let length = u8::try_from(inner.len() + 16).unwrap();
            let header = [23, 3, 3, 0, length];
            let mut nonce = epoch.iv;
            nonce[NONCE - 1] ^= sequence;
            let nonce = Nonce::assume_unique_for_key(nonce);
            epoch.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).unwrap();
            stream.extend_from_slice(&header);
            stream.extend_from_slice(&inner);
        }
        let tickets = tls13_tickets(&stream, suite(), &bytes(SECRET));
        let found: Vec<_> = tickets.iter().map(|ticket| &*ticket.ticket).collect();
        assert_eq!(found, [[0], [1], [2]]);
    }

    #[test]
    fn a_changed_record_gives_nothing() {
        let record = bytes(RECORD);
        for place in [0, 4, 5, record.len() - 1] {
            let mut changed = record.clone();
            changed[place] ^= 1;
            assert_eq!(tls13_tickets(&changed, suite(), &bytes(SECRET)), []);
        }
        assert_eq!(tls13_tickets(&record, suite(), &[0; 32]), []);
    }

    proptest! {
        #[test]
        fn whatever_came_is_read_without_a_panic(stream: Vec<u8>, secret: Vec<u8>) {
            prop_assert_eq!(tls13_tickets(&stream, suite(), &secret), []);
        }
    }
}
