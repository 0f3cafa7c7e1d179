//! The headers of our own and the one of them that has a syntax. Names are lower-case, as HTTP/2
//! sends them.

use stek_core::check_in::MAX_CLOCK_OFFSET_MILLIS;

/// Fleet time at the instant of sending, on every answer of the distribution contract.
pub const STEK_TIME: &str = "stek-time";

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
    if value.is_empty() || value.len() > 15 || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    value.parse().ok().filter(|millis| *millis <= MAX_UNIX_MILLIS)
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
