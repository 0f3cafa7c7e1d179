//! How long a client is willing to wait for an answer: `Prefer: wait=N` (RFC 7240, section 4.3).
//! A preference that cannot be understood is ignored, as the RFC asks.

use http::{HeaderMap, HeaderName};

/// The `Prefer` header (RFC 7240, section 2).
pub const PREFER: HeaderName = HeaderName::from_static("prefer");

/// Seconds that the client would wait, and no more than `at_most_seconds`. `None` if it does not
/// say, or not as a whole number. Of several `wait` preferences only the first counts (RFC 7240,
/// section 2), also when it is malformed. Other preferences, parameters, header lines, case and
/// white space make no difference.
pub fn wait_seconds(headers: &HeaderMap, at_most_seconds: u32) -> Option<u32> {
    headers
        .get_all(PREFER)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| Split { rest: Some(line), at: b',' })
        .find_map(wait_value)
        .flatten()
        .map(|seconds| seconds.min(at_most_seconds))
}

/// `Some` if the preference is `wait`, with its value if that is a number.
fn wait_value(preference: &str) -> Option<Option<u32>> {
    // Parameters follow the first semicolon, and `wait` has none that mean anything.
    let preference = Split { rest: Some(preference), at: b';' }.next()?;
    let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
    name.trim_ascii().eq_ignore_ascii_case("wait").then(|| delta_seconds(value.trim_ascii()))
}

/// `1*DIGIT`, possibly as a quoted string; more than a `u32` holds is `u32::MAX`.
fn delta_seconds(word: &str) -> Option<u32> {
    let digits = word.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(word);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(u32::MAX))
}

/// Splits at a separator outside quoted strings (RFC 9110, section 5.6.4).
struct Split<'a> {
    rest: Option<&'a str>,
    at: u8,
}

impl<'a> Iterator for Split<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.rest.take()?;
        let (mut quoted, mut escaped) = (false, false);
        for (index, byte) in rest.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' => quoted = !quoted,
                _ if byte == self.at && !quoted => {
                    self.rest = rest.get(index + 1..);
                    return rest.get(..index);
                }
                _ => {}
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn wait(lines: &[&str]) -> Option<u32> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(PREFER, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        wait_seconds(&headers, u32::MAX)
    }

    #[test]
    fn wait_is_found_among_other_preferences() {
        for lines in [
            &["wait=55"][..],
            &["WAIT = 55"],
            &["  respond-async ,\twait=55"],
            &["respond-async; x=\"a,wait=1\", wait=55; y"],
            &["note=\"say \\\", wait=9\", wait=55"],
            &["handling=lenient", "wait=55"],
            &["", ",,", "wait=\"55\""],
            &["wait=55, wait=9"],
            &["wait=55", "wait=9"],
            &["\u{e4}", "wait=055"],
        ] {
            assert_eq!(wait(lines), Some(55), "{lines:?}");
        }
    }

    #[test]
    fn what_is_no_wait_is_ignored() {
        for lines in [
            &[][..],
            &[""],
            &["wait"],
            &["wait="],
            &["wait=\"\""],
            &["wait=-1"],
            &["wait=+1"],
            &["wait=1.5"],
            &["wait=5s"],
            &["await=5"],
            &["wait-long=5"],
            &["foo=\"wait=5\""],
            &["foo=\", wait=5"],
            &["foo; wait=5"],
            &["wait=x, wait=5"],
        ] {
            assert_eq!(wait(lines), None, "{lines:?}");
        }
    }

    #[test]
    fn the_wait_is_capped_by_the_caller() {
        let mut headers = HeaderMap::new();
        headers.insert(PREFER, HeaderValue::from_static("wait=99999999999999999999"));
        assert_eq!(wait_seconds(&headers, u32::MAX), Some(u32::MAX));
        assert_eq!(wait_seconds(&headers, 55), Some(55));
        assert_eq!(wait_seconds(&headers, 0), Some(0));
        headers.insert(PREFER, HeaderValue::from_static("wait=7"));
        assert_eq!(wait_seconds(&headers, 55), Some(7));
    }

    proptest! {
        #[test]
        fn any_line_is_survived(line in "[ -~\t]{0,64}") {
            wait(&[&line]);
        }

        #[test]
        fn a_wait_before_anything_wins(seconds: u32, rest in "[ -~\t]{0,32}") {
            let line = format!("wait={seconds},{rest}");
            prop_assert_eq!(wait(&[&line]), Some(seconds));
        }
    }
}
