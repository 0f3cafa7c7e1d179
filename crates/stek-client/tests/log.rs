//! A failure is logged once, where it is handled. Alone in its program, for it sets the logger of the
//! process.

#![allow(clippy::unwrap_used, reason = "these are tests")]

mod common;

use common::log::Log;
use common::material::bundle;
use common::server::Reply;
use common::{Bench, no_wait};
use stek_clock::Clock;

#[tokio::test]
async fn a_failure_is_said_once_until_it_changes() {
    let log = Log::install(tracing::Level::INFO);
    let mut bench = Bench::new(1).await;
    let options = no_wait(bench.options());
    let _follower = bench.follow(&options);
    let mut asked = bench.next().await;
    asked = bench.after(asked, Reply::bundle(&bundle(5))).await;
    let refused = asked.header("x-request-id").unwrap().to_owned();
    let problem = br#"{"title":"no such keyset"}"#;
    let mut names = std::collections::HashSet::new();
    for reply in [Reply::status(404).with_body(problem), Reply::bundle(&bundle(4))] {
        for _ in 0..5 {
            names.insert(asked.header("x-request-id").unwrap().to_owned());
            asked = bench.after(asked, reply.clone()).await;
        }
    }
    assert_eq!(names.len(), 10, "each request has a name of its own");
    let step = (bench.clock.wall_millis() + 60_000).to_string();
    for _ in 0..3 {
        let reply = Reply::not_modified().with("stek-time", step.clone());
        asked = bench.after(asked, reply).await;
    }
    let text = log.text();
    let count = |part: &str| text.lines().filter(|line| line.contains(part)).count();
    assert_eq!(count("WARN"), 3, "{text}");
    assert_eq!(count("status 404: no such keyset"), 1, "{text}");
    let line = text.lines().find(|line| line.contains("status 404")).unwrap();
    assert!(line.contains(&format!("request_id={refused}")), "{refused}: {line}");
    assert_eq!(count("revision 4 is lower than the installed 5"), 1, "{text}");
    assert_eq!(count("fleet time not followed"), 1, "{text}");
    assert_eq!(count("poll works again"), 1, "{text}");
}
