//! What a terminator seals and opens with: the keys of a bundle derived for one use, schema and
//! scope. Decides by the schedule, on every call, which key seals and whether a ticket may open.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::bundle::{Bundle, EndCause};
use crate::derive::{Schema, Use};
use crate::id::{ContentTag, KeyId, KeyName};
use crate::policy::{Policy, TICKET_LIFETIME_LIMITS};
use crate::schedule::{KeyState, Schedule};
use crate::scope::ScopeDigest;
use crate::ticket::{self, DerivedKey, OpenError, PayloadTooLong, Stamp};
use crate::time::{Seconds, Timestamp};
use crate::xaes::NONCE_LEN;

/// How long the names of ended keys are remembered, so that a miss can be told.
pub const REMEMBER_ENDED: Seconds = Seconds::from_days(7);

/// The most names of ended keys that are remembered.
pub const MAX_REMEMBERED: usize = 256;

#[derive(Clone)]
struct SnapshotKey {
    /// That of `derived`, here so that the search follows no pointers.
    name: KeyName,
    id: KeyId,
    schedule: Schedule,
    derived: Arc<DerivedKey>,
}

#[derive(Clone, Copy)]
struct EndedName {
    id: KeyId,
    name: KeyName,
    cause: EndCause,
    ended_at: Timestamp,
}

/// The derived keys of one revision of a keyset.
pub struct Snapshot {
    tag: ContentTag,
    policy: Policy,
    usage: Use,
    schema: Schema,
    scope: ScopeDigest,
    /// By key name.
    keys: Vec<SnapshotKey>,
    /// By key name.
    ended: Vec<EndedName>,
}

/// A sealed ticket.
#[derive(Debug)]
pub struct Sealed {
    /// Its bytes.
    pub ticket: Vec<u8>,
    /// The key that sealed it.
    pub key: KeyId,
    /// For how long it will open, as [`Snapshot::lifetime_hint`] says.
    pub lifetime: Seconds,
}

/// Why nothing was sealed. The handshake goes on without a ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealMiss {
    /// No key is active.
    #[error("no key is active")]
    NoActiveKey,
    /// The chain of resumptions has reached the session lifetime.
    #[error("session lifetime is over")]
    SessionTooOld,
    /// The session does not fit.
    #[error(transparent)]
    TooLong(#[from] PayloadTooLong),
}

/// A ticket that names a live key, and is not opened yet.
pub struct Candidate<'a> {
    snapshot: &'a Snapshot,
    key: &'a SnapshotKey,
    ticket: &'a [u8],
}

/// A ticket that opened.
#[derive(Debug)]
pub struct Opened {
    /// The session as the TLS library encoded it; erased unless somebody takes it.
    pub payload: Zeroizing<Vec<u8>>,
    /// The ticket's instants.
    pub stamp: Stamp,
    /// The key that opened it.
    pub key: KeyId,
    /// That key's state.
    pub state: KeyState,
}

/// Why a ticket did not open. For counters only: to the client all are a full handshake.
// As wide as an address: where a result holds either, a narrower one is written as a part of it, and
// who then reads the whole word has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(usize)]
pub enum OpenMiss {
    /// Not of the ticket format.
    #[error("malformed")]
    Malformed,
    /// The key name was never ours.
    #[error("unknown key name")]
    Unknown,
    /// The key has ended as planned, or the ticket has outlived its lifetime.
    #[error("expired")]
    Expired,
    /// The key was revoked.
    #[error("revoked")]
    Revoked,
    /// The key name is ours, the rest does not authenticate.
    #[error("forged")]
    Forged,
    /// Issued in the future by more than the clock skew, or before its own full handshake.
    #[error("issued in the future")]
    FromTheFuture,
    /// The full handshake is longer ago than the session lifetime.
    #[error("session too old")]
    SessionTooOld,
}

