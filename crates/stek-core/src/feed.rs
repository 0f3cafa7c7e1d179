//! Everything that distribution needs to serve, as one value that is replaced as a whole: the
//! bundles of all keysets, the deleted ones, and who may have them.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::access::Access;
use crate::bundle::Bundle;
use crate::id::{ContentTag, Incarnation, Revision};
use crate::name::KeysetName;
use crate::time::Timestamp;

/// The state of the feed at one revision of the cluster.
#[derive(Debug, Clone)]
pub struct FeedState {
    /// The lineage of the database.
    pub incarnation: Incarnation,
    /// The newest revision of any keyset, or of the tokens and grants.
    pub revision: Revision,
    /// The bundles by name.
    pub keysets: BTreeMap<KeysetName, Arc<Bundle>>,
    /// Deleted keysets and the revision that deleted each.
    pub tombstones: BTreeMap<KeysetName, Revision>,
    /// Tokens and grants.
    pub access: Arc<Access>,
    /// When the manager last read `access` from the database; older than a day, it counts for
    /// nothing.
    pub access_read_at: Timestamp,
}

impl FeedState {
    /// A feed without keysets, as of a cluster that has just begun.
    pub fn empty(incarnation: Incarnation, now: Timestamp) -> Self {
        Self {
            incarnation,
            revision: Revision::ZERO,
            keysets: BTreeMap::new(),
            tombstones: BTreeMap::new(),
            access: Arc::default(),
            access_read_at: now,
        }
    }

    /// The cursor of a follower that has all of this.
    pub fn tag(&self) -> ContentTag {
        ContentTag {
            incarnation: self.incarnation,
            revision: self.revision,
            digest: self.access.digest(),
        }
    }
}
