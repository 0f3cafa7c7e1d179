//! The routes about the ratchet: its state for managers that join, and what operators see and ask.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::{Extension, Json};
use http::StatusCode;
use stek_core::access::Role;
use stek_core::wrapped::{ReplicaId, SeedId};
use stek_custody::share::JoinRequest;
use stek_http::{Channel, Peer, Problem};
use stek_wire::admin::{JoinDocument, RatchetDocument, StateDocument};

use super::READERS;
use super::caller::Caller;
use super::failure::Failure;
use crate::operations::Operations;

type Shared = State<Arc<Operations>>;

pub(super) async fn show(
    State(operations): Shared,
    caller: Caller,
) -> Result<Json<RatchetDocument>, Failure> {
    caller.must_have_all(&READERS)?;
    Ok(Json(operations.ratchet().await?))
}

/// The state is sealed, and yet not given over a channel that others can read, except to a process
/// on this machine.
pub(super) async fn join(
    State(operations): Shared,
    peer: Option<Extension<Peer>>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<StateDocument>, Failure> {
    caller.must_have_all(&[Role::Manager])?;
    let is_safe = peer.is_some_and(|Extension(peer)| {
        !matches!(peer.channel, Channel::Plain) || peer.addr.ip().is_loopback()
    });
    if !is_safe {
        return Err(Problem::forbidden().into());
    }
    let replica = |text: &str| ReplicaId::parse(text).ok();
    let seed = |text: &str| SeedId::parse(text).ok();
    let (replica, seed, challenge) = JoinDocument::decode(&body?, replica, seed)?;
    let sealed = operations.share(&JoinRequest { replica, seed, challenge }, caller.name()).await?;
    Ok(Json(StateDocument::new(sealed.epoch.as_u64(), &sealed.ciphertext)))
}

pub(super) async fn reseed(
    State(operations): Shared,
    caller: Caller,
) -> Result<(StatusCode, Json<RatchetDocument>), Failure> {
    caller.must_have_all(&[Role::Operator])?;
    operations.reseed(caller.name()).await?;
    Ok((StatusCode::ACCEPTED, Json(operations.ratchet().await?)))
}

pub(super) async fn confirm_clock(
    State(operations): Shared,
    caller: Caller,
) -> Result<StatusCode, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    operations.confirm_clock(caller.name()).await?;
    Ok(StatusCode::NO_CONTENT)
}
