//! How an update joins the state that a follower has. Nothing ever goes back: not the feed, not one
//! keyset, and no deleted keyset returns under a revision that its deletion has passed.

use std::collections::BTreeMap;
use std::sync::Arc;

use stek_core::access::Access;
use stek_core::bundle::{Refusal, check_replacement};
use stek_core::feed::FeedState;
use stek_core::id::{ContentDigest, Incarnation, Revision};
use stek_core::name::KeysetName;

use super::FeedUpdate;

/// An update that does not follow on the state that is there, which stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// A difference, and nothing to apply it to.
    #[error("update is a difference to revision {since}, and there is no state to apply it to")]
    NoBase {
        /// Where it starts.
        since: Revision,
    },
    /// A difference to another lineage or revision than the one that is there.
    #[error(
        "update is a difference to revision {since} of incarnation {offered}, and the state is at \
         revision {revision} of incarnation {installed}"
    )]
    OtherBase {
        /// The lineage that is there.
        installed: Incarnation,
        /// Its revision.
        revision: Revision,
        /// The lineage of the update.
        offered: Incarnation,
        /// Where it starts.
        since: Revision,
    },
    /// Tokens and grants were left out, and those that are there are others.
    #[error("update leaves out the tokens and grants with digest {digest}, which are not there")]
    AccessMissing {
        /// The digest of those that would be needed.
        digest: ContentDigest,
    },
    /// An old database answers.
    #[error("incarnation {offered} is earlier than the installed {installed}")]
    EarlierIncarnation {
        /// The lineage that is there.
        installed: Incarnation,
        /// The lineage of the update.
        offered: Incarnation,
    },
    /// The update is older than the state.
    #[error("revision {offered} is lower than the installed {installed}")]
    LowerRevision {
        /// The revision that is there.
        installed: Revision,
        /// The revision of the update.
        offered: Revision,
    },
    /// One keyset would go back, though the feed goes forward.
    #[error("bundle of keyset {keyset} cannot replace the installed one")]
    Keyset {
        /// The keyset.
        keyset: KeysetName,
        /// Why.
        #[source]
        source: Refusal,
    },
    /// A bundle from before the deletion of its keyset.
    #[error(
        "keyset {keyset} was deleted at revision {deleted}, its bundle is of revision {offered}"
    )]
    Undeleted {
        /// The keyset.
        keyset: KeysetName,
        /// The revision that deleted it.
        deleted: Revision,
        /// The revision of the bundle.
        offered: Revision,
    },
    /// A deletion from before the bundle that is there.
    #[error("keyset {keyset} is at revision {installed}, its deletion is of revision {deleted}")]
    EarlierDeletion {
        /// The keyset.
        keyset: KeysetName,
        /// The revision that is there.
        installed: Revision,
        /// The revision of the tombstone.
        deleted: Revision,
    },
}

impl FeedError {
    /// Whether asking for a snapshot with all tokens and grants can help. If not, the sender is
    /// behind or wrong: keep what is there and ask again later, or ask another.
    pub fn wants_snapshot(&self) -> bool {
        matches!(self, Self::NoBase { .. } | Self::OtherBase { .. } | Self::AccessMissing { .. })
    }
}

impl FeedUpdate {
    /// The state after this update: a snapshot replaces all keysets, a difference only those in it.
    ///
    /// # Errors
    /// [`FeedError`] by cause; `previous` stays good.
    pub fn apply(self, previous: Option<&FeedState>) -> Result<FeedState, FeedError> {
        let (mut keysets, mut tombstones) = match self.since {
            None => (BTreeMap::new(), BTreeMap::new()),
            Some(since) => {
                let base = self.base(since, previous)?;
                (base.keysets.clone(), base.tombstones.clone())
            }
        };
        if let Some(previous) = previous {
            self.check_forward(previous)?;
        }
        let access = self.access_after(previous)?;
        keysets.retain(|name, _| !self.tombstones.contains_key(name));
        tombstones.retain(|name, _| !self.keysets.contains_key(name));
        keysets.extend(self.keysets);
        tombstones.extend(self.tombstones);
        Ok(FeedState {
            incarnation: self.incarnation,
            revision: self.revision,
            keysets,
            tombstones,
            access,
            access_read_at: self.access_read_at,
        })
    }

    fn base<'a>(
        &self,
        since: Revision,
        previous: Option<&'a FeedState>,
    ) -> Result<&'a FeedState, FeedError> {
        let previous = previous.ok_or(FeedError::NoBase { since })?;
        if previous.incarnation == self.incarnation && previous.revision == since {
            return Ok(previous);
        }
        Err(FeedError::OtherBase {
            installed: previous.incarnation,
            revision: previous.revision,
            offered: self.incarnation,
            since,
        })
    }

    fn check_forward(&self, previous: &FeedState) -> Result<(), FeedError> {
        let (installed, offered) = (previous.incarnation, self.incarnation);
        if offered < installed {
            return Err(FeedError::EarlierIncarnation { installed, offered });
        }
        if offered == installed && self.revision < previous.revision {
            let (installed, offered) = (previous.revision, self.revision);
            return Err(FeedError::LowerRevision { installed, offered });
        }
        for (keyset, bundle) in &self.keysets {
            if let Some(installed) = previous.keysets.get(keyset) {
                check_replacement(installed, bundle)
                    .map_err(|source| FeedError::Keyset { keyset: keyset.clone(), source })?;
            }
        }
        // A later lineage counts its deletions anew.
        if offered == installed { self.check_deletions(previous) } else { Ok(()) }
    }

    fn check_deletions(&self, previous: &FeedState) -> Result<(), FeedError> {
        for (keyset, bundle) in &self.keysets {
            let offered = bundle.tag().revision;
            if let Some(deleted) =
                previous.tombstones.get(keyset).copied().filter(|d| *d >= offered)
            {
                return Err(FeedError::Undeleted { keyset: keyset.clone(), deleted, offered });
            }
        }
        for (keyset, &deleted) in &self.tombstones {
            let installed = previous.keysets.get(keyset).map(|bundle| bundle.tag().revision);
            if let Some(installed) = installed.filter(|installed| *installed >= deleted) {
                let keyset = keyset.clone();
                return Err(FeedError::EarlierDeletion { keyset, installed, deleted });
            }
        }
        Ok(())
    }

    fn access_after(&self, previous: Option<&FeedState>) -> Result<Arc<Access>, FeedError> {
        if let Some(access) = &self.access {
            return Ok(Arc::clone(access));
        }
        previous
            .map(|previous| &previous.access)
            .filter(|access| access.digest() == self.access_digest)
            .map(Arc::clone)
            .ok_or(FeedError::AccessMissing { digest: self.access_digest })
    }
}
