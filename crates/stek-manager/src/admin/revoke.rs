//! `POST …/revoke`, and the cost of every change that is only asked about.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use stek_core::access::Role;
use stek_core::planner::Selection;
use stek_wire::admin::RevokeKeys;

use super::caller::Caller;
use super::failure::Failure;
use super::{Body, Keyset, Shared};
use crate::operations::KeysetChange;

/// Whether a change is only asked about; `?dry_run=true`.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DryRun {
    /// Whether to answer with the cost and change nothing.
    #[serde(default)]
    pub(super) dry_run: bool,
}

pub(super) async fn revoke(
    State(operations): Shared,
    caller: Caller,
    keyset: Keyset,
    body: Body,
) -> Result<Response, Failure> {
    let name = caller.keyset(&keyset?, &[Role::Operator])?;
    let RevokeKeys { reason, key, dry_run } = RevokeKeys::decode(&body?)?;
    let selection = key.map_or(Selection::All, Selection::Key);
    if dry_run {
        let asked = KeysetChange::Revoke { selection, reason };
        return Ok(Json(operations.cost(&name, &asked).await?).into_response());
    }
    let effect = operations.revoke(&name, selection, &reason, caller.name()).await?;
    Ok(Json(effect).into_response())
}
