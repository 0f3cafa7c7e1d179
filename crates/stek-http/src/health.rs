//! `GET /healthz` says that the process serves, `GET /readyz` whether it should be sent traffic.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CACHE_CONTROL;
use serde::Serialize;

/// One condition of readiness, as it stands now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    name: Cow<'static, str>,
    ok: bool,
    detail: Cow<'static, str>,
}

impl Check {
    /// The condition holds. `name` is stable; `detail` is for people, may be empty, and is shown to
    /// anyone who can reach the listener.
    pub fn passed(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), ok: true, detail: detail.into() }
    }

    /// The condition does not hold: the process is not ready. `detail` says why, in words that
    /// anyone may read.
    pub fn failed(
        name: impl Into<Cow<'static, str>>,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self { name: name.into(), ok: false, detail: detail.into() }
    }

    /// Whether the condition holds.
    pub fn is_ok(&self) -> bool {
        self.ok
    }
}

/// Who knows whether the process is ready.
pub trait Readiness: Send + Sync {
    /// The conditions as they stand now. The process is ready when all hold; none is ready too.
    /// Asked at every request, so it only looks at what is known: it must not block.
    fn checks(&self) -> Vec<Check>;
}

#[derive(Serialize)]
struct Report {
    ready: bool,
    checks: Vec<Check>,
}

/// `GET /healthz`: 200 `ok` for as long as the process serves. `GET /readyz`: 200, or 503 if a check
/// fails, with `{"ready":bool,"checks":[{"name":…,"ok":bool,"detail":…}]}`.
pub fn router<S>(readiness: Arc<dyn Readiness>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    Router::new()
        .route("/healthz", get(|| async { ([(CACHE_CONTROL, "no-store")], "ok") }))
        .route("/readyz", get(readyz).with_state(readiness))
}

async fn readyz(State(readiness): State<Arc<dyn Readiness>>) -> impl axum::response::IntoResponse {
    let checks = readiness.checks();
    let ready = checks.iter().all(Check::is_ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [(CACHE_CONTROL, "no-store")], Json(Report { ready, checks }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::json;
    use tower::ServiceExt;

    struct Fixed(Vec<Check>);

    impl Readiness for Fixed {
        fn checks(&self) -> Vec<Check> {
            self.0.clone()
        }
    }

    async fn ask(checks: Vec<Check>, path: &str) -> (StatusCode, Vec<u8>) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router(Arc::new(Fixed(checks))).oneshot(request).await.unwrap();
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store");
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    #[tokio::test]
    async fn healthz_is_ok_even_when_nothing_is_ready() {
        let checks = vec![Check::failed("store", "not reached")];
        assert_eq!(ask(checks, "/healthz").await, (StatusCode::OK, b"ok".to_vec()));
    }

    #[tokio::test]
    async fn readyz_is_ready_only_if_every_check_holds() {
        let passed = Check::passed("feed", "revision 7");
        let failed = Check::failed("store", "not reached");
        for (checks, status, ready) in [
            (vec![], StatusCode::OK, true),
            (vec![passed.clone()], StatusCode::OK, true),
            (vec![passed.clone(), failed.clone()], StatusCode::SERVICE_UNAVAILABLE, false),
            (vec![failed, passed], StatusCode::SERVICE_UNAVAILABLE, false),
        ] {
            let (answered, body) = ask(checks, "/readyz").await;
            assert_eq!(answered, status);
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["ready"], ready);
        }
    }

    #[tokio::test]
    async fn readyz_lists_its_checks() {
        let checks =
            vec![Check::passed("feed", "revision 7"), Check::failed("store", "not reached")];
        let (_, body) = ask(checks, "/readyz").await;
        assert_eq!(
            serde_json::from_slice::<serde_json::Value>(&body).unwrap(),
            json!({"ready": false, "checks": [
                {"name": "feed", "ok": true, "detail": "revision 7"},
                {"name": "store", "ok": false, "detail": "not reached"},
            ]})
        );
    }
}
