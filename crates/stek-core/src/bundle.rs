//! The published content of one keyset with its secrets: what distribution serves and a terminator
//! installs. Decides what may replace what is installed; not how it travels.

use std::sync::Arc;

use crate::derive;
use crate::health::{self, WeakKey};
use crate::id::{ContentTag, Incarnation, Kcv, KeyId, Revision};
use crate::keyset::{History, KeyRecord, Keyset, KeysetError};
use crate::name::KeysetName;
use crate::policy::Policy;
use crate::schedule::Schedule;
use crate::secret::KeyMaterial;
use crate::time::{Seconds, Timestamp};

/// The most ended keys that a bundle remembers.
pub const MAX_ENDED_KEYS: usize = 256;

/// Why a key is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndCause {
    /// Its `destroy_at` came.
    Expired,
    /// Somebody revoked it, or deleted its keyset.
    Revoked,
}

impl EndCause {
    /// The cause as it is stored and sent.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }

    /// The cause of this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Expired, Self::Revoked].into_iter().find(|cause| cause.as_str() == text)
    }
}

/// What is remembered of a key that ended, so that a ticket under it is missed with a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EndedKey {
    /// Its identity.
    pub id: KeyId,
    /// Its check value.
    pub kcv: Kcv,
    /// Why it ended.
    pub cause: EndCause,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// A live key with its secret.
#[derive(Debug, Clone)]
pub struct BundleKey {
    /// What is known of it.
    pub record: KeyRecord,
    /// The secret, shared so that one erasure erases it everywhere.
    pub material: Arc<KeyMaterial>,
}

/// The content of a keyset at one revision, with the secrets of its live keys.
#[derive(Debug, Clone)]
pub struct Bundle {
    tag: ContentTag,
    keyset: Keyset,
    keys: Vec<BundleKey>,
    ended: Vec<EndedKey>,
}

/// A bundle that must not be installed, whoever sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    /// The secret is not the one that the check value was made of.
    #[error("key {id}: check value is {expected}, but the material gives {actual}")]
    WrongKcv {
        /// The key in question.
        id: KeyId,
        /// The value that came with it.
        expected: Kcv,
        /// The value of the material that came.
        actual: Kcv,
    },
    /// No working random source makes such a secret.
    #[error("key {id}: {weak}")]
    Weak {
        /// The key in question.
        id: KeyId,
        /// What is wrong with it.
        weak: WeakKey,
    },
    /// The keys cannot stand beside each other.
    #[error(transparent)]
    Keyset(#[from] KeysetError),
    /// More than [`MAX_ENDED_KEYS`] ended keys.
    #[error("{0} ended keys, allowed are {MAX_ENDED_KEYS}")]
    TooManyEnded(usize),
}

impl Bundle {
    /// Checks every key: its health, its check value, its place beside the others.
    ///
    /// # Errors
    /// [`BundleError`] with the key in question and never its secret.
    pub fn try_new(
        tag: ContentTag,
        name: KeysetName,
        policy: Policy,
        mut keys: Vec<BundleKey>,
        ended: Vec<EndedKey>,
    ) -> Result<Self, BundleError> {
        if ended.len() > MAX_ENDED_KEYS {
            return Err(BundleError::TooManyEnded(ended.len()));
        }
        for key in &keys {
            let id = key.record.id;
            health::check_material(&key.material).map_err(|weak| BundleError::Weak { id, weak })?;
            let actual = derive::kcv(&key.material);
            if actual != key.record.kcv {
                return Err(BundleError::WrongKcv { id, expected: key.record.kcv, actual });
            }
        }
        let records = keys.iter().map(|key| key.record).collect();
        let keyset = Keyset::try_new(name, policy, History::Used, records)?;
        keys.sort_by_key(|key| (key.record.schedule.activate_at(), key.record.id));
        Ok(Self { tag, keyset, keys, ended })
    }

    /// What is left of a keyset that was deleted at `revision`: a bundle without keys, under the
    /// default policy, the same wherever it is made. Installed, it ends every key there was.
    pub fn tombstone(incarnation: Incarnation, name: KeysetName, revision: Revision) -> Self {
        let policy = Policy::default();
        let keyset = Keyset::without_keys(name, policy, History::Used);
        let tag = ContentTag { incarnation, revision, digest: keyset.content_digest() };
        Self { tag, keyset, keys: Vec::new(), ended: Vec::new() }
    }

    /// Lineage, revision and digest.
    pub fn tag(&self) -> ContentTag {
        self.tag
    }

    /// The same without secrets.
    pub fn keyset(&self) -> &Keyset {
        &self.keyset
    }

    /// Its name.
    pub fn name(&self) -> &KeysetName {
        self.keyset.name()
    }

    /// Its policy.
    pub fn policy(&self) -> &Policy {
        self.keyset.policy()
    }

    /// The live keys by activation.
    pub fn keys(&self) -> &[BundleKey] {
        &self.keys
    }

    /// The keys that ended not long ago.
    pub fn ended(&self) -> &[EndedKey] {
        &self.ended
    }

