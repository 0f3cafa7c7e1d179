//! What holds of the tree itself: who may use whom, how long files are, one TLS stack, a reason for
//! every dependency, and documents that name what is there.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cargo_metadata::{CargoOpt, DependencyKind, Metadata, MetadataCommand};

/// Longest source file in lines.
const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn metadata() -> Metadata {
    let mut command = MetadataCommand::new();
    command.manifest_path(root().join("Cargo.toml")).features(CargoOpt::AllFeatures);
    // Not offline: a build for this platform alone leaves some packages where they are.
    command.other_options(vec!["--locked".into()]);
    command.exec().unwrap()
}

/// The table of docs/ARCHITECTURE.md: a crate and the crates of ours that it may name.
fn allowed() -> BTreeMap<String, BTreeSet<String>> {
    let mut table = BTreeMap::new();
    for line in read("docs/ARCHITECTURE.md").lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        let [_, name, _, may_name, _] = cells.as_slice() else { continue };
        let Some(name) = name.strip_prefix("`stek").and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        let full = |short: &str| {
            if short.starts_with("stek") { short.into() } else { format!("stek-{short}") }
        };
        let names = may_name.split(',').map(str::trim).filter(|name| *name != "–");
        table.insert(format!("stek{name}"), names.map(full).collect());
    }
    table
}

#[test]
fn crates_name_only_whom_the_table_allows() {
    let allowed = allowed();
    let metadata = metadata();
    let ours: BTreeSet<String> =
        metadata.workspace_packages().iter().map(|package| package.name.to_string()).collect();
    assert_eq!(ours, allowed.keys().cloned().collect(), "the table lists every crate");
    for package in metadata.workspace_packages() {
        let may_name = &allowed[package.name.as_str()];
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            let name = dependency.name.as_str();
            assert!(
                !ours.contains(name) || may_name.contains(name),
                "{} may not name {name}",
                package.name
            );
        }
    }
}

/// The names of all packages that `root` is built with, on any platform, as cargo resolves them.
fn built_with(root_package: &str) -> BTreeSet<String> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--prefix=none", "--edges=normal,build"])
        .args(["--all-features", "--target=all", "--format={p}", "--package", root_package])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[test]
fn what_ships_has_one_tls_stack() {
    for shipped in ["stekd", "stek-rustls"] {
        let names = built_with(shipped);
        assert!(names.contains("aws-lc-rs"), "{shipped}");
        for banned in ["ring", "openssl", "openssl-sys", "native-tls", "boring"] {
            assert!(!names.contains(banned), "{shipped} is built with {banned}");
        }
    }
}

#[test]
fn nothing_of_servers_or_databases_reaches_the_edge() {
    let names = built_with("stek-rustls");
    for banned in ["axum", "sqlx", "sqlx-core", "schemars", "clap", "stek-custody", "stek-store"] {
        assert!(!names.contains(banned), "stek-rustls is built with {banned}");
    }
}

/// What a library turns on, it turns on in the whole program: with TLS 1.2 in rustls, every server of
/// the program speaks it that does not say otherwise.
#[test]
fn the_adapter_alone_does_not_turn_tls_1_2_on() {
    let tls12 = |features: &str| {
        let output = std::process::Command::new(env!("CARGO"))
            .args(["tree", "--locked", "--offline", "--prefix=none", "--edges=normal"])
            .args(["--package", "stek-rustls", "--no-default-features", "--features", features])
            .arg("--format={p} {f}")
            .current_dir(root())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let rustls = text.lines().find(|line| line.starts_with("rustls v")).unwrap();
        rustls.split([' ', ',']).any(|feature| feature == "tls12")
    };
    assert!(!tls12("redis"));
    assert!(tls12("tls12"));
    // reqwest asks for it, whoever asks for reqwest; the documents of the adapter say so.
    assert!(tls12("client"));
}

#[test]
fn only_the_store_names_sqlx() {
    for package in metadata().workspace_packages() {
        let uses = package.dependencies.iter().any(|d| d.name.as_str() == "sqlx");
        let may = ["stek-store", "stek-testpg"].contains(&package.name.as_str());
        assert!(!uses || may, "{} names sqlx", package.name);
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = read("Cargo.toml");
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    let mut explained = false;
    for line in section.lines().map(str::trim) {
        if line.starts_with("# --") || line.is_empty() {
            explained = false;
        } else if line.starts_with('#') {
            explained = true;
        } else if !line.starts_with("stek-") {
            assert!(explained, "no reason above: {line}");
        }
    }
}

fn sources() -> Vec<PathBuf> {
    let mut open = vec![root().join("crates")];
    let mut files = Vec::new();
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    assert!(files.len() > 100, "sources are found");
    files
}

#[test]
fn files_are_short_and_open_with_what_they_decide() {
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", path.display());
        let is_test = path.components().any(|part| part.as_os_str() == "tests.rs");
        let opens = text.trim_start().starts_with("//!");
        assert!(is_test || opens, "{} does not open with //!", path.display());
    }
}

