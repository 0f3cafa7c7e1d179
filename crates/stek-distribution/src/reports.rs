//! `POST /v1/check-ins`, where other replicas report, and
//! `GET /v1/keysets/{keyset}/terminators`, the full list of who polls this one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, Path, Query, Request, State};
use axum::{Json, body::Bytes};
use http::StatusCode;
use http::header::CACHE_CONTROL;
use stek_core::access::Role;
use stek_core::check_in::Census;
use stek_core::id::Revision;
use stek_core::name::{InstanceName, KeysetName, PrincipalName};
use stek_http::{Problem, Proof};
use stek_wire::admin::{InstanceList, LaggardDocument};
use stek_wire::check_ins::decode_check_ins;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::Shared;
use crate::visitor::{Judged, Visitor};

/// The most instances of one page, and how many one has if nothing else is asked for.
const MAX_PAGE: usize = 1000;

/// The longest that a report waits for one before it of the same credential.
const LONGEST_TURN: Duration = Duration::from_secs(5);
/// How many reports are decoded at once. It takes a processor and several times the report's length.
const MAX_DECODING: usize = 2;

/// Nothing of the body is read before the one who sends it has proven to be a replica, and of each
/// credential one body at a time: that bounds what reports can take of memory.
pub(crate) async fn accept(
    State(shared): State<Arc<Shared>>,
    proof: Proof,
    request: Request,
) -> Result<(StatusCode, [(http::HeaderName, &'static str); 1]), Problem> {
    let (visitor, judged) = Visitor::arrive(&shared, proof)?;
    judged.must_have(Role::Distribution)?;
    // Holding the state would keep its keys from being erased.
    let who = judged.who;
    let in_turn = shared.turns.take(who.shown());
    let _turn = tokio::select! {
        turn = in_turn => turn,
        () = shared.fleet.clock().sleep(LONGEST_TURN) => {
            return Err(Problem::too_many_requests(LONGEST_TURN));
        }
    };
    let body = Bytes::from_request(request, &()).await?;
    let census = shared.turns.decode(body).await?;
    // It may have been shut out while it was sending.
    let judged = visitor.judge(&shared)?;
    judged.must_have(Role::Distribution)?;
    let Judged { who, feed } = judged;
    let boot = shared.fleet.clock().boot();
    let may = |name: &KeysetName| feed.access.allows(&who, Role::Distribution, name);
    shared.children.accept(who.shown(), census, (feed.incarnation, boot), may);
    shared.news.checked_in(boot);
    shared.metrics.reports.inc();
    Ok((StatusCode::NO_CONTENT, [(CACHE_CONTROL, "no-store")]))
}

/// Lets the reports of one credential in one after the other, and only so many be read into memory
/// at once whoever sends them.
pub(crate) struct Turns {
    taken: Mutex<HashMap<PrincipalName, Arc<Semaphore>>>,
    decoding: Semaphore,
}

impl Default for Turns {
    fn default() -> Self {
        Self { taken: Mutex::default(), decoding: Semaphore::new(MAX_DECODING) }
    }
}

impl Turns {
    /// A turn of `who`, held until it is dropped.
    async fn take(&self, who: &PrincipalName) -> Option<OwnedSemaphorePermit> {
        let turn = {
            let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
            // A permit keeps its semaphore, and so does who waits for one.
            taken.retain(|_, turn| Arc::strong_count(turn) > 1);
            let turn = taken.entry(who.clone()).or_insert_with(|| Arc::new(Semaphore::new(1)));
            Arc::clone(turn)
        };
        turn.acquire_owned().await.ok()
    }

    async fn decode(&self, body: Bytes) -> Result<Census, Problem> {
        let _permit = self.decoding.acquire().await.map_err(|_| Problem::internal())?;
        let read = tokio::task::spawn_blocking(move || decode_check_ins(&body));
        let census = read.await.map_err(|_| Problem::internal())?;
        census.map_err(|error| Problem::bad_request(error.to_string()))
    }
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListQuery {
    /// What came as `next` with the page before.
    after: Option<String>,
    /// Only those that hold an older revision.
    below: Option<u64>,
    /// How many a page has at most; 1000 if nothing else is asked for.
    #[schemars(range(min = 1, max = 1000))]
    limit: Option<usize>,
}

pub(crate) async fn list(
    State(shared): State<Arc<Shared>>,
    proof: Proof,
    keyset: Result<Path<String>, PathRejection>,
    query: Result<Query<ListQuery>, QueryRejection>,
) -> Result<([(http::HeaderName, &'static str); 1], Json<InstanceList>), Problem> {
    let (_, Judged { who, feed }) = Visitor::arrive(&shared, proof)?;
    let name = keyset.ok().and_then(|Path(text)| KeysetName::try_new(&text).ok());
    let name = name.ok_or_else(Problem::not_found)?;
    let may = |role| feed.access.allows(&who, role, &name);
    if !may(Role::Operator) && !may(Role::Auditor) {
        return Err(Problem::not_found());
    }
    let Query(query) = query?;
    let limit = query.limit.unwrap_or(MAX_PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(Problem::invalid_field("limit", limit.to_string(), "1 to 1000"));
    }
    let after = query.after.as_deref().map(parse_place).transpose()?;
    let below = query.below.map(Revision::new);
    let listed = shared.check_ins.list(&name, after.as_ref(), below, limit);
    let last = listed.instances.last().filter(|_| listed.more);
    let next = last.map(|last| format_place(&last.principal, &last.instance));
    let instances = listed.instances.iter().map(|one| LaggardDocument::new(one, None)).collect();
    Ok(([(CACHE_CONTROL, "no-store")], Json(InstanceList { instances, next })))
}

/// A place in the list as text that needs no escaping in a URL.
fn format_place(principal: &PrincipalName, instance: &InstanceName) -> String {
    format!("{principal} {instance}").bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn parse_place(text: &str) -> Result<(PrincipalName, InstanceName), Problem> {
    let parse = || {
        let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
        let bytes = digits.map(|pair| pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()));
        let place = String::from_utf8(bytes.collect::<Option<Vec<_>>>()?).ok()?;
        let (principal, instance) = place.split_once(' ')?;
        Some((PrincipalName::try_new(principal).ok()?, InstanceName::try_new(instance).ok()?))
    };
    let shown: String = text.chars().take(80).collect();
    parse().ok_or_else(|| Problem::invalid_field("after", shown, "what came as next before"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_what_they_write() {
        let principal = PrincipalName::try_new("spiffe://example.org/a%20b").unwrap();
        let instance = InstanceName::try_new("edge&7#2+").unwrap();
        let text = format_place(&principal, &instance);
        assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(parse_place(&text).unwrap(), (principal, instance));
        for bad in ["", "7", "zz", "6120", "ff", "é", "2020"] {
            assert!(parse_place(bad).is_err(), "{bad}");
        }
    }
}
