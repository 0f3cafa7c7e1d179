//! The status page without a browser: who gets it, what every answer forbids, and when one that
//! waits is given.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Extension;
use http::header::{
    AUTHORIZATION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, COOKIE, HeaderName, IF_NONE_MATCH,
    LOCATION, REFERRER_POLICY, RETRY_AFTER, SET_COOKIE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use stek_core::access::{Role, TokenSecret};
use stek_core::bundle::Bundle;
use stek_core::principal::Principals;
use stek_core::time::Seconds;
use stek_http::{Channel, ClientCertificate, Limits, Peer, Plaintext, Server, Transport};
use stek_wire::admin::PolicyDocument;
use stek_wire::bundle::encode_bundle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::fixture::{FAST, Running, Site, eventually, name, principal, soon};
use crate::store::Fault;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    /// The part of the cookie that a browser sends back.
    fn cookie(&self) -> String {
        let cookie = self.headers[SET_COOKIE].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    }

    /// What a script names as what it shows.
    fn tag(&self) -> String {
        let rest = self.text.split_once("data-tag=\"").expect("a page").1;
        rest.split_once('"').unwrap().0.to_owned()
    }
}

fn router(running: &Running) -> Router {
    router_on(running, Channel::Tls(None))
}

/// The routes as a connection has them that came in this way.
fn router_on(running: &Running, channel: Channel) -> Router {
    let peer = Peer { addr: SocketAddr::from(([192, 0, 2, 1], 1)), channel };
    let routes = running.manager.admin_api().into_routes().merge(running.manager.page_router());
    Router::new().fallback_service(routes.with_fallbacks()).layer(Extension(peer))
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes().to_vec();
    Answer { status: parts.status, headers: parts.headers, text: String::from_utf8(bytes).unwrap() }
}

async fn get(router: &Router, path: &str, lines: &[(HeaderName, &str)]) -> Answer {
    let mut request = Request::get(path);
    for (name, value) in lines {
        request = request.header(name, *value);
    }
    soon(send(router, request.body(Body::empty()).unwrap())).await
}

async fn post(router: &Router, path: &str, body: String, lines: &[(HeaderName, &str)]) -> Answer {
    let mut request = Request::post(path).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    for (name, value) in lines {
        request = request.header(name, *value);
    }
    soon(send(router, request.body(body.into()).unwrap())).await
}

async fn sign_in(router: &Router, token: &TokenSecret) -> Answer {
    post(router, "/status/login", format!("token={}", token.expose_text()), &[]).await
}

/// A manager with a keyset, and the cookie of an operator.
async fn signed_in(site: &Site) -> (Running, Router, String) {
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    let (token, _) = running.token("token:root", &[(Role::Operator, "*")]).await;
    let router = router(&running);
    let answer = sign_in(&router, &token).await;
    assert_eq!(
        (answer.status, &answer.headers[LOCATION]),
        (StatusCode::SEE_OTHER, &"/status".parse().unwrap())
    );
    let cookie = answer.cookie();
    (running, router, cookie)
}

#[tokio::test]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let site = Site::new();
    let (_running, router, cookie) = signed_in(&site).await;
    for path in [
        "/",
        "/status",
        "/status/keysets/main",
        "/status/keysets/none",
        "/status/login",
        "/status/page.css",
        "/status/page.js",
        "/status/icon.svg",
    ] {
        let answer = get(&router, path, &[(COOKIE, &cookie)]).await;
        let policy = answer.headers[CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(answer.headers[X_CONTENT_TYPE_OPTIONS], "nosniff", "{path}");
        assert_eq!(answer.headers[REFERRER_POLICY], "no-referrer", "{path}");
        assert_eq!(answer.headers["cache-control"], "no-store", "{path}");
    }
}

