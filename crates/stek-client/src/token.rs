//! The bearer token in its file. Read again when a server no longer takes it, so that a rotated
//! token works without a restart.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use reqwest::header::HeaderValue;
use stek_core::access::TokenSecret;
use zeroize::Zeroizing;

/// Longer files hold something else.
const LONGEST_FILE: usize = 128;

/// A token file from which no token can be had. Says nothing of what is in the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It cannot be read.
    #[error("token file {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It holds something else.
    #[error(
        "token file {} is not allowed: it must hold stek_ and 64 hexadecimal digits on one line",
        path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the token in `path`; white space may follow it.
///
/// # Errors
/// [`TokenError`] by cause.
pub(crate) fn read_token(path: &Path) -> Result<TokenSecret, TokenError> {
    let unreadable = |source| TokenError::Unreadable { path: path.to_owned(), source };
    let malformed = || TokenError::Malformed { path: path.to_owned() };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = Zeroizing::new([0; LONGEST_FILE]);
    let mut length = 0;
    while length < LONGEST_FILE {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(unreadable(error)),
        }
    }
    if length == LONGEST_FILE {
        return Err(malformed());
    }
    let text = std::str::from_utf8(buffer[..length].trim_ascii_end()).map_err(|_| malformed())?;
    TokenSecret::parse(text).ok_or_else(malformed)
}

/// The `Authorization` header (RFC 6750, section 2.1) with this token, marked so that no `Debug`
/// shows it.
pub(crate) fn authorization(token: &TokenSecret) -> Option<HeaderValue> {
    let text = Zeroizing::new(token.expose_text());
    let mut line = Zeroizing::new(String::with_capacity("Bearer ".len() + text.len()));
    line.push_str("Bearer ");
    line.push_str(&text);
    let mut value = HeaderValue::from_str(&line).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8]) -> Result<TokenSecret, TokenError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        read_token(file.path())
    }

    #[test]
    fn a_token_with_or_without_a_line_end() {
        let text = format!("stek_{}", "0a".repeat(32));
        for end in ["", "\n", "\r\n", "  \n\n"] {
            let token = read(format!("{text}{end}").as_bytes()).unwrap();
            assert_eq!(token.expose_text(), text);
        }
    }

    #[test]
    fn anything_else_is_refused_and_not_repeated() {
        let canary = "ca".repeat(32);
        for bad in [
            String::new(),
            canary.clone(),
            format!("stek_{canary}00"),
            format!("stek_{canary} stek_{canary}"),
            format!("stek_{canary}{}", " ".repeat(200)),
        ] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
            assert!(!format!("{error} {error:?}").contains(&canary));
        }
        assert!(matches!(read(b"stek_\xff"), Err(TokenError::Malformed { .. })));
        let missing = read_token(Path::new("/nowhere/token")).unwrap_err();
        assert!(missing.to_string().contains("/nowhere/token"), "{missing}");
    }

    #[test]
    fn the_header_hides_the_token() {
        let token = TokenSecret::take_from(&mut [0xca; 32]);
        let value = authorization(&token).unwrap();
        assert_eq!(value.to_str().unwrap(), format!("Bearer stek_{}", "ca".repeat(32)));
        assert!(!format!("{value:?} {token:?}").contains("caca"));
    }
}
