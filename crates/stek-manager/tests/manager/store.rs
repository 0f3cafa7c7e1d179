//! A store that does what a test says of each of its methods.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use stek_core::audit::{AuditChain, AuditEvent};
use stek_core::id::{KeyId, Revision};
use stek_core::name::KeysetName;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, SeedId};
use stek_store::{
    Acceptance, AuditCheckpoint, AuditHandOver, AuditRow, Change, Changes, ClusterState, Commit,
    CommitError, Committed, KeyStore, Keysets, MemoryStore, Ratchet, RatchetStore, Replica,
    Resealed, Rewrapped, SeedChange, SeedRow, StoreError, StoredAccess, StoredKey, StoredKeyset,
};
use tokio::sync::{Barrier, watch};

/// What a method does instead of its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It ends with [`StoreError::Unreachable`].
    Unreachable,
    /// It panics.
    Panic,
    /// It never ends.
    Hang,
    /// It does its work, and its answer is lost.
    AnswerLost,
}

/// What a method said of a keyset does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Invariant,
    Refused,
    Conflict,
}

/// What somebody with write access to the database does to a row.
type Tampering = Box<dyn Fn(&mut StoredKeyset) + Send>;

pub(crate) struct FaultyStore {
    pub(crate) inner: MemoryStore,
    tampering: Mutex<Option<Tampering>>,
    faults: Mutex<HashMap<&'static str, (Fault, u64)>>,
    refused: Mutex<HashMap<KeysetName, Refusal>>,
    pub(crate) commits: AtomicU64,
    /// Word of commits, as the test sends it.
    pub(crate) word: watch::Sender<Option<Revision>>,
    /// Meets whoever next reads the ratchet twice, with the answer in hand.
    pub(crate) meeting: Mutex<Option<Arc<Barrier>>>,
    /// Meets whoever next reads the cluster's row twice, with the answer in hand.
    pub(crate) looking: Mutex<Option<Arc<Barrier>>>,
    /// Meets whoever reads the audit trail twice, before it does.
    pub(crate) reading: Mutex<Option<Arc<Barrier>>>,
    /// How often a manager said what it holds.
    pub(crate) reports: AtomicU64,
}

impl FaultyStore {
    pub(crate) fn new(inner: MemoryStore) -> Self {
        let (faults, refused, tampering) = Default::default();
        let word = watch::Sender::new(None);
        Self {
            inner,
            tampering,
            faults,
            refused,
            commits: AtomicU64::new(0),
            meeting: Mutex::default(),
            looking: Mutex::default(),
            reading: Mutex::default(),
            reports: AtomicU64::new(0),
            word,
        }
    }

    /// Makes the next `times` calls of `method` fail.
    pub(crate) fn fail(&self, method: &'static str, fault: Fault, times: u64) {
        self.faults.lock().unwrap().insert(method, (fault, times));
    }

    /// Ends all faults.
    pub(crate) fn heal(&self) {
        self.faults.lock().unwrap().clear();
        self.refused.lock().unwrap().clear();
    }

    /// Changes every keyset that is read to be published.
    pub(crate) fn tamper(&self, with: impl Fn(&mut StoredKeyset) + Send + 'static) {
        *self.tampering.lock().unwrap() = Some(Box::new(with));
    }

    /// Makes every commit fail that changes this keyset.
    pub(crate) fn refuse(&self, keyset: &KeysetName, refusal: Refusal) {
        self.refused.lock().unwrap().insert(keyset.clone(), refusal);
    }

    async fn fault(&self, method: &'static str) -> Result<(), StoreError> {
        match self.take(method) {
            Some(Fault::Unreachable | Fault::AnswerLost) => Err(unreachable_error()),
            Some(Fault::Panic) => panic!("the store was told to panic in {method}"),
            Some(Fault::Hang) => std::future::pending().await,
            None => Ok(()),
        }
    }

    fn take(&self, method: &'static str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let (fault, left) = faults.get_mut(method)?;
        let fault = *fault;
        *left = left.saturating_sub(1);
        if *left == 0 {
            faults.remove(method);
        }
        Some(fault)
    }

