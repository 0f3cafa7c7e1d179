//! Operations and what of them is published; the metrics beside them.

use std::sync::Arc;
use std::time::Duration;

use stek_core::audit::AuditAction;
use stek_manager::OperationError;
use stek_store::{KeyStore, MAX_PAGE};
use stek_wire::admin::PolicyDocument;
use tokio::sync::Barrier;

use crate::fixture::{FAST, Site, name};
use crate::store::{Fault, Refusal};

#[tokio::test]
async fn every_operation_is_out_without_time_passing() {
    let site = Site::new();
    let running = site.start().await;
    let operations = running.operations();
    // The clock stands still: only being told of it can make the loop look.
    running.create("main", PolicyDocument::default()).await;
    let revision = |feed: &stek_core::feed::FeedState| feed.keysets[&name("main")].tag().revision;
    let policy = PolicyDocument { poll_interval_seconds: Some(30), ..PolicyDocument::default() };
    let effect = operations.change_policy(&name("main"), policy, "test").await.unwrap();
    let feed = running.until(|feed| revision(feed).as_u64() == effect.revision).await;
    assert_eq!(feed.keysets[&name("main")].policy().poll_interval().as_secs(), 30);
    site.clock.advance(Duration::from_secs(1));
    let effect = operations.rotate(&name("main"), "test").await.unwrap();
    let feed = running.until(|feed| revision(feed).as_u64() == effect.revision).await;
    let active = feed.keysets[&name("main")].keyset().active(site.now()).unwrap().id;
    assert!(
        effect
            .effects
            .iter()
            .any(|one| { one.action == "activate" && one.key == Some(active.to_string()) })
    );
    assert_eq!(effect.warnings.len(), 1, "the key has been out for a second only");
    operations.delete(&name("main"), "test").await.unwrap();
    running.until(|feed| feed.keysets.is_empty()).await;
    let trail = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    for action in
        [AuditAction::KeysetCreated, AuditAction::PolicyChanged, AuditAction::KeysetDeleted]
    {
        let of_it: Vec<_> = trail.iter().filter(|row| row.event.action == action).collect();
        assert_eq!((of_it.len(), of_it[0].event.actor.as_str()), (1, "test"));
    }
}

#[tokio::test]
async fn a_name_can_be_used_again() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    let first = running.keyset("main").keys().to_vec();
    running.operations().delete(&name("main"), "test").await.unwrap();
    running.operations().create(&name("main"), FAST, "test").await.unwrap();
    let feed = running
        .until(|feed| {
            let bundle = feed.keysets.get(&name("main"));
            bundle.is_some_and(|bundle| bundle.keys()[0].record.id != first[0].id)
        })
        .await;
    assert!(feed.tombstones.is_empty());
    assert!(feed.keysets[&name("main")].keyset().active(site.now()).is_some());
}

#[tokio::test]
async fn a_keyset_that_others_keep_changing_is_busy_and_one_that_is_gone_not_found() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", PolicyDocument::default()).await;
    site.clock.advance(Duration::from_secs(1));
    site.store.refuse(&name("main"), Refusal::Conflict);
    let busy = running.operations().rotate(&name("main"), "test").await;
    assert!(matches!(busy, Err(OperationError::Busy(_))));
    site.store.heal();
    let exists = running.operations().create(&name("main"), FAST, "test").await;
    assert!(matches!(exists, Err(OperationError::Exists(_))));
    let missing = running.operations().delete(&name("other"), "test").await;
    assert!(matches!(missing, Err(OperationError::NotFound(_))));
}

#[tokio::test]
async fn a_creation_is_answered_though_the_database_goes_away_right_after() {
    let site = Site::new();
    let running = site.start().await;
    site.store.fail("keyset", Fault::Unreachable, 1);
    let created = running.operations().create(&name("main"), FAST, "test").await.unwrap();
    site.store.heal();
    assert_eq!(created, running.operations().show(&name("main")).await.unwrap());
}

#[tokio::test]
async fn metrics_follow_the_conventions() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    let families = running.registry.gather();
    assert!(families.len() >= 15);
    for family in &families {
        let name = family.name();
        assert!(name.starts_with("stek_manager_"), "{name}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        let is_counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
        assert_eq!(name.ends_with("_total"), is_counter, "{name}");
        assert!(family.help().ends_with('.'), "{name}");
    }
    // Every outcome is there from the start, so that its first time is a rise.
    let passes = families.iter().find(|one| one.name() == "stek_manager_passes_total").unwrap();
    assert_eq!(passes.get_metric().len(), 8);
    assert_eq!(running.gauge("stek_manager_keysets"), 1.0);
}

#[tokio::test]
async fn the_end_waits_for_nothing() {
    let site = Site::new();
    let running = site.start().await;
    running.create("main", FAST).await;
    running.stop().await;
}

/// What was read before another change came out is not behind it.
#[tokio::test]
async fn a_change_that_comes_out_meanwhile_is_no_restored_database() {
    let site = Site::new();
    let running = site.start().await;
    let meeting = Arc::new(Barrier::new(2));
    *site.store.looking.lock().unwrap() = Some(Arc::clone(&meeting));
    let operations = running.operations();
    let slow = name("slow");
    let creating = operations.create(&slow, PolicyDocument::default(), "test");
    let overtaking = async {
        meeting.wait().await;
        running.create("quick", PolicyDocument::default()).await;
        running.until(|feed| feed.keysets.contains_key(&name("quick"))).await;
        meeting.wait().await;
    };
    let (created, ()) = tokio::join!(creating, overtaking);
    created.unwrap();
    running.until(|feed| feed.keysets.contains_key(&name("slow"))).await;
}
