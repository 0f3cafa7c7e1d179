//! `/admin/v1/grants`: who may do what. For operators of all keysets, since a grant may be to any.

use axum::Json;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use stek_core::access::Role;
use stek_http::Problem;
use stek_wire::admin::{GrantEntry, GrantList};

use super::caller::Caller;
use super::failure::Failure;
use super::{Answer, Asked, Body, READERS, Shared};

pub(super) async fn list(State(operations): Shared, caller: Caller) -> Answer<GrantList> {
    caller.must_have_all(&READERS)?;
    let grants = operations.grants().await?;
    Ok(Json(GrantList { grants: grants.iter().map(GrantEntry::from).collect() }))
}

/// 201 for a new one, 200 for one that is there already.
pub(super) async fn add(
    State(operations): Shared,
    caller: Caller,
    body: Body,
) -> Result<Response, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    let grant = GrantEntry::decode(&body?)?;
    let entry = GrantEntry::from(&grant);
    let is_new = operations.add_grant(grant, caller.name()).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(entry)).into_response())
}

/// Which grant ends.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RemoveQuery {
    principal: String,
    keysets: String,
    role: String,
}

pub(super) async fn remove(
    State(operations): Shared,
    caller: Caller,
    query: Asked<RemoveQuery>,
) -> Result<StatusCode, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    let Query(RemoveQuery { principal, keysets, role }) = query?;
    let grant = GrantEntry { principal, keysets, role }.to_grant()?;
    if operations.remove_grant(&grant, caller.name()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found().into())
    }
}
