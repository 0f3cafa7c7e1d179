//! The first start, the next ones, and those that must be refused.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use stek_core::audit::AuditAction;
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::{Custody, SeedMismatch};
use stek_custody::random::SystemRandom;
use stek_manager::{BootstrapError, claim_ratchet};
use stek_store::{KeyStore, MAX_PAGE};

use crate::fixture::Site;
use crate::store::Fault;

async fn claim(
    site: &Site,
    cluster: &Arc<ClusterSecret>,
    file: &str,
) -> Result<Custody, BootstrapError> {
    let (store, clock, random) = (site.store.as_ref(), site.clock.as_ref(), site.random.as_ref());
    claim_ratchet(store, cluster, &site.path(file), random, clock).await
}

#[tokio::test]
async fn the_first_start_claims_a_seed_and_the_next_one_finds_it() {
    let site = Site::new();
    let first = claim(&site, &site.cluster, "ratchet").await.unwrap();
    let (seed, epoch) = (first.seed_id(), first.epoch());
    drop(first);
    let again = claim(&site, &site.cluster, "ratchet").await.unwrap();
    assert_eq!((again.seed_id(), again.epoch()), (seed, epoch));
    let row = site.store.inner.seed().await.unwrap().unwrap();
    assert_eq!((row.seed, row.claimed_at), (seed, site.now()));
    let trail = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    assert_eq!(trail.len(), 1);
    assert_eq!(trail[0].event.action, AuditAction::SeedClaimed);
}

#[tokio::test]
async fn a_claim_whose_answer_is_lost_is_taken_up_by_the_next_start() {
    let site = Site::new();
    site.store.fail("claim_seed", Fault::AnswerLost, 1);
    let lost = claim(&site, &site.cluster, "ratchet").await.unwrap_err();
    assert!(matches!(lost, BootstrapError::Store(_)));
    let custody = claim(&site, &site.cluster, "ratchet").await.unwrap();
    assert_eq!(site.store.inner.seed().await.unwrap().unwrap().seed, custody.seed_id());
}

#[tokio::test]
async fn who_loses_the_race_for_the_first_seed_keeps_no_state() {
    let site = Site::new();
    let winner = claim(&site, &site.cluster, "winner").await.unwrap();
    site.store.fail("seed", Fault::AnswerLost, 1);
    let lost = claim(&site, &site.cluster, "loser").await.unwrap_err();
    assert!(matches!(lost, BootstrapError::NoState { seed, .. } if seed == winner.seed_id()));
    assert!(!site.path("loser").exists());
}

#[tokio::test]
async fn without_the_state_of_a_live_seed_there_is_no_start() {
    let site = Site::new();
    let seed = claim(&site, &site.cluster, "ratchet").await.unwrap().seed_id();
    let missing = claim(&site, &site.cluster, "elsewhere").await.unwrap_err();
    assert!(missing.to_string().contains(&seed.to_string()), "{missing}");
    assert!(missing.to_string().contains("elsewhere"), "{missing}");
    assert!(!site.path("elsewhere").exists(), "nothing was begun");
}

#[tokio::test]
async fn what_does_not_belong_together_is_refused() {
    let site = Site::new();
    drop(claim(&site, &site.cluster, "ratchet").await.unwrap());
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    let other = Arc::new(ClusterSecret::parse(&text).unwrap());
    let error = claim(&site, &other, "ratchet").await.unwrap_err();
    assert!(matches!(error, BootstrapError::Mismatch(SeedMismatch::OtherClusterSecret { .. })));
    let elsewhere = Site::new();
    drop(claim(&elsewhere, &site.cluster, "ratchet").await.unwrap());
    std::fs::copy(elsewhere.path("ratchet"), site.path("foreign")).unwrap();
    let error = claim(&site, &site.cluster, "foreign").await.unwrap_err();
    assert!(matches!(error, BootstrapError::Mismatch(SeedMismatch::OtherSeed { .. })));
}

#[tokio::test]
async fn a_state_file_that_others_may_read_is_refused() {
    let site = Site::new();
    drop(claim(&site, &site.cluster, "ratchet").await.unwrap());
    let mode = std::fs::Permissions::from_mode(0o640);
    std::fs::set_permissions(site.path("ratchet"), mode).unwrap();
    let error = claim(&site, &site.cluster, "ratchet").await.unwrap_err();
    assert!(matches!(error, BootstrapError::State(_)));
    assert!(error.to_string().contains("0640"), "{error}");
}

#[tokio::test]
async fn clocks_apart_begin_no_ratchet() {
    let site = Site::new();
    site.database_ahead.store(31_000, std::sync::atomic::Ordering::SeqCst);
    let error = claim(&site, &site.cluster, "ratchet").await.unwrap_err();
    assert!(matches!(error, BootstrapError::Clock(_)));
    assert!(!site.path("ratchet").exists());
}