#[tokio::test]
async fn only_readers_of_a_keyset_see_it() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    running.create("other", PolicyDocument::default()).await;
    let nobody = get(&router, "/status", &[]).await;
    assert_eq!(nobody.headers[LOCATION], "/status/login");
    assert_eq!(get(&router, "/", &[]).await.headers[LOCATION], "/status");

    let page = get(&router, "/status", &[(COOKIE, &cookie)]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(page.text.contains("Rotation is healthy"), "{}", page.text);
    assert!(page.text.contains("/status/keysets/other") && page.text.contains("token-created"));

    let (auditor, _) = running.token("token:auditor", &[(Role::Auditor, "main")]).await;
    let bearer = format!("Bearer {}", auditor.expose_text());
    let page = get(&router, "/status", &[(AUTHORIZATION, &bearer)]).await;
    assert!(page.text.contains("/status/keysets/main"), "{}", page.text);
    assert!(!page.text.contains("other") && !page.text.contains("token-created"));
    let theirs = get(&router, "/status/keysets/other", &[(AUTHORIZATION, &bearer)]).await;
    let none = get(&router, "/status/keysets/none", &[(AUTHORIZATION, &bearer)]).await;
    assert_eq!((theirs.status, &theirs.text), (StatusCode::NOT_FOUND, &none.text));
    // A bearer token counts alone: with a bad one the session beside it does not help.
    let both = [(AUTHORIZATION, "Bearer no"), (COOKIE, cookie.as_str())];
    assert_eq!(get(&router, "/status", &both).await.headers[LOCATION], "/status/login");

    let (terminator, _) = running.token("token:edge", &[(Role::Terminator, "*")]).await;
    let bearer = format!("Bearer {}", terminator.expose_text());
    let refused = get(&router, "/status", &[(AUTHORIZATION, &bearer)]).await;
    assert_eq!(refused.status, StatusCode::FORBIDDEN);
    assert_eq!(sign_in(&router, &terminator).await.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_client_certificate_needs_no_form() {
    let site = Site::new();
    let (running, _, cookie) = signed_in(&site).await;
    let operator = principal("token:root");
    let certificate = |who| {
        let not_after = site.now() + Seconds::from_days(1);
        let certificate = ClientCertificate { principals: Principals::from(who), not_after };
        router_on(&running, Channel::Tls(Some(Arc::new(certificate))))
    };
    let page = get(&certificate(operator), "/status", &[]).await;
    assert_eq!(page.status, StatusCode::OK);
    assert!(!page.text.contains("Sign out"), "there is no session to end");
    let stranger = certificate(principal("spiffe://fleet.example/edge"));
    assert_eq!(get(&stranger, "/status", &[]).await.status, StatusCode::FORBIDDEN);
    // A session counts before what its connection happens to have.
    assert_eq!(get(&stranger, "/status", &[(COOKIE, &cookie)]).await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_session_allows_to_look_and_ends_with_its_token() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let cookie = [(COOKIE, cookie.as_str())];
    // The admin API knows of no session, so no other site can have anything changed by one.
    let api = get(&router, "/admin/v1/keysets", &cookie).await;
    assert_eq!(api.status, StatusCode::UNAUTHORIZED);
    let rotated = post(&router, "/admin/v1/keysets/main/rotate", String::new(), &cookie).await;
    assert_eq!(rotated.status, StatusCode::UNAUTHORIZED);
    assert_eq!(get(&router, "/status", &cookie).await.status, StatusCode::OK);

    let token = running.published().access.tokens()[0].id;
    running.operations().revoke_token(token, "test").await.unwrap();
    running.until(|feed| feed.access.tokens().is_empty()).await;
    assert_eq!(get(&router, "/status", &cookie).await.headers[LOCATION], "/status/login");
}

/// The head of the answer to `GET /status`, on a connection of its own.
async fn look(address: SocketAddr, cookie: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /status HTTP/1.1\r\nhost: x\r\ncookie: {cookie}\r\n");
    let request = format!("{head}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split_once("\r\n\r\n").unwrap().0.to_owned()
}

#[tokio::test]
async fn a_session_asks_no_more_than_its_principal_may() {
    let site = Site::new();
    let (_running, router, cookie) = signed_in(&site).await;
    let limits = Limits { requests_per_second: 1, request_burst: 3, ..Limits::default() };
    let transport = Transport::Plain(Plaintext::LoopbackOnly);
    let server = Server::bind(([127, 0, 0, 1], 0).into(), transport, limits).await.unwrap();
    let (address, shutdown) = (server.local_addr(), CancellationToken::new());
    let _guard = shutdown.clone().drop_guard();
    tokio::spawn(server.serve(router, shutdown));
    assert!(soon(look(address, &cookie)).await.starts_with("HTTP/1.1 200 "));
    let asking = async {
        loop {
            let head = look(address, &cookie).await;
            if !head.starts_with("HTTP/1.1 200 ") {
                return head;
            }
        }
    };
    let refused = soon(asking).await;
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.contains("retry-after: "), "{refused}");
}

#[tokio::test]
async fn forms_of_other_sites_and_guesses_are_refused() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let site_name = HeaderName::from_static("sec-fetch-site");
    let cross = [(site_name, "cross-site"), (COOKIE, cookie.as_str())];
    let out = post(&router, "/status/logout", String::new(), &cross).await;
    assert_eq!(out.status, StatusCode::FORBIDDEN);
    assert_eq!(get(&router, "/status", &[(COOKIE, &cookie)]).await.status, StatusCode::OK);

    let (token, _) = running.token("token:other", &[(Role::Auditor, "*")]).await;
    for body in ["", "token=", "token=stek_00", "nothing=1", "token=%00&token=1"] {
        let answer = post(&router, "/status/login", body.into(), &[]).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{body}");
        assert!(!answer.headers.contains_key(SET_COOKIE));
    }
    for _ in 0..5 {
        let wrong = format!("token=stek_{}", "0".repeat(64));
        assert_eq!(
            post(&router, "/status/login", wrong, &[]).await.status,
            StatusCode::UNAUTHORIZED
        );
    }
    let waits = sign_in(&router, &token).await;
    assert_eq!(
        (waits.status, &waits.headers[RETRY_AFTER]),
        (StatusCode::TOO_MANY_REQUESTS, &"60".parse().unwrap())
    );
    site.advance(&running, 60).await;
    assert_eq!(sign_in(&router, &token).await.status, StatusCode::SEE_OTHER);
    let long = format!("token={}", "a".repeat(5000));
    assert_eq!(post(&router, "/status/login", long, &[]).await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_request_that_waits_is_answered_by_a_change() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let first = get(&router, "/status/keysets/main", &[(COOKIE, &cookie)]).await;
    let tag = format!("\"{}\"", first.tag());
    let wait = || {
        let prefer = HeaderName::from_static("prefer");
        let request = Request::get("/status/keysets/main").header(COOKIE, &cookie);
        let request = request.header(prefer, "wait=25").header(IF_NONE_MATCH, &tag);
        let (router, request) = (router.clone(), request.body(Body::empty()).unwrap());
        tokio::spawn(async move { send(&router, request).await })
    };
    let waiting = wait();
    // Looks go by, and nothing has changed.
    for _ in 0..2 {
        site.advance(&running, 5).await;
    }
    assert!(!waiting.is_finished(), "it waits");
    running.operations().rotate(&name("main"), "test").await.unwrap();
    let answer = soon(waiting).await.unwrap();
    assert_ne!(answer.tag(), first.tag());
    assert!(answer.text.contains("rotation asked for"), "{}", answer.text);

    // What is shown is old already: no wait.
    assert_eq!(soon(wait()).await.unwrap().status, StatusCode::OK);
    // A manager that stops keeps nobody waiting.
    let now = get(&router, "/status/keysets/main", &[(COOKIE, &cookie)]).await;
    let tag = format!("\"{}\"", now.tag());
    let prefer = HeaderName::from_static("prefer");
    running.shutdown.cancel();
    let lines = [(COOKIE, cookie.as_str()), (prefer, "wait=25"), (IF_NONE_MATCH, tag.as_str())];
    assert_eq!(get(&router, "/status/keysets/main", &lines).await.status, StatusCode::OK);
}

#[tokio::test]
async fn the_page_is_there_when_the_database_is_not() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let cookie = [(COOKIE, cookie.as_str())];
    let page = get(&router, "/status", &cookie).await;
    assert!(page.text.contains("data-verdict=\"sound\""), "{}", page.text);
    for method in ["now_millis", "cluster", "audit"] {
        site.store.fail(method, Fault::Unreachable, u64::MAX);
    }
    site.tick_until(&running, || !running.unready().is_empty()).await;
    let page = get(&router, "/status", &cookie).await;
    assert!(page.text.contains("the database failed"), "{}", page.text);
    assert!(page.text.contains("data-verdict=\"alarm\""));
    assert!(page.text.contains("The database does not answer"));
    assert!(page.text.contains("keyset-created"), "what is known is shown");
    site.store.heal();
    site.tick_until(&running, || running.unready().is_empty()).await;
    site.advance(&running, 5).await;
    let page = get(&router, "/status", &cookie).await;
    assert!(page.text.contains("data-verdict=\"sound\""), "{}", page.text);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_hangs_is_not_waited_for() {
    let site = Site::new();
    let (_running, router, cookie) = signed_in(&site).await;
    let cookie = [(COOKIE, cookie.as_str())];
    get(&router, "/status", &cookie).await;
    site.store.fail("cluster", Fault::Hang, u64::MAX);
    site.clock.advance(Duration::from_secs(5));
    let begun = tokio::time::Instant::now();
    let view = || soon(get(&router, "/status", &cookie));
    let (one, two) = tokio::join!(view(), view());
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    // Nor by those who come later, before it is asked again.
    let three = view().await;
    assert!(begun.elapsed() <= Duration::from_secs(1), "{:?}", begun.elapsed());
    for page in [one, two, three] {
        assert!(page.text.contains("keyset-created"), "what is known is shown");
    }
}

#[tokio::test]
async fn a_gap_is_an_alarm_while_it_lasts() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let cookie = [(COOKIE, cookie.as_str())];
    running.create("fast", FAST).await;
    site.store.fail("now_millis", Fault::Unreachable, u64::MAX);
    // Nothing is minted: after 20 s, what was published has retired.
    for _ in 0..5 {
        site.tick(&running).await;
    }
    let page = get(&router, "/status", &cookie).await;
    assert!(page.text.contains("1 keyset: nothing seals"), "{}", page.text);
    let only = get(&router, "/status?only=trouble", &cookie).await;
    assert!(only.text.contains("1 of 2 keysets") && !only.text.contains("id=\"keyset-main\""));
    site.store.heal();
    site.tick_until(&running, || running.keyset("fast").active(site.now()).is_some()).await;
    eventually(|| running.unready().is_empty()).await;
    site.advance(&running, 5).await;
    let page = get(&router, "/status", &cookie).await;
    assert!(!page.text.contains("1 keyset: nothing seals"), "{}", page.text);
}

#[tokio::test]
async fn events_are_read_once_for_many_viewers() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let cookie = [(COOKIE, cookie.as_str())];
    site.advance(&running, 5).await;
    get(&router, "/status", &cookie).await;
    // Answers from memory do not need it.
    site.store.fail("cluster", Fault::Panic, u64::MAX);
    for _ in 0..20 {
        assert_eq!(get(&router, "/status", &cookie).await.status, StatusCode::OK);
    }
}

/// How the keys of `bundle` could show: a part is enough.
fn canaries(bundle: &Bundle) -> Vec<String> {
    let document = String::from_utf8(encode_bundle(bundle).as_slice().to_vec()).unwrap();
    let in_base64 = document.split("\"secret\":\"").skip(1).map(|rest| rest[..10].to_owned());
    let mut canaries: Vec<_> = in_base64.collect();
    assert_eq!(canaries.len(), bundle.keys().len());
    for key in bundle.keys() {
        let bytes = &key.material.expose_secret()[..8];
        canaries.push(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        canaries.push(bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", "));
    }
    canaries
}

#[tokio::test]
async fn no_page_holds_a_secret() {
    let site = Site::new();
    let (running, router, cookie) = signed_in(&site).await;
    let (token, _) = running.token("token:edge", &[(Role::Terminator, "main")]).await;
    let token = token.expose_text();
    site.advance(&running, 5).await;
    running.operations().rotate(&name("main"), "token:root").await.unwrap();
    let feed = running.until(|feed| feed.keysets[&name("main")].keys().len() == 3).await;
    let mut canaries = canaries(&feed.keysets[&name("main")]);
    let session = cookie.split_once('=').unwrap().1.to_owned();
    canaries.extend([token[5..21].to_owned(), site.text[..16].to_owned(), session]);

    let lines = [(COOKIE, cookie.as_str())];
    let mut pages = vec![
        // Whoever may do nothing here is not told what he has shown.
        post(&router, "/status/login", format!("token={token}"), &[]).await.text,
        post(&router, "/status/login", format!("token={token}x"), &[]).await.text,
    ];
    for path in ["/status", "/status/keysets/main", "/status/login", "/status?q=main"] {
        pages.push(get(&router, path, &lines).await.text);
    }
    assert!(pages[3].contains("token:root"), "events and keys are shown: {}", pages[3]);
    for page in pages {
        for canary in &canaries {
            assert!(!page.contains(canary), "{canary} is a secret: {page}");
        }
    }
}
