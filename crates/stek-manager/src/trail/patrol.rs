//! Goes through the trail again and again beside the work of a manager, a page at a time, so that a
//! trail that does not hold is an alarm and not a discovery. What it remembers is out of reach of
//! whoever writes the database.

use stek_core::audit::ChainLink;
use stek_core::id::Incarnation;
use stek_core::time::{Seconds, Timestamp};
use stek_store::{AuditCheckpoint, ClusterState, KeyStore, StoreError};
use stek_wire::admin::BrokenLink;

use super::{Page, Secrets, begin, check_end, walk};

/// How often the whole trail is verified anew. Until then only what is new.
const ROUND: Seconds = Seconds::from_hours(1);

/// How far a round has got.
#[derive(Default)]
pub(crate) struct Patrol {
    /// The lineage of the trail, and when the round began.
    round: Option<(Incarnation, Timestamp)>,
    /// The last line that was verified, and its link as it was then.
    line: u64,
    link: Option<ChainLink>,
    is_broken: bool,
}

/// What one step has shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing was to be done, or there is more to look at.
    Nothing,
    /// The trail holds to its end.
    Sound,
    /// It does not hold there.
    Broken(BrokenLink),
}

impl Patrol {
    /// Verifies the next page of the trail of `cluster`, which was read just before.
    pub(crate) async fn step(
        &mut self,
        store: &dyn KeyStore,
        secrets: Secrets<'_>,
        cluster: &ClusterState,
        now: Timestamp,
    ) -> Result<Found, StoreError> {
        let is_over = self.is_broken || self.line == cluster.audit_sequence;
        match self.round {
            Some((lineage, _)) if lineage == cluster.incarnation && !is_over => {}
            Some((lineage, begun_at))
                if lineage == cluster.incarnation
                    && (begun_at..begun_at + ROUND).contains(&now) =>
            {
                return Ok(Found::Nothing);
            }
            _ => *self = Self { round: Some((cluster.incarnation, now)), ..Self::default() },
        }
        let checkpoint = store.audit_checkpoint().await?;
        let found = self.look(store, secrets, cluster, checkpoint).await?;
        self.is_broken = matches!(found, Found::Broken(_));
        if self.is_broken && store.audit_checkpoint().await? != checkpoint {
            // Lines were removed because of their age meanwhile: the next step begins after them.
            self.is_broken = false;
            return Ok(Found::Nothing);
        }
        Ok(found)
    }

    async fn look(
        &mut self,
        store: &dyn KeyStore,
        secrets: Secrets<'_>,
        cluster: &ClusterState,
        checkpoint: Option<AuditCheckpoint>,
    ) -> Result<Found, StoreError> {
        let mut verifier = match begin(store, secrets, self.line, checkpoint).await? {
            Ok(verifier) => verifier,
            Err(broken) => return Ok(Found::Broken(broken)),
        };
        if verifier.sequence() == self.line && self.link.is_some_and(|was| was != verifier.link()) {
            let why = format!("line {} has another link than it had", self.line);
            return Ok(Found::Broken(BrokenLink { sequence: self.line, why }));
        }
        let page = Page::read(store, verifier.sequence()).await?;
        if let Some(broken) = walk(&mut verifier, &page, None, &mut None) {
            return Ok(Found::Broken(broken));
        }
        (self.line, self.link) = (verifier.sequence(), Some(verifier.link()));
        if page.last.is_some() && self.line < cluster.audit_sequence {
            return Ok(Found::Nothing);
        }
        let end = check_end(&verifier, cluster.audit_sequence, cluster.audit_head);
        Ok(end.map_or(Found::Sound, Found::Broken))
    }
}
