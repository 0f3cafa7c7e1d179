//! The two endpoints: `GET /v1/keysets/{keyset}` and `GET /v1/feed`. Both compare what the caller
//! has with what is there, and wait for a change if asked to.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use stek_core::access::Role;
use stek_core::bundle::Bundle;
use stek_core::feed::FeedState;
use stek_core::id::{ContentTag, Revision};
use stek_core::name::{InstanceName, KeysetName, PrincipalName};
use stek_core::time::Timestamp;
use stek_http::{Origin, Problem, Proof, prefer};
use stek_wire::headers::{
    STEK_CLOCK_OFFSET, STEK_INSTANCE, STEK_READ_AGE, STEK_TIME, format_read_age, format_stek_time,
    parse_clock_offset,
};
use stek_wire::tag::{IfNoneMatch, format_etag};
use tokio::sync::watch;

use crate::check_ins::CheckIn;
use crate::feed_shelf::Extent;
use crate::metrics::Answers;
use crate::shelf::{Content, Rendered};
use crate::visitor::{Judged, Visitor};
use crate::{LONGEST_WAIT, Shared, feed_view, shelf};

// As names, and not as text that is read for each request.
static INSTANCE: HeaderName = HeaderName::from_static(STEK_INSTANCE);
static CLOCK_OFFSET: HeaderName = HeaderName::from_static(STEK_CLOCK_OFFSET);
static TIME: HeaderName = HeaderName::from_static(STEK_TIME);
static READ_AGE: HeaderName = HeaderName::from_static(STEK_READ_AGE);

/// Reads the request at once: until it is gone, the connection takes another buffer for the next one.
pub(crate) fn bundle(
    shared: Arc<Shared>,
    keyset: &str,
    headers: &HeaderMap,
    origin: Origin<'_>,
) -> impl Future<Output = Result<Response, Problem>> + Send + use<> {
    let proof = Proof::of(headers, origin);
    let (instance, offset) = (instance(headers), clock_offset(headers));
    let (name, asked) = (KeysetName::try_new(keyset), Asked::new(headers));
    async move {
        let mut wanted = name.ok().map(|name| Wanted::new(&shared, name));
        let shelved = wanted.as_mut().and_then(Wanted::shelved);
        let (mut visitor, judged) = Visitor::arrive(&shared, proof?)?;
        let (instance, offset) = (instance?, offset?);
        // A name that no keyset can have is answered like one that none has.
        let mut wanted = wanted.ok_or_else(Problem::not_found)?;
        judged.must(Role::Terminator, &wanted.name)?;
        if let Some(instance) = instance {
            let instance = (judged.who.shown().clone(), instance);
            let keyset = wanted.name.clone();
            check_in(&shared, &judged.feed, keyset, instance, asked.installed, offset);
        }
        let mut offer = wanted.offer(&shared, &asked, shelved, &judged)?;
        // Holding the state would keep its keys from being erased.
        drop(judged);
        let deadline = asked.deadline(&shared);
        while !offer.is_changed()
            && let Some(left) = time_left(&shared, deadline)
            && let Some(content) = &mut wanted.content
        {
            drop(offer);
            visitor.stay(&shared)?;
            // On its own, so that a poll that does not wait takes no room for waiting.
            let has_changed = Box::pin(wait(&shared, left, shelf::changed(content))).await;
            let shelved = wanted.shelved();
            let judged = visitor.judge(&shared)?;
            judged.must(Role::Terminator, &wanted.name)?;
            offer = wanted.offer(&shared, &asked, shelved, &judged)?;
            if !has_changed {
                break;
            }
        }
        Ok(offer.send(&shared.metrics.bundles))
    }
}

/// A keyset that somebody asks for.
struct Wanted {
    name: KeysetName,
    /// What is on the shelf, if anything is.
    content: Option<watch::Receiver<Content>>,
}

impl Wanted {
    fn new(shared: &Shared, name: KeysetName) -> Self {
        Self { content: shared.shelf.watch(&name), name }
    }

    /// What is on the shelf now. The visitor is to be judged afterwards, for this is put out after the
    /// feed: who was shut out by the commit that made it does not get it.
    fn shelved(&mut self) -> Content {
        self.content.as_mut()?.borrow_and_update().clone()
    }

    /// What is offered to a visitor who may have it, of what was `shelved` before he was judged.
    fn offer(
        &self,
        shared: &Shared,
        asked: &Asked,
        shelved: Content,
        judged: &Judged,
    ) -> Result<Offer, Problem> {
        let now = || not_on_the_shelf(&judged.feed, &self.name, shared.fleet.now()).map(Arc::new);
        Ok(Offer::of(shared, asked, &*shelved.map_or_else(now, Ok)?))
    }
}

