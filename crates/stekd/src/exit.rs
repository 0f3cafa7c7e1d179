//! The status that a failed command ends with, by what the caller can do about it.

use crate::commands::confirmation::Unconfirmed;

/// A configuration or an argument that is not allowed; nothing was begun.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// What was to be examined was, and is not as it should be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Faulty(pub(crate) String);

/// Nobody answered whom a command needs.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Unanswered(pub(crate) String);

/// Status of everything that has no other.
const FAILURE: u8 = 1;
/// Status of a finding.
const FAULTY: u8 = 2;
/// Status of a refused configuration or argument, `EX_USAGE` of sysexits.
pub const USAGE: u8 = 64;
/// Status when something that is needed does not answer, `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;
/// Status when a change was made and not confirmed by all in time, `EX_TEMPFAIL` of sysexits.
const UNCONFIRMED: u8 = 75;

/// Every status with what it means; docs/COMMANDS.md and the help show the same.
pub const CODES: [(u8, &str); 6] = [
    (0, "it went well"),
    (FAILURE, "it failed; standard error says why"),
    (FAULTY, "what was examined has faults, such as servers that do not resume"),
    (USAGE, "configuration or arguments are not allowed; nothing was begun"),
    (UNAVAILABLE, "a database or server that is needed does not answer"),
    (UNCONFIRMED, "a change was made, and not every instance has confirmed it in time"),
];

/// Why it failed, from cause to cause. Where a library has the cause in its own words already, it
/// is not said again.
pub fn said(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| match cause.to_string() {
        words if said.is_empty() => words,
        words if said.ends_with(&words) => said,
        words => format!("{said}: {words}"),
    })
}

/// The exit status for `error`, one of [`CODES`].
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.chain().any(|cause| cause.is::<Unconfirmed>()) {
        return UNCONFIRMED;
    }
    let refused = error.chain().any(|cause| cause.is::<Refused>());
    let unreachable = error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<stek_store::StoreError>(),
            Some(stek_store::StoreError::Unreachable(_))
        ) || cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
            || cause.is::<Unanswered>()
    });
    let faulty = error.chain().any(|cause| cause.is::<Faulty>());
    match (refused, unreachable, faulty) {
        (true, _, _) => USAGE,
        (_, true, _) => UNAVAILABLE,
        (_, _, true) => FAULTY,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_document_shows_every_status() {
        let document = include_str!("../../../docs/COMMANDS.md");
        let rows = document.lines().filter_map(|line| {
            let (status, meaning) =
                line.strip_prefix("| ")?.strip_suffix(" |")?.split_once(" | ")?;
            Some((status.parse().ok()?, meaning))
        });
        assert_eq!(rows.collect::<Vec<(u8, &str)>>(), CODES);
    }

    #[test]
    fn a_cause_is_said_once() {
        let chain = anyhow::anyhow!("refused").context("no answer: refused").context("database");
        assert_eq!(said(&chain), "database: no answer: refused");
        assert_eq!(format!("{chain:#}"), "database: no answer: refused: refused");
    }

    #[test]
    fn the_status_tells_the_cause() {
        let refused = anyhow::Error::new(Refused("no".into())).context("manager.toml");
        assert_eq!(exit_code(&refused), 64);
        let away = stek_store::StoreError::Unreachable("refused".into());
        assert_eq!(exit_code(&Err::<(), _>(away).context("database").unwrap_err()), 69);
        assert_eq!(exit_code(&Unanswered("nobody".into()).into()), 69);
        assert_eq!(exit_code(&Faulty("no".into()).into()), 2);
        let late = anyhow::Error::new(Unconfirmed("2 lag".into())).context("keyset main");
        assert_eq!(exit_code(&late), 75);
        assert_eq!(exit_code(&anyhow::anyhow!("else")), 1);
    }
}
