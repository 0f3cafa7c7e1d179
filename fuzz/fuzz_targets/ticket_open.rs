//! A ticket that a client made, to a terminator with three keys: it never panics and never opens,
//! unless it is one that was sealed here, was not changed, and is in time. The first byte chooses
//! between foreign bytes and a real ticket with some of its bytes changed, or else no input would come
//! past the tag; the next ones say when it is sealed and when it is offered.

#![no_main]

use std::cmp::Ordering;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use stek_core::bundle::{Bundle, BundleKey};
use stek_core::derive::{self, Schema, Use};
use stek_core::id::{ContentDigest, ContentTag, Incarnation, KeyId, Revision};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::schedule::{KeyState, Schedule};
use stek_core::scope::ScopeDigest;
use stek_core::secret::KeyMaterial;
use stek_core::snapshot::Snapshot;
use stek_core::time::{Seconds, Timestamp};

/// So many keys seal for an hour each, one after another, and end an hour later.
const COUNT: u8 = 3;
const SEALS: u64 = 3_600;
const ENDS_AFTER: u64 = 2;
/// When the full handshake was made.
const BEGUN: Timestamp = Timestamp::from_unix(5_000);

static KEYS: LazyLock<Snapshot> = LazyLock::new(|| {
    let tag = ContentTag {
        incarnation: Incarnation::new(0, &[1; 10]),
        revision: Revision::new(1),
        digest: ContentDigest::from_bytes([1; 8]),
    };
    let name = KeysetName::try_new("fuzz").expect("a name");
    let keys = (0..COUNT).map(key).collect();
    // So that each of key, ticket and session is the first to end now and then.
    let asked = PolicyRequest {
        rotation_period: Some(Seconds::new(SEALS)),
        ticket_lifetime: Some(Seconds::new(5_400)),
        session_lifetime: Some(Seconds::new(7_200)),
        ..PolicyRequest::default()
    };
    let policy = Policy::try_new(&asked).expect("sound");
    let bundle = Bundle::try_new(tag, name, policy, keys, Vec::new()).expect("sound");
    let scope = ScopeDigest::from_bytes([1; 32]);
    Snapshot::new(&bundle, Use::Ticket, Schema::RUSTLS_0_23, scope, None)
});

fn key(number: u8) -> BundleKey {
    // Any bytes that look random.
    let mut bytes = std::array::from_fn(|i| (7 * i * i) as u8 ^ number);
    let material = Arc::new(KeyMaterial::take_from(&mut bytes));
    let at = |hour| Timestamp::from_unix(SEALS * (u64::from(number) + hour));
    let end = at(ENDS_AFTER);
    let schedule = Schedule::try_new(Timestamp::EPOCH, at(0), at(1), end, end).expect("sound");
    let (id, kcv) = (KeyId::from_bytes([number + 1; 16]), derive::kcv(&material));
    BundleKey { record: KeyRecord { id, format: TicketFormat::V1, kcv, schedule }, material }
}

/// Whether a ticket of this instant, unchanged, is to open at `now`.
fn is_in_time(sealed_at: Timestamp, now: Timestamp) -> bool {
    let policy = KEYS.policy();
    let key_end = Timestamp::from_unix(SEALS * (sealed_at.as_unix() / SEALS + ENDS_AFTER));
    let skew = policy.clock_skew();
    now < key_end
        && sealed_at <= now + skew
        && now < sealed_at + policy.ticket_lifetime() + skew
        && now < BEGUN.min(sealed_at) + policy.session_lifetime()
}

fuzz_target!(|input: &[u8]| {
    let Some((&[choice, sealed_at @ .., a, b], bytes)) = input.split_first_chunk::<5>() else {
        return;
    };
    // While there are keys that seal, and until an hour after the end of the last.
    let at = |bytes, hours: u64| {
        Timestamp::from_unix(u64::from(u16::from_be_bytes(bytes)) % (hours * SEALS))
    };
    let count = u64::from(COUNT);
    let (sealed_at, now) = (at(sealed_at, count), at([a, b], count + ENDS_AFTER));
    let (payload, changes) = bytes.split_at(bytes.len() / 2);
    let Ok(sealed) = KEYS.seal(payload, BEGUN, &[choice; 24], sealed_at) else { return };
    if choice % 2 == 0 {
        assert!(KEYS.open(bytes, now).is_err());
        let ticket = [&sealed.ticket[..16], bytes].concat();
        assert!(KEYS.open(&ticket, now).is_err(), "a ticket that was never sealed opened");
        return;
    }
    let mut ticket = sealed.ticket.clone();
    // Each change is a position and what is added there; a lone byte at the end cuts the ticket.
    let (pairs, cut) = changes.as_chunks::<3>();
    for [high, low, value] in pairs {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % ticket.len();
        ticket[at] ^= value;
    }
    if let [by, ..] = cut {
        ticket.truncate(ticket.len() - usize::from(*by) % ticket.len());
    }
    let opened = KEYS.find(&ticket).and_then(|candidate| candidate.open(now));
    // The name is authenticated too, so nothing may have been changed at all.
    let is_to_open = ticket == sealed.ticket && is_in_time(sealed_at, now);
    assert_eq!(opened.is_ok(), is_to_open, "sealed at {sealed_at}, offered at {now}: {opened:?}");
    if let Ok(opened) = opened {
        assert_eq!(opened.payload.as_slice(), payload);
        let stamp = (opened.stamp.issued_at, opened.stamp.authenticated_at);
        assert_eq!(stamp, (sealed_at, BEGUN.min(sealed_at)));
        let [sealed, now] = [sealed_at, now].map(|at| at.as_unix() / SEALS);
        let state = match now.cmp(&sealed) {
            Ordering::Less => KeyState::Pending,
            Ordering::Equal => KeyState::Active,
            Ordering::Greater => KeyState::DecryptOnly,
        };
        assert_eq!(opened.state, state);
    }
});
