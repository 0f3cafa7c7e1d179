//! What the listeners of the roles offer, and how they describe it at `/openapi.json`. The status page
//! is for people and is not described.

use stek_distribution::Distribution;
use stek_http::Routes;
use stek_http::api::About;
use stek_manager::Manager;

/// The version of the contract: fields and operations are only added within it.
const VERSION: &str = "1";

const ADMIN: About = About {
    title: "stekd manager",
    description: "What operators and other managers ask of a key-manager, below `/admin/v1`, and the \
        feed that distribution replicas follow. Failures are problem documents (RFC 9457): decide by \
        `type` and status. Fields are only added: pass over those that you do not know. A method that \
        a path does not have is a 405 with `Allow`; whatever answers `GET` answers `HEAD`.",
    version: VERSION,
};

const DISTRIBUTION: About = About {
    title: "stekd distribution",
    description: "The ticket keys of keysets for TLS terminators, by long-poll, and the feed for \
        further replicas. Whoever reads a bundle or the feed has secrets in hand. Failures are problem \
        documents (RFC 9457): decide by `type` and status. Fields are only added: pass over those that \
        you do not know. A method that a path does not have is a 405 with `Allow`; whatever answers \
        `GET` answers `HEAD`.",
    version: VERSION,
};

/// What a manager offers.
pub(crate) fn admin(manager: &Manager, feed: &Distribution) -> Routes {
    let api = manager.admin_api().merge(feed.feed_api());
    api.described(ADMIN).merge(manager.page_router())
}

/// What a distribution replica offers.
pub(crate) fn distribution(distribution: &Distribution) -> Routes {
    distribution.bundle_api().merge(distribution.feed_api()).described(DISTRIBUTION)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

    use std::collections::BTreeSet;
    use std::net::SocketAddr;
    use std::sync::Arc;

    use axum::body::Body;
    use axum::http::{Request, StatusCode};
    use axum::{Extension, Router};
    use http_body_util::BodyExt;
    use prometheus::Registry;
    use serde_json::Value;
    use stek_clock::SystemClock;
    use stek_core::access::{Grant, KeysetSelector, Role};
    use stek_core::name::PrincipalName;
    use stek_core::principal::PrincipalPattern;
    use stek_core::time::Timestamp;
    use stek_http::{Channel, ClientCertificate, Peer};
    use stek_manager::{EngineParts, add_grant_offline};
    use tokio_util::sync::CancellationToken;
    use tower::ServiceExt;

    use super::*;
    use crate::dev::site::Site;
    use crate::roles::listener::Prepared;

    async fn ask(routes: &Routes, method: &str, path: &str) -> (StatusCode, Vec<u8>) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        let response = routes.clone().oneshot(request).await.unwrap();
        let status = response.status();
        (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
    }

    async fn document(routes: &Routes) -> Value {
        let (status, body) = ask(routes, "GET", stek_http::api::PATH).await;
        assert_eq!(status, StatusCode::OK);
        serde_json::from_slice(&body).unwrap()
    }

    /// The paths of a router: what axum shows of it for debugging is the only list that it gives.
    fn paths(routes: &Routes) -> BTreeSet<String> {
        let shown = format!("{routes:?}");
        let quoted = shown.split('"').skip(1).step_by(2);
        let paths: BTreeSet<_> =
            quoted.filter(|text| text.starts_with('/')).map(str::to_owned).collect();
        assert!(!paths.is_empty(), "axum shows its paths otherwise: {shown}");
        paths
    }

    /// Holds `routes` against their document; those of `pages` need no description.
    async fn is_whole(routes: Routes, pages: Router) {
        // A router without routes has those of its fallback.
        let more = &paths(&pages.into()) | &paths(&Router::new().into());
        let document = document(&routes).await;
        let described: BTreeSet<_> =
            document["paths"].as_object().unwrap().keys().cloned().collect();
        let served: BTreeSet<_> = paths(&routes).difference(&more).cloned().collect();
        assert_eq!(served, described, "what is served, and what is described");
        let routes = routes.with_fallbacks();
        for (path, item) in document["paths"].as_object().unwrap() {
            let path = path.replace("{keyset}", "main").replace("{id}", "x");
            for method in ["get", "post", "put", "delete", "patch"] {
                let (status, _) = ask(&routes, &method.to_uppercase(), &path).await;
                let is_there = status != StatusCode::METHOD_NOT_ALLOWED;
                let operation = item.get(method);
                assert_eq!(is_there, operation.is_some(), "{method} {path}: {status}");
                let Some(operation) = operation else { continue };
                let answer = operation["responses"].get(status.as_str());
                assert!(answer.is_some(), "{method} {path}: {status} is not described");
            }
        }
    }

    #[tokio::test]
    async fn whatever_is_served_is_described_and_the_reverse() {
        let dir = tempfile::tempdir().unwrap();
        let parts = Site::open_or_create(dir.path()).unwrap().assemble().await.unwrap();
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let manager = Manager::start(parts, &registry, shutdown.clone()).unwrap();
        let (feed, fleet) = (manager.feed(), manager.fleet());
        let replica = Distribution::start(feed, fleet, &registry, shutdown.clone()).unwrap();
        is_whole(admin(&manager, &replica), manager.page_router()).await;
        is_whole(distribution(&replica), Router::new()).await;
        shutdown.cancel();
        manager.stopped().await;
        replica.stopped().await;
    }

    /// Makes the certificate of `site` one that has ended, and lets `operator` in.
    async fn with_an_ended_certificate(site: &Site, operator: &PrincipalName) -> EngineParts {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(site.certificate(), certificate.pem()).unwrap();
        std::fs::write(site.private_key(), key.serialize_pem()).unwrap();
        let parts = site.assemble().await.unwrap();
        let principal = PrincipalPattern::exactly(operator).unwrap();
        let grant = Grant { principal, keysets: KeysetSelector::All, role: Role::Operator };
        let store = parts.store.as_ref();
        add_grant_offline(store, &parts.cluster, &SystemClock, None, grant).await.unwrap();
        parts
    }

    #[tokio::test]
    async fn the_page_tells_that_the_certificate_of_its_listener_ends() {
        let dir = tempfile::tempdir().unwrap();
        let site = Site::open_or_create(dir.path()).unwrap();
        let operator = PrincipalName::try_new("ops.example").unwrap();
        let parts = with_an_ended_certificate(&site, &operator).await;
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let manager = Manager::start(parts, &registry, shutdown.clone()).unwrap();
        manager.feed().wait_for(Option::is_some).await.unwrap();
        let addr = SocketAddr::from(([127, 0, 0, 1], 0));
        let shown = ClientCertificate { principals: operator.into(), not_after: Timestamp::MAX };
        let peer = Peer { addr, channel: Channel::Tls(Some(Arc::new(shown))) };
        let page = async || {
            let routes = manager.page_router().layer(Extension(peer.clone())).into();
            let (status, body) = ask(&routes, "GET", "/status").await;
            assert_eq!(status, StatusCode::OK);
            String::from_utf8(body).unwrap()
        };
        let words = "the certificate of this listener has ended";
        assert!(!page().await.contains(words));
        manager.watch_certificate(Prepared::new(&site.listen(addr)).unwrap().tls().unwrap());
        assert!(page().await.contains(words));
        shutdown.cancel();
        manager.stopped().await;
    }
}
