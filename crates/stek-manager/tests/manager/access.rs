//! Tokens, grants and keys that somebody with the database, and without the secrets, has changed.

use std::time::Duration;

use stek_core::access::{Grant, KeysetSelector, Role, Token, TokenHash};
use stek_core::id::{Kcv, KeyId};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::principal::PrincipalPattern;
use stek_core::schedule::Schedule;
use stek_core::time::Seconds;
use stek_core::wrapped::{Epoch, WrappedKey};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::random::SystemRandom;
use stek_manager::{NewToken, OperationError};
use stek_store::{
    Change, Commit, KeyStep, KeyStore, KeysetUpdate, SealedGrant, SealedToken, StoredKey,
};
use stek_wire::admin::PolicyDocument;

use crate::fixture::{FAST, Running, Site, name, principal};
use crate::store::Fault;

fn grant(who: &str, role: Role, keysets: &str) -> Grant {
    let keysets = KeysetSelector::parse(keysets).unwrap();
    Grant { principal: PrincipalPattern::try_new(who).unwrap(), keysets, role }
}

/// Writes to the database past every manager.
async fn write(site: &Site, changes: Vec<Change>) {
    let commit = Commit { at: site.now(), changes, events: vec![] };
    site.store.inner.commit(&commit, &site.cluster.audit_key()).await.unwrap();
}

#[tokio::test]
async fn rows_without_our_seal_grant_nothing() {
    let site = Site::new();
    let running = site.start().await;
    let (_, mine) = running.token("token:mine", &[(Role::Operator, "*")]).await;
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    let thief = ClusterSecret::parse(&text).unwrap().row_sealer();
    let token = Token {
        id: KeyId::new(1, &[1; 10]),
        principal: principal("token:mine"),
        hash: TokenHash::from_bytes([1; 32]),
        expires_at: site.now() + Seconds::from_days(1),
    };
    let forged = grant("token:thief", Role::Distribution, "*");
    let good = SealedGrant {
        seal: site.cluster.row_sealer().seal(&forged.canonical()),
        grant: grant("token:thief", Role::Terminator, "*"),
    };
    write(
        &site,
        vec![
            Change::AddToken(SealedToken { seal: thief.seal(&token.canonical()), token }),
            Change::AddGrant(SealedGrant { seal: [0; 32], grant: forged }),
            // The seal of another row.
            Change::AddGrant(good),
        ],
    )
    .await;
    site.advance(&running, 5).await;
    let access = &running.published().access;
    assert_eq!(access.tokens(), std::slice::from_ref(&mine));
    assert_eq!(access.grants(), [grant("token:mine", Role::Operator, "*")]);
    assert_eq!(running.gauge("stek_manager_forged_rows"), 3.0);
    // They are not shown as anything that holds, and can be cleaned away.
    assert_eq!(running.operations().tokens().await.unwrap().len(), 1);
    let id = KeyId::new(1, &[1; 10]);
    assert!(running.operations().revoke_token(id, "test").await.unwrap());
    site.advance(&running, 5).await;
    assert_eq!(running.gauge("stek_manager_forged_rows"), 2.0);
    assert_eq!(running.published().access.tokens(), [mine]);
}

#[tokio::test]
async fn a_revoked_token_takes_the_grants_along_with_the_last_of_its_principal() {
    let site = Site::new();
    let running = site.start().await;
    let (_, first) = running.token("token:edge", &[(Role::Terminator, "main")]).await;
    let (_, second) = running.token("token:edge", &[(Role::Terminator, "other")]).await;
    let operations = running.operations();
    let rows = operations.tokens().await.unwrap();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.grants.len() == 2));
    assert!(operations.revoke_token(first.id, "test").await.unwrap());
    let feed = running.until(|feed| feed.access.tokens().len() == 1).await;
    assert_eq!((&feed.access.tokens()[0], feed.access.grants().len()), (&second, 2));
    assert!(operations.revoke_token(second.id, "test").await.unwrap());
    let feed = running.until(|feed| feed.access.tokens().is_empty()).await;
    assert!(feed.access.grants().is_empty());
    assert!(!operations.revoke_token(second.id, "test").await.unwrap());
}

#[tokio::test]
async fn a_principal_with_more_grants_than_fit_a_commit_can_be_revoked() {
    let site = Site::new();
    let running = site.start().await;
    let mut tokens = Vec::new();
    for part in 0..3 {
        let names: Vec<_> = (0..100).map(|number| format!("k{part}-{number}")).collect();
        let grants: Vec<_> = names.iter().map(|name| (Role::Terminator, name.as_str())).collect();
        tokens.push(running.token("token:edge", &grants).await.1);
    }
    assert_eq!(running.published().access.grants().len(), 300);
    for token in tokens {
        assert!(running.operations().revoke_token(token.id, "test").await.unwrap());
    }
    running.until(|feed| feed.access.tokens().is_empty() && feed.access.grants().is_empty()).await;
    assert!(site.store.inner.access().await.unwrap().grants.is_empty());
}

