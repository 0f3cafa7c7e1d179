//! Keeps the feed: reads what was committed, unwraps keys it does not hold yet, erases those that
//! have ended, and puts the whole out as one value. Refuses to publish a database that has gone
//! back behind what was published before.

mod lacking;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use stek_core::access::Access;
use stek_core::audit::{self, AuditAction, AuditEvent};
use stek_core::bundle::{Bundle, BundleError, BundleKey};
use stek_core::feed::FeedState;
use stek_core::id::{Incarnation, KeyId, Revision};
use stek_core::keyset::KeyRecord;
use stek_core::name::KeysetName;
use stek_core::secret::KeyMaterial;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::state_file::StateFileError;
use stek_store::{Changes, Commit, CommitError, StoreError, StoredKeyset, Unsound};
use tokio::sync::watch;

use crate::engine::{ClusterError, DatabaseBehind, Engine, check_not_behind};
use crate::metrics::ManagerMetrics;
use lacking::{Lacking, may_pass, may_stay};

/// How long tokens and grants are served without being read again, though nothing says that they
/// have changed.
const ACCESS_MAX_AGE: Seconds = Seconds::from_minutes(5);

/// After how many keysets others get a turn.
const YIELD_EVERY: usize = 64;

/// Why nothing new was published. What was published before stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Behind(#[from] DatabaseBehind),
    #[error("the database was exchanged for another while it was read")]
    Exchanged,
    #[error("the high-water mark could not be written")]
    HighWater(#[from] StateFileError),
    #[error("that keys were decrypted could not be written down")]
    Audit(#[source] CommitError),
    #[error("the task that writes the high-water mark panicked")]
    Panicked,
}

impl From<CommitError> for PublishError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => Self::Store(error),
            error => Self::Audit(error),
        }
    }
}

impl From<ClusterError> for PublishError {
    fn from(error: ClusterError) -> Self {
        match error {
            ClusterError::Store(error) => Self::Store(error),
            ClusterError::Behind(error) => Self::Behind(error),
        }
    }
}

pub(crate) struct Publisher {
    feed: watch::Sender<Option<Arc<FeedState>>>,
    /// The revision of the tokens and grants that are out.
    access_revision: Option<Revision>,
    /// The earliest instant at which something that is out must be erased.
    erasure: Mutex<Option<Timestamp>>,
    /// When each keyset with a tombstone was deleted.
    deleted_at: BTreeMap<KeysetName, Timestamp>,
    lacking: Lacking,
}

impl Publisher {
    pub(crate) fn new(feed: watch::Sender<Option<Arc<FeedState>>>) -> Self {
        let (deleted_at, lacking) = Default::default();
        Self { feed, access_revision: None, erasure: Mutex::new(None), deleted_at, lacking }
    }

    pub(crate) fn published(&self) -> Option<Arc<FeedState>> {
        self.feed.borrow().clone()
    }

    /// Brings the feed up to what the database holds at `now`. Wakes nobody if that is what is out
    /// already.
    pub(crate) async fn refresh(
        &mut self,
        engine: &Engine,
        metrics: &ManagerMetrics,
        now: Timestamp,
    ) -> Result<(), PublishError> {
        let mut cluster = engine.read_cluster().await?;
        if !self.lacking.is_empty() {
            self.lacking.renew(engine, now).await?;
            cluster = engine.read_cluster().await?;
        }
        let held = self.published().filter(|feed| feed.incarnation == cluster.incarnation);
        let fresh = || Arc::new(FeedState::empty(cluster.incarnation, now));
        let (is_first, held) = (held.is_none(), held.unwrap_or_else(fresh));
        let moved = is_first || cluster.revision != held.revision;
        let age = now.since(held.access_read_at);
        let stale = age >= ACCESS_MAX_AGE || held.access_read_at > now;
        let known = self.access_revision == Some(cluster.access_revision);
        if !moved && !stale && known && !self.must_erase(now) {
            // Nothing is copied, however much there is of it.
            return Ok(());
        }
        let mut next = FeedState::clone(&held);
        if moved {
            let published = engine.custody.high_water();
            let changes = engine.store.changed_since(held.revision).await?;
            check_not_behind(&changes.cluster, published)?;
            if changes.cluster.incarnation != held.incarnation {
                return Err(PublishError::Exchanged);
            }
            cluster = changes.cluster;
            let read = apply(engine, metrics, &mut next, &changes, &mut self.lacking, now).await;
            if let Some(written) = write_down(engine, &read, now).await?
                && written == next.revision.next()
            {
                // Nobody came between, so there is nothing of it to read.
                next.revision = written;
            }
            if is_first {
                self.deleted_at.clear();
            }
            let deleted = changes.tombstones.into_iter().map(|gone| (gone.name, gone.deleted_at));
            self.deleted_at.extend(deleted);
        }
        let reread = is_first || stale || self.access_revision != Some(cluster.access_revision);
        if reread {
            next.access = Arc::new(read_access(engine, metrics, now).await?);
            next.access_read_at = now;
        }
        let erased = erase(&mut next, now);
        if moved || reread || erased {
            self.raise_high_water(engine, &next).await?;
            let leads = next.keysets.values().map(|bundle| bundle.keyset().policy().lead());
            engine.set_longest_lead(leads.max().unwrap_or(Seconds::ZERO));
            self.put_out(next);
            // Only now: had anything failed before, the next pass must read them again.
            self.access_revision = Some(cluster.access_revision);
        }
        Ok(())
    }

