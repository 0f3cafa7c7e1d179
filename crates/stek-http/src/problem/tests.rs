use std::collections::BTreeSet;

use axum::body::{Body, Bytes};
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query};
use axum::routing::{get, post};
use http::Request;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;

async fn parts(response: Response) -> (http::response::Parts, Value) {
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head, serde_json::from_slice(&bytes).unwrap())
}

async fn ask(router: Router, request: Request<Body>) -> (http::response::Parts, Value) {
    parts(router.oneshot(request).await.unwrap()).await
}

fn request(method: &str, uri: &str, body: Body) -> Request<Body> {
    Request::builder().method(method).uri(uri).body(body).unwrap()
}

#[tokio::test]
async fn a_document_has_the_members_of_rfc_9457_and_its_extensions() {
    let problem = Problem::invalid_field("ticket_lifetime", "8d", "10 s to 7 d")
        .with_detail("the policy cannot be used");
    let (head, body) = parts(problem.into_response()).await;
    assert_eq!(head.status, 422);
    assert_eq!(head.headers[CONTENT_TYPE], "application/problem+json");
    assert_eq!(head.headers[CACHE_CONTROL], "no-store");
    assert_eq!(
        body,
        json!({
            "type": "urn:stekd:problem:invalid-field",
            "title": "a value is not allowed",
            "status": 422,
            "detail": "the policy cannot be used",
            "field": "ticket_lifetime",
            "value": "8d",
            "allowed": "10 s to 7 d",
        })
    );
}

#[tokio::test]
async fn absent_members_are_left_out() {
    let (head, body) = parts(Problem::internal().into_response()).await;
    assert_eq!(head.status, 500);
    assert_eq!(
        body,
        json!({"type": "urn:stekd:problem:internal", "title": "the server failed", "status": 500})
    );
}

#[tokio::test]
async fn retry_after_is_whole_seconds_rounded_up() {
    for (wait, expected) in [(0, "0"), (1_000, "1"), (1_001, "2"), (59_999, "60")] {
        let wait = Duration::from_millis(wait);
        for problem in [Problem::too_many_requests(wait), Problem::unavailable("starting", wait)] {
            let (head, _) = parts(problem.into_response()).await;
            assert_eq!(head.headers[RETRY_AFTER], expected);
        }
    }
}

#[tokio::test]
async fn unauthenticated_asks_for_a_bearer_token() {
    let (head, _) = parts(Problem::unauthenticated().into_response()).await;
    assert_eq!(head.headers[WWW_AUTHENTICATE], "Bearer");
    let (head, _) = parts(Problem::forbidden().into_response()).await;
    assert!(!head.headers.contains_key(WWW_AUTHENTICATE));
}

#[tokio::test]
async fn long_values_are_cut_between_characters() {
    let exact = "ä".repeat(LONGEST_VALUE);
    let (_, body) = parts(Problem::invalid_field("f", exact.clone(), "a").into_response()).await;
    assert_eq!(body["value"], exact);
    let over = "ä".repeat(LONGEST_VALUE + 1);
    let (_, body) = parts(Problem::invalid_field("f", over, "a").into_response()).await;
    assert_eq!(body["value"], format!("{exact}…"));
}

#[tokio::test]
async fn unknown_routes_and_wrong_methods_answer_problems() {
    let router = with_fallbacks(Router::new().route("/here", get(|| async { "here" })));
    let (head, body) = ask(router.clone(), request("GET", "/gone", Body::empty())).await;
    assert_eq!(
        (head.status, &body["type"]),
        (StatusCode::NOT_FOUND, &json!("urn:stekd:problem:not-found"))
    );
    let (head, body) = ask(router, request("DELETE", "/here", Body::empty())).await;
    assert_eq!(head.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(body["type"], "urn:stekd:problem:method-not-allowed");
    assert_eq!(head.headers[http::header::ALLOW], "GET,HEAD");
}

#[tokio::test]
async fn refusals_of_extractors_become_problems() {
    #[derive(serde::Deserialize)]
    struct Page {
        #[serde(rename = "limit")]
        _limit: u8,
    }
    async fn page(
        path: Result<Path<u32>, PathRejection>,
        query: Result<Query<Page>, QueryRejection>,
    ) -> Result<&'static str, Problem> {
        let (_, _) = (path?, query?);
        Ok("page")
    }
    async fn body(body: Result<Bytes, BytesRejection>) -> Result<String, Problem> {
        Ok(body?.len().to_string())
    }
    let router = Router::new()
        .route("/page/{id}", get(page))
        .route("/body", post(body))
        .route(
            "/misrouted",
            get(|path: Result<Path<u32>, PathRejection>| async {
                path.map(|_| "path").map_err(Problem::from)
            }),
        )
        .layer(DefaultBodyLimit::max(4));
    for (request, status, slug) in [
        (request("GET", "/page/one?limit=1", Body::empty()), 400, "bad-request"),
        (request("GET", "/page/1?limit=256", Body::empty()), 400, "bad-request"),
        (request("POST", "/body", Body::from("12345")), 413, "payload-too-large"),
        (request("GET", "/misrouted", Body::empty()), 500, "internal"),
    ] {
        let (head, body) = ask(router.clone(), request).await;
        assert_eq!(head.status.as_u16(), status, "{body}");
        assert_eq!(body["type"], format!("{TYPE_PREFIX}{slug}"));
    }
}

/// docs/PROTOCOL.md's table of types, against the types that there are.
#[test]
fn the_protocol_has_every_type_and_its_status() {
    let wait = Duration::from_secs(1);
    let problems = [
        Problem::bad_request("x"),
        Problem::invalid_field("x", "x", "x"),
        Problem::unauthenticated(),
        Problem::forbidden(),
        Problem::not_found(),
        Problem::method_not_allowed(),
        Problem::request_timeout(),
        Problem::conflict("x"),
        Problem::payload_too_large(),
        Problem::too_many_requests(wait),
        Problem::internal(),
        Problem::unavailable("x", wait),
    ];
    let source = include_str!("../problem.rs");
    assert_eq!(source.matches("Self::new(").count(), problems.len(), "each is named here");
    let row = |slug: &str, status: u16| format!("| `{TYPE_PREFIX}{slug}` | {status} ");
    let made = problems.iter().map(|problem| row(problem.0.slug, problem.status().as_u16()));
    // The manager's own.
    let made: BTreeSet<_> = made.chain([row("invalid-policy", 422)]).collect();
    let document = include_str!("../../../../docs/PROTOCOL.md");
    let rows = document.lines().filter(|line| line.starts_with(&format!("| `{TYPE_PREFIX}")));
    let cells = |line: &str| line.splitn(4, '|').take(3).collect::<Vec<_>>().join("|");
    assert_eq!(rows.map(cells).collect::<BTreeSet<_>>(), made);
}
