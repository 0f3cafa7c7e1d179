//! The two endpoints: `GET /v1/keysets/{keyset}` and `GET /v1/feed`. Both compare what the caller
//! has with what is there, and wait for a change if asked to.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderValue, StatusCode};
use stek_core::access::Role;
use stek_core::feed::FeedState;
use stek_core::id::ContentTag;
use stek_core::name::{InstanceName, KeysetName};
use stek_http::{Problem, prefer};
use stek_wire::feed::{AccessPart, encode_feed};
use stek_wire::headers::{STEK_ACCESS_TIME, STEK_INSTANCE, STEK_TIME, format_stek_time};
use stek_wire::tag::{IfNoneMatch, format_etag};

use crate::visitor::Visitor;
use crate::{LONGEST_WAIT, Shared, feed_view};

pub(crate) fn bundle_router(shared: Arc<Shared>) -> Router {
    Router::new().route("/v1/keysets/{keyset}", get(bundle)).with_state(shared)
}

pub(crate) fn feed_router(shared: Arc<Shared>) -> Router {
    Router::new().route("/v1/feed", get(feed)).with_state(shared)
}

async fn bundle(
    State(shared): State<Arc<Shared>>,
    Path(keyset): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let visitor = Visitor::from_headers(&headers)?;
    check_instance(&headers)?;
    // A name that no keyset can have is answered like one that none has.
    let name = KeysetName::try_new(&keyset).map_err(|_| Problem::not_found())?;
    visitor.must(&shared, Role::Terminator, &name)?;
    let asked = Asked::new(&headers);
    let deadline = asked.deadline(&shared);
    let mut content = shared.shelf.watch(&name).ok_or_else(Problem::not_found)?;
    loop {
        let rendered = content.borrow_and_update().clone().ok_or_else(Problem::not_found)?;
        if !asked.has(rendered.tag) {
            visitor.must(&shared, Role::Terminator, &name)?;
            shared.metrics.bundles.with_label_values(&["changed"]).inc();
            return Ok(changed(&shared, rendered.tag, rendered.body.clone()));
        }
        if !wait(&shared, deadline, content.changed()).await {
            shared.metrics.bundles.with_label_values(&["unchanged"]).inc();
            return Ok(unchanged(&shared, rendered.tag));
        }
    }
}

async fn feed(
    State(shared): State<Arc<Shared>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let visitor = Visitor::from_headers(&headers)?;
    let asked = Asked::new(&headers);
    let deadline = asked.deadline(&shared);
    let mut published = shared.feed.clone();
    loop {
        published.mark_unchanged();
        let (principal, state) = visitor.principal(&shared)?;
        if !state.access.has_role(&principal, Role::Distribution) {
            return Err(Problem::not_found());
        }
        let view = feed_view::view(&state, &principal);
        let tag = view.tag();
        if !asked.has(tag) {
            shared.metrics.feeds.with_label_values(&["changed"]).inc();
            let body = Bytes::from_owner(render(&shared, &view, asked.installed));
            return Ok(with_access_time(changed(&shared, tag, body), &view));
        }
        if !wait(&shared, deadline, published.changed()).await {
            shared.metrics.feeds.with_label_values(&["unchanged"]).inc();
            return Ok(with_access_time(unchanged(&shared, tag), &view));
        }
    }
}

/// A difference to what the follower has, if that is of this lineage and its grants are the same;
/// else everything.
fn render(shared: &Shared, view: &FeedState, installed: Option<ContentTag>) -> stek_wire::SecretBytes {
    let now = shared.fleet.now();
    let mut live = view.clone();
    for bundle in live.keysets.values_mut() {
        if bundle.next_erasure().is_some_and(|end| end <= now) {
            *bundle = Arc::new(bundle.erased_at(now));
        }
    }
    let tag = view.tag();
    let base = installed.filter(|had| {
        had.incarnation == tag.incarnation && had.digest == tag.digest && had.revision < tag.revision
    });
    match base {
        Some(base) => encode_feed(Some(base.revision), &live, AccessPart::Omitted),
        None => encode_feed(None, &live, AccessPart::Included),
    }
}

/// What the caller has and how long it would wait for something else.
struct Asked {
    had: Option<IfNoneMatch>,
    installed: Option<ContentTag>,
    wait: Duration,
}

impl Asked {
    fn new(headers: &HeaderMap) -> Self {
        let lines: Vec<_> =
            headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok()).collect();
        let had = IfNoneMatch::parse(&lines.join(", "));
        let longest = u32::try_from(LONGEST_WAIT.as_secs()).unwrap_or(u32::MAX);
        let wait = prefer::wait_seconds(headers, longest).unwrap_or(0);
        let installed = had.as_ref().and_then(IfNoneMatch::installed);
        Self { had, installed, wait: Duration::from_secs(u64::from(wait)) }
    }

    fn deadline(&self, shared: &Shared) -> Duration {
        shared.fleet.clock().boot() + self.wait
    }

    /// Whether the caller needs nothing of `offered`: it has that, or something later of the same
    /// lineage, which this replica has yet to hear of.
    fn has(&self, offered: ContentTag) -> bool {
        let ahead = |had: ContentTag| {
            had.incarnation == offered.incarnation && had.revision > offered.revision
        };
        self.had.as_ref().is_some_and(|had| had.covers(offered)) || self.installed.is_some_and(ahead)
    }
}

/// Waits for `change` until `deadline`; whether there may be something new. A replica that is told
/// to stop lets everybody go at once.
async fn wait<E>(
    shared: &Shared,
    deadline: Duration,
    change: impl Future<Output = Result<(), E>>,
) -> bool {
    if shared.fleet.clock().boot() >= deadline {
        return false;
    }
    let waiting = shared.metrics.waiting.clone();
    waiting.inc();
    let changed = tokio::select! {
        changed = change => changed.is_ok(),
        () = shared.fleet.clock().sleep_until(deadline) => false,
        () = shared.shutdown.cancelled() => false,
    };
    waiting.dec();
    changed
}

/// `Stek-Instance`, if it is there, must be a name.
fn check_instance(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(value) = headers.get(STEK_INSTANCE) else { return Ok(()) };
    let text = value.to_str().unwrap_or("");
    InstanceName::try_new(text).map(|_| ()).map_err(|error| {
        Problem::invalid_field(STEK_INSTANCE, error.value, error.allowed)
    })
}

fn changed(shared: &Shared, tag: ContentTag, body: Bytes) -> Response {
    let mut response = answer(shared, StatusCode::OK, tag, Body::from(body));
    let json = HeaderValue::from_static(stek_wire::MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn unchanged(shared: &Shared, tag: ContentTag) -> Response {
    answer(shared, StatusCode::NOT_MODIFIED, tag, Body::empty())
}

fn answer(shared: &Shared, status: StatusCode, tag: ContentTag, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("authorization"));
    let etag = HeaderValue::try_from(format_etag(tag));
    headers.extend(etag.ok().map(|etag| (ETAG, etag)));
    let time = HeaderValue::try_from(format_stek_time(shared.fleet.now_millis()));
    headers.extend(time.ok().map(|time| (http::HeaderName::from_static(STEK_TIME), time)));
    response
}

/// Says when tokens and grants were last read, which changes without anything else changing.
fn with_access_time(mut response: Response, view: &FeedState) -> Response {
    let time = HeaderValue::from(view.access_read_at.as_unix());
    response.headers_mut().insert(STEK_ACCESS_TIME, time);
    response
}

#[cfg(test)]
mod tests;
