//! Signing in with a token, and out.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use axum::extract::rejection::FormRejection;
use axum::extract::{Extension, Form, State};
use axum::response::{IntoResponse, Redirect, Response};
use http::header::{HOST, ORIGIN, RETRY_AFTER, SET_COOKIE};
use http::uri::Authority;
use http::{HeaderMap, StatusCode, Uri};
use stek_core::access::TokenSecret;
use stek_http::Peer;

use crate::admin::{Caller, READERS};
use crate::page::html::{self, SignIn};
use crate::page::{LOGIN_PATH, Page, STATUS_PATH, attempts};

pub(super) async fn form() -> Response {
    html::sign_in(SignIn::First).into_response()
}

#[derive(serde::Deserialize)]
pub(super) struct Filled {
    token: String,
}

pub(super) async fn sign_in(
    State(page): State<Arc<Page>>,
    peer: Option<Extension<Peer>>,
    uri: Uri,
    headers: HeaderMap,
    filled: Result<Form<Filled>, FormRejection>,
) -> Response {
    if !from_here(&uri, &headers) {
        return elsewhere();
    }
    let engine = page.operations.engine();
    let boot = engine.clock().boot();
    let address = peer.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.addr.ip());
    if !page.attempts.may_try(address, boot) {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let retry = attempts::PERIOD.as_secs().to_string();
        return (status, [(RETRY_AFTER, retry)], html::sign_in(SignIn::TooMany)).into_response();
    }
    let token = filled.ok().and_then(|Form(filled)| TokenSecret::parse(filled.token.trim()));
    let Some(feed) = page.operations.feed() else {
        return super::Missing::Everything.into_response();
    };
    let now = engine.fleet().now();
    let known = token.and_then(|secret| Caller::with_secret(&feed.access, &secret, now));
    let Some((token, caller)) = known else {
        page.attempts.refused(address, boot);
        return (StatusCode::UNAUTHORIZED, html::sign_in(SignIn::Refused)).into_response();
    };
    if caller.must_have_role(&READERS).is_err() {
        return (StatusCode::FORBIDDEN, html::sign_in(SignIn::NotAllowed)).into_response();
    }
    match page.sessions.begin(token, engine.random.as_ref(), boot) {
        Ok(cookie) => ([(SET_COOKIE, cookie)], Redirect::to(STATUS_PATH)).into_response(),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "no session could be begun");
            let words = "There is no randomness. The manager's log says more.";
            let message = html::message("You cannot be signed in", words);
            (StatusCode::INTERNAL_SERVER_ERROR, message).into_response()
        }
    }
}

pub(super) async fn sign_out(
    State(page): State<Arc<Page>>,
    uri: Uri,
    headers: HeaderMap,
) -> Response {
    if !from_here(&uri, &headers) {
        return elsewhere();
    }
    let cookie = page.sessions.end(&headers);
    ([(SET_COOKIE, cookie)], Redirect::to(LOGIN_PATH)).into_response()
}

/// Whether a form was sent from this page. Browsers say so in one of two ways; what is no browser
/// has no session that another site could use.
fn from_here(uri: &Uri, headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(site) = text("sec-fetch-site") {
        return site == "same-origin" || site == "none";
    }
    let Some(origin) = text(ORIGIN.as_str()) else { return true };
    // HTTP/2 has no host header; what stands in its place is part of the address.
    let asked = text(HOST.as_str()).or_else(|| uri.authority().map(Authority::as_str));
    let host = origin.split_once("://").map(|(_, host)| host);
    host.is_some() && host == asked
}

fn elsewhere() -> Response {
    let words = "The form was sent from another site.";
    (StatusCode::FORBIDDEN, html::message("Not from here", words)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderName;

    #[test]
    fn the_address_of_http_2_counts_as_host() {
        let headers = HeaderMap::from_iter([(ORIGIN, http::HeaderValue::from_static("https://a"))]);
        assert!(from_here(&Uri::from_static("https://a/status/login"), &headers));
        assert!(!from_here(&Uri::from_static("https://b/status/login"), &headers));
    }

    #[test]
    fn forms_of_other_sites_are_refused() {
        let here = |lines: &[(&'static str, &'static str)]| {
            let pairs = lines.iter().map(|(name, value)| {
                (HeaderName::from_static(name), http::HeaderValue::from_static(value))
            });
            from_here(&Uri::from_static("/status/login"), &HeaderMap::from_iter(pairs))
        };
        assert!(here(&[]));
        assert!(here(&[("sec-fetch-site", "same-origin")]));
        assert!(!here(&[("sec-fetch-site", "cross-site")]));
        assert!(!here(&[("sec-fetch-site", "same-site"), ("origin", "https://a"), ("host", "a")]));
        assert!(here(&[("origin", "https://a:8"), ("host", "a:8")]));
        assert!(!here(&[("origin", "https://b:8"), ("host", "a:8")]));
        assert!(!here(&[("origin", "null"), ("host", "null")]));
    }
}
