//! The table of the distribution contract: what there is, what it takes, and everything that it
//! answers. What is answered, handlers decide.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use http::{HeaderMap, StatusCode};
use stek_http::Origin;
use stek_http::api::{Api, Operation, Route};
use stek_wire::admin::InstanceList;
use stek_wire::check_ins::{MAX_CHECK_INS_BYTES, PATH};
use stek_wire::headers::{STEK_CLOCK_OFFSET, STEK_INSTANCE, STEK_READ_AGE, STEK_TIME};
use stek_wire::schema;

use crate::{Shared, api, reports};

const ABOUT_BUNDLE: &str = "Role `terminator` on the keyset. A poll that names its instance is its \
    check-in. A deleted keyset is served without keys for 7 days.";
const ABOUT_FEED: &str = "Role `distribution` on at least one keyset. A difference if `If-None-Match` \
    names an earlier revision of the same lineage and grants, else a snapshot.";
const ABOUT_LIST: &str = "Role `operator` or `auditor` on the keyset.";
const ABOUT_REPORT: &str = "Role `distribution` on at least one keyset; what concerns others is left \
    out. A report replaces the one before and counts for 15 s.";
const ABOUT_READ_AGE: &str = "How long ago the database was read, if the server knows. Ask another \
    server too if that is long";

/// What terminators ask for, and operators about them.
pub(crate) fn bundles(shared: Arc<Shared>) -> Api {
    let bundle = Operation::new("getBundle", "The ticket keys of a keyset")
        .about(ABOUT_BUNDLE)
        .path::<schema::KeysetName>("keyset", "The keyset")
        .header::<schema::ClockOffset>(STEK_CLOCK_OFFSET, "Of the instance");
    let list = Operation::new("listInstances", "Lists the instances that poll this replica")
        .about(ABOUT_LIST)
        .path::<schema::KeysetName>("keyset", "The keyset")
        .query::<reports::ListQuery>()
        .json::<InstanceList>(StatusCode::OK, "A page")
        .refuses([StatusCode::NOT_FOUND, StatusCode::UNPROCESSABLE_ENTITY]);
    let bundle = polled::<schema::Bundle>(bundle);
    let polls = Arc::clone(&shared);
    let poll = move |keyset: &str, headers: &HeaderMap, origin: Origin<'_>| {
        api::bundle(Arc::clone(&polls), keyset, headers, origin)
    };
    Api::new()
        .shortcut("/v1/keysets/{keyset}", poll, bundle)
        .route("/v1/keysets/{keyset}/terminators", Route::new().get(reports::list, list))
        .with_state(shared)
}

/// What other replicas ask for and report.
pub(crate) fn feeds(shared: Arc<Shared>) -> Api {
    let feed = Operation::new("getFeed", "The ticket keys, tokens and grants of all keysets");
    let feed = polled::<schema::Feed>(feed.about(ABOUT_FEED));
    let report = Operation::new("reportCheckIns", "Takes a replica's count of who holds what")
        .about(ABOUT_REPORT)
        .body::<schema::CheckIns>()
        .empty(StatusCode::NO_CONTENT, "It counts")
        .refuses([StatusCode::NOT_FOUND]);
    Api::new()
        .route(PATH, Route::new().post(reports::accept, report))
        .layer(DefaultBodyLimit::max(MAX_CHECK_INS_BYTES))
        .route("/v1/feed", Route::new().get(api::feed, feed))
        .with_state(shared)
}

/// What may be waited for until it is another than what is installed.
fn polled<T: schemars::JsonSchema>(operation: Operation) -> Operation {
    let (ok, unchanged) = (StatusCode::OK, StatusCode::NOT_MODIFIED);
    let operation = operation
        .header::<schema::IfNoneMatch>("if-none-match", "What is installed")
        .header::<schema::Prefer>("prefer", "How long the answer may wait for a change")
        .header::<schema::InstanceName>(STEK_INSTANCE, "Which instance asks")
        .json::<T>(ok, "Something else than what is installed")
        .empty(unchanged, "What is installed is what there is. Without a body")
        .refuses([StatusCode::NOT_FOUND, StatusCode::UNPROCESSABLE_ENTITY]);
    [ok, unchanged].into_iter().fold(operation, |operation, status| {
        operation
            .with::<schema::EntityTag>(status, "ETag", "What the server has")
            .with::<schema::StekTime>(status, STEK_TIME, "Fleet time")
            .sometimes_with::<schema::ReadAge>(status, STEK_READ_AGE, ABOUT_READ_AGE)
            .with::<String>(status, "Vary", "What else the answer depends on")
    })
}
