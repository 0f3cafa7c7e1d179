//! The admin API below `/admin/v1`: who may ask for which operation, and how its outcome is said.
//! What an operation does is decided in [`crate::operations`].

mod audit;
mod caller;
mod failure;
mod grants;
mod ratchet;
mod revoke;
mod routes;
mod terminators;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CACHE_CONTROL, LOCATION};
use stek_core::access::Role;
use stek_core::id::KeyId;
use stek_core::name::KeysetName;
use stek_core::principal::RESERVED;
use stek_core::time::{Seconds, Timestamp};
use stek_http::Problem;
use stek_wire::admin::{
    ChangePolicy, CreateKeyset, CreateToken, GrantDocument, KeysetDocument, KeysetList,
    PlanDocument, TokenDocument, TokenList,
};

pub(crate) use crate::admin::caller::Caller;
use crate::admin::failure::Failure;
use crate::admin::revoke::DryRun;
pub(crate) use crate::admin::routes::api;
use crate::operations::{KeysetChange, NewToken, Operations, TokenRow};

/// How far a forecast looks if nothing else is asked for.
const DEFAULT_FORECAST: Seconds = Seconds::from_days(1);
/// How far a forecast may look.
const LONGEST_FORECAST: Seconds = Seconds::from_days(31);
/// How long a token may be valid.
const LONGEST_TOKEN: Seconds = Seconds::from_days(3650);

/// Who may look at a keyset.
pub(crate) const READERS: [Role; 2] = [Role::Operator, Role::Auditor];

type Shared = State<Arc<Operations>>;
type Keyset = Result<Path<String>, PathRejection>;
type Body = Result<Bytes, BytesRejection>;
type Asked<T> = Result<Query<T>, QueryRejection>;
type Answer<T> = Result<Json<T>, Failure>;

async fn no_store(mut response: Response) -> Response {
    let value = http::HeaderValue::from_static("no-store");
    response.headers_mut().insert(CACHE_CONTROL, value);
    response
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    /// The name after which the page begins.
    #[schemars(with = "Option<stek_wire::schema::KeysetName>")]
    after: Option<String>,
}

async fn list(
    State(operations): Shared,
    caller: Caller,
    query: Asked<ListQuery>,
) -> Answer<KeysetList> {
    caller.must_have_role(&READERS)?;
    let Query(query) = query?;
    let after = query.after.as_deref().map(KeysetName::try_new).transpose()?;
    Ok(Json(match caller.named(&READERS) {
        None => operations.list(after.as_ref(), |_| true).await?,
        Some(names) => operations.list_named(after.as_ref(), &names).await?,
    }))
}

async fn create(
    State(operations): Shared,
    caller: Caller,
    body: Body,
) -> Result<Response, Failure> {
    caller.must_have_role(&[Role::Operator])?;
    let asked = CreateKeyset::decode(&body?)?;
    if !caller.may(&[Role::Operator], &asked.name) {
        return Err(Problem::forbidden().into());
    }
    let document: KeysetDocument =
        operations.create(&asked.name, asked.policy, caller.name()).await?;
    let location = format!("/admin/v1/keysets/{}", asked.name);
    Ok((StatusCode::CREATED, [(LOCATION, location)], Json(document)).into_response())
}

async fn show(State(operations): Shared, caller: Caller, keyset: Keyset) -> Answer<KeysetDocument> {
    let name = caller.keyset(&keyset?, &READERS)?;
    Ok(Json(operations.show(&name).await?))
}

async fn remove(
    State(operations): Shared,
    caller: Caller,
    keyset: Keyset,
    query: Asked<DryRun>,
) -> Result<Response, Failure> {
    let name = caller.keyset(&keyset?, &[Role::Operator])?;
    if query?.dry_run {
        return Ok(Json(operations.cost_of_deletion(&name).await?).into_response());
    }
    Ok(Json(operations.delete(&name, caller.name()).await?).into_response())
}