    fn refusal(&self, commit: &Commit) -> Option<CommitError> {
        let refused = self.refused.lock().unwrap();
        let updates = commit.changes.iter().filter_map(|change| match change {
            Change::UpdateKeyset(update) => Some(&update.name),
            _ => None,
        });
        let names: HashSet<_> = updates.collect();
        let (name, refusal) = refused.iter().find(|(name, _)| names.contains(name))?;
        Some(match refusal {
            Refusal::Invariant => {
                let constraint = "told_to_by_the_test".into();
                CommitError::Invariant { keyset: name.to_string(), constraint }
            }
            Refusal::Refused => StoreError::Refused {
                operation: "commit",
                source: std::io::Error::other("told to by the test").into(),
            }
            .into(),
            Refusal::Conflict => CommitError::Conflict(name.clone()),
        })
    }
}

fn unreachable_error() -> StoreError {
    StoreError::Unreachable(std::io::Error::other("told to by the test").into())
}

impl FaultyStore {
    /// A fault before the work, and whether the answer to the work is lost.
    async fn before(&self, method: &'static str) -> Result<bool, StoreError> {
        match self.take(method) {
            Some(Fault::AnswerLost) => Ok(true),
            Some(Fault::Unreachable) => Err(unreachable_error()),
            Some(Fault::Panic) => panic!("the store was told to panic in {method}"),
            Some(Fault::Hang) => std::future::pending().await,
            None => Ok(false),
        }
    }
}

fn answer<T>(lost: bool, answer: T) -> Result<T, StoreError> {
    if lost { Err(unreachable_error()) } else { Ok(answer) }
}

#[async_trait]
impl RatchetStore for FaultyStore {
    async fn ratchet(&self) -> Result<Ratchet, StoreError> {
        self.fault("ratchet").await?;
        let rows = self.inner.ratchet().await;
        let meeting = self.meeting.lock().unwrap().take();
        if let Some(meeting) = meeting {
            meeting.wait().await;
            meeting.wait().await;
        }
        rows
    }

    async fn change_seeds(
        &self,
        change: &SeedChange,
        events: &[AuditEvent],
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        let step = match change {
            SeedChange::Offer(_) => "offer",
            SeedChange::Withdraw(_) => "withdraw",
            SeedChange::Promote { .. } => "promote",
            SeedChange::End(_) => "end",
            SeedChange::Replace { .. } => "replace",
        };
        let lost = self.before(step).await?;
        answer(lost, self.inner.change_seeds(change, events, chain).await?)
    }

    async fn report_replica(&self, replica: &Replica) -> Result<(), StoreError> {
        self.fault("report_replica").await?;
        self.reports.fetch_add(1, Ordering::SeqCst);
        self.inner.report_replica(replica).await
    }

    async fn forget_replica(
        &self,
        replica: &Replica,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        self.inner.forget_replica(replica, event, chain).await
    }

    async fn wrapped_elsewhere(
        &self,
        seed: SeedId,
        limit: usize,
    ) -> Result<Vec<(KeysetName, StoredKey)>, StoreError> {
        self.inner.wrapped_elsewhere(seed, limit).await
    }

    async fn rewrap(&self, keys: &[Rewrapped]) -> Result<u64, StoreError> {
        let lost = self.before("rewrap").await?;
        answer(lost, self.inner.rewrap(keys).await?)
    }

    async fn reseal(&self, rows: &[Resealed]) -> Result<u64, StoreError> {
        let lost = self.before("reseal").await?;
        answer(lost, self.inner.reseal(rows).await?)
    }

    async fn prove_destroyed(
        &self,
        held: &[(SeedId, Epoch)],
        at: Timestamp,
    ) -> Result<u64, StoreError> {
        self.inner.prove_destroyed(held, at).await
    }

    async fn proofs(&self, keyset: &KeysetName) -> Result<BTreeMap<KeyId, Timestamp>, StoreError> {
        self.inner.proofs(keyset).await
    }

