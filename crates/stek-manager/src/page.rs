//! The status page: how rotation goes, for people. Answered from what is published and from memory,
//! so that it is there when the database is not. It only reads; who may look is decided in
//! [`viewer`], what is shown in [`view`], what is wrong in [`health`].

mod attempts;
mod health;
mod html;
mod live;
mod login;
mod session;
mod timeline;
mod trail;
mod view;
mod viewer;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, StatusCode};
use prometheus::IntGauge;
use stek_core::audit::AuditEvent;
use stek_core::feed::FeedState;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};
use stek_core::wrapped::Epoch;
use stek_http::TlsFiles;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::metrics::ManagerMetrics;
use crate::operations::Operations;
use crate::page::attempts::Attempts;
use crate::page::health::{Facts, Notice};
use crate::page::session::Sessions;
use crate::page::trail::Trail;
use crate::page::view::{Filter, Head, Published, Subject, View};
use crate::page::viewer::Viewer;
use crate::readiness::ManagerReadiness;

const STATUS_PATH: &str = "/status";
const LOGIN_PATH: &str = "/status/login";
const LOGOUT_PATH: &str = "/status/logout";
const STYLE_PATH: &str = "/status/page.css";
const SCRIPT_PATH: &str = "/status/page.js";
const ICON_PATH: &str = "/status/icon.svg";

/// Room for a form with a token.
const MOST_BODY: usize = 4 * 1024;

/// The most requests that wait for a change at once; a further one is answered as things are.
const MOST_WAITING: usize = 128;

/// How long after the hour the ratchet may still stand at the one before: it is turned by a pass.
const RATCHET_MOMENT: Seconds = Seconds::new(60);

/// The longest that a request may wait for a change.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Nothing but what this listener serves, nothing inline, and in nobody's frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types";

/// What the page is made from.
pub(crate) struct Page {
    operations: Arc<Operations>,
    metrics: Arc<ManagerMetrics>,
    readiness: Arc<ManagerReadiness>,
    sessions: Sessions,
    attempts: Attempts,
    trail: Trail,
    waiting: Semaphore,
    /// That of the listener, once there is one with any.
    certificate: OnceLock<Arc<TlsFiles>>,
    shutdown: CancellationToken,
}

impl Page {
    pub(crate) fn new(
        operations: Arc<Operations>,
        metrics: Arc<ManagerMetrics>,
        readiness: Arc<ManagerReadiness>,
        shutdown: CancellationToken,
    ) -> Self {
        let (sessions, attempts, trail) = Default::default();
        let (waiting, certificate) = (Semaphore::new(MOST_WAITING), OnceLock::new());
        Self {
            operations,
            metrics,
            readiness,
            sessions,
            attempts,
            trail,
            waiting,
            certificate,
            shutdown,
        }
    }

    /// Tells from now on when this certificate is about to end.
    pub(crate) fn watch(&self, certificate: Arc<TlsFiles>) {
        // The page has one listener.
        let _ = self.certificate.set(certificate);
    }

    /// What this manager knows of itself.
    fn facts(&self) -> Option<Facts> {
        let feed = self.operations.feed()?;
        let engine = self.operations.engine();
        let now = engine.fleet().now();
        let due = Epoch::of(now - RATCHET_MOMENT).as_u64();
        let count = |gauge: &IntGauge| u64::try_from(gauge.get()).unwrap_or(0);
        let unreadable = [&self.metrics.unsound_access, &self.metrics.unsound_keysets];
        Some(Facts {
            now,
            last_pass: self.readiness.last_pass(),
            succeeded_at: self.metrics.succeeded_at(),
            clocks_apart: self.metrics.clocks_apart(),
            epochs_behind: due.saturating_sub(engine.custody.epoch().as_u64()),
            forged_rows: count(&self.metrics.forged_rows),
            unwrap_failures: self.metrics.unwrap_failures.get(),
            unpublishable: self.metrics.unpublishable.get(),
            access_read_at: feed.access_read_at,
            unreadable_rows: unreadable.into_iter().map(count).sum(),
            audit_broken: self.metrics.audit.broken.get() != 0,
            lost_audit_lines: self.metrics.lost_audit_lines(),
            ratchet: self.metrics.ratchet(),
            forced_at: self.metrics.forced_at(),
            certificate_end: self.certificate.get().and_then(|files| files.not_after()),
        })
    }