    /// Erases what has ended by `now`, for passes that get no further: a key must not outlive its
    /// `destroy_at` because the database is away.
    pub(crate) fn erase(&self, now: Timestamp) {
        let Some(held) = self.published().filter(|_| self.must_erase(now)) else { return };
        let mut next = FeedState::clone(&held);
        if erase(&mut next, now) {
            self.put_out(next);
        }
    }

    /// Drops the tombstones from before `before`, as the database does.
    pub(crate) fn forget(&mut self, before: Timestamp) {
        let Some(held) = self.published() else { return };
        self.deleted_at.retain(|_, deleted_at| *deleted_at >= before);
        let known = |name: &KeysetName| self.deleted_at.contains_key(name);
        if held.tombstones.keys().all(known) {
            return;
        }
        let mut next = FeedState::clone(&held);
        next.tombstones.retain(|name, _| known(name));
        self.put_out(next);
    }

    fn must_erase(&self, now: Timestamp) -> bool {
        self.erasure.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|end| end <= now)
    }

    fn put_out(&self, next: FeedState) {
        let erasure = next.keysets.values().filter_map(|bundle| bundle.next_erasure()).min();
        *self.erasure.lock().unwrap_or_else(PoisonError::into_inner) = erasure;
        self.feed.send_replace(Some(Arc::new(next)));
    }

    /// Before the feed is put out, so that what anybody has seen is never above the mark.
    async fn raise_high_water(
        &self,
        engine: &Engine,
        next: &FeedState,
    ) -> Result<(), PublishError> {
        let (incarnation, revision) = (next.incarnation, next.revision);
        let custody = Arc::clone(&engine.custody);
        let raise = move || custody.raise_high_water(incarnation, revision);
        Ok(tokio::task::spawn_blocking(raise).await.map_err(|_| PublishError::Panicked)??)
    }
}

async fn apply(
    engine: &Engine,
    metrics: &ManagerMetrics,
    feed: &mut FeedState,
    changes: &Changes,
    lacking: &mut Lacking,
    now: Timestamp,
) -> Vec<KeyId> {
    let mut read = Vec::new();
    for (position, stored) in changes.keysets.iter().enumerate() {
        if position % YIELD_EVERY == YIELD_EVERY - 1 {
            tokio::task::yield_now().await;
        }
        let name = stored.keyset.name();
        let held = feed.keysets.get(name).map(Arc::clone);
        let opened =
            open_bundle(engine, metrics, feed.incarnation, stored, held.as_deref(), now, &mut read);
        match opened {
            Ok(Opened { lacks: true, .. })
                if held.is_some_and(|held| may_stay(&held, stored, now)) =>
            {
                // Under its new tag whoever has it would confirm what it lacks.
                lacking.insert(name);
            }
            Ok(Opened { bundle, lacks }) => {
                if lacks {
                    lacking.insert(name);
                } else {
                    lacking.remove(name);
                }
                feed.tombstones.remove(name);
                engine.confirmations.note_published(&bundle);
                feed.keysets.insert(name.clone(), Arc::new(bundle));
            }
            Err(error) => {
                metrics.unpublishable.inc();
                let error = &error as &dyn std::error::Error;
                tracing::error!(keyset = %name, error, "keyset cannot be published");
            }
        }
    }
    for Unsound { name, why } in &changes.unsound {
        metrics.unpublishable.inc();
        tracing::error!(keyset = ?name, why, "keyset cannot be read; what was published of it stays");
    }
    for tombstone in &changes.tombstones {
        feed.keysets.remove(&tombstone.name);
        engine.confirmations.note_deleted(&tombstone.name);
        lacking.remove(&tombstone.name);
        feed.tombstones.insert(tombstone.name.clone(), tombstone.revision);
    }
    feed.revision = changes.cluster.revision;
    read
}