    async fn accept_restore(
        &self,
        acceptance: &Acceptance,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<bool, StoreError> {
        self.inner.accept_restore(acceptance, event, chain).await
    }
}

#[async_trait]
impl KeyStore for FaultyStore {
    async fn now_millis(&self) -> Result<u64, StoreError> {
        self.fault("now_millis").await?;
        self.inner.now_millis().await
    }

    async fn cluster(&self) -> Result<ClusterState, StoreError> {
        self.fault("cluster").await?;
        let cluster = self.inner.cluster().await;
        let looking = self.looking.lock().unwrap().take();
        if let Some(looking) = looking {
            looking.wait().await;
            looking.wait().await;
        }
        cluster
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<Keysets, StoreError> {
        self.fault("due").await?;
        self.inner.due(now, limit).await
    }

    async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.fault("next_due").await?;
        self.inner.next_due().await
    }

    async fn keyset(&self, name: &KeysetName) -> Result<Option<StoredKeyset>, StoreError> {
        self.fault("keyset").await?;
        self.inner.keyset(name).await
    }

    async fn keysets(
        &self,
        after: Option<&KeysetName>,
        limit: usize,
    ) -> Result<Keysets, StoreError> {
        self.fault("keysets").await?;
        self.inner.keysets(after, limit).await
    }

    async fn changed_since(&self, since: Revision) -> Result<Changes, StoreError> {
        self.fault("changed_since").await?;
        let mut changes = self.inner.changed_since(since).await?;
        if let Some(tamper) = &*self.tampering.lock().unwrap() {
            changes.keysets.iter_mut().for_each(tamper);
        }
        Ok(changes)
    }

    async fn access(&self) -> Result<StoredAccess, StoreError> {
        self.fault("access").await?;
        self.inner.access().await
    }

    async fn commit(
        &self,
        commit: &Commit,
        chain: &dyn AuditChain,
    ) -> Result<Committed, CommitError> {
        match self.take("commit") {
            Some(Fault::Unreachable) => return Err(unreachable_error().into()),
            Some(Fault::AnswerLost) => {
                self.inner.commit(commit, chain).await?;
                return Err(unreachable_error().into());
            }
            Some(Fault::Panic) => panic!("the store was told to panic in commit"),
            Some(Fault::Hang) => std::future::pending().await,
            None => {}
        }
        if let Some(error) = self.refusal(commit) {
            return Err(error);
        }
        let committed = self.inner.commit(commit, chain).await?;
        self.commits.fetch_add(1, Ordering::SeqCst);
        Ok(committed)
    }

    async fn seed(&self) -> Result<Option<SeedRow>, StoreError> {
        if self.take("seed").is_some() {
            // As for one who reads an instant before another claims it.
            return Ok(None);
        }
        self.inner.seed().await
    }

    async fn claim_seed(
        &self,
        seed: &SeedRow,
        event: &AuditEvent,
        chain: &dyn AuditChain,
    ) -> Result<SeedRow, StoreError> {
        if self.take("claim_seed").is_some() {
            self.inner.claim_seed(seed, event, chain).await?;
            return Err(unreachable_error());
        }
        self.inner.claim_seed(seed, event, chain).await
    }

    async fn audit(&self, after: u64, limit: usize) -> Result<Vec<AuditRow>, StoreError> {
        let reading = self.reading.lock().unwrap().clone();
        if let Some(reading) = reading {
            reading.wait().await;
            reading.wait().await;
        }
        self.inner.audit(after, limit).await
    }

    async fn notified(&self) -> Result<Option<Revision>, StoreError> {
        let mut word = self.word.subscribe();
        word.changed().await.unwrap();
        Ok(*word.borrow_and_update())
    }

    async fn audit_checkpoint(&self) -> Result<Option<AuditCheckpoint>, StoreError> {
        self.inner.audit_checkpoint().await
    }

    async fn audit_hand_overs(&self) -> Result<Vec<AuditHandOver>, StoreError> {
        self.inner.audit_hand_overs().await
    }

    async fn purge(&self, before: Timestamp) -> Result<u64, StoreError> {
        self.fault("purge").await?;
        self.inner.purge(before).await
    }
}