/// A keyset that was published an instant ago; the shelf is being stocked with it.
fn not_on_the_shelf(
    state: &FeedState,
    name: &KeysetName,
    now: Timestamp,
) -> Result<Rendered, Problem> {
    if let Some(bundle) = state.keysets.get(name) {
        return Ok(Rendered::new(bundle, now));
    }
    let deleted = state.tombstones.get(name).ok_or_else(Problem::not_found)?;
    Ok(Rendered::new(&Bundle::tombstone(state.incarnation, name.clone(), *deleted), now))
}

pub(crate) async fn feed(
    State(shared): State<Arc<Shared>>,
    proof: Proof,
    request: Request,
) -> Result<Response, Problem> {
    let (mut visitor, _) = Visitor::arrive(&shared, proof)?;
    instance(request.headers())?;
    let asked = Asked::new(request.headers());
    drop(request);
    let deadline = asked.deadline(&shared);
    let mut published = shared.feed.clone();
    loop {
        published.mark_unchanged();
        let offer = offer_feed(&shared, &visitor, &asked).await?;
        let left = time_left(&shared, deadline).filter(|_| !offer.is_changed());
        let Some(left) = left else { return Ok(offer.send(&shared.metrics.feeds)) };
        drop(offer);
        visitor.stay(&shared)?;
        if !wait(&shared, left, shelf::changed(&mut published)).await {
            let offer = offer_feed(&shared, &visitor, &asked).await?;
            return Ok(offer.send(&shared.metrics.feeds));
        }
    }
}

/// What the visitor may have of the feed as it is now.
async fn offer_feed(shared: &Shared, visitor: &Visitor, asked: &Asked) -> Result<Offer, Problem> {
    loop {
        let judged = visitor.judge(shared)?;
        judged.must_have(Role::Distribution)?;
        let view = feed_view::view(&judged.feed, &judged.who);
        let (tag, access) = (view.tag(), judged.feed.access.digest());
        if asked.has(tag) {
            return Ok(Offer::Unchanged(unchanged(shared, etag(tag))));
        }
        let extent = match asked.base(shared, tag) {
            Some(base) => Extent::Since(base),
            None if Arc::ptr_eq(&view, &judged.feed) => Extent::Everything,
            None => Extent::View,
        };
        // Holding the state would keep its keys from being erased.
        drop(judged);
        let body = shared.feeds.get(shared, view, extent).await?;
        // Making it takes a while. Who may see less by now does not get it.
        if visitor.judge(shared)?.feed.access.digest() == access {
            return Ok(Offer::Changed(changed(shared, etag(tag), body)));
        }
    }
}

/// An answer, and whether it is worth waiting for another. Nothing of it may be held while waiting:
/// the buffer below may have to be erased meanwhile.
enum Offer {
    Changed(Response),
    Unchanged(Response),
}

impl Offer {
    /// That which answers who has `asked`, when this is what there is.
    fn of(shared: &Shared, asked: &Asked, rendered: &Rendered) -> Self {
        let etag = rendered.etag.clone();
        if asked.has(rendered.tag) {
            return Self::Unchanged(unchanged(shared, etag));
        }
        Self::Changed(changed(shared, etag, rendered.body.clone()))
    }

    fn is_changed(&self) -> bool {
        matches!(self, Self::Changed(_))
    }

    /// The answer, counted.
    fn send(self, answers: &Answers) -> Response {
        match self {
            Self::Changed(response) => {
                answers.changed.inc();
                response
            }
            Self::Unchanged(response) => {
                answers.unchanged.inc();
                response
            }
        }
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
        let mut lines = headers.get_all(IF_NONE_MATCH).iter().filter_map(|line| line.to_str().ok());
        let had = match (lines.next().unwrap_or_default(), lines.next()) {
            (line, None) => IfNoneMatch::parse(line),
            (line, Some(next)) => {
                let lines: Vec<_> = [line, next].into_iter().chain(lines).collect();
                IfNoneMatch::parse(&lines.join(", "))
            }
        };
        let longest = u32::try_from(LONGEST_WAIT.as_secs()).unwrap_or(u32::MAX);
        let wait = prefer::wait_seconds(headers, longest).unwrap_or(0);
        let installed = had.as_ref().and_then(IfNoneMatch::installed);
        Self { had, installed, wait: Duration::from_secs(u64::from(wait)) }
    }

    /// Until when the caller would wait, if at all.
    fn deadline(&self, shared: &Shared) -> Option<Duration> {
        (!self.wait.is_zero()).then(|| shared.fleet.clock().boot() + self.wait)
    }

