//! What shells and `man` are told of the command line.

use std::collections::BTreeSet;

use crate::process::{shown, stekd};

/// The words of every command, those that only have others below them too: `keyset`, `keyset list`.
fn commands() -> BTreeSet<String> {
    fn below(command: &clap::Command, words: &str, found: &mut BTreeSet<String>) {
        for sub in command.get_subcommands() {
            let words = format!("{words} {}", sub.get_name());
            below(sub, &words, found);
            found.insert(words.trim().to_owned());
        }
    }
    let mut found = BTreeSet::new();
    below(&stekd::cli::help::command(), "", &mut found);
    assert!(found.len() > 30, "commands are found");
    found
}

/// Whether a completion script has this command, in the way of its shell.
fn knows(shell: &str, script: &str, words: &str) -> bool {
    let (above, last) = words.rsplit_once(' ').unwrap_or(("", words));
    match shell {
        "bash" => {
            let name = words.replace([' ', '-'], "__subcmd__");
            script.contains(&format!("\"stekd__subcmd__{name}\""))
        }
        "zsh" => {
            let name = words.replace(' ', "__subcmd__");
            script.contains(&format!("_stekd__subcmd__{name}_commands()"))
        }
        "fish" => script.lines().any(|line| {
            let below = above.is_empty() || line.contains(&format!("using_subcommand {above};"));
            below && line.contains(&format!("-a \"{last}\""))
        }),
        _ => script.contains(&format!("'stekd;{}'", words.replace(' ', ";"))),
    }
}

#[test]
fn every_shell_is_told_of_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = shown(&stekd(&["completions", shell]));
        for words in commands() {
            assert!(knows(shell, &script, &words), "{shell} does not know `stekd {words}`");
        }
    }
}

#[test]
fn every_command_has_its_manual_page() {
    let page = shown(&stekd(&["man"]));
    assert!(page.contains(".TH stekd 1"), "{page}");
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("man1");
    shown(&stekd(&["man", "--out", pages.to_str().unwrap()]));
    for words in commands() {
        let name = format!("stekd-{}", words.replace(' ', "-"));
        let page = std::fs::read_to_string(pages.join(format!("{name}.1")));
        let page = page.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(page.contains(&format!(".TH {name} 1")), "{name}: {page}");
        assert!(page.contains("Exit status"), "{name} has the whole of its help");
    }
}
