//! Requests to the admin API without a socket.

use axum::body::Body;
use http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use stek_core::access::TokenSecret;
use stek_http::Routes;
use tower::ServiceExt;

use crate::fixture::{Running, soon};

/// One answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) bytes: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap()
    }
}

/// The routes as a listener has them.
pub(crate) fn router(running: &Running) -> Routes {
    running.manager.admin_api().into_routes().with_fallbacks()
}

pub(crate) async fn ask(
    router: &Routes,
    method: &Method,
    path: &str,
    token: Option<&TokenSecret>,
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path);
    if let Some(token) = token {
        request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_text()));
    }
    let request = request.body(body.into()).unwrap();
    let response = soon(router.clone().oneshot(request)).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    assert_eq!(parts.headers[CACHE_CONTROL], "no-store", "{method} {path}");
    if parts.status.is_client_error() || parts.status.is_server_error() {
        assert_eq!(parts.headers[CONTENT_TYPE], "application/problem+json", "{method} {path}");
    }
    Answer { status: parts.status, headers: parts.headers, bytes }
}
