//! `GET /admin/v1/audit` and `GET /admin/v1/audit/verify`. Whoever may read one keyset alone sees
//! the lines about that keyset; the chain is for those who may read all.

use axum::Json;
use axum::extract::{Query, State};
use stek_core::audit::ChainLink;
use stek_core::time::Timestamp;
use stek_http::Problem;
use stek_wire::admin::{AuditList, VerdictDocument};

use super::caller::Caller;
use super::{Answer, Asked, READERS, Shared};
use crate::trail::TrailQuery;

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// The line after which the page begins.
    #[serde(default)]
    after: u64,
    /// Only lines about this keyset.
    #[schemars(with = "Option<stek_wire::schema::KeysetName>")]
    keyset: Option<String>,
    /// Only lines from this instant on.
    #[schemars(with = "Option<stek_wire::schema::Instant>")]
    since: Option<String>,
}

pub(super) async fn list(
    State(operations): Shared,
    caller: Caller,
    query: Asked<ListQuery>,
) -> Answer<AuditList> {
    caller.must_have_role(&READERS)?;
    let Query(ListQuery { after, keyset, since }) = query?;
    let keyset = match keyset {
        Some(name) => Some(caller.keyset(&name, &READERS)?),
        None => {
            caller.must_have_all(&READERS)?;
            None
        }
    };
    let since = since.as_deref().map(parse_instant).transpose()?;
    Ok(Json(operations.audit(&TrailQuery { after, keyset, since }).await?))
}

fn parse_instant(text: &str) -> Result<Timestamp, Problem> {
    let allowed = "an RFC 3339 instant";
    Timestamp::parse(text).map_err(|_| Problem::invalid_field("since", text, allowed))
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyQuery {
    /// The line after which to begin.
    #[serde(default)]
    after: u64,
    /// The link of a line, kept elsewhere, that must be found.
    #[schemars(with = "Option<stek_wire::schema::Hash>")]
    anchor: Option<String>,
}

pub(super) async fn verify(
    State(operations): Shared,
    caller: Caller,
    query: Asked<VerifyQuery>,
) -> Answer<VerdictDocument> {
    caller.must_have_all(&READERS)?;
    let Query(VerifyQuery { after, anchor }) = query?;
    let parse = |text: &str| {
        let allowed = "64 hexadecimal digits";
        ChainLink::parse(text).map_err(|_| Problem::invalid_field("anchor", text, allowed))
    };
    let anchor = anchor.as_deref().map(parse).transpose()?;
    Ok(Json(operations.verify_audit(after, anchor).await?))
}
