//! The headers of our own, those of them that have a syntax, and what goes by them. Names are
//! lower-case, as HTTP/2 sends them.

use std::time::Duration;

use stek_core::check_in::MAX_CLOCK_OFFSET_MILLIS;

/// Fleet time at the instant of sending, on every answer of the distribution contract.
pub const STEK_TIME: &str = "stek-time";

/// How long before sending the database was last read, as far as the server knows; on every answer of
/// the distribution contract whose server does know.
pub const STEK_READ_AGE: &str = "stek-read-age";

/// The read age from which on a server is stale, and others are asked. A manager looks at the
/// database every 5 s, and each tier below adds [`FEED_WAIT`] and a second.
pub const STALE_AFTER: Duration = Duration::from_secs(30);

/// How long whoever follows the feed lets the server wait at most, so that what it says of the
/// database's age is never older.
pub const FEED_WAIT: Duration = Duration::from_secs(5);

/// The instance that asks; its value is a [`stek_core::name::InstanceName`].
pub const STEK_INSTANCE: &str = "stek-instance";

/// How far the instance's wall clock is ahead of fleet time, in milliseconds. Optional, and for
/// people to read: nothing goes by it.
pub const STEK_CLOCK_OFFSET: &str = "stek-clock-offset";

/// 9999-12-31T23:59:59.999Z, the last instant that a `Stek-Time` may name, in Unix milliseconds.
pub const MAX_UNIX_MILLIS: u64 = 253_402_300_799_999;

/// The value of `Stek-Time`: Unix milliseconds in decimal digits.
pub fn format_stek_time(unix_millis: u64) -> String {
    unix_millis.to_string()
}

/// Reads `Stek-Time` as Unix milliseconds; `None` for anything but decimal digits, and past year
/// 9999.
pub fn parse_stek_time(value: &str) -> Option<u64> {
    parse_millis(value).filter(|millis| *millis <= MAX_UNIX_MILLIS)
}

/// The value of `Stek-Read-Age`: milliseconds in decimal digits.
pub fn format_read_age(age: Duration) -> String {
    age.as_millis().to_string()
}

/// Reads `Stek-Read-Age`; `None` for anything but 1 to 15 decimal digits.
pub fn parse_read_age(value: &str) -> Option<Duration> {
    parse_millis(value).map(Duration::from_millis)
}

fn parse_millis(value: &str) -> Option<u64> {
    if value.is_empty() || value.len() > 15 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok()
}

/// The value of `Stek-Clock-Offset`: signed decimal digits; what lies beyond a day either way is
/// written as a day.
pub fn format_clock_offset(millis: i64) -> String {
    let most = i64::from(MAX_CLOCK_OFFSET_MILLIS);
    millis.clamp(-most, most).to_string()
}

/// Reads `Stek-Clock-Offset` in milliseconds; `None` for anything but a whole number within a day
/// either way.
pub fn parse_clock_offset(value: &str) -> Option<i32> {
    let digits = value.strip_prefix('-').unwrap_or(value);
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|millis: &i32| millis.abs() <= MAX_CLOCK_OFFSET_MILLIS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_what_they_write() {
        for millis in [0, 1, 1_790_000_000_123, MAX_UNIX_MILLIS] {
            assert_eq!(parse_stek_time(&format_stek_time(millis)), Some(millis));
        }
    }

    #[test]
    fn other_times_are_none() {
        for bad in
            ["", "-1", "+1", " 1", "1.5", "now", "253402300800000", "1790000000123000000", "٣"]
        {
            assert_eq!(parse_stek_time(bad), None, "{bad}");
        }
    }

    #[test]
    fn read_ages_read_what_they_write() {
        for millis in [0, 1, 999_999_999_999_999] {
            let age = Duration::from_millis(millis);
            assert_eq!(parse_read_age(&format_read_age(age)), Some(age));
        }
        for bad in ["", "-1", "1.5", "old", "1000000000000000"] {
            assert_eq!(parse_read_age(bad), None, "{bad}");
        }
    }

    #[test]
    fn clock_offsets_read_what_they_write_within_a_day() {
        for millis in [0, 1, -1, 86_400_000, -86_400_000] {
            let written = format_clock_offset(i64::from(millis));
            assert_eq!(parse_clock_offset(&written), Some(millis));
        }
        assert_eq!(format_clock_offset(i64::MAX), "86400000");
        assert_eq!(format_clock_offset(i64::MIN), "-86400000");
        for bad in ["", "-", "+1", " 1", "1.5", "86400001", "-86400001", "123456789", "٣"] {
            assert_eq!(parse_clock_offset(bad), None, "{bad}");
        }
    }
}
