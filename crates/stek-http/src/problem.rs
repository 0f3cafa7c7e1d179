//! Error answers as RFC 9457 problem documents: a stable type, and never internal detail.

mod rejection;

use std::borrow::Cow;
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::request_id::RequestId;

/// Media type of a problem document (RFC 9457, section 3).
pub const MEDIA_TYPE: &str = "application/problem+json";

const TYPE_PREFIX: &str = "urn:stekd:problem:";

/// What comes before the name of a request in `instance`.
const INSTANCE_PREFIX: &str = "urn:stekd:request:";

/// Characters of a refused value that are repeated to the client.
const LONGEST_VALUE: usize = 128;

/// One error answer, `application/problem+json`.
///
/// `type` is `urn:stekd:problem:<slug>`; clients decide by it, so a slug once published keeps its
/// meaning. `title` is the same for every occurrence of a slug. What is said in `detail`, `value`
/// and `allowed` goes to whoever asked: nothing of the inside belongs there, and no secret.
#[derive(Debug)]
pub struct Problem(Box<Parts>);

#[derive(Debug)]
struct Parts {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
    detail: Option<Cow<'static, str>>,
    field: Option<Cow<'static, str>>,
    value: Option<String>,
    allowed: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
}

/// Why a request was not answered otherwise, as RFC 9457 lays it out; `instance` names the request, by
/// which it is found in the server's log; `field`, `value` and `allowed` are extension members.
#[derive(Serialize, schemars::JsonSchema)]
#[schemars(rename = "Problem")]
pub(crate) struct Document<'a> {
    /// `urn:stekd:problem:` and a word that names the kind; decide by it.
    r#type: String,
    /// The kind for people.
    title: &'a str,
    /// The status of the answer.
    status: u16,
    /// What is particular to this occurrence.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    /// The value that it had, cut after 128 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// What is allowed there.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<&'a str>,
    /// `urn:stekd:request:` and the name of the request, as in `x-request-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
}

impl Problem {
    /// A problem with its own type. `slug` is lower-case words joined by hyphens.
    pub fn new(status: StatusCode, slug: &'static str, title: &'static str) -> Self {
        Self(Box::new(Parts {
            slug,
            status,
            title,
            detail: None,
            field: None,
            value: None,
            allowed: None,
            retry_after: None,
        }))
    }

    /// 400 `bad-request`: the request cannot be understood. `detail` says what is wrong with it.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", "the request is malformed")
            .with_detail(detail)
    }

    /// 422 `invalid-field`: one field of the request has a value that is not allowed. See
    /// [`with_field`](Self::with_field) for the arguments.
    pub fn invalid_field(
        field: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "a value is not allowed")
            .with_field(field, value, allowed)
    }

    /// 401 `unauthenticated`: no credential, or none that is known. Asks for a bearer token in
    /// `WWW-Authenticate` (RFC 9110, section 15.5.2).
    pub fn unauthenticated() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", "a valid credential is required")
    }

    /// 403 `forbidden`: the caller is known and may not do this.
    pub fn forbidden() -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", "the caller may not do this")
    }

    /// 404 `not-found`: no such thing, or none that the caller may see. The two answer alike.
    pub fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "there is nothing here for the caller")
    }

    /// 405 `method-not-allowed`. Routers add the `Allow` header.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "the resource does not have this method",
        )
    }

    /// 408 `request-timeout`: the request did not arrive in time.
    pub fn request_timeout() -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "request-timeout", "the request took too long")
    }

    /// 409 `conflict`: the request does not fit the state that things are in.
    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "the request conflicts with the present state")
            .with_detail(detail)
    }

    /// 413 `payload-too-large`: the body is over the limit of the listener or route.
    pub fn payload_too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "payload-too-large",
            "the request body is over the limit",
        )
    }

    /// 429 `too-many-requests`: the caller asks more often than it may. `retry_after` counts from
    /// now, and is rounded up to whole seconds.
    pub fn too_many_requests(retry_after: Duration) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "too-many-requests", "the caller asks too often")
            .with_retry_after(retry_after)
    }

    /// 500 `internal`: a fault of the server. There is nothing to say about it here: log the cause.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the server failed")
    }

    /// 503 `unavailable`: the server cannot answer for now. `retry_after` counts from now, and is
    /// rounded up to whole seconds.
    pub fn unavailable(detail: impl Into<Cow<'static, str>>, retry_after: Duration) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "the server cannot answer for now",
        )
        .with_detail(detail)
        .with_retry_after(retry_after)
    }

    /// Says what is particular to this occurrence.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Cow<'static, str>>) -> Self {
        self.0.detail = Some(detail.into());
        self
    }

    /// Names the field at fault, the value it had, and what is allowed. The value is cut after 128
    /// characters. Never call it for a field that holds a secret.
    #[must_use]
    pub fn with_field(
        mut self,
        field: impl Into<Cow<'static, str>>,
        value: impl Into<String>,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        self.0.field = Some(field.into());
        self.0.value = Some(cut(value.into()));
        self.0.allowed = Some(allowed.into());
        self
    }

    /// Asks the client to wait (RFC 9110, section 10.2.3), rounded up to whole seconds.
    #[must_use]
    pub fn with_retry_after(mut self, retry_after: Duration) -> Self {
        self.0.retry_after = Some(retry_after);
        self
    }

    /// The status of the answer.
    pub fn status(&self) -> StatusCode {
        self.0.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let parts = *self.0;
        let document = Document {
            r#type: format!("{TYPE_PREFIX}{}", parts.slug),
            title: parts.title,
            status: parts.status.as_u16(),
            detail: parts.detail.as_deref(),
            field: parts.field.as_deref(),
            value: parts.value.as_deref(),
            allowed: parts.allowed.as_deref(),
            instance: RequestId::current().map(|name| format!("{INSTANCE_PREFIX}{name}")),
        };
        let mut response = (parts.status, axum::Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        // Answers differ by caller, so that even a failure must not come out of a cache.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if parts.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(wait) = parts.retry_after {
            let seconds = wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0));
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Makes unknown routes and wrong methods answer problem documents. Call it once, after all routes
/// are in: a wrong method on a route added later gets an empty answer, and axum panics when two
/// routers with fallbacks are merged.
pub fn with_fallbacks<S>(router: Router<S>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    router
        .fallback(|| async { Problem::not_found() })
        .method_not_allowed_fallback(|| async { Problem::method_not_allowed() })
}

fn cut(mut value: String) -> String {
    if let Some((end, _)) = value.char_indices().nth(LONGEST_VALUE) {
        value.truncate(end);
        value.push('…');
    }
    value
}

#[cfg(test)]
mod tests;