#[test]
fn the_example_is_short_enough_to_copy() {
    let example = read("crates/stek-rustls/examples/https_server.rs");
    assert!(example.lines().count() <= 60);
}

#[test]
fn the_server_in_the_readme_is_the_one_that_is_compiled() {
    let readme = read("README.md");
    let shown = readme.split("```rust\n").nth(1).unwrap().split("```").next().unwrap();
    let library = read("crates/stek-rustls/src/lib.rs");
    let compiled =
        library.split("//! ```no_run\n").nth(1).unwrap().split("//! ```").next().unwrap();
    let lines = compiled.lines().map(|line| line.trim_start_matches("//!").trim_start());
    let visible: Vec<_> = lines.filter(|line| !line.starts_with("# ")).collect();
    assert_eq!(shown.trim_end(), visible.join("\n"));
}

#[test]
fn nothing_is_left_to_do_later() {
    // Put together here so that this file does not find itself.
    let marks = ["TO", "FIX", "XX"].map(|head| {
        format!(
            "{head}{}",
            if head == "TO" {
                "DO"
            } else if head == "FIX" {
                "ME"
            } else {
                "X"
            }
        )
    });
    for path in sources() {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let comment = line.split("//").nth(1).unwrap_or("");
            let found = marks.iter().find(|mark| {
                comment.split_whitespace().any(|word| word.trim_end_matches(':') == *mark)
            });
            assert!(found.is_none(), "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn the_configuration_document_names_every_key() {
    let document = read("docs/CONFIG.md");
    for file in ["manager", "distribution", "terminator", "operator"] {
        for line in read(format!("deploy/config/{file}.toml")).lines() {
            let line = line.trim_start_matches(['#', ' ']);
            let Some((key, value)) = line.split_once(" = ") else { continue };
            let is_key =
                key.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !value.is_empty();
            assert!(!is_key || document.contains(&format!("`{key}`")), "{key} of {file}.toml");
        }
    }
}

#[test]
fn every_alert_says_what_to_do() {
    let rules = read("deploy/prometheus/stekd.rules.yml");
    let alerts: BTreeSet<_> =
        rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 10, "alerts are found");
    let document = read("docs/OPERATIONS.md");
    let rows = document.lines().filter_map(|line| line.strip_prefix("| `Stek"));
    let names: Vec<_> = rows.map(|row| format!("Stek{}", row.split('`').next().unwrap())).collect();
    let explained: BTreeSet<_> = names.iter().map(String::as_str).collect();
    assert_eq!(alerts, explained, "alerts of the rules, and rows of docs/OPERATIONS.md");
    assert_eq!(names.len(), explained.len(), "each has one row");
    // Also those that a row sends to: `see StekNothingSeals`.
    for word in document.split('`').filter(|word| word.starts_with("Stek")) {
        assert!(alerts.contains(word), "there is no alert {word}");
    }
}

/// What stands above the test of this name in `source`; nothing if there is no such test.
fn attributes<'source>(source: &'source str, name: &str) -> Option<Vec<&'source str>> {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let head = format!("fn {name}(");
    let is_head = |line: &str| line.trim_start_matches("async ").starts_with(&head);
    lines.iter().enumerate().filter(|(_, line)| is_head(line)).find_map(|(at, _)| {
        let above = lines[..at].iter().rev();
        let attributes: Vec<_> = above
            .take_while(|line| line.starts_with("#[") || line.starts_with("//"))
            .copied()
            .collect();
        let is_test =
            |line: &&str| line.starts_with("#[test]") || line.starts_with("#[tokio::test");
        attributes.iter().any(is_test).then_some(attributes)
    })
}

