//! What a `ClientHello` full of identities costs: through this project's acceptor, and with one that
//! answers None at once, so that what remains is rustls' own parsing.

use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::ServerName;
use rustls::server::ProducesTickets;
use rustls::{ClientConnection, ServerConfig, ServerConnection};
use stek_core::ticket::MIN_TICKET_LEN;
use stek_rustls::Acceptor;

use crate::handshake::Pki;
use crate::measure::{Rounds, in_turns, instant, nanos};
use crate::report::{Report, STEK};
use crate::sessions::{Clients, NAME, session_of};
use crate::tickets::SIZES;

pub(crate) const WHAT: &str = "clienthello";
pub(crate) const CASE: &str = "worst";
/// Forged tickets that bear the name of a key of the server.
pub(crate) const OF_OUR_NAME: &str = "of-our-name";
pub(crate) const NOOP: &str = "noop";

/// Of one byte each.
const IDENTITIES: usize = 7_000;
/// Each as long as the shortest ticket; about as many as fit into the 64 KiB that rustls reads.
const TICKETS: usize = 500;
const PAIRS_OF_PASS: usize = 14;
/// RFC 8446, 4.2.11.
const PRE_SHARED_KEY: u16 = 41;
/// RFC 8446, 5.1.
const LONGEST_FRAGMENT: usize = 16_384;

/// Never opens, never seals.
#[derive(Debug)]
struct Noop;

impl ProducesTickets for Noop {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        0
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// `clienthello/…`.
pub(crate) struct Hellos {
    acceptor: Acceptor,
    noop: Arc<ServerConfig>,
    cases: [(&'static str, Vec<u8>, Rounds<2>); 2],
}

impl Hellos {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let (pki, clients) = (Pki::new()?, Clients::new()?);
        let (acceptor, noop) = (pki.acceptor(None)?, Arc::new(pki.server(Arc::new(Noop))?));
        let session = session_of(SIZES[0], &pki, &clients)?;
        let ticket = acceptor.per_connection_config().ticketer.encrypt(&session);
        let mut forged = ticket.context("no ticket")?;
        forged.truncate(MIN_TICKET_LEN);
        let case = |name, identity: &[u8], count| {
            let hello = with_identities(hello(&pki)?, identity, count)?;
            anyhow::Ok((name, records(&hello), Rounds::new()))
        };
        let cases = [case(CASE, &[0xaa], IDENTITIES)?, case(OF_OUR_NAME, &forged, TICKETS)?];
        Ok(Self { acceptor, noop, cases })
    }

    /// Measures some pairs.
    pub(crate) fn pass(&mut self) -> anyhow::Result<()> {
        for (_, hello, rounds) in &mut self.cases {
            let stek = || micros(|| self.acceptor.per_connection_config(), hello);
            let noop = || micros(|| Arc::clone(&self.noop), hello);
            for turn in 0..PAIRS_OF_PASS {
                rounds.push(in_turns(turn, stek, noop)?);
            }
        }
        Ok(())
    }

    /// Prints and keeps what was measured.
    pub(crate) fn report(&self, report: &mut Report) {
        for (case, _, rounds) in &self.cases {
            report.add_rounds(WHAT, case, [STEK, NOOP], rounds, "us");
        }
    }
}

/// What the server takes to read `hello` and to answer it with a full handshake.
fn micros(server: impl Fn() -> Arc<ServerConfig>, hello: &[u8]) -> anyhow::Result<f64> {
    let begin = instant();
    let mut server = ServerConnection::new(server())?;
    let mut rest = hello;
    while !rest.is_empty() {
        server.read_tls(&mut rest)?;
        server.process_new_packets()?;
    }
    let spent = begin.elapsed();
    anyhow::ensure!(server.wants_write(), "the server does not answer");
    Ok(nanos(spent) / 1e3)
}

/// The handshake message of a client that has no ticket.
fn hello(pki: &Pki) -> anyhow::Result<Vec<u8>> {
    let mut client = ClientConnection::new(pki.client()?, ServerName::try_from(NAME)?)?;
    let mut record = Vec::new();
    client.write_tls(&mut record)?;
    Ok(record.split_off(5))
}

/// `hello` with so many identities and with the smallest binders that parse.
fn with_identities(mut hello: Vec<u8>, identity: &[u8], count: usize) -> anyhow::Result<Vec<u8>> {
    let short = |len: usize| anyhow::Ok(u16::try_from(len)?.to_be_bytes());
    // With an age of zero; a binder of one byte.
    let identities = [&short(identity.len())?, identity, &[0; 4]].concat().repeat(count);
    let binders = [1, 0xbb].repeat(count);
    let mut extension = PRE_SHARED_KEY.to_be_bytes().to_vec();
    extension.extend(short(4 + identities.len() + binders.len())?);
    for list in [identities, binders] {
        extension.extend(short(list.len())?);
        extension.extend(list);
    }
    // Type and length, version, random, session id, suites, compression methods; then extensions.
    let after = |at: usize, len: usize| -> anyhow::Result<usize> {
        let bytes = hello.get(at..at + len).context("a short hello")?;
        Ok(at + len + bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)))
    };
    let extensions = after(after(after(4 + 2 + 32, 1)?, 2)?, 1)?;
    hello.extend(extension);
    let len = short(hello.len() - extensions - 2)?;
    hello[extensions..extensions + 2].copy_from_slice(&len);
    let len = u32::try_from(hello.len() - 4)?.to_be_bytes();
    hello[1..4].copy_from_slice(&len[1..]);
    Ok(hello)
}

/// `message` in records of TLS.
fn records(message: &[u8]) -> Vec<u8> {
    let record = |fragment: &[u8]| {
        let [.., high, low] = fragment.len().to_be_bytes();
        [&[22, 3, 1, high, low], fragment].concat()
    };
    message.chunks(LONGEST_FRAGMENT).flat_map(record).collect()
}