impl Snapshot {
    /// Derives the keys of `bundle`. Keys that `previous` derived for the same use, schema and
    /// scope are taken over; the names of those that are gone are remembered.
    pub fn new(
        bundle: &Bundle,
        usage: Use,
        schema: Schema,
        scope: ScopeDigest,
        previous: Option<&Self>,
    ) -> Self {
        let previous =
            previous.filter(|p| p.usage == usage && p.schema == schema && p.scope == scope);
        let mut keys: Vec<_> = bundle
            .keys()
            .iter()
            .map(|key| {
                let id = key.record.id;
                let known = previous.and_then(|p| p.keys.iter().find(|known| known.id == id));
                let derived = known.map_or_else(
                    || Arc::new(DerivedKey::derive(&key.material, usage, schema, &scope)),
                    |known| Arc::clone(&known.derived),
                );
                SnapshotKey { name: *derived.name(), id, schedule: key.record.schedule, derived }
            })
            .collect();
        keys.sort_unstable_by_key(|key| key.name);
        let ended = previous.map_or_else(Vec::new, |p| p.remembered(bundle));
        Self { tag: bundle.tag(), policy: *bundle.policy(), usage, schema, scope, keys, ended }
    }

    /// The names to remember once `bundle` replaces this.
    fn remembered(&self, bundle: &Bundle) -> Vec<EndedName> {
        let cause_of = |id| bundle.ended().iter().find(|ended| ended.id == id);
        let gone = self
            .keys
            .iter()
            .filter(|key| bundle.keys().iter().all(|still| still.record.id != key.id));
        let newly = gone.map(|key| match cause_of(key.id) {
            Some(ended) => EndedName { ended_at: ended.ended_at, ..key.expired() },
            None => key.expired(),
        });
        let mut ended: Vec<_> = self.ended.iter().copied().chain(newly).collect();
        for known in &mut ended {
            if let Some(ended) = cause_of(known.id) {
                known.cause = ended.cause;
            }
        }
        newest_by_name(ended)
    }

    /// The same without the keys whose `destroy_at` has come at `now`, whose names are remembered;
    /// `None` if there is none of them.
    #[must_use]
    pub fn without_ended(&self, now: Timestamp) -> Option<Self> {
        let (keys, gone): (Vec<_>, Vec<_>) =
            self.keys.iter().cloned().partition(|key| key.schedule.opens(now));
        if gone.is_empty() {
            return None;
        }
        let newly = gone.iter().map(SnapshotKey::expired);
        let ended = newest_by_name(self.ended.iter().copied().chain(newly).collect());
        let Self { tag, policy, usage, schema, scope, .. } = *self;
        Some(Self { tag, policy, usage, schema, scope, keys, ended })
    }

    /// The content that it was made of.
    pub fn tag(&self) -> ContentTag {
        self.tag
    }

    /// The policy of that content.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Seals `payload` under the key that is active at `now`, for a chain of resumptions that
    /// began at `authenticated_at`.
    ///
    /// # Errors
    /// [`SealMiss`] by cause.
    pub fn seal(
        &self,
        payload: &[u8],
        authenticated_at: Timestamp,
        nonce: &[u8; NONCE_LEN],
        now: Timestamp,
    ) -> Result<Sealed, SealMiss> {
        let key = self.active(now).ok_or(SealMiss::NoActiveKey)?;
        // A chain that a faster clock began counts as begun now.
        let authenticated_at = authenticated_at.min(now);
        if now >= authenticated_at + self.policy.session_lifetime() {
            return Err(SealMiss::SessionTooOld);
        }
        let stamp = Stamp { issued_at: now, authenticated_at };
        let ticket = key.derived.seal(stamp, payload, nonce)?;
        Ok(Sealed { ticket, key: key.id, lifetime: self.lifetime(key, authenticated_at, now) })
    }

    /// Opens `ticket` if its key and its own instants allow that at `now`. An unknown name costs
    /// one look-up and no cryptography.
    ///
    /// # Errors
    /// [`OpenMiss`] by cause.
    pub fn open(&self, ticket: &[u8], now: Timestamp) -> Result<Opened, OpenMiss> {
        self.find(ticket)?.open(now)
    }

    /// The ticket together with the live key that it names: one look-up, no cryptography and no
    /// clock. For those who limit what an attacker may have opened.
    ///
    /// # Errors
    /// [`OpenMiss`] if it is malformed or names no live key.
    #[inline]
    pub fn find<'a>(&'a self, ticket: &'a [u8]) -> Result<Candidate<'a>, OpenMiss> {
        let name = ticket::key_name_of(ticket).ok_or(OpenMiss::Malformed)?;
        match self.keys.binary_search_by_key(&name, |key| key.name.as_bytes()) {
            Ok(found) => Ok(Candidate { snapshot: self, key: &self.keys[found], ticket }),
            Err(_) => Err(self.why_unknown(name)),
        }
    }

