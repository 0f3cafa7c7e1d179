//! Goes through the trail again and again beside the work of a manager, a page at a time, so that a
//! trail that does not hold is an alarm and not a discovery. What it remembers is out of reach of
//! whoever writes the database.

use std::sync::Arc;
use std::time::Duration;

use stek_core::audit::ChainLink;
use stek_core::id::Incarnation;
use stek_core::time::{Seconds, Timestamp};
use stek_store::{AuditCheckpoint, ClusterState, KeyStore, StoreError};
use stek_wire::admin::BrokenLink;
use tokio_util::sync::CancellationToken;

use super::{Page, Secrets, begin, check_end, moved, start, walk};
use crate::engine::Engine;
use crate::metrics::ManagerMetrics;

/// How soon after one page comes the next.
const PAGE_EVERY: Duration = Duration::from_secs(5);

/// How often the whole trail is verified anew. Until then only what is new.
const ROUND: Seconds = Seconds::from_hours(1);

/// How far a round has got, and how far any has.
pub(crate) struct Patrol {
    /// The lineage of the trail, and when the round began.
    round: Option<(Incarnation, Timestamp)>,
    /// The last line that was verified in this round.
    line: u64,
    /// The newest line that was ever verified in this lineage, and its link as it was then.
    seen: (u64, ChainLink),
    is_broken: bool,
}

impl Default for Patrol {
    fn default() -> Self {
        Self { round: None, line: 0, seen: (0, ChainLink::ORIGIN), is_broken: false }
    }
}

/// Goes on until shutdown, by what passes read of the cluster: no pass waits for it, and it asks
/// nothing of the database that a pass needs.
pub(crate) async fn run(
    engine: Arc<Engine>,
    metrics: Arc<ManagerMetrics>,
    shutdown: CancellationToken,
) {
    let mut patrol = Patrol::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = engine.clock().sleep(PAGE_EVERY) => {}
        }
        let Some(cluster) = engine.last_cluster() else { continue };
        let (engine, metrics) = (Arc::clone(&engine), Arc::clone(&metrics));
        // In a task of its own, so that a panic costs what is remembered and not the patrol.
        let turn = async move {
            turn(&engine, &metrics, &mut patrol, &cluster).await;
            patrol
        };
        patrol = tokio::spawn(turn).await.unwrap_or_default();
    }
}

