//! The verdict on an audit trail that somebody with the database has changed, and what is left of
//! one whose oldest lines have gone.

use std::time::Duration;

use stek_core::audit::ChainLink;
use stek_core::time::Seconds;
use stek_manager::TrailQuery;
use stek_wire::admin::PolicyDocument;

use super::site::{FAST, Running, Site, name};

#[tokio::test(flavor = "multi_thread")]
async fn the_verdict_names_the_first_line_that_was_changed() {
    let site = Site::new().await;
    let [running]: [Running; 1] = site.managers().await;
    let operations = running.manager.operations();
    for keyset in ["a", "b", "c"] {
        operations.create(&name(keyset), FAST, "test").await.unwrap();
        running.until(|feed| feed.keysets.contains_key(&name(keyset))).await;
    }
    let whole = operations.verify_audit(0, None).await.unwrap();
    assert_eq!((whole.broken, whole.first), (None, 1));
    let anchor = ChainLink::parse(&whole.link).unwrap();
    let found = operations.verify_audit(0, Some(anchor)).await.unwrap();
    assert_eq!(found.anchored_at, Some(whole.verified_to));

    let mut raw = site.database.connect().await.unwrap();
    raw.execute(
        "CREATE TABLE kept AS SELECT * FROM audit; CREATE TABLE head AS SELECT * FROM cluster",
    )
    .await
    .unwrap();
    let broken_at = async || {
        let verdict = operations.verify_audit(0, None).await.unwrap();
        verdict.broken.map(|broken| broken.sequence)
    };
    for statement in [
        "UPDATE audit SET actor = 'x' WHERE sequence = 4",
        "UPDATE audit SET action = 'boredom' WHERE sequence = 4",
        "UPDATE audit SET keyset = 'Not A Name' WHERE sequence = 4",
        "DELETE FROM audit WHERE sequence = 4",
        "UPDATE audit SET link = decode(repeat('01', 32), 'hex') WHERE sequence = 4",
    ] {
        raw.execute(statement).await.unwrap();
        assert_eq!(broken_at().await, Some(4), "{statement}");
        raw.execute("DELETE FROM audit; INSERT INTO audit SELECT * FROM kept").await.unwrap();
        assert_eq!(broken_at().await, None, "{statement}");
    }
    // A line that cannot be read is passed over by a listing, which says so.
    raw.execute("UPDATE audit SET action = 'boredom' WHERE sequence = 4").await.unwrap();
    let mut list = operations.audit(&TrailQuery::default()).await.unwrap();
    assert_eq!((list.unreadable.as_slice(), list.next), ([4].as_slice(), None));
    list.events.retain(|event| event.sequence != 4);
    assert_eq!(list.events.len() as u64, whole.verified_to - 1);
    raw.execute("DELETE FROM audit; INSERT INTO audit SELECT * FROM kept").await.unwrap();

    // Cut at the end: seen by the head, and if that was set back too, by the anchor alone.
    let last = whole.verified_to;
    raw.execute(&format!("DELETE FROM audit WHERE sequence = {last}")).await.unwrap();
    assert_eq!(broken_at().await, Some(last));
    let set_back = format!(
        "UPDATE cluster SET audit_sequence = {0}, audit_head = (SELECT link FROM audit WHERE sequence = {0})",
        last - 1
    );
    raw.execute(&set_back).await.unwrap();
    assert_eq!(broken_at().await, None);
    let verdict = operations.verify_audit(0, Some(anchor)).await.unwrap();
    assert_eq!((verdict.broken, verdict.anchored_at), (None, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_lines_go_and_the_rest_stays_verifiable() {
    let site = Site::new().await;
    let [running]: [Running; 1] = site.managers().await;
    let operations = running.manager.operations();
    operations.create(&name("main"), PolicyDocument::default(), "test").await.unwrap();
    running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    let store = site.store().await;
    let old = store.cluster().await.unwrap().audit_sequence;
    // A day before the first lines are past their three days, and then past them.
    for (days, expected) in [(2, None), (3, Some(old))] {
        // A day at a time, which a running manager follows.
        for _ in 0..days {
            site.clock.advance(Seconds::from_days(1).to_std());
            let now = site.now();
            running
                .until(|feed| feed.keysets[&name("main")].keyset().next_pending(now).is_some())
                .await;
        }
        let Some(old) = expected else {
            assert_eq!(store.audit_checkpoint().await.unwrap(), None);
            continue;
        };
        // The lines go after the keys are out.
        let mut looks = tokio::time::interval(Duration::from_millis(5));
        let pruned = async {
            while store.audit_checkpoint().await.unwrap().is_none_or(|at| at.sequence < old) {
                looks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), pruned).await.unwrap();
    }
    site.clock.advance(Duration::from_secs(5));
    let verdict = operations.verify_audit(0, None).await.unwrap();
    assert_eq!(verdict.broken, None);
    assert!(verdict.first > old);
    // A checkpoint that somebody moves is seen.
    let mut raw = site.database.connect().await.unwrap();
    let forged = "UPDATE audit_checkpoint SET sequence = sequence + 1,
                      link = (SELECT link FROM audit ORDER BY sequence LIMIT 1);
                  DELETE FROM audit WHERE sequence = (SELECT min(sequence) FROM audit)";
    raw.execute(forged).await.unwrap();
    let verdict = operations.verify_audit(0, None).await.unwrap();
    assert!(verdict.broken.unwrap().why.contains("forged"));
}
