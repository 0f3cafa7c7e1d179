//! A request that fails is found by its name at both ends.

use crate::process::{said, status, stekd};
use crate::site::{Role, Site};

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_one_name_in_the_answer_and_in_the_log() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let manager = Role::start("manager", &site.path("manager.toml"));
    let profile = site.profile("terminator", &manager.port("admin"));
    let refused = stekd(&["keyset", "rotate", "main", "--profile", profile.to_str().unwrap()]);
    assert_ne!(status(&refused), 0);
    let words = said(&refused);
    let name = words.rsplit("(request ").next().unwrap().trim_end().trim_end_matches(')');
    assert_eq!(name.len(), 16, "{words}");
    let line = manager.log_line("request refused");
    let entry: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["request_id"], name, "{line}");
    let token = std::fs::read_to_string(site.path("terminator-token")).unwrap();
    assert!(!line.contains(token.trim_end()) && !words.contains(token.trim_end()));
    database.drop_now().await.unwrap();
}
