//! The admin API: every route for everybody, and every way to ask wrongly.

use std::time::Duration;

use http::header::{LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use serde_json::json;
use stek_core::access::{Role, TokenSecret};
use stek_core::time::Seconds;
use stek_custody::random::{RandomSource, SystemRandom};
use stek_wire::admin::{KeysetList, PlanDocument, PolicyDocument, TokenList};

use crate::fixture::{Running, Site};
use crate::http::{Answer, ask, router};
use crate::store::Fault;

fn random_secret() -> TokenSecret {
    let mut bytes = [0; 32];
    SystemRandom.fill(&mut bytes).unwrap();
    TokenSecret::take_from(&mut bytes)
}

/// Who asks, and their tokens.
struct People {
    operator: TokenSecret,
    everyone: Vec<(&'static str, Option<TokenSecret>)>,
}

async fn people(running: &Running) -> People {
    let mut everyone = vec![("nobody", None), ("unknown", Some(random_secret()))];
    for (who, role, keysets) in [
        ("terminator", Role::Terminator, "main"),
        ("distribution", Role::Distribution, "*"),
        ("auditor", Role::Auditor, "main"),
        ("chief-auditor", Role::Auditor, "*"),
        ("operator", Role::Operator, "main"),
        ("stranger", Role::Operator, "other"),
        ("chief", Role::Operator, "*"),
    ] {
        everyone.push((who, Some(running.token(who, &[(role, keysets)]).await.0)));
    }
    let operator = running.token("operator-of-all", &[(Role::Operator, "*")]).await.0;
    People { operator, everyone }
}

fn token_request(keysets: &str) -> String {
    json!({
        "principal": "token:new",
        "hash": random_secret().hash().to_hex(),
        "expires_at": "2026-12-01T00:00:00Z",
        "grants": [{"keysets": keysets, "role": "terminator"}],
    })
    .to_string()
}

/// For each route the answers that nobody, unknown, terminator, distribution, auditor, chief
/// auditor, operator, an operator of another keyset and the operator of all are given.
fn matrix() -> Vec<(Method, &'static str, String, [u16; 9])> {
    let none = String::new;
    let create = |name: &str| json!({"name": name}).to_string();
    let policy = || json!({"policy": {"poll_interval_seconds": 30}}).to_string();
    let plan = "/admin/v1/keysets/main/plan?until=12h";
    vec![
        (Method::GET, "/admin/v1/keysets", none(), [401, 401, 403, 403, 200, 200, 200, 200, 200]),
        (
            Method::POST,
            "/admin/v1/keysets",
            create("main"),
            [401, 401, 403, 403, 403, 403, 409, 403, 409],
        ),
        (
            Method::GET,
            "/admin/v1/keysets/main",
            none(),
            [401, 401, 403, 403, 200, 200, 200, 404, 200],
        ),
        (Method::GET, plan, none(), [401, 401, 403, 403, 200, 200, 200, 404, 200]),
        (
            Method::PUT,
            "/admin/v1/keysets/main/policy",
            policy(),
            [401, 401, 403, 403, 403, 403, 200, 404, 200],
        ),
        (
            Method::POST,
            "/admin/v1/keysets/main/rotate",
            none(),
            [401, 401, 403, 403, 403, 403, 200, 404, 409],
        ),
        (
            Method::POST,
            "/admin/v1/keysets/main/revoke",
            json!({"reason": "leak", "dry_run": true}).to_string(),
            [401, 401, 403, 403, 403, 403, 200, 404, 200],
        ),
        (
            Method::POST,
            "/admin/v1/keysets/main/revoke",
            json!({"reason": "leak", "key": "0192f0c1-7b6e-7c3a-9d2b-5f0c4a1e8d37"}).to_string(),
            [401, 401, 403, 403, 403, 403, 409, 404, 409],
        ),
        (Method::GET, "/admin/v1/tokens", none(), [401, 401, 403, 403, 403, 200, 403, 403, 200]),
        (
            Method::POST,
            "/admin/v1/tokens",
            token_request("main"),
            [401, 401, 403, 403, 403, 403, 403, 403, 201],
        ),
        (
            Method::DELETE,
            "/admin/v1/tokens/0192f0c1-7b6e-7c3a-9d2b-5f0c4a1e8d37",
            none(),
            [401, 401, 403, 403, 403, 403, 403, 403, 404],
        ),
        (
            Method::DELETE,
            "/admin/v1/keysets/main",
            none(),
            [401, 401, 403, 403, 403, 403, 200, 404, 404],
        ),
        // The keyset is gone now, and its operator is told no more than a stranger.
        (
            Method::GET,
            "/admin/v1/keysets/main",
            none(),
            [401, 401, 403, 403, 404, 404, 404, 404, 404],
        ),
    ]
}

#[tokio::test]
async fn everybody_is_answered_by_what_is_granted() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    let people = people(&running).await;
    site.clock.advance(Duration::from_secs(1));
    let router = router(&running);
    for (method, path, body, expected) in matrix() {
        for ((who, token), expected) in people.everyone.iter().zip(expected) {
            let answer = ask(&router, &method, path, token.as_ref(), body.clone()).await;
            assert_eq!(answer.status.as_u16(), expected, "{method} {path} by {who}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn what_is_not_granted_answers_like_what_does_not_exist() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    running.create("other", PolicyDocument::default()).await;
    let (token, _) = running.token("operator", &[(Role::Operator, "main")]).await;
    let router = router(&running);
    for (method, tail) in [
        (Method::GET, ""),
        (Method::DELETE, ""),
        (Method::GET, "/plan"),
        (Method::POST, "/rotate"),
        (Method::POST, "/rotate?dry_run=true"),
        (Method::PUT, "/policy"),
    ] {
        let body = r#"{"policy":{}}"#;
        let at = |keyset: &str| format!("/admin/v1/keysets/{keyset}{tail}");
        let forbidden = ask(&router, &method, &at("other"), Some(&token), body).await;
        let unknown = ask(&router, &method, &at("nowhere"), Some(&token), body).await;
        assert_eq!(forbidden.status, StatusCode::NOT_FOUND);
        assert_eq!(forbidden.bytes, unknown.bytes, "{method} {tail}");
        assert_eq!(forbidden.headers, unknown.headers, "{method} {tail}");
    }
    // A page shows and names only what is granted, also where the next one would begin.
    let answer = ask(&router, &Method::GET, "/admin/v1/keysets", Some(&token), "").await;
    let list: KeysetList = serde_json::from_slice(&answer.bytes).unwrap();
    assert_eq!((list.keysets.len(), list.next), (1, None));
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("other"));
}

#[tokio::test]
async fn lists_come_in_pages_that_show_only_what_may_be_seen() {
    let site = Site::new();
    let running = site.start().await;
    for number in 0..205 {
        let keyset = crate::fixture::name(&format!("k{number:03}"));
        let policy = PolicyDocument::default();
        running.operations().create(&keyset, policy, "test").await.unwrap();
    }
    running.until(|feed| feed.keysets.len() == 205).await;
    let (all, _) = running.token("all", &[(Role::Auditor, "*")]).await;
    let some = [(Role::Auditor, "k001"), (Role::Operator, "k204"), (Role::Auditor, "gone")];
    let (some, _) = running.token("some", &some).await;
    let router = router(&running);
    let list = async |token: &TokenSecret, path: &str| -> KeysetList {
        let answer = ask(&router, &Method::GET, path, Some(token), "").await;
        serde_json::from_slice(&answer.bytes).unwrap()
    };
    let first = list(&all, "/admin/v1/keysets").await;
    assert_eq!((first.keysets.len(), first.next.as_deref()), (200, Some("k199")));
    let rest = list(&all, "/admin/v1/keysets?after=k199").await;
    assert_eq!((rest.keysets.len(), rest.next), (5, None));
    let names = |list: KeysetList| list.keysets.into_iter().map(|one| one.name).collect::<Vec<_>>();
    let seen = list(&some, "/admin/v1/keysets").await;
    assert_eq!(seen.next, None);
    assert_eq!(names(seen), ["k001", "k204"]);
    assert_eq!(names(list(&some, "/admin/v1/keysets?after=k001").await), ["k204"]);
}

#[tokio::test]
async fn a_wrong_request_is_told_what_is_wrong_with_it() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    let people = people(&running).await;
    let router = router(&running);
    let (keysets, main) = ("/admin/v1/keysets", "/admin/v1/keysets/main");
    let big = format!(r#"{{"name":"{}"}}"#, "x".repeat(70_000));
    let planner = token_request("main").replace("token:new", "manager");
    let expired = token_request("main").replace("2026-12-01", "2026-01-01");
    let (post, put, get) = (Method::POST, Method::PUT, Method::GET);
    for (method, path, body, status, field, says) in [
        (&post, keysets, r#"{"name":"#, 400, None, "not well-formed"),
        (&post, keysets, r#"{"name":"x","nmae":"y"}"#, 400, None, "nmae is not known"),
        (&post, keysets, r#"{"name":"Main"}"#, 422, Some("name"), "Main"),
        (&post, keysets, r#"{"name":7}"#, 422, Some("name"), "7"),
        (&post, keysets, "{}", 400, None, "name is missing"),
        (&post, keysets, &big, 413, None, "limit"),
        (&post, "/admin/v1/keysets/main", "", 405, None, "method"),
        (&get, "/admin/v1/keysets/Main", "", 422, Some("keyset"), "Main"),
        (&get, "/admin/v1/keysets/%ff", "", 400, None, "UTF-8"),
        (&get, "/admin/v1/keysets?after=Main", "", 422, Some("keyset name"), "Main"),
        (&get, "/admin/v1/nothing", "", 404, None, "nothing here"),
        (&put, "/admin/v1/keysets/main/policy", "{}", 400, None, "policy is missing"),
        (&get, "/admin/v1/keysets/main/plan?until=never", "", 422, Some("until"), "never"),
        (&get, "/admin/v1/keysets/main/plan?until=32d", "", 422, Some("until"), "32d"),
        (
            &get,
            "/admin/v1/keysets/main/plan?until=2020-01-01T00:00:00Z",
            "",
            422,
            Some("until"),
            "2020",
        ),
        (&get, "/admin/v1/keysets/main/plan?until=1h&until=2h", "", 400, None, "until"),
        (&post, "/admin/v1/tokens", &planner, 422, Some("principal"), "manager"),
        (&post, "/admin/v1/tokens", &expired, 422, Some("expires_at"), "2026-01-01"),
        (&Method::DELETE, "/admin/v1/tokens/nonsense", "", 404, None, "nothing here"),
    ] {
        let answer = ask(&router, method, path, Some(&people.operator), body.to_owned()).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {answer:?}");
        let problem = answer.json();
        assert_eq!(problem["field"].as_str(), field, "{problem}");
        assert!(problem.to_string().contains(says), "{problem}");
    }
    assert_eq!(ask(&router, &get, main, Some(&people.operator), "").await.status, 200);
}

#[tokio::test]
async fn an_unsound_policy_is_refused_with_field_value_and_what_is_allowed() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    let (token, _) = running.token("chief", &[(Role::Operator, "*")]).await;
    let router = router(&running);
    let body = json!({"policy": {"lead_seconds": 100}}).to_string();
    let created = json!({"name": "new", "policy": {"lead_seconds": 100}}).to_string();
    for (method, path, body) in [
        (Method::PUT, "/admin/v1/keysets/main/policy", body),
        (Method::POST, "/admin/v1/keysets", created),
    ] {
        let answer = ask(&router, &method, path, Some(&token), body).await;
        assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
        let problem = answer.json();
        assert_eq!(problem["type"], "urn:stekd:problem:invalid-policy");
        assert_eq!((&problem["field"], &problem["value"]), (&json!("lead"), &json!("100s")));
        assert!(problem["allowed"].as_str().unwrap().starts_with("at least 6m"), "{problem}");
    }
}

async fn rotate(router: &stek_http::Routes, token: &TokenSecret) -> Answer {
    ask(router, &Method::POST, "/admin/v1/keysets/main/rotate", Some(token), "").await
}

#[tokio::test]
async fn a_day_in_the_life_of_an_operator() {
    let site = Site::new();
    let running = site.start().await;
    let (token, _) = running.token("chief", &[(Role::Operator, "*")]).await;
    let router = router(&running);
    let body = json!({"name": "main"}).to_string();
    let created = ask(&router, &Method::POST, "/admin/v1/keysets", Some(&token), body).await;
    assert_eq!(created.status, StatusCode::CREATED);
    assert_eq!(created.headers[LOCATION], "/admin/v1/keysets/main");
    // Twice in one second: an encrypt period is at least one.
    assert_eq!(rotate(&router, &token).await.status, StatusCode::CONFLICT);
    site.clock.advance(Duration::from_secs(1));
    assert_eq!(rotate(&router, &token).await.status, StatusCode::OK);
    let again = rotate(&router, &token).await;
    assert_eq!(again.status, StatusCode::CONFLICT);
    assert_eq!(again.json()["type"], "urn:stekd:problem:conflict");
    let path = "/admin/v1/keysets/main/plan?until=1d";
    let plan = ask(&router, &Method::GET, path, Some(&token), "").await;
    let plan: PlanDocument = serde_json::from_slice(&plan.bytes).unwrap();
    assert_eq!(plan.until, (site.now() + Seconds::from_days(1)).to_string());
    assert_eq!(plan.steps.iter().filter(|step| step.action == "activate").count(), 5);
    // A token, from its making to its end.
    let secret = random_secret();
    let body = json!({
        "principal": "auditor",
        "hash": secret.hash().to_hex(),
        "expires_at": "2026-12-01T00:00:00Z",
        "grants": [{"keysets": "*", "role": "auditor"}],
    })
    .to_string();
    let made = ask(&router, &Method::POST, "/admin/v1/tokens", Some(&token), body.clone()).await;
    assert_eq!(made.status, StatusCode::CREATED);
    let twice = ask(&router, &Method::POST, "/admin/v1/tokens", Some(&token), body).await;
    assert_eq!(twice.status, StatusCode::CONFLICT);
    running.until(|feed| feed.access.tokens().len() == 2).await;
    let list = ask(&router, &Method::GET, "/admin/v1/tokens", Some(&secret), "").await;
    let list: TokenList = serde_json::from_slice(&list.bytes).unwrap();
    assert_eq!(list.tokens.len(), 2);
    assert!(!String::from_utf8_lossy(&made.bytes).contains(&secret.hash().to_hex()));
    let path = format!("/admin/v1/tokens/{}", made.json()["id"].as_str().unwrap());
    let revoked = ask(&router, &Method::DELETE, &path, Some(&token), "").await;
    assert_eq!(revoked.status, StatusCode::NO_CONTENT);
    running.until(|feed| feed.access.tokens().len() == 1).await;
    let refused = ask(&router, &Method::GET, "/admin/v1/tokens", Some(&secret), "").await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_expired_token_is_refused_at_its_end() {
    let site = Site::new();
    let running = site.start().await;
    let (secret, token) = running.token("chief", &[(Role::Operator, "*")]).await;
    let router = router(&running);
    let list = async || ask(&router, &Method::GET, "/admin/v1/keysets", Some(&secret), "").await;
    let left = token.expires_at.since(site.now()).to_std();
    site.clock.advance(left - Duration::from_secs(1));
    assert_eq!(list().await.status, StatusCode::OK);
    site.clock.advance(Duration::from_secs(1));
    assert_eq!(list().await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_the_inside_says_stays_inside() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    site.store.fail("now_millis", Fault::Unreachable, u64::MAX);
    let running = site.start_with(custody);
    let starting = router(&running);
    let secret = random_secret();
    let answer = ask(&starting, &Method::GET, "/admin/v1/keysets", Some(&secret), "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    site.store.heal();
    site.tick_until(&running, || running.feed.borrow().is_some()).await;
    let (token, _) = running.token("chief", &[(Role::Operator, "*")]).await;
    site.store.fail("now_millis", Fault::Unreachable, u64::MAX);
    let answer = ask(&starting, &Method::GET, "/admin/v1/keysets", Some(&token), "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.headers[RETRY_AFTER], "5");
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("told to"));
    site.store.heal();
    site.random.broken.store(true, std::sync::atomic::Ordering::SeqCst);
    let body = json!({"name": "main"}).to_string();
    let answer = ask(&starting, &Method::POST, "/admin/v1/keysets", Some(&token), body).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(!String::from_utf8_lossy(&answer.bytes).contains("random"));
}
