//! Several managers and one ratchet: joining, changing seeds with every step failing once, losing
//! them, and what is provably destroyed.

mod lost;
mod troubled;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use stek_core::access::{Role, TokenSecret};
use stek_core::audit::AuditAction;
use stek_core::time::Seconds;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId};
use stek_custody::cluster_secret::ClusterSecret;
use stek_custody::custody::Custody;
use stek_custody::random::SystemRandom;
use stek_custody::share::{JoinRequest, SealedState};
use stek_http::{Channel, Peer, Routes};
use stek_manager::{
    BootstrapError, Newcomer, OperationError, PeerError, Peers, RatchetRules, join_ratchet,
};
use stek_store::{KeyStore, MAX_PAGE, RatchetStore, Replica, SeedPhase};
use stek_wire::admin::{JoinDocument, PolicyDocument, StateDocument};
use tokio::sync::Barrier;
use tower::ServiceExt;

use crate::fixture::{FAST, Running, Site, name};
use crate::http::router;
use crate::store::Fault;

/// The admin APIs of the managers that can be asked, over the connection from `from`.
#[derive(Clone, Default)]
struct Directory(Arc<Mutex<Vec<Listed>>>);

/// The admin API of a manager, and a token that it knows.
type Listed = (Routes, Arc<TokenSecret>);

impl Directory {
    async fn list(&self, running: &Running) {
        let token = running.token("token:peer", &[(Role::Manager, "*")]).await.0;
        self.0.lock().unwrap().push((router(running), Arc::new(token)));
    }

    fn clear(&self) {
        self.0.lock().unwrap().clear();
    }
}

async fn post(
    router: Routes,
    token: &TokenSecret,
    peer: Option<Peer>,
    body: String,
) -> (StatusCode, Vec<u8>) {
    let mut request = Request::post("/admin/v1/ratchet/join")
        .header(AUTHORIZATION, format!("Bearer {}", token.expose_text()))
        .body(Body::from(body))
        .unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(peer);
    }
    let response = router.oneshot(request).await.unwrap();
    let status = response.status();
    (status, response.into_body().collect().await.unwrap().to_bytes().to_vec())
}

fn from(address: &str) -> Option<Peer> {
    let addr: SocketAddr = address.parse().unwrap();
    Some(Peer { addr, channel: Channel::Plain })
}

fn document(request: &JoinRequest) -> String {
    let (replica, seed) = (request.replica.to_string(), request.seed.to_string());
    JoinDocument::new(replica, seed, &request.challenge).encode()
}

#[async_trait]
impl Peers for Directory {
    async fn ask(&self, request: &JoinRequest) -> Result<SealedState, PeerError> {
        let peers = self.0.lock().unwrap().clone();
        let mut why = String::from("nobody is listed");
        for (router, token) in peers {
            let asked = post(router, &token, from("127.0.0.1:1"), document(request)).await;
            if asked.0 != StatusCode::OK {
                why = format!("{} {}", asked.0, String::from_utf8_lossy(&asked.1));
            }
            if let (StatusCode::OK, body) = asked {
                let state: StateDocument = serde_json::from_slice(&body).unwrap();
                let ciphertext = state.sealed().unwrap();
                return Ok(SealedState { epoch: Epoch::new(state.epoch), ciphertext });
            }
        }
        Err(PeerError::Refused(why.into()))
    }
}

async fn join(site: &Site, file: &str, peers: &dyn Peers) -> Result<Arc<Custody>, BootstrapError> {
    let path = site.path(file);
    let (store, clock) = (site.store.as_ref(), site.clock.as_ref());
    let (cluster, random) = (&site.cluster, site.random.as_ref());
    let newcomer = Newcomer { store, cluster, path: &path, random, clock, peers };
    let joining = join_ratchet(&newcomer);
    tokio::pin!(joining);
    // What needs no waiting takes no time; what waits for a peer does.
    for round in 0.. {
        tokio::select! {
            biased;
            joined = &mut joining => return joined.map(Arc::new),
            () = tokio::task::yield_now() => {}
        }
        if round > 1000 {
            site.clock.advance(Duration::from_millis(100));
        }
    }
    unreachable!("it waits with a bound")
}