    /// The revision from which on a difference is enough to get to `tag`: what the caller has, if
    /// that is not too old and of this lineage, and its tokens and grants are the same.
    fn base(&self, shared: &Shared, tag: ContentTag) -> Option<Revision> {
        let is_base = |had: &ContentTag| {
            had.incarnation == tag.incarnation
                && had.digest == tag.digest
                && had.revision < tag.revision
                && shared.horizon.reaches(*had)
        };
        self.installed.filter(is_base).map(|had| had.revision)
    }

    /// Whether the caller needs nothing of `offered`: it has that, or something later, which this
    /// replica has yet to hear of. It would refuse to go back.
    fn has(&self, offered: ContentTag) -> bool {
        let ahead = |had: ContentTag| {
            (had.incarnation, had.revision) > (offered.incarnation, offered.revision)
        };
        self.had.as_ref().is_some_and(|had| had.covers(offered))
            || self.installed.is_some_and(ahead)
    }
}

/// For how long to wait until then, if at all. A replica that is told to stop lets nobody wait.
fn time_left(shared: &Shared, deadline: Option<Duration>) -> Option<Duration> {
    let left = deadline?.saturating_sub(shared.fleet.clock().boot());
    (!left.is_zero() && !shared.shutdown.is_cancelled()).then_some(left)
}

/// Waits for `change` for so long; whether it may have come. A replica that is told to stop lets
/// everybody go at once, and so does one that becomes stale.
async fn wait(shared: &Shared, left: Duration, change: impl Future<Output = ()>) -> bool {
    let _waiting = shared.metrics.wait();
    tokio::select! {
        () = change => true,
        () = shared.fleet.clock().sleep_awake(left) => false,
        () = shared.lapses.next() => false,
        () = shared.shutdown.cancelled() => false,
    }
}

/// `Stek-Instance`, if it is there, must be a name.
fn instance(headers: &HeaderMap) -> Result<Option<InstanceName>, Problem> {
    let Some(value) = headers.get(&INSTANCE) else { return Ok(None) };
    InstanceName::try_new(value.to_str().unwrap_or(""))
        .map(Some)
        .map_err(|error| Problem::invalid_field(STEK_INSTANCE, error.value, error.allowed))
}

/// `Stek-Clock-Offset`, if it is there, must be one.
fn clock_offset(headers: &HeaderMap) -> Result<Option<i32>, Problem> {
    let Some(value) = headers.get(&CLOCK_OFFSET) else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    let allowed = "a whole number of milliseconds from -86400000 to 86400000";
    let shown: String = text.chars().take(80).collect();
    parse_clock_offset(text)
        .map(Some)
        .ok_or_else(|| Problem::invalid_field(STEK_CLOCK_OFFSET, shown, allowed))
}

/// Notes what the poll says of its instance. What is of another lineage is worth nothing in this.
fn check_in(
    shared: &Shared,
    feed: &FeedState,
    keyset: KeysetName,
    (principal, instance): (PrincipalName, InstanceName),
    installed: Option<ContentTag>,
    clock_offset_millis: Option<i32>,
) {
    let installed = installed.filter(|tag| tag.incarnation == feed.incarnation);
    let revision = installed.map_or(Revision::ZERO, |tag| tag.revision);
    let (now, boot) = (shared.fleet.now(), shared.fleet.clock().boot());
    let noted = CheckIn { keyset, principal, instance, revision, clock_offset_millis, now, boot };
    if shared.check_ins.note(noted) {
        shared.news.checked_in(boot);
    }
}

/// A tag as the value of a header.
pub(crate) fn etag(tag: ContentTag) -> HeaderValue {
    HeaderValue::try_from(format_etag(tag)).expect("digits and dots in quotes")
}

fn changed(shared: &Shared, etag: HeaderValue, body: Bytes) -> Response {
    let mut response = answer(shared, StatusCode::OK, etag, Body::from(body));
    let json = HeaderValue::from_static(stek_wire::MEDIA_TYPE);
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

fn unchanged(shared: &Shared, etag: HeaderValue) -> Response {
    answer(shared, StatusCode::NOT_MODIFIED, etag, Body::empty())
}

fn answer(shared: &Shared, status: StatusCode, etag: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    // All at once, that of a body and that of the connection among them: growing costs more.
    headers.reserve(if status == StatusCode::OK { 7 } else { 6 });
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("authorization"));
    headers.insert(ETAG, etag);
    if let Ok(time) = HeaderValue::try_from(format_stek_time(shared.fleet.now_millis())) {
        headers.insert(&TIME, time);
    }
    let age = shared.fleet.read_age().map(|age| HeaderValue::try_from(format_read_age(age)));
    if let Some(Ok(age)) = age {
        headers.insert(&READ_AGE, age);
    }
    response
}
