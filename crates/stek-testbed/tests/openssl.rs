//! The main job, seen by `openssl s_client`: a ticket of one server resumes on the other, before,
//! during and after rotations, until it is too old.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use anyhow::Result;
use stek_testbed::{Answer, Bed, Database, OpenSsl};
use stek_wire::admin::PolicyDocument;

/// Rotation and ticket lifetime of six hours, as the defaults have it.
async fn fleet(database: Database) -> Result<(Bed, OpenSsl)> {
    let bed = Bed::start(database, PolicyDocument::default()).await?;
    let client = OpenSsl::new(bed.site.authority(), bed.site.dir().join("session.pem"));
    Ok((bed, client))
}

fn resumed(answer: &Answer, server: &str) -> bool {
    answer.reused && answer.said == format!("{server}: resumed handshake")
}

fn full(answer: &Answer, server: &str) -> bool {
    !answer.reused && answer.said == format!("{server}: full handshake")
}

async fn resumes_across_servers_and_rotations(database: Database) -> Result<()> {
    let (bed, client) = fleet(database).await?;
    let [a, b] = [0, 1].map(|n| bed.node.servers[n].terminator.address());

    let first = client.begin(a).await?;
    assert!(full(&first, "server-a"), "{first:?}");
    let other = client.offer(b).await?;
    assert!(resumed(&other, "server-b"), "before a rotation: {other:?}");
    let sealed_first = client.key_name().await?;

    // A rotation by the clock: the key of the ticket opens and seals no more.
    bed.rotate_by_time().await?;
    let after = client.renew(b).await?;
    assert!(resumed(&after, "server-b"), "after a rotation: {after:?}");
    assert_ne!(client.key_name().await?, sealed_first, "the renewed ticket has the new key");
    let back = client.offer(a).await?;
    assert!(resumed(&back, "server-a"), "under the new key: {back:?}");

    // One server is told of a rotation that somebody asked for; both seal under the new key.
    let before = client.key_name().await?;
    let name = stek_core::name::KeysetName::try_new("main")?;
    bed.node.operations().rotate(&name, "test").await?;
    bed.until("the rotation is published", || Ok(bed.keyset()?.keys().len() == 4)).await?;
    bed.servers_are_current().await?;
    for (server, name) in [(a, "server-a"), (b, "server-b"), (a, "server-a")] {
        let answer = client.renew(server).await?;
        assert!(resumed(&answer, name), "after a rotation by hand: {answer:?}");
        assert_ne!(client.key_name().await?, before);
    }

    // Once more round the clock, and the ticket is older than its lifetime and a skew.
    let kept = client.offer(b).await?;
    assert!(resumed(&kept, "server-b"), "{kept:?}");
    bed.rotate_by_time().await?;
    bed.clock.advance(std::time::Duration::from_secs(120));
    for (server, name) in [(a, "server-a"), (b, "server-b")] {
        let answer = client.offer(server).await?;
        assert!(full(&answer, name), "too old: {answer:?}");
    }
    bed.stop().await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_across_servers_and_rotations_on_postgres() {
    resumes_across_servers_and_rotations(Database::Postgres).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_across_servers_and_rotations_on_sqlite() {
    resumes_across_servers_and_rotations(Database::Sqlite).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_altered_ticket_is_a_full_handshake() {
    let (bed, client) = fleet(Database::Sqlite).await.unwrap();
    let [a, b] = [0, 1].map(|n| bed.node.servers[n].terminator.address());
    client.begin(a).await.unwrap();
    // The session file is DER in PEM; its ticket is the longest run of bytes, so flip in the middle.
    let pem = std::fs::read_to_string(client.session()).unwrap();
    let (head, body) = pem.split_once("-----\n").unwrap();
    let (body, tail) = body.split_once("\n-----").unwrap();
    let mut letters: Vec<char> = body.chars().collect();
    // The ticket is the last large field of the session: a letter near the end lies in it.
    let place = letters.len() - 60;
    letters[place] = if letters[place] == 'A' { 'B' } else { 'A' };
    let altered: String = letters.into_iter().collect();
    std::fs::write(client.session(), format!("{head}-----\n{altered}\n-----{tail}")).unwrap();
    let answer = client.offer(b).await.unwrap();
    assert!(full(&answer, "server-b"), "{answer:?}");
    let outcomes = bed.node.servers[1].opened();
    assert!(outcomes.contains(&("forged".to_owned(), 1)), "{outcomes:?}");
    bed.stop().await.unwrap();
}
