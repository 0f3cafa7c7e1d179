//! Keeps the feed: reads what was committed, unwraps keys it does not hold yet, erases those that
//! have ended, and puts the whole out as one value. Refuses to publish a database that has gone
//! back behind what was published before.

use std::collections::BTreeMap;
use std::sync::Arc;

use stek_core::access::Access;
use stek_core::bundle::{Bundle, BundleError, BundleKey};
use stek_core::feed::FeedState;
use stek_core::id::{Incarnation, KeyId, Revision};
use stek_core::name::KeysetName;
use stek_core::secret::KeyMaterial;
use stek_core::time::{Seconds, Timestamp};
use stek_store::{Changes, StoreError, StoredKeyset};
use tokio::sync::watch;

use crate::engine::Engine;
use crate::metrics::ManagerMetrics;

/// How long tokens and grants are served without being read again, though nothing says that they
/// have changed.
const ACCESS_MAX_AGE: Seconds = Seconds::from_minutes(5);

/// Why nothing new was published. What was published before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "the database is at revision {revision} of incarnation {incarnation}, behind what was \
         published before: it was restored from a backup, or is a lagging standby"
    )]
    Behind { incarnation: Incarnation, revision: Revision },
    #[error("the high-water mark could not be written")]
    HighWater(#[from] stek_custody::state_file::StateFileError),
}

pub(crate) struct Publisher {
    feed: watch::Sender<Option<Arc<FeedState>>>,
    access_revision: Option<Revision>,
}

impl Publisher {
    pub(crate) fn new(feed: watch::Sender<Option<Arc<FeedState>>>) -> Self {
        Self { feed, access_revision: None }
    }

    /// Brings the feed up to what the database holds at `now`.
    pub(crate) async fn refresh(
        &mut self,
        engine: &Engine,
        metrics: &ManagerMetrics,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        let held = self.feed.borrow().clone();
        let cluster = engine.store.cluster().await?;
        let held = held.filter(|feed| feed.incarnation == cluster.incarnation);
        if engine.custody.is_behind(cluster.incarnation, cluster.revision) {
            let (incarnation, revision) = (cluster.incarnation, cluster.revision);
            return Err(PublishError::Behind { incarnation, revision });
        }
        let since = held.as_ref().map_or(Revision::ZERO, |feed| feed.revision);
        let mut next = held.as_ref().map_or_else(
            || FeedState::empty(cluster.incarnation, now),
            |feed| FeedState::clone(feed),
        );
        let moved = cluster.revision != since;
        if moved || held.is_none() {
            let changes = engine.store.changed_since(since).await?;
            apply(engine, metrics, &mut next, &changes, now);
        }
        let stale = now >= next.access_read_at + ACCESS_MAX_AGE;
        if self.access_revision != Some(cluster.access_revision) || stale || held.is_none() {
            next.access = Arc::new(read_access(engine).await?);
            next.access_read_at = now;
            self.access_revision = Some(cluster.access_revision);
        }
        erase(&mut next.keysets, now);
        engine.custody.raise_high_water(next.incarnation, next.revision)?;
        metrics.observe_feed(&next, now);
        self.feed.send_replace(Some(Arc::new(next)));
        Ok(())
    }
}

fn apply(
    engine: &Engine,
    metrics: &ManagerMetrics,
    feed: &mut FeedState,
    changes: &Changes,
    now: Timestamp,
) {
    for stored in &changes.keysets {
        let name = stored.keyset.name();
        let held = feed.keysets.get(name).map(Arc::clone);
        match open_bundle(engine, metrics, feed.incarnation, stored, held.as_deref(), now) {
            Ok(bundle) => {
                feed.tombstones.remove(name);
                feed.keysets.insert(name.clone(), Arc::new(bundle));
            }
            Err(error) => {
                metrics.unpublishable.inc();
                let error = &error as &dyn std::error::Error;
                tracing::error!(keyset = %name, error, "keyset cannot be published");
            }
        }
    }
    for tombstone in &changes.tombstones {
        feed.keysets.remove(&tombstone.name);
        feed.tombstones.insert(tombstone.name.clone(), tombstone.revision);
    }
    feed.revision = changes.cluster.revision;
}

/// The bundle of `stored`. A key that cannot be unwrapped is left out and reported: the others
/// still serve, and the planner goes on.
fn open_bundle(
    engine: &Engine,
    metrics: &ManagerMetrics,
    incarnation: Incarnation,
    stored: &StoredKeyset,
    held: Option<&Bundle>,
    now: Timestamp,
) -> Result<Bundle, BundleError> {
    let name = stored.keyset.name();
    let mut keys = Vec::with_capacity(stored.keys.len());
    for key in stored.keys.iter().filter(|key| key.record.schedule.opens(now)) {
        let known = held.and_then(|bundle| material_of(bundle, key.record.id));
        let material = match known {
            Some(material) => material,
            None => match engine.custody.unwrap(name, &key.record, &key.wrapped) {
                Ok(material) => Arc::new(material),
                Err(error) => {
                    metrics.unwrap_failures.inc();
                    let (key, error) = (key.record.id, &error as &dyn std::error::Error);
                    tracing::error!(keyset = %name, %key, error, "key cannot be unwrapped");
                    continue;
                }
            },
        };
        keys.push(BundleKey { record: key.record, material });
    }
    let policy = *stored.keyset.policy();
    Bundle::try_new(stored.tag(incarnation), name.clone(), policy, keys, stored.ended.clone())
}

fn material_of(bundle: &Bundle, id: KeyId) -> Option<Arc<KeyMaterial>> {
    let key = bundle.keys().iter().find(|key| key.record.id == id)?;
    Some(Arc::clone(&key.material))
}

fn erase(keysets: &mut BTreeMap<KeysetName, Arc<Bundle>>, now: Timestamp) {
    for bundle in keysets.values_mut() {
        if bundle.next_erasure().is_some_and(|end| end <= now) {
            *bundle = Arc::new(bundle.erased_at(now));
        }
    }
}

/// The tokens and grants whose seals hold. A row without a good seal was written by somebody who
/// has the database and not the cluster secret; it grants nothing.
async fn read_access(engine: &Engine) -> Result<Access, StoreError> {
    let stored = engine.store.access().await?;
    let mut access = Access::default();
    for row in stored.tokens {
        if engine.sealer.verify(&row.token.canonical(), &row.seal) {
            access.tokens.push(row.token);
        } else {
            tracing::error!(principal = %row.token.principal, "token with a wrong seal is ignored");
        }
    }
    for row in stored.grants {
        if engine.sealer.verify(&row.grant.canonical(), &row.seal) {
            access.grants.push(row.grant);
        } else {
            tracing::error!(principal = %row.grant.principal, "grant with a wrong seal is ignored");
        }
    }
    Ok(access)
}

/// How far the ratchet may turn now, kept beside the feed because both follow the clock.
pub(crate) fn turn_ratchet(engine: &Engine, now: Timestamp) {
    let epoch = stek_core::wrapped::Epoch::of(now);
    // A clock that was set back leaves the ratchet where it is: it cannot go back.
    if epoch > engine.custody.epoch()
        && let Err(error) = engine.custody.advance(epoch)
    {
        let error = &error as &dyn std::error::Error;
        tracing::error!(error, boot = ?engine.clock().boot(), "the ratchet did not advance");
    }
}
