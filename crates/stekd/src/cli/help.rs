//! What the help of each command ends with: an example, and what exit statuses mean. The statuses
//! themselves are in [`crate::CODES`].

use std::fmt::Write as _;

use clap::{CommandFactory, FromArgMatches};

use super::Cli;

/// An example for each command that does something, by its words.
const EXAMPLES: [(&str, &str); 35] = [
    ("manager", "stekd manager --config manager.toml"),
    ("distribution", "stekd distribution --config distribution.toml"),
    ("terminator", "stekd terminator --config terminator.toml"),
    ("dev", "stekd dev --rotation-period 30s"),
    ("demo", "stekd demo --duration 1m"),
    ("demo-revoke", "stekd demo-revoke"),
    ("migrate", "stekd migrate --config manager.toml"),
    ("keyset create", "stekd keyset create web --rotation-period 6h --profile operator.toml"),
    ("keyset list", "stekd keyset list --output json"),
    ("keyset show", "stekd keyset show web"),
    ("keyset policy", "stekd keyset policy web --rotation-period 1h"),
    ("keyset rotate", "stekd keyset rotate web"),
    ("keyset revoke", "stekd keyset revoke web --dry-run --reason edge-7-was-stolen"),
    ("keyset terminators", "stekd keyset terminators web"),
    ("keyset plan", "stekd keyset plan web --until 3d"),
    ("keyset delete", "stekd keyset delete web"),
    ("audit list", "stekd audit list --keyset web --since 12h"),
    ("audit verify", "stekd audit verify"),
    ("grant add", "stekd grant add 'spiffe://example.org/edge/*' web --role terminator"),
    ("grant list", "stekd grant list"),
    ("grant remove", "stekd grant remove 'spiffe://example.org/edge/*' web --role terminator"),
    ("ratchet show", "stekd ratchet show"),
    ("ratchet reseed", "stekd ratchet reseed"),
    ("ratchet confirm-clock", "stekd ratchet confirm-clock"),
    ("db accept-restore", "stekd db accept-restore --config manager.toml"),
    ("token create", "stekd token create edge-1 --role terminator --keyset web --out edge-token"),
    ("token list", "stekd token list"),
    ("token revoke", "stekd token revoke 0199af3e-7a00-7000-8000-000000000000"),
    ("secret", "stekd secret cluster-secret"),
    ("dev-ca", "stekd dev-ca tls --name localhost --name 192.0.2.1"),
    ("healthcheck", "stekd healthcheck 127.0.0.1:9441 --wait 1m"),
    ("probe", "stekd probe 192.0.2.1:443 192.0.2.2:443 --server-name www.example.org"),
    ("completions", "stekd completions bash > /etc/bash_completion.d/stekd"),
    ("man", "stekd man --out /usr/local/share/man/man1"),
    ("", "stekd demo"),
];

/// The command line with the help of every command complete.
pub fn command() -> clap::Command {
    complete(Cli::command(), "")
}

/// Reads the arguments of this process.
///
/// # Errors
/// What clap has to say, help and version included.
pub fn try_parse() -> Result<Cli, clap::Error> {
    let matches = command().try_get_matches()?;
    Cli::from_arg_matches(&matches)
}

fn complete(command: clap::Command, words: &str) -> clap::Command {
    let names: Vec<_> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = names.iter().fold(command, |command, name| {
        let words = format!("{words} {name}");
        command.mut_subcommand(name, |sub| complete(sub, words.trim()))
    });
    command.after_help(ending(words))
}

fn ending(words: &str) -> String {
    let mut text = String::new();
    if let Some((_, example)) = EXAMPLES.iter().find(|(of, _)| *of == words) {
        // Writing to a string does not fail.
        let _ = write!(text, "Example:\n  {example}\n\n");
    }
    text.push_str("Exit status:");
    for (status, meaning) in crate::CODES {
        let _ = write!(text, "\n  {status:>2}  {meaning}");
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// The words of all commands that do something.
    fn leaves(command: &clap::Command, words: &str) -> Vec<String> {
        let subs = command.get_subcommands().filter(|sub| sub.get_name() != "help");
        let below: Vec<_> = subs
            .flat_map(|sub| leaves(sub, format!("{words} {}", sub.get_name()).trim()))
            .collect();
        if below.is_empty() { vec![words.to_owned()] } else { below }
    }

    #[test]
    fn every_command_has_an_example_that_it_takes() {
        for words in leaves(&Cli::command(), "") {
            let example = EXAMPLES.iter().find(|(of, _)| *of == words);
            let (_, example) = example.unwrap_or_else(|| {
                panic!("give `stekd {words}` a line in EXAMPLES of {}", file!())
            });
            assert!(example.starts_with(&format!("stekd {words}")), "{example}");
            let arguments = example.split(" > ").next().unwrap().split(' ');
            // As a shell does.
            let arguments = arguments.map(|word| word.trim_matches('\''));
            Cli::try_parse_from(arguments).unwrap_or_else(|error| panic!("{example}: {error}"));
        }
        for (words, _) in EXAMPLES {
            let known =
                words.is_empty() || leaves(&Cli::command(), "").iter().any(|of| of == words);
            assert!(known, "there is no `stekd {words}`");
        }
    }

    #[test]
    fn help_ends_with_example_and_statuses() {
        let mut command = command();
        command.build();
        let keyset = command.find_subcommand_mut("keyset").unwrap();
        let help = keyset.find_subcommand_mut("plan").unwrap().render_help().to_string();
        assert!(help.contains("stekd keyset plan web --until 3d"), "{help}");
        assert!(help.contains("  64  configuration or arguments"), "{help}");
    }
}
