//! The bearer token of a request (RFC 6750), kept out of logs. Whether it is worth anything is for
//! others to decide.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Longest token that is looked at, in bytes.
pub const LONGEST_TOKEN: usize = 1024;

const SCHEME: &str = "Bearer";

/// A bearer token, where it came in. Its `Debug` says only that it is one; the header is marked
/// sensitive by the [`Server`](crate::Server), so that its `Debug` is redacted too.
pub struct BearerToken<'a>(&'a str);

impl BearerToken<'_> {
    /// The token itself: 1 to [`LONGEST_TOKEN`] characters of RFC 6750's `b64token`. Compare hashes
    /// of it, in constant time.
    pub fn expose_secret(&self) -> &str {
        self.0
    }
}

impl std::fmt::Debug for BearerToken<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BearerToken([redacted])")
    }
}

/// Why an `Authorization` header is no bearer token. The header is not repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BearerError {
    /// The header is there more than once, so it is unclear who asks.
    #[error("more than one authorization header")]
    Repeated,
    /// The credential is of another scheme.
    #[error("authorization scheme is not bearer")]
    Scheme,
    /// There is no token after the scheme, or it is not of the form of RFC 6750, section 2.1.
    #[error("bearer token is malformed")]
    Malformed,
    /// The token is over [`LONGEST_TOKEN`].
    #[error("bearer token is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
}

/// The bearer token among the headers, or `None` if there is no `Authorization` header.
///
/// # Errors
///
/// A [`BearerError`] if there is a header, but not one with one well-formed bearer token. Answer it
/// like an unknown token.
pub fn from_headers(headers: &HeaderMap) -> Result<Option<BearerToken<'_>>, BearerError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BearerError::Repeated);
    }
    let value = value.to_str().map_err(|_| BearerError::Malformed)?.trim_ascii();
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case(SCHEME) {
        return Err(BearerError::Scheme);
    }
    let token = token.trim_ascii_start();
    if token.len() > LONGEST_TOKEN {
        return Err(BearerError::TooLong);
    }
    if !is_b64token(token) {
        return Err(BearerError::Malformed);
    }
    Ok(Some(BearerToken(token)))
}

/// `1*( ALPHA / DIGIT / "-" / "." / "_" / "~" / "+" / "/" ) *"="` (RFC 6750, section 2.1).
fn is_b64token(token: &str) -> bool {
    let body = token.trim_end_matches('=');
    !body.is_empty()
        && body.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parse(values: &[&'static [u8]]) -> Result<Option<String>, BearerError> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
        }
        let token = from_headers(&headers)?;
        Ok(token.map(|token| token.expose_secret().to_owned()))
    }

    #[test]
    fn a_token_is_found_whatever_the_case_of_its_scheme() {
        assert_eq!(parse(&[]), Ok(None));
        for value in
            [&b"Bearer aZ09-._~+/=="[..], b"bearer aZ09-._~+/==", b"BEARER   aZ09-._~+/== "]
        {
            assert_eq!(parse(&[value]), Ok(Some("aZ09-._~+/==".into())), "{value:?}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_cause() {
        for (values, cause) in [
            (&[&b"Bearer a"[..], b"Bearer a"][..], BearerError::Repeated),
            (&[b"Basic dTpw"], BearerError::Scheme),
            (&[b"Bearera"], BearerError::Scheme),
            (&[b""], BearerError::Scheme),
            (&[b"Bearer"], BearerError::Malformed),
            (&[b"Bearer  "], BearerError::Malformed),
            (&[b"Bearer ="], BearerError::Malformed),
            (&[b"Bearer a b"], BearerError::Malformed),
            (&[b"Bearer a=b"], BearerError::Malformed),
            (&[b"Bearer a,b"], BearerError::Malformed),
            (&[b"Bearer \xff"], BearerError::Malformed),
        ] {
            assert_eq!(parse(values), Err(cause), "{values:?}");
        }
    }

    #[test]
    fn the_longest_token_is_taken_and_no_longer_one() {
        for (length, expected) in
            [(LONGEST_TOKEN, None), (LONGEST_TOKEN + 1, Some(BearerError::TooLong))]
        {
            let mut headers = HeaderMap::new();
            let value = format!("Bearer {}", "a".repeat(length));
            headers.insert(AUTHORIZATION, value.parse().unwrap());
            assert_eq!(from_headers(&headers).err(), expected);
        }
    }

    #[test]
    fn debug_hides_the_token() {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer canary-token"));
        let token = from_headers(&headers).unwrap().unwrap();
        assert_eq!(token.expose_secret(), "canary-token");
        assert_eq!(format!("{token:?}"), "BearerToken([redacted])");
    }
}