    /// What `viewer` sees of what is asked for.
    async fn view(&self, viewer: &Viewer, asked: &Asked) -> Result<View, Missing> {
        let (feed, facts) = self.operations.feed().zip(self.facts()).ok_or(Missing::Everything)?;
        let (of_keysets, subject) = self.subject(viewer, asked, &feed, facts.now)?;
        let one = match asked {
            Asked::Keyset(name) => Some(name),
            Asked::Overview(_) => None,
        };
        let wanted = |event: &AuditEvent| match (&event.keyset, one) {
            (Some(name), Some(one)) => name == one,
            (Some(name), None) => !trail::is_routine(event) && viewer.may_see(name),
            (None, Some(_)) => false,
            (None, None) => viewer.sees_all(),
        };
        let engine = self.operations.engine();
        let (store, clock) = (engine.store.as_ref(), engine.clock().as_ref());
        let events = self.trail.newest(store, clock, feed.revision, wanted).await;
        let head = Head {
            now: facts.now,
            viewer: viewer.name().to_owned(),
            may_leave: viewer.may_leave,
            facts,
            revision: feed.revision,
            notices: view::notices(&facts, of_keysets),
        };
        Ok(View { head, subject, events })
    }

    fn subject(
        &self,
        viewer: &Viewer,
        asked: &Asked,
        feed: &FeedState,
        now: Timestamp,
    ) -> Result<(Vec<Notice>, Subject), Missing> {
        let may_see = |name: &KeysetName| viewer.may_see(name);
        let census = self.operations.engine().confirmations.current();
        let published = Published { feed, now, may_see: &may_see, census: &census };
        match asked {
            Asked::Overview(filter) => Ok(published.overview(filter.clone())),
            Asked::Keyset(name) => published.detail(name).ok_or(Missing::Keyset),
        }
    }
}

/// What a request is for.
#[derive(Debug, Clone)]
enum Asked {
    Overview(Filter),
    Keyset(KeysetName),
}

/// Why there is nothing to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Everything,
    Keyset,
}

impl IntoResponse for Missing {
    fn into_response(self) -> Response {
        let (status, title, words) = match self {
            Self::Everything => (
                StatusCode::SERVICE_UNAVAILABLE,
                "The manager is starting",
                "Nothing is published yet.",
            ),
            Self::Keyset => (
                StatusCode::NOT_FOUND,
                "No such keyset",
                "There is none of this name that you may look at.",
            ),
        };
        (status, html::message(title, words)).into_response()
    }
}

/// The routes, for the listener of operators.
pub(crate) fn router(page: Arc<Page>) -> Router {
    Router::new()
        .route("/", get(|| async { Redirect::to(STATUS_PATH) }))
        .route(STATUS_PATH, get(overview))
        .route("/status/keysets/{keyset}", get(detail))
        .route(LOGIN_PATH, get(login::form).post(login::sign_in))
        .route(LOGOUT_PATH, post(login::sign_out))
        .route(STYLE_PATH, get(|| asset("text/css", include_str!("page/assets/page.css"))))
        .route(SCRIPT_PATH, get(|| asset("text/javascript", include_str!("page/assets/page.js"))))
        .route(ICON_PATH, get(|| asset("image/svg+xml", include_str!("page/assets/icon.svg"))))
        .layer(DefaultBodyLimit::max(MOST_BODY))
        .layer(map_response(guarded))
        .with_state(page)
}

/// What every answer says to the browser.
async fn guarded(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 6] = [
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (http::header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn asset(kind: &'static str, text: &'static str) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(kind))], text).into_response()
}

#[derive(serde::Deserialize)]
struct OverviewQuery {
    q: Option<String>,
    only: Option<String>,
    page: Option<usize>,
}

async fn overview(
    State(page): State<Arc<Page>>,
    viewer: Viewer,
    query: Result<Query<OverviewQuery>, QueryRejection>,
    request: Request,
) -> Response {
    let filter = match query {
        Ok(Query(asked)) => {
            let only = asked.only.as_deref() == Some("trouble");
            Filter::new(asked.q.as_deref().unwrap_or(""), only, asked.page)
        }
        // A link that was cut short shows the beginning.
        Err(_) => Filter::new("", false, None),
    };
    live::answer(&page, viewer, Asked::Overview(filter), request).await
}

async fn detail(
    State(page): State<Arc<Page>>,
    viewer: Viewer,
    keyset: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let name = keyset.ok().and_then(|Path(name)| KeysetName::try_new(&name).ok());
    match name {
        Some(name) => live::answer(&page, viewer, Asked::Keyset(name), request).await,
        None => Missing::Keyset.into_response(),
    }
}
