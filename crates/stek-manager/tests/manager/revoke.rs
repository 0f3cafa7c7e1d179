//! Keys that are forbidden at once: gone from the database with the change itself, out at once, and
//! written down with who did it and why.

use http::Method;
use serde_json::{Value, json};
use stek_core::access::Role;
use stek_core::audit::AuditAction;
use stek_core::bundle::EndCause;
use stek_core::planner::{RevokeError, Selection};
use stek_manager::OperationError;
use stek_store::{KeyStore, MAX_PAGE};
use stek_wire::admin::{CostDocument, EffectDocument, PolicyDocument};

use crate::fixture::{Running, Site, name};
use crate::http::{ask, router};

const LEAK: &str = "a core dump left the house";

/// A keyset with a key that seals and one that is pending, an hour after it began.
async fn in_use(site: &Site) -> Running {
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    site.advance(&running, 3600).await;
    running
}

#[tokio::test]
async fn revoked_keys_are_gone_at_once_and_written_down() {
    let site = Site::new();
    let running = in_use(&site).await;
    let before = running.keyset("main");
    let effect =
        running.operations().revoke(&name("main"), Selection::All, LEAK, "token:root").await;
    let effect = effect.unwrap();
    let stored = site.store.inner.keyset(&name("main")).await.unwrap().unwrap();
    for key in before.keys() {
        assert!(stored.keys.iter().all(|kept| kept.record.id != key.id));
        assert!(
            stored.ended.iter().any(|gone| (gone.id, gone.cause) == (key.id, EndCause::Revoked))
        );
    }
    // Out without time passing, with the names of the revoked keys.
    let feed = running
        .until(|feed| feed.keysets[&name("main")].tag().revision.as_u64() == effect.revision)
        .await;
    let bundle = &feed.keysets[&name("main")];
    assert_eq!(bundle.ended().len(), before.keys().len());
    assert!(bundle.keyset().active(site.now()).is_none());
    assert_eq!(effect.warnings.len(), 1, "{:?}", effect.warnings);
    assert!(effect.warnings[0].starts_with("no ticket is sealed until"), "{:?}", effect.warnings);

    let trail = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    let revoked: Vec<_> =
        trail.iter().filter(|row| row.event.action == AuditAction::KeyRevoked).collect();
    assert_eq!(revoked.len(), before.keys().len());
    for row in &revoked {
        assert_eq!((row.event.actor.as_str(), row.event.reason.as_str()), ("token:root", LEAK));
        assert_eq!(row.revision.as_u64(), effect.revision, "in the same transaction");
    }
    assert_eq!(trail.iter().filter(|row| row.event.action == AuditAction::Gap).count(), 1);
    // Tickets again after the urgent lead.
    let urgent = before.policy().urgent_lead().as_secs();
    site.advance(&running, urgent).await;
    assert!(running.keyset("main").active(site.now()).is_some());
}

#[tokio::test]
async fn revoking_the_key_in_use_alone_loses_no_time() {
    let site = Site::new();
    let running = in_use(&site).await;
    let before = running.keyset("main");
    let active = before.active(site.now()).unwrap().id;
    let pending = before.next_pending(site.now()).unwrap().id;
    let one = Selection::Key(active);
    running.operations().revoke(&name("main"), one, LEAK, "test").await.unwrap();
    let feed = running
        .until(|feed| feed.keysets[&name("main")].keys().iter().all(|key| key.record.id != active))
        .await;
    let keyset = feed.keysets[&name("main")].keyset();
    assert_eq!(keyset.active(site.now()).unwrap().id, pending);
    assert!(keyset.next_pending(site.now()).is_some());
    let again = running.operations().revoke(&name("main"), one, LEAK, "test").await;
    let gone = RevokeError::NoSuchKey(active);
    assert!(matches!(again, Err(OperationError::Revoke(error)) if error == gone));
}

#[tokio::test]
async fn a_dry_run_tells_the_cost_and_changes_nothing() {
    let site = Site::new();
    let running = in_use(&site).await;
    let (token, _) = running.token("chief", &[(Role::Operator, "*")]).await;
    let router = router(&running);
    let cluster = site.store.inner.cluster().await.unwrap();
    let before = running.keyset("main");
    let cost = async |method: &Method, tail: &str, body: Value| -> CostDocument {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let path = format!("/admin/v1/keysets/main{tail}");
        let answer = ask(&router, method, &path, Some(&token), body).await;
        serde_json::from_slice(&answer.bytes).unwrap()
    };
    let all = cost(&Method::POST, "/revoke", json!({"reason": LEAK, "dry_run": true})).await;
    assert_eq!(all.ends.len(), before.keys().len());
    assert_eq!(all.gap_seconds, before.policy().urgent_lead().as_secs());
    assert!(all.sessions.contains("full handshake"));
    let pending = before.next_pending(site.now()).unwrap().id.to_string();
    let body = json!({"reason": LEAK, "dry_run": true, "key": pending});
    let one = cost(&Method::POST, "/revoke", body).await;
    assert_eq!((one.ends.len(), one.gap_seconds), (1, 0));
    assert_eq!(
        (one.ends[0].id.as_str(), one.ends[0].state.as_str()),
        (pending.as_str(), "pending")
    );

    let rotate = cost(&Method::POST, "/rotate?dry_run=true", Value::Null).await;
    assert_eq!((rotate.ends.len(), rotate.gap_seconds), (0, 0));
    assert!(rotate.effects.iter().any(|effect| effect.action == "activate"));
    let body = json!({"policy": {"poll_interval_seconds": 30}});
    let policy = cost(&Method::PUT, "/policy?dry_run=true", body).await;
    assert_eq!((policy.sessions.as_str(), policy.warnings.len()), ("no session is lost", 1));
    let delete = cost(&Method::DELETE, "?dry_run=true", Value::Null).await;
    assert_eq!((delete.ends.len(), delete.seals_from), (before.keys().len(), None));
    assert_eq!(site.store.inner.cluster().await.unwrap(), cluster, "nothing was committed");

    // What was foretold is what comes.
    let answer = ask(
        &router,
        &Method::POST,
        "/admin/v1/keysets/main/revoke",
        Some(&token),
        json!({ "reason": LEAK }).to_string(),
    )
    .await;
    let effect: EffectDocument = serde_json::from_slice(&answer.bytes).unwrap();
    let without_names = |effects: &[stek_wire::admin::Effect]| -> Vec<_> {
        effects.iter().map(|one| (one.action.clone(), one.at.clone(), one.reason.clone())).collect()
    };
    assert_eq!(without_names(&effect.effects), without_names(&all.effects));
}

#[tokio::test]
async fn a_revocation_that_cannot_be_written_down_does_not_happen() {
    let site = Site::new();
    let running = in_use(&site).await;
    let before = running.keyset("main");
    site.store.fail("commit", crate::store::Fault::Unreachable, 1);
    let failed = running.operations().revoke(&name("main"), Selection::All, LEAK, "test").await;
    assert!(matches!(failed, Err(OperationError::Store(_))));
    site.advance(&running, 5).await;
    assert_eq!(running.keyset("main"), before);
}