async fn change_policy(
    State(operations): Shared,
    caller: Caller,
    keyset: Keyset,
    query: Asked<DryRun>,
    body: Body,
) -> Result<Response, Failure> {
    let name = caller.keyset(&keyset?, &[Role::Operator])?;
    let policy = ChangePolicy::decode(&body?)?.policy;
    if query?.dry_run {
        return Ok(
            Json(operations.cost(&name, &KeysetChange::Policy(policy)).await?).into_response()
        );
    }
    Ok(Json(operations.change_policy(&name, policy, caller.name()).await?).into_response())
}

async fn rotate(
    State(operations): Shared,
    caller: Caller,
    keyset: Keyset,
    query: Asked<DryRun>,
) -> Result<Response, Failure> {
    let name = caller.keyset(&keyset?, &[Role::Operator])?;
    if query?.dry_run {
        return Ok(Json(operations.cost(&name, &KeysetChange::Rotate).await?).into_response());
    }
    Ok(Json(operations.rotate(&name, caller.name()).await?).into_response())
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct PlanQuery {
    /// The end of the forecast: an RFC 3339 instant, or a span such as `12h`; at most 31 days ahead.
    #[schemars(example = &"12h")]
    until: Option<String>,
}

async fn plan(
    State(operations): Shared,
    caller: Caller,
    keyset: Keyset,
    query: Asked<PlanQuery>,
) -> Answer<PlanDocument> {
    let name = caller.keyset(&keyset?, &READERS)?;
    let Query(query) = query?;
    let now = operations.engine().fleet().now();
    let until = match &query.until {
        None => now + DEFAULT_FORECAST,
        Some(text) => parse_until(text, now)?,
    };
    Ok(Json(operations.plan(&name, until).await?))
}

/// An instant, or a span from now on.
fn parse_until(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    let until = Timestamp::parse(text).or_else(|_| Seconds::parse(text).map(|span| now + span));
    match until {
        Ok(until) if until >= now && until <= now + LONGEST_FORECAST => Ok(until),
        _ => {
            let allowed = "an RFC 3339 instant or a span such as 12h, at most 31 days ahead";
            Err(Problem::invalid_field("until", text, allowed).into())
        }
    }
}

async fn tokens(State(operations): Shared, caller: Caller) -> Answer<TokenList> {
    caller.must_have_all(&READERS)?;
    let tokens = operations.tokens().await?.iter().map(token_document).collect();
    Ok(Json(TokenList { tokens }))
}

async fn create_token(
    State(operations): Shared,
    caller: Caller,
    body: Body,
) -> Result<Response, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    let asked = CreateToken::decode(&body?)?;
    if RESERVED.contains(&asked.principal.as_str()) {
        let allowed = "any name but those that the audit trail gives to itself";
        return Err(Problem::invalid_field("principal", asked.principal.as_str(), allowed).into());
    }
    let now = operations.engine().fleet().now();
    if asked.expires_at <= now || asked.expires_at > now + LONGEST_TOKEN {
        let value = asked.expires_at.to_string();
        let allowed = "an instant in the future, at most 3650 days ahead";
        return Err(Problem::invalid_field("expires_at", value, allowed).into());
    }
    let new = NewToken {
        principal: asked.principal,
        hash: asked.hash,
        expires_at: asked.expires_at,
        grants: asked.grants.clone(),
    };
    let token = operations.add_token(new, caller.name()).await?;
    let row = TokenRow { token, grants: asked.grants };
    Ok((StatusCode::CREATED, Json(token_document(&row))).into_response())
}

async fn revoke_token(
    State(operations): Shared,
    caller: Caller,
    id: Result<Path<String>, PathRejection>,
) -> Result<StatusCode, Failure> {
    caller.must_have_all(&[Role::Operator])?;
    let id = KeyId::parse(&id?).map_err(|_| Problem::not_found())?;
    if operations.revoke_token(id, caller.name()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Problem::not_found().into())
    }
}

fn token_document(row: &TokenRow) -> TokenDocument {
    TokenDocument {
        id: row.token.id.to_string(),
        principal: row.token.principal.to_string(),
        expires_at: row.token.expires_at.to_string(),
        grants: row.grants.iter().map(GrantDocument::from).collect(),
    }
}
