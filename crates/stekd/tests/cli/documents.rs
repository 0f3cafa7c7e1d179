//! What commands print for programs: with `--output json`, a document of what they made.

use serde_json::Value;

use crate::site::{Role, Site};

fn document(site: &Site, command: &str) -> Value {
    let printed = site.stekd(&format!("{command} --output json"));
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{command}: {error}: {printed}"))
}

#[test]
fn a_token_or_grant_that_is_made_is_a_document() {
    let site = Site::with_database("sqlite:keys.db");
    let manager = Role::start("manager", &site.path("manager.toml"));
    site.profile("operator", &manager.port("admin"));
    let ways =
        [("offline", "--offline DIR/manager.toml"), ("asked", "--profile DIR/operator.toml")];
    for (name, way) in ways {
        let create = format!("token create {name} --role auditor --keyset main {way}");
        let made = document(&site, &create);
        assert_eq!(made["principal"], format!("token:{name}"));
        assert_eq!(made["grants"][0]["role"], "auditor");
        assert!(made["token"].as_str().unwrap().starts_with("stek_"), "it is shown once");

        let made = document(&site, &format!("{create} --out DIR/{name}"));
        assert_eq!(made.get("token"), None, "it is in the file");
        let token = std::fs::read_to_string(site.path(name)).unwrap();
        assert!(token.starts_with("stek_"));
        let listed = document(&site, "token list --profile DIR/operator.toml");
        let listed = listed["tokens"].as_array().unwrap();
        assert!(listed.iter().any(|one| one["id"] == made["id"]), "{listed:?}");

        let add = format!("grant add {name}.example main --role terminator {way}");
        let added = document(&site, &add);
        assert_eq!((&added["keysets"], &added["role"]), (&"main".into(), &"terminator".into()));
        let listed = document(&site, "grant list --profile DIR/operator.toml");
        assert!(listed["grants"].as_array().unwrap().contains(&added), "{listed}");
    }
    let printed = site.stekd("token create plain --role auditor --profile DIR/operator.toml");
    assert!(printed.starts_with("stek_") && printed.lines().count() == 1, "the token and no more");
}