/// One step, and what is told of it. A failure waits for the next turn.
async fn turn(
    engine: &Engine,
    metrics: &ManagerMetrics,
    patrol: &mut Patrol,
    cluster: &ClusterState,
) {
    let secrets = Secrets { chain: &engine.audit, sealer: &engine.sealer };
    let now = engine.fleet().now();
    let found = patrol.step(engine.store.as_ref(), secrets, cluster, now).await;
    metrics.audit.verified.set(i64::try_from(patrol.line).unwrap_or(i64::MAX));
    match found {
        Ok(Found::Nothing) => {}
        Ok(Found::Sound) => metrics.audit.broken.set(0),
        Ok(Found::Broken(broken)) => {
            metrics.audit.broken.set(1);
            let (line, why) = (broken.sequence, broken.why);
            tracing::error!(line, why, "the audit trail does not hold");
        }
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the audit trail was not verified");
        }
    }
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
    /// Verifies the next page of the trail of `cluster`, which was read not long before.
    pub(crate) async fn step(
        &mut self,
        store: &dyn KeyStore,
        secrets: Secrets<'_>,
        cluster: &ClusterState,
        now: Timestamp,
    ) -> Result<Found, StoreError> {
        let head = (cluster.audit_sequence, cluster.audit_head);
        let is_over = self.is_broken || (self.line == head.0 && self.seen == head);
        match self.round {
            Some((lineage, _)) if lineage == cluster.incarnation && !is_over => {}
            Some((lineage, begun_at)) if lineage == cluster.incarnation => {
                if (begun_at..begun_at + ROUND).contains(&now) {
                    return Ok(Found::Nothing);
                }
                *self = Self { round: Some((lineage, now)), seen: self.seen, ..Self::default() };
            }
            _ => *self = Self { round: Some((cluster.incarnation, now)), ..Self::default() },
        }
        let checkpoint = store.audit_checkpoint().await?;
        let found = self.look(store, secrets, cluster, checkpoint).await?;
        self.is_broken = matches!(found, Found::Broken(_));
        if self.is_broken && moved(store, checkpoint).await?.is_some() {
            // The next step begins after what was removed.
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
        if let Some(broken) = self.lost(store, secrets, checkpoint).await? {
            return Ok(Found::Broken(broken));
        }
        let mut verifier = match begin(store, secrets, self.line, checkpoint).await? {
            Ok(verifier) => verifier,
            Err(broken) => return Ok(Found::Broken(broken)),
        };
        let page = Page::read(store, verifier.sequence()).await?;
        if let Some(broken) = walk(&mut verifier, &page, None, &mut None) {
            return Ok(Found::Broken(broken));
        }
        self.line = verifier.sequence();
        if self.line >= self.seen.0 {
            self.seen = (self.line, verifier.link());
        }
        if page.last.is_some() && self.line < cluster.audit_sequence {
            return Ok(Found::Nothing);
        }
        let end = check_end(&verifier, cluster.audit_sequence, cluster.audit_head);
        Ok(end.map_or(Found::Sound, Found::Broken))
    }

    /// What is wrong with the newest line that was ever verified, unless it is as it was or went for
    /// its age.
    async fn lost(
        &self,
        store: &dyn KeyStore,
        secrets: Secrets<'_>,
        checkpoint: Option<AuditCheckpoint>,
    ) -> Result<Option<BrokenLink>, StoreError> {
        let (sequence, link) = self.seen;
        Ok(match start(store, secrets, sequence, checkpoint).await? {
            Err(broken) => Some(broken),
            Ok((at, now)) => (at == sequence && now != link).then(|| {
                let why = format!("line {sequence} has another link than it had");
                BrokenLink { sequence, why }
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use stek_core::audit::{AuditAction, AuditEvent};
    use stek_custody::cluster_secret::ClusterSecret;
    use stek_custody::random::SystemRandom;
    use stek_store::{Commit, MemoryStore};

    use super::*;

    fn secret() -> ClusterSecret {
        ClusterSecret::parse(&ClusterSecret::generate_text(&SystemRandom).unwrap()).unwrap()
    }

    /// A trail of these actors, one a line. Two that begin alike have the same links as far as that goes.
    async fn trail(secret: &ClusterSecret, actors: &[&str]) -> MemoryStore {
        let store = MemoryStore::new(Incarnation::from_bytes([1; 16]), Arc::new(|| 0));
        let event = |actor: &&str| AuditEvent {
            at: Timestamp::EPOCH,
            actor: (*actor).to_owned(),
            action: AuditAction::KeysetCreated,
            keyset: None,
            key: None,
            reason: String::new(),
        };
        for actor in actors {
            let events = vec![event(actor)];
            let commit = Commit { at: Timestamp::EPOCH, changes: vec![], events };
            store.commit(&commit, &secret.audit_key()).await.unwrap();
        }
        store
    }

    /// What a step shows of a line that is wrong; zero if the trail is sound, none if nothing.
    async fn step(
        patrol: &mut Patrol,
        secret: &ClusterSecret,
        store: &MemoryStore,
        now: u64,
    ) -> Option<u64> {
        let (chain, sealer) = (secret.audit_key(), secret.row_sealer());
        let secrets = Secrets { chain: &chain, sealer: &sealer };
        let cluster = store.cluster().await.unwrap();
        match patrol.step(store, secrets, &cluster, Timestamp::from_unix(now)).await.unwrap() {
            Found::Nothing => None,
            Found::Sound => Some(0),
            Found::Broken(broken) => Some(broken.sequence),
        }
    }

    #[tokio::test]
    async fn a_trail_that_was_cut_stays_broken_until_the_lines_are_back() {
        let secret = secret();
        let whole = trail(&secret, &["a", "b", "c"]).await;
        let cut = trail(&secret, &["a", "b"]).await;
        let grown = trail(&secret, &["a", "b", "x"]).await;
        let further = trail(&secret, &["a", "b", "x", "y"]).await;
        let hour = ROUND.as_secs();
        let mut patrol = Patrol::default();
        assert_eq!(step(&mut patrol, &secret, &whole, 0).await, Some(0));
        assert_eq!(step(&mut patrol, &secret, &whole, 1).await, None, "nothing is new");
        // The head is set back with it each time, and for all rounds that follow it is known.
        assert_eq!(step(&mut patrol, &secret, &cut, 2).await, Some(3));
        assert_eq!(step(&mut patrol, &secret, &cut, 3).await, None, "told once in a round");
        for (round, store) in [(1, &cut), (2, &cut), (3, &grown), (4, &further)] {
            assert_eq!(step(&mut patrol, &secret, store, round * hour).await, Some(3), "{round}");
        }
        assert_eq!(step(&mut patrol, &secret, &whole, 5 * hour).await, Some(0));
    }

    #[tokio::test]
    async fn a_trail_that_was_cut_and_grew_to_its_length_again_is_seen_at_once() {
        let secret = secret();
        let whole = trail(&secret, &["a", "b", "c"]).await;
        let grown = trail(&secret, &["a", "b", "x"]).await;
        let mut patrol = Patrol::default();
        assert_eq!(step(&mut patrol, &secret, &whole, 0).await, Some(0));
        assert_eq!(step(&mut patrol, &secret, &grown, 1).await, Some(3));
    }
}
