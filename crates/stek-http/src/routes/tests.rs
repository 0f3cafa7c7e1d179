use std::future::poll_fn;

use axum::body::Body;
use axum::middleware::map_request;
use http::{HeaderValue, StatusCode};
use http_body_util::BodyExt;
use prometheus::Registry;
use tower::ServiceExt;

use crate::api::{Api, Operation, Route};
use crate::metrics::HttpMetrics;
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
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = routes.clone().oneshot(request).await.unwrap();
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

/// The value of a metric with these labels, in the order of their names.
fn value(registry: &Registry, family: &str, labels: &[&str]) -> f64 {
    let families = registry.gather();
    let Some(family) = families.iter().find(|one| one.name() == family) else { return 0.0 };
    let is_it = |metric: &&prometheus::proto::Metric| {
        metric.get_label().iter().map(|label| label.value()).eq(labels.iter().copied())
    };
    family.get_metric().iter().find(is_it).map_or(0.0, |metric| {
        metric.get_counter().get_value() + metric.get_histogram().get_sample_count() as f64
    })
}

#[tokio::test]
async fn both_ways_are_counted_as_one_route() {
    let registry = Registry::new();
    let metrics = HttpMetrics::register(&registry).unwrap();
    let routes = metrics.observe("test", routes());
    for (path, way) in [("/cats/tom", "shortcut"), ("/cats/t%6fm", "router")] {
        assert_eq!(ask(&routes, "GET", path).await.1, format!("tom by {way}"));
    }
    let long_poll = Request::get("/cats/tom").header("prefer", "wait=55").body(Body::empty());
    routes.clone().oneshot(long_poll.unwrap()).await.unwrap();
    // Whoever asks is gone before there is an answer.
    let asked = Request::get("/cats/sleepy").body(Body::empty()).unwrap();
    let mut answering = routes.answer(asked, Origin::default());
    assert!(poll_fn(|cx| Poll::Ready(answering.as_mut().poll(cx).is_pending())).await);
    drop(answering);
    for cat in ["grumpy", "moody"] {
        let routes = routes.clone();
        tokio::spawn(async move { ask(&routes, "GET", &format!("/cats/{cat}")).await })
            .await
            .unwrap_err();
    }
    let requests =
        |status| value(&registry, "stek_http_requests_total", &["test", "GET", PATH, status]);
    assert_eq!([requests("2xx"), requests("aborted"), requests("5xx")], [3.0, 1.0, 2.0]);
    let timed = value(&registry, "stek_http_request_duration_seconds", &["test", PATH]);
    assert_eq!(timed, 2.0, "long-polls and those without an answer are not");
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
