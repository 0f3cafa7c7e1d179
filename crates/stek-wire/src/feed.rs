//! The feed on the wire: all keysets of a follower, or what changed in them since a revision, with
//! the tokens and grants. Decides how an update joins the state that a follower has; who may
//! follow which keysets is settled before, by what the state given to [`encode_feed`] holds.

mod apply;
mod read;
mod write;

use std::collections::BTreeMap;
use std::sync::Arc;

use stek_core::access::Access;
use stek_core::bundle::Bundle;
use stek_core::id::{ContentDigest, ContentTag, Incarnation, Revision};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;

pub use apply::FeedError;
pub use read::{MAX_FEED_BYTES, decode_feed};
pub use write::{AccessPart, encode_feed};

/// A feed document that was read: a snapshot, or a difference to the state at one revision.
///
/// It is sound in itself: every bundle was checked, all are of the feed's lineage and none is
/// later than the feed, no keyset is both there and deleted, and tokens and grants, where they
/// came, have the digest that came with them.
#[derive(Debug, Clone)]
pub struct FeedUpdate {
    incarnation: Incarnation,
    revision: Revision,
    access_digest: ContentDigest,
    since: Option<Revision>,
    keysets: BTreeMap<KeysetName, Arc<Bundle>>,
    tombstones: BTreeMap<KeysetName, Revision>,
    access: Option<Arc<Access>>,
    access_read_at: Timestamp,
}

impl FeedUpdate {
    /// The cursor of whoever has applied it.
    pub fn tag(&self) -> ContentTag {
        ContentTag {
            incarnation: self.incarnation,
            revision: self.revision,
            digest: self.access_digest,
        }
    }

    /// The revision to which it is a difference; none for a snapshot.
    pub fn since(&self) -> Option<Revision> {
        self.since
    }

    /// The bundles in it.
    pub fn keysets(&self) -> &BTreeMap<KeysetName, Arc<Bundle>> {
        &self.keysets
    }

    /// The deleted keysets in it, with the revision that deleted each.
    pub fn tombstones(&self) -> &BTreeMap<KeysetName, Revision> {
        &self.tombstones
    }

    /// The tokens and grants, unless they were left out because the follower has them.
    pub fn access(&self) -> Option<&Access> {
        self.access.as_deref()
    }

    /// When the manager last read tokens and grants from the database.
    pub fn access_read_at(&self) -> Timestamp {
        self.access_read_at
    }
}

#[cfg(test)]
mod tests;
