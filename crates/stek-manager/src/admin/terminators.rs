//! `GET /admin/v1/keysets/{keyset}/terminators`.

use axum::Json;
use axum::extract::{Query, State};
use stek_core::id::Revision;
use stek_wire::admin::TerminatorsDocument;

use super::caller::Caller;
use super::{Answer, Asked, Keyset, READERS, Shared};

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TerminatorsQuery {
    /// Another revision than the newest.
    revision: Option<u64>,
}

pub(super) async fn show(
    State(operations): Shared,
    caller: Caller,
    keyset: Keyset,
    query: Asked<TerminatorsQuery>,
) -> Answer<TerminatorsDocument> {
    let name = caller.keyset(&keyset?, &READERS)?;
    let Query(query) = query?;
    Ok(Json(operations.terminators(&name, query.revision.map(Revision::new))?))
}
