//! Somebody who may write the database, and has neither the ratchet nor the cluster secret, changes
//! one column after another. A manager that starts on that publishes no key that was changed, and
//! grants nothing that it did not grant itself.

use std::collections::BTreeSet;

use stek_core::access::{Grant, KeysetSelector, Role, TokenHash};
use stek_core::name::PrincipalName;
use stek_core::principal::PrincipalPattern;
use stek_core::time::Seconds;
use stek_manager::NewToken;
use stek_wire::admin::PolicyDocument;

use super::site::{Running, Site, name};

/// What becomes of a key whose row was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It cannot be unwrapped: left out, counted.
    Refused,
    /// Its row cannot be read: its keyset is set aside, counted.
    Unreadable,
    /// Not defended: its use moves inside the time that it was minted for.
    Moved,
    /// Not defended: it ends.
    Ended,
}

/// A change of the pending key of `main`.
const KEYS: [(&str, &str, Outcome); 17] = [
    ("id", "id = gen_random_uuid()", Outcome::Refused),
    ("keyset_id", "keyset_id = (SELECT id FROM keysets WHERE name = 'third')", Outcome::Refused),
    ("format", "format = 2", Outcome::Unreadable),
    ("kcv", "kcv = decode(repeat('07', 8), 'hex')", Outcome::Refused),
    ("published_at", "published_at = published_at - interval '1 s'", Outcome::Refused),
    ("activate_at", "activate_at = activate_at + interval '1 s'", Outcome::Moved),
    ("retire_at", "retire_at = retire_at - interval '1 s'", Outcome::Moved),
    ("destroy_at", "destroy_at = destroy_at + interval '1 s'", Outcome::Moved),
    ("destroy_by", "destroy_by = destroy_by + interval '1 s'", Outcome::Refused),
    ("postponed_seconds", "postponed_seconds = postponed_seconds + 1", Outcome::Moved),
    // No state of that seed is left, so the key is given up as lost.
    ("seed_id", "seed_id = gen_random_uuid()", Outcome::Ended),
    ("epoch", "epoch = epoch + 1", Outcome::Refused),
    ("wrap_nonce", "wrap_nonce = decode(repeat('07', 12), 'hex')", Outcome::Refused),
    ("wrap_ciphertext", "wrap_ciphertext = decode(repeat('07', 48), 'hex')", Outcome::Refused),
    ("ended_at", ENDING, Outcome::Ended),
    ("end_cause", ENDING, Outcome::Ended),
    ("proven_at", ENDING, Outcome::Ended),
];

/// These columns go together, or a constraint stands in the way.
const ENDING: &str = "ended_at = published_at, end_cause = 'expired', wrap_nonce = NULL,
                      wrap_ciphertext = NULL, proven_at = published_at";