fn start(site: &Site, custody: &Arc<Custody>, peers: &Directory) -> Running {
    let rules = RatchetRules { peers: Arc::new(peers.clone()), ..RatchetRules::default() };
    let mut parts = site.parts(Arc::clone(custody));
    parts.rules = rules;
    Site::start_of(parts)
}

/// Managers on the state files of these names, each known to the others.
async fn managers(site: &Site, files: &[&str]) -> (Directory, Vec<(Arc<Custody>, Running)>) {
    let peers = Directory::default();
    let mut all = Vec::new();
    for file in files {
        let custody = join(site, file, &peers).await.unwrap();
        let running = start(site, &custody, &peers);
        running.until(|_| true).await;
        peers.list(&running).await;
        all.push((custody, running));
    }
    (peers, all)
}

async fn seeds(site: &Site) -> Vec<(SeedId, SeedPhase)> {
    let rows = site.store.inner.ratchet().await.unwrap();
    rows.seeds.iter().map(|seed| (seed.row.seed, seed.phase)).collect()
}

async fn count(site: &Site, action: AuditAction) -> usize {
    let mut after = 0;
    let mut found = 0;
    loop {
        let page = site.store.inner.audit(after, MAX_PAGE).await.unwrap();
        let Some(last) = page.last() else { return found };
        after = last.sequence;
        found += page.iter().filter(|row| row.event.action == action).count();
    }
}

/// Whether one seed other than `old` is live, everybody holds that one alone, and all keys open.
async fn has_moved_on(site: &Site, old: SeedId, all: &[(Arc<Custody>, Running)]) -> bool {
    let rows = site.store.inner.ratchet().await.unwrap();
    let live = rows.in_phase(SeedPhase::Live).unwrap().seed;
    let alone = |custody: &Custody| custody.seed_id() == live && custody.next_seed().is_none();
    live != old
        && rows.seeds.len() == 1
        && all.iter().all(|(custody, _)| alone(custody))
        && rows.replicas.iter().all(|replica| replica.seed == live && replica.next_seed.is_none())
        && site.store.inner.wrapped_elsewhere(live, 1).await.unwrap().is_empty()
}

async fn until_moved_on(site: &Site, old: SeedId, all: &[(Arc<Custody>, Running)]) {
    for _ in 0..400 {
        if has_moved_on(site, old, all).await {
            return;
        }
        for (_, running) in all {
            site.tick(running).await;
        }
    }
    panic!("seeds have not changed: {:?}", seeds(site).await);
}

#[tokio::test]
async fn a_second_manager_joins_and_serves_the_same_keys() {
    let site = Site::new();
    let (_, all) = managers(&site, &["one", "two"]).await;
    let [(one, first), (two, second)] = all.as_slice() else { panic!() };
    assert_eq!((one.seed_id(), one.epoch()), (two.seed_id(), two.epoch()));
    assert_ne!(one.replica(), two.replica());
    assert_eq!(count(&site, AuditAction::ManagerJoined).await, 1);
    let trail = site.store.inner.audit(0, MAX_PAGE).await.unwrap();
    let joined = trail.iter().find(|row| row.event.action == AuditAction::ManagerJoined).unwrap();
    assert_eq!(joined.event.actor, "token:peer");
    assert!(joined.event.reason.contains(&two.replica().to_string()), "{}", joined.event.reason);
    first.create("main", FAST).await;
    site.tick_until(second, || second.published().keysets.contains_key(&name("main"))).await;
    let (mine, theirs) = (first.keyset("main"), second.keyset("main"));
    assert_eq!(mine.keys()[0].kcv, theirs.keys()[0].kcv);
    site.tick(first).await;
    let shown = first.operations().ratchet().await.unwrap();
    assert_eq!(shown.replicas.len(), 2);
    assert!(shown.replicas.iter().all(|replica| replica.behind == 0), "{shown:?}");
    assert_eq!(first.gauge("stek_manager_ratchet_replicas"), 2.0);
}