#[test]
fn every_threat_has_a_test_that_is_there() {
    let document = read("docs/THREAT_MODEL.md");
    let table = document.split("| threat | defence | shown by |").nth(1).unwrap();
    let rows: Vec<_> =
        table.trim().lines().skip(1).take_while(|row| row.starts_with('|')).collect();
    assert!(rows.len() > 20, "threats are found");
    for row in rows {
        let shown = row.rsplit(" | ").next().unwrap().trim_end_matches(" |");
        let tests: Vec<_> = shown.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {row}");
        let mut left_out = false;
        for test in tests {
            let named = test.split_once("::");
            let (path, name) = named.unwrap_or_else(|| panic!("path::test is needed: {test}"));
            let source = read(Path::new("crates").join(path));
            let above = attributes(&source, name);
            let above = above.unwrap_or_else(|| panic!("{path} has no test {name}"));
            left_out |= above.iter().any(|line| line.starts_with("#[ignore"));
        }
        assert_eq!(shown.starts_with('†'), left_out, "† is for what `make test` leaves out: {row}");
    }
}

/// The words of a command line as a shell splits it, quotes taken away.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None, None);
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_with(String::new);
            }
            None if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_with(String::new).push(c),
        }
    }
    words.extend(word);
    words
}

/// The command lines of `stekd` in a document: in blocks for a shell, and in prose between backticks.
fn commands(document: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (number, part) in document.split("```").enumerate() {
        let (is_block, lines): (bool, Vec<&str>) = match part.strip_prefix("sh\n") {
            Some(block) if number % 2 == 1 => (true, block.lines().collect()),
            _ => (false, part.split('`').skip(1).step_by(2).collect()),
        };
        for line in lines {
            let ends = [" #", " > ", " 2> "];
            let line = ends.iter().fold(line, |line, end| line.split(end).next().unwrap());
            let line = if is_block { line.trim_start_matches("as_manager ") } else { line };
            if line.starts_with("stekd ") {
                found.push(line.trim().to_owned());
            }
        }
    }
    found
}

#[test]
fn the_program_takes_every_command_of_the_documents() {
    for (document, least) in [("docs/OPERATIONS.md", 30), ("README.md", 5)] {
        let commands = commands(&read(document));
        assert!(commands.len() > least, "commands are found");
        for line in commands {
            let taken = stekd::cli::help::command().try_get_matches_from(words(&line));
            let why = taken.err().map(|error| error.to_string());
            assert_eq!(why, None, "{document}: {line}");
        }
    }
}

/// What a document says that the program says: between quotation marks in the comments of blocks for a
/// shell, and sentences between backticks in prose.
fn quoted(document: &str) -> Vec<&str> {
    let is_sentence = |text: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || " ,;:…'.".contains(c);
        let commands = ["stekd ", "make ", "cargo ", "systemctl ", "kubectl "];
        text.split(' ').count() > 2
            && text.chars().skip(1).all(plain)
            && !commands.iter().any(|command| text.starts_with(command))
    };
    let mut found = Vec::new();
    for (number, part) in document.split("```").enumerate() {
        if number % 2 == 0 {
            found.extend(part.split('`').skip(1).step_by(2).filter(|text| is_sentence(text)));
        } else if part.starts_with("sh\n") {
            let comments = part.lines().filter_map(|line| line.split_once(" #"));
            found.extend(comments.flat_map(|(_, words)| words.split('"').skip(1).step_by(2)));
        }
    }
    found
}

#[test]
fn the_program_says_what_documents_quote() {
    let ours =
        sources().into_iter().filter(|path| path.components().any(|c| c.as_os_str() == "src"));
    let source: String = ours.map(|path| std::fs::read_to_string(path).unwrap()).collect();
    // A text that goes on in the next line.
    let source: String = source.split("\\\n").map(str::trim_start).collect();
    let document = read("docs/OPERATIONS.md");
    let quoted = quoted(&document);
    assert!(quoted.len() > 20, "quotations are found");
    for text in quoted {
        // What differs from one time to another is cut out.
        let varies = |c: char| c == '…' || c == 'N' || c.is_ascii_digit();
        for part in text.split(varies).map(str::trim).filter(|part| part.len() > 5) {
            assert!(source.contains(part), "the program does not say {part:?} of {text:?}");
        }
    }
}

#[test]
fn links_of_documents_lead_somewhere() {
    let mut documents: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
            .iter()
            .map(|name| root().join(name))
            .collect();
    let docs = std::fs::read_dir(root().join("docs")).unwrap();
    documents.extend(docs.map(|entry| entry.unwrap().path()));
    for document in documents {
        let text = std::fs::read_to_string(&document)
            .unwrap_or_else(|e| panic!("{}: {e}", document.display()));
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let path = target.split('#').next().unwrap_or("");
            if path.is_empty() || target.contains("://") {
                continue;
            }
            let file = document.parent().unwrap().join(path);
            assert!(file.exists(), "{}: {target}", document.display());
        }
    }
}
