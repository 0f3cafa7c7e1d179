//! The head of the audit trail, as a manager logs and exports it, kept where nobody reaches it who
//! can write to the database.

use crate::metrics::scrape;
use crate::process::{said, status, stekd, terminate};
use crate::site::{Role, Site};

/// The head as of the last pass.
fn exported(manager: &Role) -> String {
    let shown = scrape(&manager.port("metrics"));
    let mut heads = shown.lines().filter_map(|line| {
        line.strip_prefix("stek_manager_audit_head_info{link=\"")?.strip_suffix("\"} 1")
    });
    let head = heads.next().expect("a pass has ended").to_owned();
    assert_eq!(heads.next(), None);
    head
}

#[tokio::test(flavor = "multi_thread")]
async fn the_head_that_was_logged_tells_a_trail_that_was_cut_while_nobody_looked() {
    let database = stek_testpg::create_database().await.unwrap();
    let site = Site::with_database(database.url());
    let mut manager = Role::start("manager", &site.path("manager.toml"));
    site.profile("operator", &manager.port("admin"));
    site.stekd("keyset create main --profile DIR/operator.toml");
    let head = exported(&manager);
    manager.first_line(&head);
    terminate(&mut manager.process);

    let config = site.path("manager.toml");
    let offline = ["audit", "verify", "--offline", config.to_str().unwrap()];
    let anchored = || stekd(&[&offline[..], &["--anchor", &head]].concat());
    assert_eq!(status(&anchored()), 0, "{}", said(&anchored()));
    let cut = "DELETE FROM audit WHERE sequence > 2;
               UPDATE cluster SET (audit_sequence, audit_head) =
                   (SELECT sequence, link FROM audit WHERE sequence = 2)";
    database.connect().await.unwrap().execute(cut).await.unwrap();
    assert_eq!(status(&stekd(&offline)), 0, "what is left is whole");
    assert_eq!(status(&anchored()), 2);
    assert!(said(&anchored()).contains("it was cut or written anew"), "{}", said(&anchored()));
    database.drop_now().await.unwrap();
}