    /// How long a ticket sealed at `now` for a chain begun at `authenticated_at` will open: the
    /// least of the ticket lifetime, what the active key has left, what the session has left, and
    /// seven days (RFC 8446, 4.6.1). Zero if nothing can be sealed.
    pub fn lifetime_hint(&self, authenticated_at: Timestamp, now: Timestamp) -> Seconds {
        self.active(now).map_or(Seconds::ZERO, |key| self.lifetime(key, authenticated_at, now))
    }

    fn lifetime(&self, key: &SnapshotKey, authenticated_at: Timestamp, now: Timestamp) -> Seconds {
        let key_left = key.schedule.destroy_at().since(now) - self.policy.clock_skew();
        let session_end = authenticated_at.min(now) + self.policy.session_lifetime();
        self.policy
            .ticket_lifetime()
            .min(key_left)
            .min(session_end.since(now))
            .min(TICKET_LIFETIME_LIMITS.1)
    }

    /// The identity and schedule of each live key, by no particular order.
    pub fn schedules(&self) -> impl Iterator<Item = (KeyId, &Schedule)> {
        self.keys.iter().map(|key| (key.id, &key.schedule))
    }

    fn active(&self, now: Timestamp) -> Option<&SnapshotKey> {
        self.keys.iter().find(|key| key.schedule.seals(now))
    }

    fn why_unknown(&self, name: &[u8; KeyName::LEN]) -> OpenMiss {
        let found = self.ended.binary_search_by(|ended| ended.name.as_bytes().cmp(name));
        match found.map(|found| self.ended[found].cause) {
            Ok(EndCause::Expired) => OpenMiss::Expired,
            Ok(EndCause::Revoked) => OpenMiss::Revoked,
            Err(_) => OpenMiss::Unknown,
        }
    }

    fn check_stamp(&self, stamp: Stamp, now: Timestamp) -> Result<(), OpenMiss> {
        let skew = self.policy.clock_skew();
        if stamp.issued_at > now + skew || stamp.authenticated_at > stamp.issued_at {
            return Err(OpenMiss::FromTheFuture);
        }
        if now >= stamp.issued_at + self.policy.ticket_lifetime() + skew {
            return Err(OpenMiss::Expired);
        }
        if now >= stamp.authenticated_at + self.policy.session_lifetime() {
            return Err(OpenMiss::SessionTooOld);
        }
        Ok(())
    }
}

impl SnapshotKey {
    /// What is remembered of it once its time has come.
    fn expired(&self) -> EndedName {
        let ended_at = self.schedule.destroy_at();
        EndedName { id: self.id, name: self.name, cause: EndCause::Expired, ended_at }
    }
}

/// Those of the last days, at most so many, by name.
fn newest_by_name(mut ended: Vec<EndedName>) -> Vec<EndedName> {
    ended.sort_by_key(|ended| std::cmp::Reverse(ended.ended_at));
    let newest = ended.first().map_or(Timestamp::EPOCH, |ended| ended.ended_at);
    ended.retain(|ended| newest.since(ended.ended_at) < REMEMBER_ENDED);
    ended.truncate(MAX_REMEMBERED);
    ended.sort_unstable_by_key(|ended| ended.name);
    ended
}

impl Candidate<'_> {
    /// Opens the ticket if its key and its own instants allow that at `now`.
    ///
    /// # Errors
    /// [`OpenMiss`] by cause.
    #[inline]
    pub fn open(self, now: Timestamp) -> Result<Opened, OpenMiss> {
        if !self.key.schedule.opens(now) {
            return Err(OpenMiss::Expired);
        }
        let contents = self.key.derived.open(self.ticket).map_err(|error| match error {
            OpenError::Malformed => OpenMiss::Malformed,
            OpenError::Forged => OpenMiss::Forged,
        })?;
        self.snapshot.check_stamp(contents.stamp, now)?;
        let state = self.key.schedule.state(now);
        Ok(Opened { payload: contents.payload, stamp: contents.stamp, key: self.key.id, state })
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate").field("key", &self.key.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("tag", &self.tag)
            .field("keys", &self.keys.iter().map(|key| key.id).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
