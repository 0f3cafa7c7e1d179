//! Who looks at the page: whoever the admin API knows, or a browser's session. Without either, a
//! browser is sent to the form.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Redirect, Response};
use http::header::{AUTHORIZATION, RETRY_AFTER};
use http::request::Parts;
use http::{HeaderMap, StatusCode};
use stek_core::name::KeysetName;
use stek_http::Problem;

use crate::admin::{Caller, READERS};
use crate::page::{LOGIN_PATH, Page, html};

/// Somebody who may look at keysets.
pub(crate) struct Viewer {
    caller: Caller,
    pub(crate) may_leave: bool,
}

impl Viewer {
    pub(crate) fn name(&self) -> &str {
        self.caller.name()
    }

    pub(crate) fn may_see(&self, keyset: &KeysetName) -> bool {
        self.caller.may(&READERS, keyset)
    }

    /// Whether events of no keyset are for these eyes, such as who was given a token.
    pub(crate) fn sees_all(&self) -> bool {
        self.caller.must_have_all(&READERS).is_ok()
    }
}

impl FromRequestParts<Arc<Page>> for Viewer {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, page: &Arc<Page>) -> Result<Self, Response> {
        // What is said for one request counts before what the browser sends with each.
        let session = match parts.headers.contains_key(AUTHORIZATION) {
            true => None,
            false => in_session(page, &parts.headers),
        };
        let (caller, may_leave) = match session {
            Some(caller) => {
                caller.admit(&parts.extensions).map_err(failed)?;
                (caller, true)
            }
            None => match Caller::from_request_parts(parts, &page.operations).await {
                Ok(caller) => (caller, false),
                Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
                    return Err(Redirect::to(LOGIN_PATH).into_response());
                }
                Err(problem) => return Err(failed(problem)),
            },
        };
        caller.must_have_role(&READERS).map_err(failed)?;
        Ok(Self { caller, may_leave })
    }
}

fn in_session(page: &Page, headers: &HeaderMap) -> Option<Caller> {
    let engine = page.operations.engine();
    let token = page.sessions.token(headers, engine.clock().boot())?;
    let feed = page.operations.feed()?;
    Caller::with_token(&feed.access, token, engine.fleet().now())
}

fn failed(problem: Problem) -> Response {
    let (title, words) = match problem.status() {
        StatusCode::FORBIDDEN => {
            ("Not allowed", "The status page is for operators and auditors of a keyset.")
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            ("The manager is starting", "Nothing is published yet. Its log says why if this lasts.")
        }
        StatusCode::TOO_MANY_REQUESTS => {
            ("Too many requests", "You ask for more than one person can read. Wait a moment.")
        }
        _ => ("This cannot be shown", "The request was refused."),
    };
    let mut response = (problem.status(), html::message(title, words)).into_response();
    let retry_after = problem.into_response().headers_mut().remove(RETRY_AFTER);
    response.headers_mut().extend(retry_after.map(|seconds| (RETRY_AFTER, seconds)));
    response
}
