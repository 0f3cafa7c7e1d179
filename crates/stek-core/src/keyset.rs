//! A keyset without its secrets: the keys that are live, in order, under one policy. What the
//! planner reads and what a revision publishes.

use sha2::{Digest, Sha256};

use crate::id::{ContentDigest, Kcv, KeyId};
use crate::name::KeysetName;
use crate::policy::Policy;
use crate::schedule::{KeyState, Schedule};
use crate::time::{Seconds, Timestamp};

/// The most live keys that a keyset may hold, whatever was asked of it; a policy plans for fewer.
pub const MAX_LIVE_KEYS: usize = 256;

/// How tickets under a key look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TicketFormat {
    /// XAES-256-GCM under a key derived for the scope; see [`crate::ticket`].
    V1,
}

impl TicketFormat {
    /// The number that is stored and sent.
    pub const fn as_u16(self) -> u16 {
        match self {
            Self::V1 => 1,
        }
    }

    /// The format with this number, if there is one.
    pub const fn from_u16(number: u16) -> Option<Self> {
        match number {
            1 => Some(Self::V1),
            _ => None,
        }
    }
}

/// What is known of a live key without holding it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyRecord {
    /// Its identity.
    pub id: KeyId,
    /// How its tickets look.
    pub format: TicketFormat,
    /// What tells it from another key.
    pub kcv: Kcv,
    /// When it seals and opens.
    pub schedule: Schedule,
}

/// Whether a keyset ever had a key. The first key of all activates at once; a later one that
/// follows a gap must be out for a while before it seals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum History {
    /// No key was ever minted.
    Fresh,
    /// At least one was, even if none is live.
    Used,
}

/// The live keys of one keyset, by activation, without overlapping encrypt periods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keyset {
    name: KeysetName,
    policy: Policy,
    history: History,
    keys: Vec<KeyRecord>,
}

/// Keys that cannot stand beside each other in one keyset.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysetError {
    /// Two keys would seal at one instant.
    #[error("keys {first} and {second} both seal at {at}")]
    Overlap {
        /// The key that activates first.
        first: KeyId,
        /// The key that activates before the first retires.
        second: KeyId,
        /// An instant at which both seal.
        at: Timestamp,
    },
    /// Two keys have one identity.
    #[error("key {0} appears twice")]
    DuplicateId(KeyId),
    /// Two identities have one key check value: the same secret twice.
    #[error("keys {first} and {second} have one key check value")]
    DuplicateKcv {
        /// One of the two.
        first: KeyId,
        /// The other.
        second: KeyId,
    },
    /// More than [`MAX_LIVE_KEYS`].
    #[error("{0} live keys, allowed are {MAX_LIVE_KEYS}")]
    TooMany(usize),
}

impl Keyset {
    /// Sorts the keys and proves that no two of them overlap or are the same.
    ///
    /// # Errors
    /// [`KeysetError`] with the keys in question.
    pub fn try_new(
        name: KeysetName,
        policy: Policy,
        history: History,
        mut keys: Vec<KeyRecord>,
    ) -> Result<Self, KeysetError> {
        if keys.len() > MAX_LIVE_KEYS {
            return Err(KeysetError::TooMany(keys.len()));
        }
        keys.sort_by_key(|key| (key.schedule.activate_at(), key.id));
        for pair in keys.windows(2) {
            if pair[0].schedule.retire_at() > pair[1].schedule.activate_at() {
                return Err(KeysetError::Overlap {
                    first: pair[0].id,
                    second: pair[1].id,
                    at: pair[1].schedule.activate_at(),
                });
            }
        }
        check_distinct(&keys)?;
        Ok(Self { name, policy, history, keys })
    }

    /// A keyset that has no keys, yet or any more.
    pub fn without_keys(name: KeysetName, policy: Policy, history: History) -> Self {
        Self { name, policy, history, keys: Vec::new() }
    }

    /// Its name.
    pub fn name(&self) -> &KeysetName {
        &self.name
    }

    /// Its policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether it ever had a key.
    pub fn history(&self) -> History {
        self.history
    }

    /// The live keys by activation.
    pub fn keys(&self) -> &[KeyRecord] {
        &self.keys
    }

    /// The same with only the keys that `keep` wants; what was sound stays so.
    #[must_use]
    pub fn retaining(&self, keep: impl Fn(&KeyRecord) -> bool) -> Self {
        let keys = self.keys.iter().copied().filter(keep).collect();
        Self { name: self.name.clone(), keys, ..*self }
    }

