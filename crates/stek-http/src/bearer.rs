//! The bearer token of a request (RFC 6750). Whether it is worth anything is for others to decide.

use http::HeaderValue;
use stek_core::access::TokenSecret;

const SCHEME: &[u8] = b"bearer";

/// The token in the value of an `Authorization` header; `None` if it is another credential, or no
/// token as ours are. The server marks the header sensitive, so that its `Debug` is redacted.
pub(crate) fn secret(value: &HeaderValue) -> Option<TokenSecret> {
    let (scheme, token) = value.as_bytes().trim_ascii().split_at_checked(SCHEME.len())?;
    let token = token.strip_prefix(b" ")?.trim_ascii_start();
    let token = std::str::from_utf8(token).ok()?;
    scheme.eq_ignore_ascii_case(SCHEME).then(|| TokenSecret::parse(token))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_found(value: &[u8]) -> bool {
        let value = HeaderValue::from_bytes(value).unwrap();
        let found = secret(&value).map(|secret| secret.expose_text());
        assert!(found.iter().all(|text| *text == token()));
        found.is_some()
    }

    fn token() -> String {
        TokenSecret::take_from(&mut [0xa9; 32]).expose_text()
    }

    #[test]
    fn a_token_is_found_whatever_the_case_of_its_scheme() {
        let token = token();
        for before in ["Bearer ", "bearer ", "BEARER   ", " Bearer \t"] {
            assert!(is_found(format!("{before}{token} ").as_bytes()), "{before}");
        }
    }

    #[test]
    fn anything_else_is_none() {
        let token = token();
        for bad in [
            "",
            "Bearer",
            "Bearer ",
            &token,
            &format!("Basic {token}"),
            &format!("Bearer{token}"),
            &format!("Bearer\t{token}"),
            &format!("Bearers {token}"),
            &format!("Bearer {token} x"),
            &format!("Bearer {token}="),
            &format!("Bearer {}", &token[1..]),
            &format!("Bearer {}", &token[..token.len() - 1]),
        ] {
            assert!(!is_found(bad.as_bytes()), "{bad}");
        }
        assert!(!is_found(b"Bearer \xff"));
    }
}
