use std::future::poll_fn;

use axum::middleware::map_request;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use prometheus::Registry;
use tower::ServiceExt;

use crate::api::{Api, Operation, Route};
use crate::metrics::HttpMetrics;
use crate::metrics::tests::{count, durations, request};
use crate::testing::{self, Running};
use crate::{Limits, Routes};

use super::*;

const PATH: &str = "/cats/{name}";

/// The header that tells what came by the router.
const MARK: &str = "x-router";

/// A shortcut that says by which way it was asked, and for which cat.
fn api() -> Api {
    let operation = |id| Operation::new(id, "Shows it").empty(StatusCode::OK, "It is shown");
    let show = operation("showCat").path::<String>("name", "The cat");
    let answer = |name: &str, headers: &HeaderMap, _: Origin<'_>| {
        assert!(name != "grumpy", "on purpose");
        let is_marked = headers.contains_key(MARK);
        let (name, way) = (name.to_owned(), if is_marked { "router" } else { "shortcut" });
        async move {
            assert!(name != "moody", "on purpose");
            if name == "sleepy" {
                std::future::pending::<()>().await;
            }
            format!("{name} by {way}")
        }
    };
    let dogs = Route::new().get(|| async { "dogs" }, operation("showDogs"));
    Api::new().shortcut(PATH, answer, show).route("/dogs", dogs)
}

/// The routes of that; what comes by the router is marked.
fn routes() -> Routes {
    let mut routes = api().into_routes().with_fallbacks();
    routes.router = routes.router.layer(map_request(async |mut request: Request| {
        request.headers_mut().insert(MARK, HeaderValue::from_static("yes"));
        request
    }));
    routes
}

async fn ask(routes: &Routes, method: &str, path: &str) -> (StatusCode, String) {
    let response = routes.clone().oneshot(request(method, path)).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn plain_paths_take_the_shortcut_and_others_have_the_same_answer() {
    let routes = routes();
    for (method, path, expected) in [
        ("GET", "/cats/tom", "tom by shortcut"),
        ("GET", "/cats/To-m_1.~", "To-m_1.~ by shortcut"),
        ("GET", "/cats/t%6fm", "tom by router"),
        ("GET", "/cats/tom%2Fjerry", "tom/jerry by router"),
        ("GET", "/cats/%ff", " by router"),
        ("GET", "/cats/tom?", "tom by router"),
        ("GET", "/cats/tom?color=red", "tom by router"),
        ("GET", "/cats/tom+jerry", "tom+jerry by router"),
        ("HEAD", "/cats/tom", ""),
        ("GET", "/dogs", "dogs"),
    ] {
        let answer = ask(&routes, method, path).await;
        assert_eq!(answer, (StatusCode::OK, expected.into()), "{method} {path}");
    }
    for (method, path, expected) in [
        ("GET", "/cats/", StatusCode::NOT_FOUND),
        ("GET", "/cats/tom/", StatusCode::NOT_FOUND),
        ("GET", "/cats/tom/jerry", StatusCode::NOT_FOUND),
        ("GET", "/cats", StatusCode::NOT_FOUND),
        ("POST", "/cats/tom", StatusCode::METHOD_NOT_ALLOWED),
    ] {
        assert_eq!(ask(&routes, method, path).await.0, expected, "{method} {path}");
    }
}

#[tokio::test]
async fn both_ways_are_counted_as_one_route() {
    let metrics = HttpMetrics::register(&Registry::new()).unwrap();
    let routes = metrics.observe("test", routes());
    for (path, way) in [("/cats/tom", "shortcut"), ("/cats/t%6fm", "router")] {
        assert_eq!(ask(&routes, "GET", path).await.1, format!("tom by {way}"));
    }
    let mut long_poll = request("GET", "/cats/tom");
    long_poll.headers_mut().insert("prefer", HeaderValue::from_static("wait=55"));
    routes.clone().oneshot(long_poll).await.unwrap();
    // Whoever asks is gone before there is an answer.
    let mut answering = routes.answer(request("GET", "/cats/sleepy"), Origin::default());
    assert!(poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx).is_pending())).await);
    drop(answering);
    for cat in ["grumpy", "moody"] {
        let (mut routes, asked) = (routes.clone(), request("GET", &format!("/cats/{cat}")));
        tokio::spawn(async move { routes.call(asked).await }).await.unwrap_err();
    }
    let requests = |status| count(&metrics, ["test", PATH, "GET", status]);
    assert_eq!([requests("2xx"), requests("aborted"), requests("5xx")], [3, 1, 2]);
    assert_eq!(durations(&metrics, PATH), 2, "long-polls and those without an answer are not");
}

#[tokio::test]
async fn a_shortcut_that_panics_costs_its_own_request_only() {
    let server = Running::plain(Limits::default(), routes()).await;
    let mut stream = server.connect().await;
    for path in ["/cats/grumpy", "/cats/moody"] {
        let (head, body) = testing::get(&mut stream, path).await;
        assert!(head.starts_with("http/1.1 500 "), "{head}");
        assert!(body.contains("urn:stekd:problem:internal"), "{body}");
    }
    let (_, body) = testing::get(&mut stream, "/cats/tom").await;
    assert_eq!(body, "tom by shortcut");
}

#[test]
#[should_panic(expected = "a shortcut goes by all layers")]
fn a_layer_comes_before_the_shortcuts() {
    let _ = api().layer(DefaultBodyLimit::max(1));
}

#[test]
#[should_panic(expected = "/cats/{name}/tail ends in its only parameter")]
fn a_shortcut_ends_in_its_only_parameter() {
    let _ = Shortcut::new("/cats/{name}/tail", |_, _, _| std::future::ready("tail"));
}
