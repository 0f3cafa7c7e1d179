//! What the manager makes of who holds what: activations that wait, and the answer to operators.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use stek_core::audit::AuditAction;
use stek_core::check_in::{
    Census, Holding, KeysetTally, Laggard, MAX_LAGGARDS, ReplicaId, ReplicaTally,
};
use stek_core::id::Revision;
use stek_core::name::InstanceName;
use stek_core::policy::ActivationQuorum;
use stek_core::time::Timestamp;
use stek_store::KeyStore;
use stek_wire::admin::PolicyDocument;

use crate::fixture::{FAST, Running, Site, eventually, name, principal};

/// Replica `replica` sees so many instances that hold these revisions, and have polled twice by now.
fn tally(site: &Site, running: &Running, replica: &str, holdings: &[(u64, u32)]) -> ReplicaTally {
    let feed = running.published();
    let newest = feed.keysets[&name("main")].tag().revision;
    let holding = |(revision, instances): &(u64, u32)| Holding {
        revision: Revision::new(*revision),
        instances: *instances,
        twice_since: Some(site.now()),
    };
    let late = holdings.iter().filter(|(revision, _)| Revision::new(*revision) < newest);
    let laggard = |(revision, _): &(u64, u32)| Laggard {
        principal: principal("token:edge"),
        instance: InstanceName::try_new(&format!("edge-at-{revision}")).unwrap(),
        revision: Revision::new(*revision),
        last_seen: site.now(),
        clock_offset_millis: Some(7),
    };
    let tally = KeysetTally {
        newest,
        holdings: holdings.iter().map(holding).collect(),
        laggards: late.map(laggard).collect(),
        uncounted: 0,
    };
    let name_of = InstanceName::try_new(replica).unwrap();
    ReplicaTally {
        replica: ReplicaId { principal: Some(principal("token:distribution")), name: name_of },
        age: Duration::ZERO,
        incarnation: feed.incarnation,
        keysets: BTreeMap::from([(name("main"), Arc::new(tally))]),
    }
}

fn report(site: &Site, running: &Running, holdings: &[(u64, u32)]) {
    let replicas = vec![tally(site, running, "eu-1", holdings)];
    running.manager.confirmations().replace(Census { replicas });
}

fn newest(running: &Running) -> u64 {
    running.published().keysets[&name("main")].tag().revision.as_u64()
}

/// When the key that seals now ceases to, in seconds from the start.
fn boundary(site: &Site, running: &Running, start: Timestamp) -> u64 {
    let keyset = running.keyset("main");
    keyset.active(site.now()).unwrap().schedule.retire_at().since(start).as_secs()
}

async fn actions(site: &Site, wanted: AuditAction) -> usize {
    let trail = site.store.audit(0, 1000).await.unwrap();
    trail.iter().filter(|row| row.event.action == wanted).count()
}

/// Lets seconds pass, each with a report; only the last must be one in which something is due.
async fn go_on(site: &Site, running: &Running, seconds: u64, holdings: &[(u64, u32)]) {
    for second in 1..=seconds {
        report(site, running, holdings);
        site.clock.advance(Duration::from_secs(1));
        if second == seconds {
            site.settle(running).await;
        }
    }
}

/// A manager that has been there for a while, with ten-second keys that begin now.
async fn begin(policy: PolicyDocument) -> (Site, Running, Timestamp) {
    let site = Site::new();
    let running = site.start().await;
    site.advance(&running, 60).await;
    running.create("main", policy).await;
    let start = site.now();
    (site, running, start)
}

