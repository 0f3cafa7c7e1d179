//! `/admin/v1/grants`: who may do what. For operators of all keysets, since a grant may be to any.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use stek_core::access::Role;
use stek_http::Problem;
use stek_wire::admin::{GrantEntry, GrantList};

use super::caller::Caller;
use super::failure::Failure;
use super::{Answer, Asked, Body, READERS, Shared};
use crate::operations::Operations;

pub(super) fn router() -> Router<Arc<Operations>> {
    Router::new().route("/admin/v1/grants", get(list).post(add).delete(remove))
}

async fn list(State(operations): Shared, caller: Caller) -> Answer<GrantList> {
    caller.must_have_all(&READERS)?;
    let grants = operations.grants().await?;
    Ok(Json(GrantList { grants: grants.iter().map(GrantEntry::from).collect() }))
}

/// 201 for a new one, 200 for one that is there already.
async fn add(State(operations): Shared, caller: Caller, body: Body) -> Result<Response, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    let grant = GrantEntry::decode(&body?)?;
    let entry = GrantEntry::from(&grant);
    let is_new = operations.add_grant(grant, caller.name()).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(entry)).into_response())
}

async fn remove(
    State(operations): Shared,
    caller: Caller,
    query: Asked<GrantEntry>,
) -> Result<StatusCode, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    let grant = query?.to_grant()?;
    if operations.remove_grant(&grant, caller.name()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found().into())
    }
}