#[tokio::test]
async fn the_state_is_given_to_managers_over_channels_that_others_cannot_read() {
    let site = Site::new();
    let (peers, all) = managers(&site, &["one"]).await;
    let (custody, running) = &all[0];
    let (router, manager) = peers.0.lock().unwrap()[0].clone();
    let request =
        JoinRequest { replica: custody.replica(), seed: custody.seed_id(), challenge: [7; 32] };
    let body = document(&request);
    let ask = |token: Arc<TokenSecret>, peer, body: &str| {
        let (router, body) = (router.clone(), body.to_owned());
        async move { post(router, &token, peer, body).await }
    };
    for (who, role, keysets) in
        [("a", Role::Operator, "*"), ("b", Role::Manager, "main"), ("c", Role::Distribution, "*")]
    {
        let token = Arc::new(running.token(who, &[(role, keysets)]).await.0);
        assert_eq!(ask(token, from("127.0.0.1:1"), &body).await.0, StatusCode::FORBIDDEN, "{who}");
    }
    let plain = ask(Arc::clone(&manager), from("192.0.2.1:1"), &body).await;
    assert_eq!(plain.0, StatusCode::FORBIDDEN);
    assert_eq!(ask(Arc::clone(&manager), None, &body).await.0, StatusCode::FORBIDDEN);
    let other = JoinRequest { seed: SeedId::from_bytes([1; 16]), ..request };
    let unknown = ask(Arc::clone(&manager), from("[::1]:1"), &document(&other)).await;
    assert_eq!(unknown.0, StatusCode::CONFLICT);
    let bad = ask(Arc::clone(&manager), from("[::1]:1"), "{\"replica\":\"x\"}").await;
    assert_eq!(bad.0, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(count(&site, AuditAction::ManagerJoined).await, 0, "nobody was given it");
    let (status, given) = ask(manager, from("[::1]:1"), &body).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(count(&site, AuditAction::ManagerJoined).await, 1);
    // Without the cluster secret it is of no use.
    let given: StateDocument = serde_json::from_slice(&given).unwrap();
    let ciphertext = given.sealed().unwrap();
    let sealed = SealedState { epoch: Epoch::new(given.epoch), ciphertext };
    let text = ClusterSecret::generate_text(&SystemRandom).unwrap();
    assert!(sealed.open(&request, &ClusterSecret::parse(&text).unwrap()).is_err());
    assert!(sealed.open(&request, &site.cluster).is_ok());
}

#[tokio::test]
async fn who_loses_the_race_for_the_first_seed_joins_the_winner() {
    let site = Site::new();
    let (peers, all) = managers(&site, &["winner"]).await;
    site.store.fail("seed", Fault::AnswerLost, 1);
    let loser = join(&site, "loser", &peers).await.unwrap();
    assert_eq!(loser.seed_id(), all[0].0.seed_id());
}

#[tokio::test]
async fn a_newcomer_waits_for_a_peer_with_a_bound_and_begins_nothing_beside_a_live_seed() {
    let site = Site::new();
    let (peers, all) = managers(&site, &["one"]).await;
    let seed = all[0].0.seed_id();
    peers.clear();
    let begun = site.now();
    let refused = join(&site, "two", &peers).await.unwrap_err();
    assert!((60..70).contains(&site.now().since(begun).as_secs()), "it waits for a minute");
    assert!(matches!(refused, BootstrapError::NoState { seed: named, .. } if named == seed));
    assert!(refused.to_string().contains("[peers]"), "{refused}");
    assert!(!site.path("two").exists());
    assert_eq!(seeds(&site).await, [(seed, SeedPhase::Live)]);
}

#[tokio::test]
async fn seeds_change_in_two_phases_and_nothing_else_does() {
    let site = Site::new();
    let (_, all) = managers(&site, &["one", "two", "three"]).await;
    let first = &all[0].1;
    first.create("main", PolicyDocument::default()).await;
    let (old, keyset) = (all[0].0.seed_id(), first.keyset("main"));
    let revision = first.published().keysets[&name("main")].tag().revision;
    first.operations().reseed("token:root").await.unwrap();
    let again = first.operations().reseed("token:root").await;
    assert!(matches!(again, Err(OperationError::Ratchet(_))));
    until_moved_on(&site, old, &all).await;
    for (_, running) in &all {
        assert_eq!(running.keyset("main"), keyset);
        assert_eq!(running.published().keysets[&name("main")].tag().revision, revision);
        assert_eq!(running.counter("stek_manager_unwrap_failures_total", None), 0);
    }
    assert_eq!(count(&site, AuditAction::SeedPromoted).await, 1);
    assert_eq!(count(&site, AuditAction::SeedEnded).await, 1);
    assert_eq!(count(&site, AuditAction::DestructionUnproven).await, 0);
}

#[tokio::test]
async fn old_seeds_are_exchanged_by_themselves() {
    let site = Site::new();
    let (_, all) = managers(&site, &["one"]).await;
    let old = all[0].0.seed_id();
    all[0].1.create("main", PolicyDocument::default()).await;
    site.advance(&all[0].1, 7 * 24 * 3600 - 60).await;
    assert_eq!(all[0].0.seed_id(), old);
    site.advance(&all[0].1, 60).await;
    until_moved_on(&site, old, &all).await;
}

#[tokio::test]
async fn a_manager_that_is_away_is_not_waited_for_for_ever_and_joins_again() {
    let site = Site::new();
    let (peers, mut all) = managers(&site, &["one", "two"]).await;
    all[0].1.create("main", PolicyDocument::default()).await;
    let (away, running) = all.pop().unwrap();
    let old = away.seed_id();
    running.stop().await;
    drop(away);
    all[0].1.operations().reseed("test").await.unwrap();
    for _ in 0..10 {
        site.tick(&all[0].1).await;
    }
    assert!(seeds(&site).await.contains(&(old, SeedPhase::Live)), "it is waited for");
    let promoted = || all[0].0.seed_id() != old;
    site.tick_until(&all[0].1, promoted).await;
    assert_eq!(count(&site, AuditAction::DestructionUnproven).await, 1);
    site.tick(&all[0].1).await;
    assert_eq!(all[0].1.gauge("stek_manager_ratchet_unproven_replicas"), 1.0);
    // Without a peer it cannot come back; with one it does.
    peers.clear();
    peers.list(&all[0].1).await;
    let alone = join(&site, "two", &stek_manager::NoPeers).await.unwrap_err();
    assert!(matches!(alone, BootstrapError::Mismatch(_)), "{alone}");
    let back = join(&site, "two", &peers).await.unwrap();
    all.push((Arc::clone(&back), start(&site, &back, &peers)));
    until_moved_on(&site, old, &all).await;
    site.tick(&all[0].1).await;
    assert_eq!(all[0].1.gauge("stek_manager_ratchet_unproven_replicas"), 0.0);
}

#[tokio::test]
async fn an_offer_does_not_come_between_what_a_pass_reads_and_what_it_erases() {
    let site = Site::new();
    let (_, all) = managers(&site, &["one"]).await;
    let (custody, running) = &all[0];
    let (old, operations) = (custody.seed_id(), running.operations());
    let meeting = Arc::new(Barrier::new(2));
    *site.store.meeting.lock().unwrap() = Some(Arc::clone(&meeting));
    site.clock.advance(Duration::from_secs(5));
    // The pass has read the seeds, and goes on only when the offer has had time: all that it does
    // on this thread would be done by then.
    meeting.wait().await;
    let mut offering = std::pin::pin!(operations.reseed("test"));
    let had_time = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = &mut offering => panic!("it came between"),
        () = had_time => {}
    }
    meeting.wait().await;
    offering.await.unwrap();
    until_moved_on(&site, old, &all).await;
    assert_eq!(count(&site, AuditAction::SeedWithdrawn).await, 0);
}

