//! The verdict on an audit trail that somebody with the database has changed, and what is left of
//! one whose oldest lines have gone.

use std::sync::Arc;
use std::time::Duration;

use stek_core::audit::{AuditAction, ChainLink};
use stek_core::feed::FeedState;
use stek_core::time::Seconds;
use stek_custody::cluster_secret::ClusterSecret;
use stek_manager::{TrailQuery, verify_offline};
use stek_store::KeyStore;
use stek_wire::admin::PolicyDocument;

use super::site::{FAST, PATIENCE, Running, Site, name};

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
async fn a_manager_sees_by_itself_that_its_trail_was_changed() {
    let site = Site::new().await;
    let [running]: [Running; 1] = site.managers().await;
    let operations = running.manager.operations();
    operations.create(&name("main"), PolicyDocument::default(), "test").await.unwrap();
    running.until(|feed| feed.keysets.contains_key(&name("main"))).await;
    let is_broken = || running.metric("stek_manager_audit_broken") == 1;
    let mut raw = site.database.connect().await.unwrap();
    let keep = "DROP TABLE IF EXISTS kept, head; CREATE TABLE kept AS SELECT * FROM audit;
                CREATE TABLE head AS SELECT audit_sequence, audit_head FROM cluster";
    let give_back = "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept;
                     UPDATE cluster SET (audit_sequence, audit_head) = (SELECT * FROM head)";
    let change = "UPDATE audit SET actor = 'x' WHERE sequence = 2";
    let cut = "DELETE FROM audit WHERE sequence = (SELECT audit_sequence FROM cluster);
               UPDATE cluster SET (audit_sequence, audit_head) =
                   (SELECT sequence, link FROM audit ORDER BY sequence DESC LIMIT 1)";
    let hour = Duration::from_secs(3600);
    // An old line is looked at again after an hour. That the newest has gone is seen at once, though
    // the head was set back with it.
    let lines = |of: &str| running.metric(&format!("stek_manager_audit_{of}lines"));
    let is_seen = || lines("") > 1 && lines("verified_") == lines("");
    for (statement, after) in [(change, hour), (cut, Duration::ZERO)] {
        until(&site, async || is_seen()).await;
        raw.execute(keep).await.unwrap();
        raw.execute(statement).await.unwrap();
        site.clock.advance(after);
        until(&site, async || is_broken()).await;
        raw.execute(give_back).await.unwrap();
        site.clock.advance(hour);
        until(&site, async || !is_broken()).await;
    }
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
        tokio::time::timeout(PATIENCE, pruned).await.unwrap();
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

/// Lets time pass for a running manager until something is so.
async fn until(site: &Site, condition: impl AsyncFn() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    // After a halt of the machine time does not leap past those who were halted too.
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let happens = async {
        while !condition().await {
            site.clock.advance(Duration::from_secs(5));
            looks.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, happens).await.unwrap();
}

/// Exchanges the cluster secret of the one manager that there is, whose state and database stay.
async fn exchange(site: &mut Site, before: &str) -> String {
    let text = site.new_secret(before);
    let running = site.start(site.custody().await).await;
    until(site, async || running.metric("stek_manager_previous_cluster_secret_needed") == 0).await;
    running.stop().await;
    site.cluster = Arc::new(ClusterSecret::parse(&text).unwrap());
    text
}

async fn head(store: &Arc<dyn KeyStore>) -> u64 {
    store.cluster().await.unwrap().audit_sequence
}

/// What a writer of the database may change of a trail that was handed over at two lines, with the
/// line at which that breaks it for who has the last secret, and for who has the last two. Zero is
/// nowhere.
fn changes([of_first, at_first, at, end]: [u64; 4]) -> Vec<(String, u64, u64)> {
    let after_first = at_first + 2;
    vec![
        // Of the last secret: seen by whoever has it.
        (format!("UPDATE audit SET actor = 'x' WHERE sequence = {}", at + 2), at + 2, at + 2),
        (
            format!(
                "UPDATE audit SET link = decode(repeat('01', 32), 'hex') WHERE sequence = {at}"
            ),
            at,
            at,
        ),
        (format!("DELETE FROM audit WHERE sequence = {}", at - 1), at - 1, at - 1),
        (format!("DELETE FROM audit WHERE sequence = {of_first}"), of_first, of_first),
        // Of the one before: by whoever has both.
        (format!("UPDATE audit SET actor = 'x' WHERE sequence = {after_first}"), 0, after_first),
        // A hand-over that is not the one that was made.
        (
            "UPDATE audit_hand_overs SET sequence = sequence + 1".to_owned(),
            at_first + 1,
            at_first + 1,
        ),
        (
            format!(
                "UPDATE audit_hand_overs SET link = (SELECT link FROM audit WHERE sequence = {end}), sequence = {end} WHERE sequence = {at}"
            ),
            end,
            end,
        ),
        (
            format!(
                "INSERT INTO audit_hand_overs SELECT {end}, link, \"before\", seal FROM audit_hand_overs WHERE sequence = {at}"
            ),
            end,
            end,
        ),
        (
            "UPDATE audit_hand_overs SET \"before\" = decode(repeat('01', 32), 'hex')".to_owned(),
            at_first,
            at_first,
        ),
        // Without any, nothing of before holds.
        ("DELETE FROM audit_hand_overs".to_owned(), 1, 1),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trail_outlives_the_cluster_secret_that_it_began_under() {
    let mut site = Site::new().await;
    let store = site.store().await;
    let first = site.text.clone();
    let running = site.start(site.custody().await).await;
    running.manager.operations().create(&name("main"), FAST, "test").await.unwrap();
    running.stop().await;
    let of_first = head(&store).await;
    let second = exchange(&mut site, &first).await;
    let of_second = head(&store).await;
    let third = exchange(&mut site, &second).await;

    let secret = |text: &str| ClusterSecret::parse(text).unwrap();
    let verdict =
        async |secret: &ClusterSecret| verify_offline(&*store, secret, None).await.unwrap();
    // The newest secret alone: what it cannot verify is said, the rest holds.
    let alone = secret(&third);
    let end = head(&store).await;
    let whole = verdict(&alone).await;
    assert_eq!((whole.broken, whole.first, whole.verified_to), (None, 1, end));
    assert!(whole.handed_over_at.is_some_and(|at| (of_second..end).contains(&at)));
    // With the one before it as well, and by those who had both of the first.
    let last_two = verdict(&secret(&third).with_previous(secret(&second))).await;
    assert_eq!(last_two.broken, None);
    let at_first = last_two.handed_over_at.unwrap();
    assert!((of_first..of_second).contains(&at_first), "{last_two:?}");
    let told = store.audit(0, 1000).await.unwrap();
    let told = told.iter().filter(|row| row.event.action == AuditAction::TrailHandedOver);
    assert_eq!(told.count(), 2);

    let mut raw = site.database.connect().await.unwrap();
    raw.execute(
        "CREATE TABLE kept AS SELECT * FROM audit; CREATE TABLE ways AS SELECT * FROM audit_hand_overs",
    )
    .await
    .unwrap();
    let at = whole.handed_over_at.unwrap();
    let both = secret(&third).with_previous(secret(&second));
    for (statement, by_one, by_two) in changes([of_first, at_first, at, end]) {
        raw.execute(&statement).await.unwrap();
        for (secret, expected) in [(&alone, by_one), (&both, by_two)] {
            let broken = verdict(secret).await.broken.map_or(0, |broken| broken.sequence);
            assert_eq!(broken, expected, "{statement}");
        }
        raw.execute(
            "DELETE FROM audit; INSERT INTO audit SELECT * FROM kept;
             DELETE FROM audit_hand_overs; INSERT INTO audit_hand_overs SELECT * FROM ways",
        )
        .await
        .unwrap();
        assert_eq!(verdict(&alone).await.broken, None, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_oldest_lines_go_also_where_their_cluster_secret_is_gone() {
    let mut site = Site::new().await;
    let store = site.store().await;
    let running = site.start(site.custody().await).await;
    running.manager.operations().create(&name("main"), FAST, "test").await.unwrap();
    let one_day = async |site: &Site, running: &Running| {
        site.clock.advance(Seconds::from_days(1).to_std());
        let now = site.now();
        let is_current = |feed: &FeedState| {
            let main = feed.keysets.get(&name("main"));
            main.is_some_and(|main| main.keyset().next_pending(now).is_some())
        };
        running.until(is_current).await;
    };
    // Past the three days of the first lines: there is a checkpoint of the first secret.
    for _ in 0..4 {
        one_day(&site, &running).await;
    }
    until(&site, async || store.audit_checkpoint().await.unwrap().is_some()).await;
    running.stop().await;
    let first = site.text.clone();
    exchange(&mut site, &first).await;
    let alone = Arc::clone(&site.cluster);
    let before = verify_offline(&*store, &alone, None).await.unwrap();
    assert_eq!(before.broken, None);
    let at = before.handed_over_at.unwrap();
    assert!(before.first < at, "{before:?}");

    let running = site.start(site.custody().await).await;
    let pruned_to = async || store.audit_checkpoint().await.unwrap().unwrap().sequence;
    let mut part = Vec::new();
    for _ in 0..5 {
        one_day(&site, &running).await;
        site.clock.advance(Duration::from_secs(3600));
        part.push(pruned_to().await);
        assert_eq!(verify_offline(&*store, &alone, None).await.unwrap().broken, None);
    }
    until(&site, async || pruned_to().await >= at).await;
    let after = verify_offline(&*store, &alone, None).await.unwrap();
    assert_eq!((after.broken, after.handed_over_at), (None, None), "{part:?}");
    assert_eq!(store.audit_hand_overs().await.unwrap(), []);
}
