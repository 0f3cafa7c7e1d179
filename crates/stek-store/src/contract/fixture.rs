//! Keysets, keys and commits to try a store with.

use std::sync::Arc;

use stek_core::audit::{AuditAction, AuditChain, AuditEvent, ChainLink};
use stek_core::bundle::EndCause;
use stek_core::id::{ContentDigest, Kcv, KeyId, Revision};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::schedule::Schedule;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::{Epoch, SeedId, WRAP_CIPHERTEXT_LEN, WRAP_NONCE_LEN, WrappedKey};

use crate::{Change, Commit, CommitError, Committed, KeyStep, KeyStore, KeysetUpdate, StoredKey};

/// The instant that offsets count from: 2027-01-15T08:00:00Z.
const START: u64 = 1_800_000_000;

/// The instant `offset` seconds after the start.
pub fn at(offset: u64) -> Timestamp {
    Timestamp::from_unix(START + offset)
}

/// A chain that mixes every byte in, without a secret.
#[derive(Debug, Clone, Copy, Default)]
pub struct PlainChain;

impl AuditChain for PlainChain {
    fn link(&self, previous: &ChainLink, event: &[u8]) -> ChainLink {
        let mut state = *previous.as_bytes();
        let mut carry = 0x9e_u8;
        for (position, byte) in event.iter().enumerate() {
            let slot = &mut state[position % 32];
            carry = carry.rotate_left(3).wrapping_mul(31).wrapping_add(*byte ^ *slot);
            *slot = slot.wrapping_add(carry);
        }
        ChainLink::from_bytes(state)
    }

    fn holds(&self, previous: &ChainLink, event: &[u8], link: &ChainLink) -> bool {
        self.link(previous, event) == *link
    }
}

/// A keyset name.
pub fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

/// The policy of all keysets here unless they say otherwise.
pub fn policy() -> Policy {
    Policy::try_new(&PolicyRequest::default()).unwrap()
}

/// A policy that differs from [`policy`] in every field.
pub fn other_policy() -> Policy {
    let seconds = |number| Some(Seconds::new(number));
    Policy::try_new(&PolicyRequest {
        rotation_period: seconds(3601),
        ticket_lifetime: seconds(7203),
        poll_interval: seconds(7),
        clock_skew: seconds(11),
        lead: seconds(3607),
        session_lifetime: seconds(86_413),
        activation_quorum: Some(stek_core::policy::ActivationQuorum::Off),
        activation_deadline: seconds(1234),
    })
    .unwrap()
}

/// A schedule that was published at the start, seals in `[activate, retire)` and is erased 100 s
/// later; it may move 1000 s further.
pub fn schedule(activate: u64, retire: u64) -> Schedule {
    Schedule::try_new(at(0), at(activate), at(retire), at(retire + 100), at(retire + 1100)).unwrap()
}

/// The key with this number, which seals in `[activate, retire)`.
pub fn key(number: u64, activate: u64, retire: u64) -> StoredKey {
    let mut ciphertext = [0x5a; WRAP_CIPHERTEXT_LEN];
    ciphertext[..8].copy_from_slice(&number.to_be_bytes());
    let mut nonce = [0xa5; WRAP_NONCE_LEN];
    nonce[..8].copy_from_slice(&number.to_le_bytes());
    StoredKey {
        record: KeyRecord {
            id: id(number),
            format: TicketFormat::V1,
            kcv: Kcv::from_bytes(number.to_be_bytes()),
            schedule: schedule(activate, retire),
        },
        wrapped: WrappedKey {
            seed: SeedId::from_bytes([7; 16]),
            epoch: Epoch::of(at(retire + 1099)),
            nonce,
            ciphertext,
        },
    }
}

/// The identity of key or token number `number`.
pub fn id(number: u64) -> KeyId {
    KeyId::new(number, &[1; 10])
}

/// The digest with this number.
pub fn digest(number: u64) -> ContentDigest {
    ContentDigest::from_bytes(number.to_be_bytes())
}

/// Creates `keyset` with these keys, digest 1, due at the start.
pub fn create(keyset: &str, keys: Vec<StoredKey>) -> Change {
    let (name, policy, digest, next_due) = (name(keyset), policy(), digest(1), at(0));
    Change::CreateKeyset { name, policy, keys, digest, next_due }
}

/// Publishes `keyset` with digest 2 after these steps.
pub fn update(keyset: &str, expected: Revision, steps: Vec<KeyStep>) -> KeysetUpdate {
    KeysetUpdate {
        name: name(keyset),
        expected,
        expected_due: None,
        policy: None,
        steps,
        publish: Some(digest(2)),
        next_due: at(0),
    }
}

/// Erases what has expired of `keyset`, publishing nothing.
pub fn erase(keyset: &str, expected: Revision, keys: &[u64]) -> KeysetUpdate {
    let steps = keys.iter().map(|number| end(*number, EndCause::Expired)).collect();
    KeysetUpdate { publish: None, ..update(keyset, expected, steps) }
}

/// Ends key `number`.
pub fn end(number: u64, cause: EndCause) -> KeyStep {
    KeyStep::End { id: id(number), cause }
}

/// Moves key `number` inside its envelope, which began as that of [`schedule`] up to `retire`.
pub fn shift(number: u64, minted_retire: u64, activate: u64, retire: u64) -> KeyStep {
    let (published_at, destroy_by) = (at(0), at(minted_retire + 1100));
    let schedule =
        Schedule::try_new(published_at, at(activate), at(retire), at(retire + 100), destroy_by);
    KeyStep::Move { id: id(number), schedule: schedule.unwrap() }
}

/// An event about `keyset`.
pub fn event(keyset: &str) -> AuditEvent {
    AuditEvent {
        at: at(0),
        actor: "token:test".into(),
        action: AuditAction::KeyRescheduled,
        keyset: Some(name(keyset)),
        key: Some(id(1)),
        reason: "because".into(),
    }
}

/// Commits at the start, with one event.
///
/// # Errors
/// As the store says.
pub async fn commit(
    store: &Arc<dyn KeyStore>,
    changes: Vec<Change>,
) -> Result<Committed, CommitError> {
    commit_at(store, 0, changes).await
}

/// Commits `offset` seconds after the start, with one event.
///
/// # Errors
/// As the store says.
pub async fn commit_at(
    store: &Arc<dyn KeyStore>,
    offset: u64,
    changes: Vec<Change>,
) -> Result<Committed, CommitError> {
    let commit = Commit { at: at(offset), changes, events: vec![event("main")] };
    store.commit(&commit, &PlainChain).await
}

/// Asserts that `result` is the invariant of this name.
///
/// # Panics
/// If it is not.
pub fn assert_broken<T: std::fmt::Debug>(result: Result<T, CommitError>, rule: &str) {
    match result {
        Err(CommitError::Invariant { constraint, .. }) if constraint == rule => {}
        other => panic!("expected the rule {rule} to be broken, got {other:?}"),
    }
}

/// Asserts that `result` is a conflict over `keyset`.
///
/// # Panics
/// If it is not.
pub fn assert_conflict<T: std::fmt::Debug>(result: Result<T, CommitError>, keyset: &str) {
    match result {
        Err(CommitError::Conflict(name)) if name.as_str() == keyset => {}
        other => panic!("expected a conflict over {keyset}, got {other:?}"),
    }
}
