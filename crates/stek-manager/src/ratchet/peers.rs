//! Asking other managers for a state, whoever carries the question.

use std::error::Error;

use async_trait::async_trait;
use stek_core::time::Timestamp;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::{RandomError, RandomSource};
use stek_custody::ratchet::RatchetState;
use stek_custody::share::{CHALLENGE_LEN, JoinRequest, NotForUs, SealedState};

/// Why no peer gave the state.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// There is nobody to ask.
    #[error("no peers are configured")]
    None,
    /// Each was asked.
    #[error("no peer gave the state")]
    Refused(#[source] Box<dyn Error + Send + Sync>),
    /// What one gave cannot be used.
    #[error("a peer gave a state that was not sealed for us")]
    NotForUs(#[from] NotForUs),
    /// It is of an epoch that has not come.
    #[error("a peer gave a state of epoch {}, which has not come", .0.as_u64())]
    Ahead(Epoch),
    /// No random bytes for the request.
    #[error(transparent)]
    Random(#[from] RandomError),
}

/// The other managers of the cluster.
#[async_trait]
pub trait Peers: Send + Sync {
    /// Asks one after another until one gives the state, within a bounded time.
    ///
    /// # Errors
    /// [`PeerError`].
    async fn ask(&self, request: &JoinRequest) -> Result<SealedState, PeerError>;
}

/// For a manager that is alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoPeers;

#[async_trait]
impl Peers for NoPeers {
    async fn ask(&self, _: &JoinRequest) -> Result<SealedState, PeerError> {
        Err(PeerError::None)
    }
}

/// The state of `seed` for the copy `replica`, from whichever peer has it.
pub(crate) async fn fetch(
    peers: &dyn Peers,
    cluster: &ClusterSecret,
    random: &(dyn RandomSource + Sync),
    (replica, seed): (ReplicaId, SeedId),
    now: Timestamp,
) -> Result<RatchetState, PeerError> {
    let mut challenge = [0; CHALLENGE_LEN];
    random.fill(&mut challenge)?;
    let request = JoinRequest { replica, seed, challenge };
    let state = peers.ask(&request).await?.open(&request, cluster)?;
    // Clocks are within half a minute of the database's, so a peer is one epoch ahead at most.
    if state.epoch().as_u64() > Epoch::of(now).as_u64() + 1 {
        return Err(PeerError::Ahead(state.epoch()));
    }
    tracing::info!(%seed, %replica, epoch = state.epoch().as_u64(), "a peer gave the ratchet's state");
    Ok(state)
}