#[tokio::test]
async fn an_activation_waits_for_an_instance_that_lacks_the_key() {
    let (site, running, start) = begin(FAST).await;
    let held = newest(&running);
    assert_eq!(boundary(&site, &running, start), 10);
    // 1 s poll + 1 s skew + 2 s before the boundary.
    go_on(&site, &running, 6, &[(held, 3), (held - 1, 1)]).await;
    assert_eq!(boundary(&site, &running, start), 14);
    // Two keys moved, with reasons.
    assert_eq!(actions(&site, AuditAction::KeyRescheduled).await, 2);
    assert_eq!(running.counter("stek_manager_rescheduled_keys_total", None), 2);
    let trail = site.store.audit(0, 1000).await.unwrap();
    assert!(trail.iter().any(|row| row.event.reason.contains("instances lack the next key")));
    // It gets there, though not to the newest revision: what counts is that it holds the key.
    go_on(&site, &running, 4, &[(held, 4)]).await;
    go_on(&site, &running, 4, &[(held, 4)]).await;
    assert_eq!(boundary(&site, &running, start), 24, "the next key seals since 14 s");
    assert_eq!(actions(&site, AuditAction::ActivationForced).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn rotation_goes_on_at_the_deadline_and_an_alarm_is_raised_once() {
    let policy = PolicyDocument { activation_deadline_seconds: Some(9), ..FAST };
    let (site, running, start) = begin(policy).await;
    // Two steps of 4 s fit into 9 s; decided at 6, 10 and 14 s.
    for seconds in [6, 4, 4] {
        go_on(&site, &running, seconds, &[(0, 1)]).await;
    }
    assert_eq!(boundary(&site, &running, start), 18);
    assert_eq!(actions(&site, AuditAction::ActivationForced).await, 1);
    assert_eq!(running.counter("stek_manager_forced_activations_total", None), 1);
    go_on(&site, &running, 4, &[(0, 1)]).await;
    assert!(boundary(&site, &running, start) > 18, "it has activated");
    assert_eq!(actions(&site, AuditAction::ActivationForced).await, 1);
    running.stop().await;
}

/// As of one credential that invents instances.
#[tokio::test]
async fn laggards_for_ever_stop_no_rotation() {
    // It is decided six seconds before, and a tick is five.
    let minutes = PolicyDocument {
        rotation_period_seconds: Some(60),
        ticket_lifetime_seconds: Some(60),
        clock_skew_seconds: Some(3),
        lead_seconds: Some(60),
        session_lifetime_seconds: Some(600),
        ..FAST
    };
    let (site, running, _) = begin(minutes).await;
    let mut planned = BTreeMap::new();
    let mut sealed = BTreeSet::new();
    for _ in 0..240 {
        report(&site, &running, &[(0, 16)]);
        site.tick(&running).await;
        let keyset = running.keyset("main");
        for key in keyset.keys() {
            let at = key.schedule.activate_at();
            let first = *planned.entry(key.id).or_insert(at);
            assert!(at.since(first).as_secs() <= 60, "the deadline is the lead of a minute");
        }
        sealed.insert(keyset.active(site.now()).expect("some key seals at every instant").id);
    }
    // Twenty minutes, and each key late by one at the most.
    let forced = actions(&site, AuditAction::ActivationForced).await;
    assert!(sealed.len() >= 10 && forced >= sealed.len() - 2, "{} {forced}", sealed.len());
    let counted = || running.counter("stek_manager_forced_activations_total", None) as usize;
    eventually(|| counted() == forced).await;
    running.stop().await;
}

#[tokio::test]
async fn a_quorum_that_is_turned_on_late_counts_for_the_next_activation() {
    let off = PolicyDocument { activation_quorum: Some(ActivationQuorum::Off), ..FAST };
    let on = PolicyDocument { activation_quorum: Some(ActivationQuorum::All), ..off };
    for (deadline, boundary_then, forced) in [(10, 18, 0), (4, 14, 1)] {
        let (site, running, start) = begin(off).await;
        go_on(&site, &running, 8, &[(0, 1)]).await;
        assert_eq!(boundary(&site, &running, start), 10);
        let on = PolicyDocument { activation_deadline_seconds: Some(deadline), ..on };
        // What is decided 4 s before is late, and not left out.
        running.operations().change_policy(&name("main"), on, "test").await.unwrap();
        go_on(&site, &running, 1, &[(0, 1)]).await;
        assert_eq!(boundary(&site, &running, start), 14, "{deadline}");
        go_on(&site, &running, 1, &[(0, 1)]).await;
        assert_eq!(boundary(&site, &running, start), boundary_then, "{deadline}");
        assert_eq!(actions(&site, AuditAction::ActivationForced).await, forced, "{deadline}");
        running.stop().await;
    }
}

#[tokio::test]
async fn nothing_waits_where_that_is_off_or_nobody_reports_any_more() {
    let policy = PolicyDocument { activation_quorum: Some(ActivationQuorum::Off), ..FAST };
    let (site, running, start) = begin(policy).await;
    go_on(&site, &running, 10, &[(0, 1)]).await;
    assert_eq!(boundary(&site, &running, start), 20, "the next key seals since 10 s");
    running.stop().await;

    let slow = PolicyDocument {
        rotation_period_seconds: Some(60),
        ticket_lifetime_seconds: Some(60),
        lead_seconds: Some(60),
        ..FAST
    };
    let (site, running, start) = begin(slow).await;
    report(&site, &running, &[(0, 1)]);
    // A replica that has fallen silent holds nothing up.
    site.advance(&running, 56).await;
    assert_eq!(boundary(&site, &running, start), 60);
    assert_eq!(actions(&site, AuditAction::ActivationForced).await, 0);
    running.stop().await;
}

#[tokio::test]
async fn a_manager_that_has_just_started_does_not_take_silence_for_consent() {
    let (site, running, start) = begin(FAST).await;
    site.clock.advance(Duration::from_secs(3));
    running.stop().await;
    let restarted = site.start_with(site.claim("ratchet").await);
    restarted.until(|_| true).await;
    site.advance(&restarted, 3).await;
    assert_eq!(boundary(&site, &restarted, start), 14, "decided at 6 s, three seconds after start");
    // By the next decision it knows that nobody reports.
    site.advance(&restarted, 4).await;
    assert_eq!(boundary(&site, &restarted, start), 14);
    restarted.stop().await;
}

#[tokio::test]
async fn operators_learn_who_holds_what() {
    let (site, running, _) = begin(PolicyDocument::default()).await;
    let ask = |revision: Option<u64>| {
        running.operations().terminators(&name("main"), revision.map(Revision::new)).unwrap()
    };
    let held = newest(&running);
    let unconfirmed = || running.counter("stek_manager_unconfirmed_instances", Some("main"));
    let nothing = ask(None);
    assert_eq!(unconfirmed(), 0);
    assert_eq!((nothing.instances, nothing.confirmed, nothing.revision), (None, None, held));
    assert!(running.operations().terminators(&name("other"), None).is_err());

    let replicas = vec![
        tally(&site, &running, "eu-1", &[(held, 5), (held - 1, 2)]),
        tally(&site, &running, "eu-2", &[(held, 1)]),
    ];
    running.manager.confirmations().replace(Census { replicas });
    site.clock.advance(Duration::from_secs(2));
    let known = ask(None);
    assert_eq!((known.instances, known.confirmed), (Some(8), Some(6)));
    assert_eq!(unconfirmed(), 2);
    assert_eq!(known.replicas.len(), 2);
    assert_eq!((known.replicas[0].instances, known.replicas[0].age_ms), (7, 2000));
    assert_eq!(known.lagging.len(), 1);
    assert_eq!(known.lagging[0].instance, format!("edge-at-{}", held - 1));
    assert_eq!(known.lagging[0].replica.as_deref(), Some("eu-1"));
    assert_eq!(known.lagging[0].clock_offset_ms, Some(7));
    assert!(known.truncated, "two lag, one is named");
    let before = ask(Some(held - 1));
    assert_eq!((before.confirmed, before.lagging.len(), before.truncated), (Some(8), 0, false));

    site.clock.advance(Duration::from_secs(13));
    assert_eq!(ask(None).instances, Some(8));
    site.clock.advance(Duration::from_secs(1));
    assert_eq!(ask(None).instances, None, "the word of a silent replica does not last");
    assert_eq!(unconfirmed(), 0);
    running.stop().await;
}

#[tokio::test]
async fn no_more_laggards_are_named_than_allowed() {
    let (site, running, _) = begin(PolicyDocument::default()).await;
    let replica = |n: u32| {
        let mut one = tally(&site, &running, &format!("eu-{n}"), &[(0, 100)]);
        let keyset = Arc::make_mut(one.keysets.get_mut(&name("main")).unwrap());
        keyset.laggards = vec![keyset.laggards[0].clone(); MAX_LAGGARDS];
        keyset.uncounted = 5;
        one
    };
    let replicas = (0..4).map(replica).collect();
    running.manager.confirmations().replace(Census { replicas });
    let known = running.operations().terminators(&name("main"), None).unwrap();
    // All have one credential, which counts for sixteen, wherever it is used.
    assert_eq!((known.lagging.len(), known.truncated, known.uncounted), (100, true, 20 + 384));
    assert_eq!((known.instances, known.confirmed), (Some(16), Some(0)));
    let unconfirmed = running.counter("stek_manager_unconfirmed_instances", Some("main"));
    assert_eq!(unconfirmed, 16 + 404, "as operators are told");
    running.stop().await;
}

#[tokio::test]
async fn instances_of_another_lineage_say_nothing() {
    let (site, running, start) = begin(FAST).await;
    let mut other = tally(&site, &running, "eu-1", &[(0, 1)]);
    other.incarnation = stek_core::id::Incarnation::from_bytes([9; 16]);
    running.manager.confirmations().replace(Census { replicas: vec![other] });
    site.advance(&running, 6).await;
    assert_eq!(boundary(&site, &running, start), 10);
    running.stop().await;
}