    /// The key that seals at `now`, if one does.
    pub fn active(&self, now: Timestamp) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.schedule.seals(now))
    }

    /// The next key to activate after `now`.
    pub fn next_pending(&self, now: Timestamp) -> Option<&KeyRecord> {
        self.keys.iter().find(|key| key.schedule.state(now) == KeyState::Pending)
    }

    /// What tells this published content from another under the same revision. Covers the name,
    /// the policy and each key's identity, check value and schedule, so it stays the same while
    /// time passes over it.
    pub fn content_digest(&self) -> ContentDigest {
        let mut hash = Sha256::new();
        let name = self.name.as_str().as_bytes();
        hash.update(b"stek/content/1");
        hash.update([u8::try_from(name.len()).unwrap_or(u8::MAX)]);
        hash.update(name);
        let policy = &self.policy;
        for span in [
            policy.rotation_period(),
            policy.ticket_lifetime(),
            policy.poll_interval(),
            policy.clock_skew(),
            policy.lead(),
            policy.session_lifetime(),
        ] {
            hash.update(span.as_secs().to_be_bytes());
        }
        for key in &self.keys {
            hash.update(key.id.as_bytes());
            hash.update(key.format.as_u16().to_be_bytes());
            hash.update(key.kcv.as_bytes());
            let schedule = &key.schedule;
            for instant in [
                schedule.published_at(),
                schedule.activate_at(),
                schedule.retire_at(),
                schedule.destroy_at(),
                schedule.destroy_by(),
            ] {
                hash.update(instant.as_unix().to_be_bytes());
            }
        }
        let digest: [u8; 32] = hash.finalize().into();
        let mut short = [0; ContentDigest::LEN];
        short.copy_from_slice(&digest[..ContentDigest::LEN]);
        ContentDigest::from_bytes(short)
    }

    /// The longest unbroken time from `now` on in which some key seals, if one does at `now`.
    pub fn covered_from(&self, now: Timestamp) -> Seconds {
        let mut until = now;
        for key in &self.keys {
            if key.schedule.seals(until) {
                until = key.schedule.retire_at();
            }
        }
        until.since(now)
    }
}

fn check_distinct(keys: &[KeyRecord]) -> Result<(), KeysetError> {
    for (position, key) in keys.iter().enumerate() {
        for other in &keys[position + 1..] {
            if key.id == other.id {
                return Err(KeysetError::DuplicateId(key.id));
            }
            if key.kcv == other.kcv {
                return Err(KeysetError::DuplicateKcv { first: key.id, second: other.id });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::PolicyRequest;

    fn key(number: u8, activate: u64, retire: u64) -> KeyRecord {
        let at = Timestamp::from_unix;
        KeyRecord {
            id: KeyId::from_bytes([number; 16]),
            format: TicketFormat::V1,
            kcv: Kcv::from_bytes([number; 8]),
            schedule: Schedule::try_new(at(0), at(activate), at(retire), at(900), at(999)).unwrap(),
        }
    }

    fn keyset(keys: Vec<KeyRecord>) -> Result<Keyset, KeysetError> {
        let policy = Policy::try_new(&PolicyRequest::default()).unwrap();
        Keyset::try_new(KeysetName::try_new("main").unwrap(), policy, History::Used, keys)
    }

    #[test]
    fn keys_are_sorted_and_never_overlap() {
        let sorted = keyset(vec![key(2, 20, 30), key(1, 10, 20)]).unwrap();
        assert_eq!(sorted.keys()[0].id, KeyId::from_bytes([1; 16]));
        assert!(matches!(
            keyset(vec![key(1, 10, 21), key(2, 20, 30)]),
            Err(KeysetError::Overlap { .. })
        ));
    }

    #[test]
    fn one_secret_under_two_names_is_refused() {
        let mut twin = key(2, 20, 30);
        twin.kcv = Kcv::from_bytes([1; 8]);
        assert!(matches!(
            keyset(vec![key(1, 10, 20), twin]),
            Err(KeysetError::DuplicateKcv { .. })
        ));
        let twin = KeyRecord { kcv: Kcv::from_bytes([3; 8]), ..key(1, 20, 30) };
        assert!(matches!(keyset(vec![key(1, 10, 20), twin]), Err(KeysetError::DuplicateId(_))));
    }

    #[test]
    fn coverage_ends_at_the_first_gap() {
        let set = keyset(vec![key(1, 10, 20), key(2, 20, 30), key(3, 31, 40)]).unwrap();
        let covered = |now| set.covered_from(Timestamp::from_unix(now)).as_secs();
        assert_eq!(covered(9), 0);
        assert_eq!(covered(10), 20);
        assert_eq!(covered(30), 0);
        assert_eq!(covered(31), 9);
    }

    #[test]
    fn the_digest_sees_every_part() {
        let base = keyset(vec![key(1, 10, 20)]).unwrap();
        assert_eq!(base.content_digest(), base.clone().content_digest());
        for other in [vec![], vec![key(2, 10, 20)], vec![key(1, 11, 20)], vec![key(1, 10, 21)]] {
            assert_ne!(keyset(other).unwrap().content_digest(), base.content_digest());
        }
    }
}