/// Each step of a change of seeds fails once in each way, and once the manager is started anew at
/// that point from its files.
#[tokio::test]
async fn whatever_fails_seeds_change_in_the_end() {
    for step in ["offer", "promote", "rewrap", "end", "report_replica", "ratchet"] {
        for fault in [Fault::Unreachable, Fault::AnswerLost, Fault::Panic] {
            if fault == Fault::Panic && step == "offer" {
                continue; // It would be the operator's request that panics.
            }
            let site = Site::new();
            let (peers, mut all) = managers(&site, &["one", "two"]).await;
            all[0].1.create("main", PolicyDocument::default()).await;
            let (old, keyset) = (all[0].0.seed_id(), all[0].1.keyset("main"));
            site.store.fail(step, fault, 1);
            // If its answer was lost it is on its way all the same.
            let asked = all[0].1.operations().reseed("test").await;
            if asked.is_err() && seeds(&site).await.len() == 1 {
                // The state that was made for it goes with the next pass.
                site.tick(&all[0].1).await;
                all[0].1.operations().reseed("test").await.unwrap();
            }
            for _ in 0..6 {
                site.tick(&all[0].1).await;
            }
            let (custody, running) = all.remove(0);
            running.stop().await;
            drop(custody);
            peers.clear();
            peers.list(&all[0].1).await;
            let again = join(&site, "one", &peers).await.unwrap();
            let running = start(&site, &again, &peers);
            running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
            peers.list(&running).await;
            all.insert(0, (again, running));
            until_moved_on(&site, old, &all).await;
            for (_, running) in &all {
                let keys = |keyset: &stek_core::keyset::Keyset| -> Vec<_> {
                    keyset.keys().iter().map(|key| key.kcv).collect()
                };
                assert_eq!(keys(&running.keyset("main")), keys(&keyset), "{step} {fault:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_offer_of_a_manager_that_is_gone_is_taken_back() {
    let site = Site::new();
    let (peers, mut all) = managers(&site, &["one", "two"]).await;
    let (leader, running) = all.remove(0);
    let old = leader.seed_id();
    running.stop().await;
    // The offer is made, and nobody can fetch it.
    let alone = start(&site, &leader, &Directory::default());
    alone.until(|_| true).await;
    alone.operations().reseed("test").await.unwrap();
    alone.stop().await;
    drop(leader);
    peers.clear();
    site.tick_until(&all[0].1, || all[0].1.gauge("stek_manager_reseeding") == 1.0).await;
    site.tick_until(&all[0].1, || all[0].1.gauge("stek_manager_reseeding") == 0.0).await;
    assert_eq!(seeds(&site).await, [(old, SeedPhase::Live)]);
    // Whoever made it drops the state.
    peers.list(&all[0].1).await;
    let back = join(&site, "one", &peers).await.unwrap();
    assert!(back.next_seed().is_some());
    let running = start(&site, &back, &peers);
    site.tick_until(&running, || back.next_seed().is_none()).await;
}

#[tokio::test]
async fn ended_keys_are_destroyed_once_every_manager_has_passed_their_epoch() {
    let site = Site::new();
    let (peers, mut all) = managers(&site, &["one", "two"]).await;
    all[0].1.create("main", FAST).await;
    let has_ended = || !all[0].1.published().keysets[&name("main")].ended().is_empty();
    site.tick_until(&all[0].1, has_ended).await;
    let (slow, running) = all.pop().unwrap();
    running.stop().await;
    let (custody, running) = &all[0];
    let shown = || async { running.operations().show(&name("main")).await.unwrap().ended };
    let ended = shown().await[0].id.clone();
    let proof = || async {
        let keys = shown().await;
        keys.iter().find(|key| key.id == ended).unwrap().provably_destroyed_at.clone()
    };
    assert_eq!(proof().await, None);
    // The hour passes for one manager; the other is away, and may have kept its state.
    site.advance(running, 3 * 3600).await;
    for _ in 0..20 {
        site.tick(running).await;
    }
    assert_eq!(custody.epoch(), Epoch::of(site.now()));
    assert_eq!(proof().await, None);
    assert_eq!(running.gauge("stek_manager_ratchet_behind_epochs"), 3.0);
    let back = start(&site, &slow, &peers);
    back.until(|_| true).await;
    for _ in 0..20 {
        site.tick(running).await;
    }
    assert!(proof().await.is_some());
    assert_eq!(running.gauge("stek_manager_ratchet_behind_epochs"), 0.0);
}

/// Whoever was given a state holds it, whether it has said so or not.
#[tokio::test]
async fn nothing_is_destroyed_that_a_state_unwraps_which_was_given_away() {
    let site = Site::new();
    let (_, all) = managers(&site, &["one"]).await;
    let (custody, running) = &all[0];
    let (seed, given_at) = (custody.seed_id(), custody.epoch());
    running.create("main", FAST).await;
    let has_ended = || !running.published().keysets[&name("main")].ended().is_empty();
    site.tick_until(running, has_ended).await;
    let shown = || async { running.operations().show(&name("main")).await.unwrap().ended };
    let ended = shown().await[0].id.clone();
    let replica = ReplicaId::from_bytes([9; 16]);
    let request = JoinRequest { replica, seed, challenge: [1; 32] };
    running.operations().share(&request, "token:peer").await.unwrap();
    let holder = || async {
        let rows = site.store.inner.ratchet().await.unwrap();
        rows.replicas.into_iter().find(|one| one.id == replica).unwrap()
    };
    assert_eq!((holder().await.seed, holder().await.epoch), (seed, given_at));
    site.advance(running, 3 * 3600).await;
    for _ in 0..20 {
        site.tick(running).await;
    }
    let keys = shown().await;
    let key = keys.iter().find(|key| key.id == ended).unwrap();
    assert_eq!(key.provably_destroyed_at, None);
    // Given it once more at a later epoch, it may still have kept the first.
    running.operations().share(&request, "token:peer").await.unwrap();
    assert_eq!(holder().await.epoch, given_at);
    let later = Replica { epoch: custody.epoch(), ..holder().await };
    site.store.inner.report_replica(&later).await.unwrap();
    site.tick(running).await;
    let keys = shown().await;
    let key = keys.iter().find(|key| key.id == ended).unwrap();
    assert!(key.provably_destroyed_at.is_some(), "it says that it has gone on");
}

#[tokio::test]
async fn a_manager_says_what_it_holds_once_a_minute_and_is_forgotten_after_a_week() {
    let site = Site::new();
    let (_, mut all) = managers(&site, &["one", "two"]).await;
    let (_, gone) = all.pop().unwrap();
    gone.stop().await;
    let running = &all[0].1;
    site.settle(running).await;
    let before = site.store.reports.load(Ordering::SeqCst);
    for _ in 0..60 {
        site.tick(running).await;
    }
    let said = site.store.reports.load(Ordering::SeqCst) - before;
    assert!((4..=6).contains(&said), "{said} times in five minutes");
    site.advance(running, Seconds::from_days(7).as_secs() - 400).await;
    assert_eq!(site.store.inner.ratchet().await.unwrap().replicas.len(), 2);
    site.advance(running, 400).await;
    assert_eq!(site.store.inner.ratchet().await.unwrap().replicas.len(), 1);
    assert_eq!(count(&site, AuditAction::ReplicaForgotten).await, 1);
}

/// Its row stands for what it could unwrap, or a proof would be made of its silence.
#[tokio::test]
async fn a_manager_that_could_unwrap_is_forgotten_only_with_the_keys_that_it_could() {
    let site = Site::new();
    let (_, mut all) = managers(&site, &["one", "two"]).await;
    let (custody, running) = &all[0];
    running.create("main", PolicyDocument::default()).await;
    let seed = custody.seed_id();
    let (_, gone) = all.pop().unwrap();
    gone.stop().await;
    let running = &all[0].1;
    let known = || async { site.store.inner.ratchet().await.unwrap().replicas.len() };
    let proofs = || async { site.store.inner.proofs(&name("main")).await.unwrap().len() };
    let day = Seconds::from_days(1).as_secs();
    // The seed is exchanged after a week, and keys are remembered for another.
    site.advance(running, 8 * day).await;
    let exchanged = || all[0].0.seed_id() != seed && all[0].0.next_seed().is_none();
    site.tick_until(running, exchanged).await;
    for _ in 0..20 {
        site.tick(running).await;
    }
    assert_eq!(known().await, 2, "keys that ended under its seed are remembered");
    let before = proofs().await;
    site.advance(running, 7 * day).await;
    for _ in 0..20 {
        site.tick(running).await;
    }
    assert_eq!(known().await, 1);
    assert!(proofs().await > before, "of keys that it never held");
}

#[tokio::test]
async fn a_jump_of_the_clock_is_followed_once_an_operator_vouches_for_it() {
    let site = Site::new();
    let custody = site.claim("ratchet").await;
    let running = site.start_with(Arc::clone(&custody));
    running.create("main", FAST).await;
    let epoch = custody.epoch();
    site.clock.set_wall_millis(site.clock_millis() + 25 * 3_600_000);
    site.tick(&running).await;
    assert_eq!(running.unready(), ["the clock jumped"]);
    site.database_ahead.store(31_000, Ordering::SeqCst);
    let refused = running.operations().confirm_clock("token:root").await;
    assert!(matches!(refused, Err(OperationError::Clock(_))), "the database says otherwise");
    site.database_ahead.store(0, Ordering::SeqCst);
    assert_eq!(custody.epoch(), epoch);
    running.operations().confirm_clock("token:root").await.unwrap();
    site.tick_until(&running, || running.unready().is_empty()).await;
    assert_eq!(custody.epoch(), Epoch::of(site.now()));
    assert_eq!(count(&site, AuditAction::ClockConfirmed).await, 1);
}