#[tokio::test]
async fn a_revocation_goes_out_though_commits_and_reads_fail() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    let (_, token) = running.token("token:edge", &[(Role::Terminator, "main")]).await;
    // Another manager revokes it, and the database becomes one that cannot be written.
    write(&site, vec![Change::RemoveToken(token.id)]).await;
    site.store.fail("access", Fault::Unreachable, 1);
    site.store.fail("commit", Fault::Unreachable, u64::MAX);
    site.tick_until(&running, || running.published().access.tokens().is_empty()).await;
    site.tick_until(&running, || !running.unready().is_empty()).await;
}

#[tokio::test]
async fn an_expired_token_leaves_the_feed_and_a_double_one_never_gets_in() {
    let site = Site::new();
    let running = site.start().await;
    let expires_at = site.now() + Seconds::from_minutes(10);
    let new = NewToken {
        principal: principal("token:edge"),
        hash: TokenHash::from_bytes([7; 32]),
        expires_at,
        grants: vec![],
    };
    let operations = running.operations();
    let first_expiry = || running.gauge("stek_manager_next_token_expiry_timestamp_seconds") as u64;
    assert_eq!(first_expiry(), 0);
    operations.add_token(new.clone(), "test").await.unwrap();
    let (hash, later) = (TokenHash::from_bytes([8; 32]), expires_at + Seconds::from_minutes(9));
    let other = NewToken { hash, expires_at: later, ..new.clone() };
    operations.add_token(other, "test").await.unwrap();
    running.until(|feed| feed.access.tokens().len() == 2).await;
    assert_eq!(first_expiry(), expires_at.as_unix());
    let twice = operations.add_token(new, "test").await;
    assert!(matches!(twice, Err(OperationError::TokenExists)));
    site.clock.advance(Duration::from_secs(600));
    site.settle(&running).await;
    assert_eq!(running.published().access.tokens().len(), 1);
    assert_eq!(first_expiry(), later.as_unix());
}

/// A key after all others of `main` that no custody has wrapped.
async fn foreign_key(site: &Site, running: &Running) -> (StoredKey, KeysetUpdate) {
    let stored = site.store.inner.keyset(&name("main")).await.unwrap().unwrap();
    let policy = *stored.keyset.policy();
    let from = running.keyset("main").keys().last().unwrap().schedule.retire_at();
    let until = from + policy.rotation_period();
    let schedule = Schedule::planned(&policy, site.now(), from, until).unwrap();
    let (id, format) = (KeyId::new(1, &[9; 10]), TicketFormat::V1);
    let record = KeyRecord { id, format, kcv: Kcv::from_bytes([9; 8]), schedule };
    let key = StoredKey {
        record,
        wrapped: WrappedKey {
            seed: site.store.inner.seed().await.unwrap().unwrap().seed,
            epoch: Epoch::of(schedule.destroy_by() - Seconds::new(1)),
            nonce: [9; 12],
            ciphertext: [9; 48],
        },
    };
    let update = KeysetUpdate {
        name: name("main"),
        expected: stored.revision,
        expected_due: None,
        policy: None,
        steps: vec![KeyStep::Insert(key.clone())],
        publish: Some(stored.keyset.content_digest()),
        next_due: stored.next_due,
    };
    (key, update)
}

#[tokio::test]
async fn a_key_that_cannot_be_unwrapped_is_left_out_and_the_others_are_served() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    let before = running.keyset("main").keys().to_vec();
    let (key, update) = foreign_key(&site, &running).await;
    write(&site, vec![Change::UpdateKeyset(update)]).await;
    site.advance(&running, 5).await;
    assert_eq!(running.keyset("main").keys(), before);
    assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 1);
    assert!(before.iter().all(|held| held.id != key.record.id));
    assert_eq!(running.unready(), Vec::<String>::new());
}

#[tokio::test]
async fn a_row_changed_under_its_seal_is_left_out_though_its_key_is_held() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    let active = *running.keyset("main").active(site.now()).unwrap();
    // Somebody lets the active key live longer than it was made for.
    site.store.tamper(move |stored| {
        let key = stored.keys.iter_mut().find(|key| key.record.id == active.id).unwrap();
        let schedule = &key.record.schedule;
        key.record.schedule = Schedule::try_new(
            schedule.published_at(),
            schedule.activate_at(),
            schedule.retire_at(),
            schedule.destroy_at(),
            schedule.destroy_by() + Seconds::from_hours(1),
        )
        .unwrap();
    });
    running.operations().rotate(&name("main"), "test").await.unwrap_err();
    site.clock.advance(Duration::from_secs(1));
    running.operations().rotate(&name("main"), "test").await.unwrap();
    let without = |feed: &stek_core::feed::FeedState| {
        feed.keysets[&name("main")].keys().iter().all(|key| key.record.id != active.id)
    };
    running.until(without).await;
    assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 1);
}