    /// The instant at which the next of its keys must be erased.
    pub fn next_erasure(&self) -> Option<Timestamp> {
        self.keys.iter().map(|key| key.record.schedule.destroy_at()).min()
    }

    /// The instant at which its last key ends; after it nothing opens.
    pub fn last_end(&self) -> Option<Timestamp> {
        self.keys.iter().map(|key| key.record.schedule.destroy_at()).max()
    }

    /// How long its keys last from any instant on, at the least, while new ones come: something seals
    /// for the lead, and the key that ends last opens for a while after it has sealed. Both as they
    /// were when that key was minted: a policy that was changed tells of those that follow it.
    pub fn least_span(&self) -> Seconds {
        let schedules = self.keys.iter().map(|key| key.record.schedule);
        schedules.max_by_key(Schedule::destroy_at).map_or(Seconds::ZERO, |last| {
            // Of a key that was brought forward the envelope is further away than its lead.
            let lead = last.destroy_by().since(last.destroy_at()).min(self.policy().lead());
            lead + last.destroy_at().since(last.retire_at())
        })
    }

    /// The same without the keys whose `destroy_at` has come; they are remembered as expired.
    /// Their secrets are erased once nobody else holds them.
    #[must_use]
    pub fn erased_at(&self, now: Timestamp) -> Self {
        let (live, gone): (Vec<_>, Vec<_>) =
            self.keys.iter().cloned().partition(|key| key.record.schedule.opens(now));
        let mut ended = self.ended.clone();
        ended.extend(gone.iter().map(|key| EndedKey {
            id: key.record.id,
            kcv: key.record.kcv,
            cause: EndCause::Expired,
            ended_at: key.record.schedule.destroy_at(),
        }));
        ended.sort_by_key(|key| std::cmp::Reverse(key.ended_at));
        ended.truncate(MAX_ENDED_KEYS);
        let keyset = self.keyset.retaining(|record| record.schedule.opens(now));
        Self { tag: self.tag, keyset, keys: live, ended }
    }
}

/// Why a sound bundle may still not replace what is installed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another keyset.
    #[error("bundle is of keyset {offered}, not of {installed}")]
    OtherKeyset {
        /// The keyset followed.
        installed: KeysetName,
        /// The keyset that came.
        offered: KeysetName,
    },
    /// Its lineage is older than the one installed: an old database answers.
    #[error("incarnation {} is earlier than the installed {}", offered.incarnation, installed.incarnation)]
    EarlierIncarnation {
        /// What is installed.
        installed: ContentTag,
        /// What came.
        offered: ContentTag,
    },
    /// Its revision is lower than the one installed, in the same lineage.
    #[error("revision {} is lower than the installed {}", offered.revision, installed.revision)]
    LowerRevision {
        /// What is installed.
        installed: ContentTag,
        /// What came.
        offered: ContentTag,
    },
    /// One revision with two contents: two databases hand out the same numbers.
    #[error("revision {} came with another content than the one installed", offered.revision)]
    OtherContent {
        /// What is installed.
        installed: ContentTag,
        /// What came.
        offered: ContentTag,
    },
    /// A check value that was seen under another key identity.
    #[error("check value of key {offered} was seen as key {installed}")]
    RepeatedKcv {
        /// The identity under which it was installed.
        installed: KeyId,
        /// The identity under which it came.
        offered: KeyId,
    },
}

/// Whether `offered` may replace `installed`.
///
/// # Errors
/// [`Refusal`] by cause; what is installed stays.
pub fn check_replacement(installed: &Bundle, offered: &Bundle) -> Result<(), Refusal> {
    if installed.name() != offered.name() {
        let (installed, offered) = (installed.name().clone(), offered.name().clone());
        return Err(Refusal::OtherKeyset { installed, offered });
    }
    check_tag(installed.tag, offered.tag)?;
    let known = installed.keys.iter().map(|key| (key.record.kcv, key.record.id));
    let known: Vec<_> = known.chain(installed.ended.iter().map(|key| (key.kcv, key.id))).collect();
    for key in &offered.keys {
        let twin = known.iter().find(|(kcv, id)| *kcv == key.record.kcv && *id != key.record.id);
        if let Some((_, id)) = twin {
            return Err(Refusal::RepeatedKcv { installed: *id, offered: key.record.id });
        }
    }
    Ok(())
}

/// Whether content tagged `offered` may replace content tagged `installed`.
///
/// # Errors
/// [`Refusal`] if it is older, or another content under the same number.
pub fn check_tag(installed: ContentTag, offered: ContentTag) -> Result<(), Refusal> {
    if offered.incarnation < installed.incarnation {
        return Err(Refusal::EarlierIncarnation { installed, offered });
    }
    if offered.incarnation == installed.incarnation {
        if offered.revision < installed.revision {
            return Err(Refusal::LowerRevision { installed, offered });
        }
        if offered.revision == installed.revision && offered.digest != installed.digest {
            return Err(Refusal::OtherContent { installed, offered });
        }
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
