use axum::body::Body;
use http_body_util::BodyExt;
use tower::ServiceExt;

use super::*;
use crate::problem;

async fn panics() -> &'static str {
    panic!("on purpose")
}

fn observed() -> (HttpMetrics, Routes) {
    let registry = Registry::new();
    let metrics = HttpMetrics::register(&registry).unwrap();
    let routes = Router::new()
        .route("/items/{id}", get(|| async { "item" }))
        .route("/hang", get(std::future::pending::<&'static str>))
        .route("/panic", get(panics))
        .merge(router(registry));
    let observed = metrics.observe("test", problem::with_fallbacks(routes));
    (metrics, observed)
}

pub(crate) fn request(method: &str, path: &str) -> Request {
    Request::builder().method(method).uri(path).body(Body::empty()).unwrap()
}

pub(crate) fn count(metrics: &HttpMetrics, labels: [&str; 4]) -> u64 {
    metrics.requests.with_label_values(&labels).get()
}

pub(crate) fn durations(metrics: &HttpMetrics, route: &str) -> u64 {
    metrics.duration.with_label_values(&["test", route]).get_sample_count()
}

#[tokio::test]
async fn requests_are_counted_by_pattern_method_and_class() {
    let (metrics, router) = observed();
    for (method, path) in [
        ("GET", "/items/1"),
        ("GET", "/items/2"),
        ("DELETE", "/items/1"),
        ("BREW", "/items/1"),
        ("GET", "/unknown/1"),
        ("GET", "/unknown/2"),
    ] {
        router.clone().oneshot(request(method, path)).await.unwrap();
    }
    assert_eq!(count(&metrics, ["test", "/items/{id}", "GET", "2xx"]), 2);
    assert_eq!(count(&metrics, ["test", "/items/{id}", "DELETE", "4xx"]), 1);
    assert_eq!(count(&metrics, ["test", "/items/{id}", "OTHER", "4xx"]), 1);
    assert_eq!(count(&metrics, ["test", "unmatched", "GET", "4xx"]), 2);
    assert_eq!(durations(&metrics, "/items/{id}"), 4);
    assert_eq!(durations(&metrics, "unmatched"), 2);
}

#[tokio::test]
async fn long_polls_are_counted_but_not_timed() {
    let (metrics, router) = observed();
    let mut long_poll = request("GET", "/items/1");
    long_poll.headers_mut().insert("prefer", "wait=55".parse().unwrap());
    router.oneshot(long_poll).await.unwrap();
    assert_eq!(count(&metrics, ["test", "/items/{id}", "GET", "2xx"]), 1);
    assert_eq!(durations(&metrics, "/items/{id}"), 0);
}

#[tokio::test]
async fn a_request_without_an_answer_counts_as_aborted() {
    let (metrics, router) = observed();
    let mut answer = Box::pin(router.oneshot(request("GET", "/hang")));
    let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(answer.as_mut().poll(cx)));
    assert!(polled.await.is_pending());
    assert_eq!(count(&metrics, ["test", "/hang", "GET", "aborted"]), 0);
    drop(answer);
    assert_eq!(count(&metrics, ["test", "/hang", "GET", "aborted"]), 1);
    assert_eq!(durations(&metrics, "/hang"), 0);
}

#[tokio::test]
async fn a_panic_counts_as_a_server_error() {
    let (metrics, router) = observed();
    tokio::spawn(router.oneshot(request("GET", "/panic"))).await.unwrap_err();
    assert_eq!(count(&metrics, ["test", "/panic", "GET", "5xx"]), 1);
    assert_eq!(count(&metrics, ["test", "/panic", "GET", "aborted"]), 0);
}

#[tokio::test]
async fn the_endpoint_shows_the_registry() {
    let (_, router) = observed();
    router.clone().oneshot(request("GET", "/items/1")).await.unwrap();
    let response = router.oneshot(request("GET", "/metrics")).await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], prometheus::TEXT_FORMAT);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    let line = "stek_http_requests_total{listener=\"test\",method=\"GET\",route=\"/items/{id}\",status=\"2xx\"} 1";
    assert!(text.lines().any(|l| l == line), "{text}");
    assert!(text.contains("stek_http_request_duration_seconds_bucket{"), "{text}");
}

#[test]
fn a_registry_takes_the_metrics_once() {
    let registry = Registry::new();
    HttpMetrics::register(&registry).unwrap();
    HttpMetrics::register(&registry).unwrap_err();
}