async fn create(running: &Running, keyset: &str) {
    let operations = running.manager.operations();
    operations.create(&name(keyset), PolicyDocument::default(), "test").await.unwrap();
    running.until(|feed| feed.keysets.contains_key(&name(keyset))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_changed_key_is_published() {
    let site = Site::new().await;
    let custody = site.custody().await;
    let first = site.join(&custody, 1).await;
    for keyset in ["main", "other", "third"] {
        create(&first, keyset).await;
    }
    let good = first.manager.feed().borrow().clone().unwrap();
    let main = good.keysets[&name("main")].keyset();
    let pending = main.next_pending(site.now()).unwrap();
    first.stop().await;
    let mut raw = site.database.connect().await.unwrap();
    // The third keyset has room for the stray key.
    raw.execute(
        "DELETE FROM ticket_keys WHERE keyset_id = (SELECT id FROM keysets WHERE name = 'third');
         CREATE TABLE kept AS SELECT * FROM ticket_keys",
    )
    .await
    .unwrap();
    for (number, (column, change, outcome)) in (2..).zip(KEYS) {
        let changed = format!("UPDATE ticket_keys SET {change} WHERE id = '{}'", pending.id);
        assert_eq!(raw.execute(&changed).await.unwrap(), 1, "{column}");
        let running = site.join(&custody, number).await;
        let feed = running.until(|feed| feed.keysets.contains_key(&name("other"))).await;
        assert_eq!(
            feed.keysets[&name("other")].keys().len(),
            good.keysets[&name("other")].keys().len(),
            "{column}: others go on"
        );
        let held = |feed: &stek_core::feed::FeedState| {
            let keys = feed.keysets.values().flat_map(|bundle| bundle.keys());
            keys.filter(|key| key.record.kcv == pending.kcv).count()
        };
        let refused = running.metric("stek_manager_unwrap_failures_total");
        let unreadable = running.metric("stek_manager_unpublishable_keysets_total");
        let seen = match (held(&feed), refused, unreadable) {
            (1, 0, 0) => Outcome::Moved,
            (0, 0, 0) => Outcome::Ended,
            (0, 1.., 0) => Outcome::Refused,
            (0, 0, 1..) => Outcome::Unreadable,
            other => panic!("{column}: {other:?}"),
        };
        assert_eq!(seen, outcome, "{column}");
        running.stop().await;
        raw.execute("DELETE FROM ticket_keys; INSERT INTO ticket_keys SELECT * FROM kept")
            .await
            .unwrap();
    }
    let columns =
        "SELECT count(*) FROM information_schema.columns WHERE table_name = 'ticket_keys'";
    let covered: BTreeSet<_> = KEYS.iter().map(|(column, ..)| column).collect();
    assert_eq!(raw.number(columns).await.unwrap(), covered.len() as i64, "every column");
}

const ACCESS: [(&str, &str); 9] = [
    ("tokens.id", "UPDATE tokens SET id = gen_random_uuid()"),
    ("tokens.principal", "UPDATE tokens SET principal = 'token:intruder'"),
    ("tokens.hash", "UPDATE tokens SET hash = sha256('another')"),
    ("tokens.expires_at", "UPDATE tokens SET expires_at = expires_at + interval '1 d'"),
    ("tokens.seal", "UPDATE tokens SET seal = sha256('another')"),
    ("grants.principal", "UPDATE grants SET principal = 'token:intruder'"),
    ("grants.keysets", "UPDATE grants SET keysets = '*'"),
    ("grants.role", "UPDATE grants SET role = 'operator'"),
    ("grants.seal", "UPDATE grants SET seal = sha256('another')"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_changed_token_or_grant_counts() {
    let site = Site::new().await;
    let custody = site.custody().await;
    let first = site.join(&custody, 1).await;
    let principal = PrincipalName::try_new("token:edge").unwrap();
    let keysets = KeysetSelector::parse("main").unwrap();
    let pattern = PrincipalPattern::exactly(&principal).unwrap();
    let grants = vec![Grant { principal: pattern, keysets, role: Role::Terminator }];
    let expires_at = site.now() + Seconds::from_days(30);
    let new = NewToken { principal, hash: TokenHash::from_bytes([7; 32]), expires_at, grants };
    first.manager.operations().add_token(new, "test").await.unwrap();
    first.until(|feed| feed.access.tokens().len() == 1 && feed.access.grants().len() == 1).await;
    first.stop().await;
    let mut raw = site.database.connect().await.unwrap();
    raw.execute(
        "CREATE TABLE kept_tokens AS SELECT * FROM tokens;
         CREATE TABLE kept_grants AS SELECT * FROM grants",
    )
    .await
    .unwrap();
    for (number, (column, change)) in (2..).zip(ACCESS) {
        assert_eq!(raw.execute(change).await.unwrap(), 1, "{column}");
        let running = site.join(&custody, number).await;
        let feed = running.until(|_| true).await;
        let left = (feed.access.tokens().len(), feed.access.grants().len());
        let expected = if column.starts_with("tokens") { (0, 1) } else { (1, 0) };
        assert_eq!(left, expected, "{column}");
        assert_eq!(running.metric("stek_manager_forged_rows"), 1, "{column}");
        running.stop().await;
        raw.execute(
            "DELETE FROM tokens; INSERT INTO tokens SELECT * FROM kept_tokens;
             DELETE FROM grants; INSERT INTO grants SELECT * FROM kept_grants",
        )
        .await
        .unwrap();
    }
}

/// One keyset whose row is damaged is told of, and the others are supplied all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyset_that_cannot_be_read_holds_up_no_other() {
    let site = Site::new().await;
    let [running]: [Running; 1] = site.managers().await;
    for keyset in ["bad", "good"] {
        let operations = running.manager.operations();
        operations.create(&name(keyset), super::site::FAST, "test").await.unwrap();
    }
    running.until(|feed| feed.keysets.len() == 2).await;
    let mut raw = site.database.connect().await.unwrap();
    let damage = "UPDATE ticket_keys SET format = 77
                  WHERE keyset_id = (SELECT id FROM keysets WHERE name = 'bad')";
    raw.execute(damage).await.unwrap();
    for _ in 0..6 {
        site.clock.advance(std::time::Duration::from_secs(5));
        let now = site.now();
        running
            .until(|feed| {
                let good = feed.keysets[&name("good")].keyset();
                good.active(now).is_some() && good.next_pending(now).is_some()
            })
            .await;
    }
    assert_eq!(running.metric("stek_manager_unreadable_keysets"), 1);
    let checks = serde_json::to_string(&running.manager.readiness().checks()).unwrap();
    assert!(checks.contains("1 cannot be read") && !checks.contains("false"), "{checks}");
    raw.execute("UPDATE ticket_keys SET format = 1").await.unwrap();
    for _ in 0..3 {
        site.clock.advance(std::time::Duration::from_secs(5));
        let now = site.now();
        running.until(|feed| feed.keysets[&name("good")].keyset().active(now).is_some()).await;
    }
    let now = site.now();
    running.until(|feed| feed.keysets[&name("bad")].keyset().next_pending(now).is_some()).await;
}
