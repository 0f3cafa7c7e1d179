//! The status that a failed command ends with, by what the caller can do about it.

use crate::commands::confirmation::Unconfirmed;

/// A configuration or an argument that is not allowed; nothing was begun.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Status of a refused configuration or argument, `EX_USAGE` of sysexits.
pub const USAGE: u8 = 64;
/// Status when something that is needed does not answer, `EX_UNAVAILABLE`.
const UNAVAILABLE: u8 = 69;
/// Status when a change was made and not confirmed by all in time, `EX_TEMPFAIL` of sysexits.
const UNCONFIRMED: u8 = 75;
/// Status of everything else.
const FAILURE: u8 = 1;

/// The exit status for `error`: 64 if configuration or arguments were refused, 69 if a database or
/// server did not answer, 75 if a change was made and not confirmed by all in time, 1 for anything
/// else.
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
    });
    match (refused, unreachable) {
        (true, _) => USAGE,
        (_, true) => UNAVAILABLE,
        _ => FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn the_status_tells_the_cause() {
        let refused = anyhow::Error::new(Refused("no".into())).context("manager.toml");
        assert_eq!(exit_code(&refused), 64);
        let away = stek_store::StoreError::Unreachable("refused".into());
        assert_eq!(exit_code(&Err::<(), _>(away).context("database").unwrap_err()), 69);
        let late = anyhow::Error::new(Unconfirmed("2 lag".into())).context("keyset main");
        assert_eq!(exit_code(&late), 75);
        assert_eq!(exit_code(&anyhow::anyhow!("else")), 1);
    }
}