/// Puts down which keys were decrypted for the first time, all in one line. Nothing of them is
/// published before that is written.
async fn write_down(
    engine: &Engine,
    read: &[KeyId],
    now: Timestamp,
) -> Result<Option<Revision>, PublishError> {
    if read.is_empty() {
        return Ok(None);
    }
    let event = AuditEvent {
        at: now,
        actor: "manager".into(),
        action: AuditAction::KeysRead,
        keyset: None,
        key: None,
        reason: format!("{} keys decrypted, list {}", read.len(), audit::list_digest(read)),
    };
    let commit = Commit { at: now, changes: Vec::new(), events: vec![event] };
    Ok(Some(engine.store.commit(&commit, &engine.audit).await?.revision))
}

/// The bundle of a keyset, and whether a key is not in it that may yet be.
struct Opened {
    bundle: Bundle,
    lacks: bool,
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
    read: &mut Vec<KeyId>,
) -> Result<Opened, BundleError> {
    let name = stored.keyset.name();
    let mut lacks = false;
    let mut keys = Vec::with_capacity(stored.keys.len());
    for key in stored.keys.iter().filter(|key| key.record.schedule.opens(now)) {
        let known = held.and_then(|bundle| material_of(bundle, &key.record));
        let material = match known {
            Some(material) => material,
            None => match engine.custody.unwrap(name, &key.record, &key.wrapped) {
                Ok(material) => {
                    read.push(key.record.id);
                    Arc::new(material)
                }
                Err(error) => {
                    lacks |= may_pass(error);
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
    let tag = stored.tag(incarnation);
    let bundle = Bundle::try_new(tag, name.clone(), policy, keys, stored.ended.clone())?;
    Ok(Opened { bundle, lacks })
}

/// The material of this key, if the row is still the one that it was unwrapped with: whatever the
/// wrapping binds must be as it was, or a changed row would slip past its seal.
fn material_of(bundle: &Bundle, record: &KeyRecord) -> Option<Arc<KeyMaterial>> {
    let bound = |record: &KeyRecord| {
        let schedule = &record.schedule;
        (record.id, record.format, record.kcv, schedule.published_at(), schedule.destroy_by())
    };
    let key = bundle.keys().iter().find(|key| bound(&key.record) == bound(record))?;
    Some(Arc::clone(&key.material))
}

/// Whether there was anything to erase.
fn erase(feed: &mut FeedState, now: Timestamp) -> bool {
    let mut erased = false;
    for bundle in feed.keysets.values_mut() {
        if bundle.next_erasure().is_some_and(|end| end <= now) {
            *bundle = Arc::new(bundle.erased_at(now));
            erased = true;
        }
    }
    erased
}

/// The tokens that have not expired and the grants, as far as their seals hold. A row without a
/// good seal was written by somebody who has the database and not the cluster secret; it grants
/// nothing.
async fn read_access(
    engine: &Engine,
    metrics: &ManagerMetrics,
    now: Timestamp,
) -> Result<Access, StoreError> {
    let stored = engine.store.access().await?;
    let (mut tokens, mut grants) = (Vec::new(), Vec::new());
    let mut forged = 0;
    if stored.unsound > 0 {
        let rows = stored.unsound;
        tracing::error!(rows, "tokens and grants that cannot be read are ignored");
    }
    metrics.unsound_access.set(i64::try_from(stored.unsound).unwrap_or(i64::MAX));
    for row in stored.tokens {
        if !engine.sealer.verify(&row.token.canonical(), &row.seal) {
            forged += 1;
            tracing::error!(principal = %row.token.principal, "token with a wrong seal is ignored");
        } else if now < row.token.expires_at {
            tokens.push(row.token);
        }
    }
    for row in stored.grants {
        if engine.sealer.verify(&row.grant.canonical(), &row.seal) {
            grants.push(row.grant);
        } else {
            forged += 1;
            tracing::error!(principal = %row.grant.principal, "grant with a wrong seal is ignored");
        }
    }
    metrics.forged_rows.set(forged);
    metrics.observe_expiry(tokens.iter().map(|token| token.expires_at).min());
    Ok(Access::new(tokens, grants))
}
