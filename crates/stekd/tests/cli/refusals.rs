//! What is not allowed is refused by name, with the right status, and nothing is lost.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Output;

use tempfile::TempDir;

use crate::process::{said, shown, status, stekd};

/// A folder with the files of a manager on SQLite.
pub(crate) struct Folder(TempDir);

impl Folder {
    fn new(database: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let secret = folder.path("cluster-secret");
        shown(&stekd(&["secret", secret.to_str().unwrap()]));
        let config = format!(
            "[database]\n{database}\n[custody]\ncluster_secret_file = \"cluster-secret\"\n\
             state_file = \"ratchet\"\n[listen]\naddress = \"127.0.0.1:0\"\n[metrics]\n\
             address = \"127.0.0.1:0\"\n"
        );
        std::fs::write(folder.path("manager.toml"), config).unwrap();
        folder
    }

    pub(crate) fn sqlite() -> Self {
        let folder = Self::new("");
        let url = format!("url = \"sqlite:{}\"", folder.path("stekd.db").display());
        let config = std::fs::read_to_string(folder.path("manager.toml")).unwrap();
        let config = config.replace("[database]\n", &format!("[database]\n{url}\n"));
        std::fs::write(folder.path("manager.toml"), config).unwrap();
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Replaces a part of the manager's configuration.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let config = std::fs::read_to_string(self.path("manager.toml")).unwrap();
        assert!(config.contains(from), "{config}");
        std::fs::write(self.path("manager.toml"), config.replace(from, to)).unwrap();
    }

    pub(crate) fn run(&self, command: &[&str]) -> Output {
        let config = self.path("manager.toml");
        let arguments = [command, &["--config", config.to_str().unwrap()]].concat();
        stekd(&arguments)
    }
}

#[test]
fn a_wrong_key_is_refused_by_name() {
    let folder = Folder::new("url = \"sqlite:x.db\"\nurll = 1");
    let output = folder.run(&["manager"]);
    assert_eq!(status(&output), 64);
    assert!(
        said(&output).contains("urll") && said(&output).contains("manager.toml"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_password_in_the_configuration_is_refused_and_not_repeated() {
    let folder = Folder::new("url = \"postgres://stekd:hunter2@localhost/stekd\"");
    let output = folder.run(&["manager"]);
    assert_eq!(status(&output), 64);
    assert!(said(&output).contains("url_file"), "{}", said(&output));
    assert!(!said(&output).contains("hunter2"), "{}", said(&output));
}

#[test]
fn an_unreachable_database_is_said_so() {
    let folder = Folder::new("url_file = \"url\"");
    std::fs::write(folder.path("url"), "postgres://u:hunter2@127.0.0.1:1/none\n").unwrap();
    for command in ["manager", "migrate"] {
        let output = folder.run(&[command]);
        assert_eq!(status(&output), 69, "{}", said(&output));
        assert!(said(&output).contains("unreachable"), "{}", said(&output));
        assert!(!said(&output).contains("hunter2"), "{}", said(&output));
    }
}

#[test]
fn a_database_without_schema_says_what_to_run() {
    let folder = Folder::sqlite();
    let output = folder.run(&["manager"]);
    assert_eq!(status(&output), 1);
    assert!(said(&output).contains("stekd migrate"), "{}", said(&output));
}

#[test]
fn arguments_that_are_not_allowed_end_with_64() {
    for (arguments, expected) in [
        (&["keyset", "create", "Bad Name"][..], "1 to 63"),
        (&["keyset", "rotate", "main", "--profile", "/nowhere/operator.toml"], "/nowhere"),
        (&["dev", "--rotation-period", "soon"], "span of time"),
        (&["token", "revoke", "x"], "UUID"),
        (&["healthcheck", "9441"], "such as 127.0.0.1:9441"),
        (&["nonsense"], "nonsense"),
    ] {
        let output = stekd(arguments);
        assert_eq!(status(&output), 64, "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(expected), "{arguments:?}: {}", said(&output));
    }
    assert_eq!(status(&stekd(&["--help"])), 0);
}

#[test]
fn the_first_operator_is_made_without_a_manager() {
    let folder = Folder::sqlite();
    shown(&folder.run(&["migrate"]));
    let (config, token) = (folder.path("manager.toml"), folder.path("operator-token"));
    let create = |name: &str| {
        let (config, token) = (config.to_str().unwrap(), token.to_str().unwrap());
        let offline = ["--role", "operator", "--offline", config, "--out", token];
        stekd(&[&["token", "create", name], &offline[..]].concat())
    };
    shown(&create("root"));
    assert_eq!(std::fs::metadata(&token).unwrap().permissions().mode() & 0o777, 0o600);
    let text = std::fs::read_to_string(&token).unwrap();
    assert!(text.starts_with("stek_"), "a token is written");
    assert!(!folder.path("ratchet").exists(), "the ratchet is the manager's to begin");
    // A file that is there is not overwritten.
    let again = create("root");
    assert_eq!(status(&again), 1);
    assert_eq!(std::fs::read_to_string(&token).unwrap(), text);
    assert!(!said(&again).contains(&text[5..20]), "the token is in no message");
}
