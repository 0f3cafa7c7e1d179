use axum::body::Body;
use axum::extract::MatchedPath;
use http::StatusCode;
use http_body_util::BodyExt;
use prometheus::Registry;
use tower::ServiceExt;

use crate::api::{Api, Operation, Route};
use crate::metrics::HttpMetrics;
use crate::testing::{self, Running};
use crate::{Limits, Routes};

use super::*;

const PATH: &str = "/cats/{name}";

/// A shortcut that says by which way it was asked, and for which cat.
fn api() -> Api {
    let operation = |id| Operation::new(id, "Shows it").empty(StatusCode::OK, "It is shown");
    let show = operation("showCat").path::<String>("name", "The cat");
    let answer = |name: &str, request: &Request| {
        assert!(name != "grumpy", "on purpose");
        let has_matched = request.extensions().get::<MatchedPath>().is_some();
        let way = if has_matched { "router" } else { "shortcut" };
        std::future::ready(format!("{name} by {way}"))
    };
    let dogs = Route::new().get(|| async { "dogs" }, operation("showDogs"));
    Api::new().shortcut(PATH, answer, show).route("/dogs", dogs)
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
    let routes = api().into_routes().with_fallbacks();
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
    let registry = Registry::new();
    let metrics = HttpMetrics::register(&registry).unwrap();
    let routes = metrics.observe("test", api().into_routes().with_fallbacks());
    for path in ["/cats/tom", "/cats/t%6fm", "/cats/jerry", "/dogs"] {
        ask(&routes, "GET", path).await;
    }
    let families = registry.gather();
    let requests = families.iter().find(|family| family.name() == "stek_http_requests_total");
    let count_of = |route: &str| {
        let is_it = |metric: &&prometheus::proto::Metric| {
            metric.get_label().iter().any(|label| label.value() == route)
        };
        let all = requests.unwrap().get_metric();
        all.iter().filter(is_it).map(|metric| metric.get_counter().get_value()).sum::<f64>()
    };
    assert_eq!((count_of(PATH), count_of("/dogs")), (3.0, 1.0));
}

#[tokio::test]
async fn a_shortcut_that_panics_costs_its_own_request_only() {
    let server = Running::plain(Limits::default(), api().into_routes().with_fallbacks()).await;
    let mut stream = server.connect().await;
    let (head, body) = testing::get(&mut stream, "/cats/grumpy").await;
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert!(body.contains("urn:stekd:problem:internal"), "{body}");
    let (_, body) = testing::get(&mut stream, "/cats/tom").await;
    assert_eq!(body, "tom by shortcut");
}

#[test]
#[should_panic(expected = "/cats/{name}/tail ends in its only parameter")]
fn a_shortcut_ends_in_its_only_parameter() {
    let _ = Shortcut::new("/cats/{name}/tail", |_, _| std::future::ready("tail"));
}
