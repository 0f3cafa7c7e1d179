//! Who holds which revision, from what distribution reports. Asks no database.

use stek_core::check_in::MAX_LAGGARDS;
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_wire::admin::{LaggardDocument, ReplicaDocument, TerminatorsDocument};

use super::{OperationError, Operations};

impl Operations {
    /// How far `revision` of a keyset has got, or its newest one. Of those that lag, at most
    /// [`MAX_LAGGARDS`] are named. A deleted keyset is known as long as its tombstone.
    ///
    /// # Errors
    /// [`OperationError::NotFound`] if it is not published.
    pub fn terminators(
        &self,
        name: &KeysetName,
        revision: Option<Revision>,
    ) -> Result<TerminatorsDocument, OperationError> {
        let feed = self.feed().ok_or_else(|| OperationError::NotFound(name.clone()))?;
        let live = feed.keysets.get(name).map(|bundle| bundle.tag().revision);
        let newest = live.or_else(|| feed.tombstones.get(name).copied());
        let newest = newest.ok_or_else(|| OperationError::NotFound(name.clone()))?;
        let revision = revision.unwrap_or(newest);
        let census = self.engine.confirmations.current();
        let standing = census.standing(feed.incarnation, name, revision);
        let mut lagging = Vec::new();
        let mut replicas = Vec::new();
        let uncounted = census.uncounted(feed.incarnation, name, revision);
        for (replica, tally) in census.of(feed.incarnation, name) {
            let here = tally.standing(revision);
            replicas.push(ReplicaDocument {
                replica: replica.replica.name.to_string(),
                principal: replica.replica.principal.as_ref().map(ToString::to_string),
                newest: tally.newest.as_u64(),
                instances: here.instances,
                confirmed: here.confirmed,
                age_ms: u64::try_from(replica.age.as_millis()).unwrap_or(u64::MAX),
            });
            let older = tally.laggards.iter().filter(|laggard| laggard.revision < revision);
            lagging.extend(older.map(|one| LaggardDocument::new(one, Some(&replica.replica))));
        }
        lagging.sort_by(|one, two| {
            (one.revision, &one.principal, &one.instance).cmp(&(
                two.revision,
                &two.principal,
                &two.instance,
            ))
        });
        lagging.truncate(MAX_LAGGARDS);
        let named = u64::try_from(lagging.len()).unwrap_or(u64::MAX);
        Ok(TerminatorsDocument {
            keyset: name.to_string(),
            revision: revision.as_u64(),
            newest: newest.as_u64(),
            instances: standing.map(|standing| standing.instances),
            confirmed: standing.map(|standing| standing.confirmed),
            truncated: standing.is_some_and(|standing| standing.lagging() > named) || uncounted > 0,
            lagging,
            uncounted,
            replicas,
            now: self.engine.fleet().now().to_string(),
        })
    }
}
