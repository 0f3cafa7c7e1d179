//! Instants and spans in whole seconds, the only resolution at which key schedules are kept.
//! Where a clock is read and how it is corrected is not decided here.

use std::fmt;

use ::time::OffsetDateTime;
use ::time::format_description::well_known::Rfc3339;

/// The last instant that RFC 3339 can name: 9999-12-31T23:59:59Z.
const MAX_UNIX_SECONDS: u64 = 253_402_300_799;

/// Whole seconds since 1970-01-01T00:00:00Z, without leap seconds; 0 to the end of year 9999.
///
/// Displays as RFC 3339 in UTC.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(u64);

impl Timestamp {
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// The last instant that can be written, 9999-12-31T23:59:59Z.
    pub const MAX: Self = Self(MAX_UNIX_SECONDS);

    /// An instant from Unix seconds; anything past year 9999 becomes [`Timestamp::MAX`].
    pub const fn from_unix(seconds: u64) -> Self {
        Self(if seconds > MAX_UNIX_SECONDS { MAX_UNIX_SECONDS } else { seconds })
    }

    /// Seconds since the Unix epoch.
    pub const fn as_unix(self) -> u64 {
        self.0
    }

    /// The span from `earlier` to `self`, zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Seconds {
        Seconds(self.0.saturating_sub(earlier.0))
    }

    /// Reads an RFC 3339 instant; fractions of a second are refused, for no schedule has them.
    ///
    /// # Errors
    /// [`ParseTimestampError`] if the text is not RFC 3339, has a fraction, or lies before 1970.
    pub fn parse(text: &str) -> Result<Self, ParseTimestampError> {
        let instant = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| ParseTimestampError)?;
        if instant.nanosecond() != 0 {
            return Err(ParseTimestampError);
        }
        let seconds = u64::try_from(instant.unix_timestamp()).map_err(|_| ParseTimestampError)?;
        if seconds > MAX_UNIX_SECONDS {
            return Err(ParseTimestampError);
        }
        Ok(Self(seconds))
    }
}

/// The text is not a whole RFC 3339 second between 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 instant in whole seconds between 1970 and 9999")]
pub struct ParseTimestampError;

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = i64::try_from(self.0).map_err(|_| fmt::Error)?;
        let instant = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| fmt::Error)?;
        f.write_str(&instant.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A span of whole seconds.
///
/// Displays in the largest unit that divides it: `6h`, `90s`, `7d`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Seconds(u64);

impl Seconds {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A span of `seconds`.
    pub const fn new(seconds: u64) -> Self {
        Self(seconds)
    }

    /// A span of `minutes` × 60 s.
    pub const fn from_minutes(minutes: u64) -> Self {
        Self(minutes * 60)
    }

    /// A span of `hours` × 3600 s.
    pub const fn from_hours(hours: u64) -> Self {
        Self(hours * 3600)
    }

    /// A span of `days` × 86 400 s.
    pub const fn from_days(days: u64) -> Self {
        Self(days * 86_400)
    }

    /// The number of seconds.
    pub const fn as_secs(self) -> u64 {
        self.0
    }

    /// The same span for timers.
    pub const fn to_std(self) -> std::time::Duration {
        std::time::Duration::from_secs(self.0)
    }

    /// `self × factor`, at most `u64::MAX` seconds.
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }

    /// Reads `90`, `90s`, `15m`, `6h` or `7d`.
    ///
    /// # Errors
    /// [`ParseSecondsError`] for anything else, or past `u64::MAX` seconds.
    pub fn parse(text: &str) -> Result<Self, ParseSecondsError> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(ParseSecondsError),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(ParseSecondsError);
        }
        let number: u64 = digits.parse().map_err(|_| ParseSecondsError)?;
        number.checked_mul(unit).map(Self).ok_or(ParseSecondsError)
    }
}

/// The text is not a span such as `90s`, `15m`, `6h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a span of time such as 90s, 15m, 6h or 7d")]
pub struct ParseSecondsError;

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, unit) = match self.0 {
            0 => (0, "s"),
            n if n % 86_400 == 0 => (n / 86_400, "d"),
            n if n % 3600 == 0 => (n / 3600, "h"),
            n if n % 60 == 0 => (n / 60, "m"),
            n => (n, "s"),
        };
        write!(f, "{number}{unit}")
    }
}

impl fmt::Debug for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::ops::Add for Seconds {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl std::ops::Sub for Seconds {
    type Output = Self;
    /// Zero rather than negative.
    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl std::ops::Add<Seconds> for Timestamp {
    type Output = Self;
    fn add(self, span: Seconds) -> Self {
        Self::from_unix(self.0.saturating_add(span.0))
    }
}

impl std::ops::Sub<Seconds> for Timestamp {
    type Output = Self;
    /// The epoch rather than before it.
    fn sub(self, span: Seconds) -> Self {
        Self(self.0.saturating_sub(span.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_what_they_write() {
        for unix in [0, 1, 1_790_000_000, MAX_UNIX_SECONDS] {
            let instant = Timestamp::from_unix(unix);
            assert_eq!(Timestamp::parse(&instant.to_string()), Ok(instant));
        }
        assert_eq!(Timestamp::from_unix(0).to_string(), "1970-01-01T00:00:00Z");
    }

    #[test]
    fn timestamps_refuse_fractions_and_nonsense() {
        for text in ["", "2026-11-21", "2026-11-21T00:00:00.5Z", "1969-12-31T23:59:59Z", "now"] {
            assert_eq!(Timestamp::parse(text), Err(ParseTimestampError), "{text}");
        }
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Timestamp::EPOCH - Seconds::new(1), Timestamp::EPOCH);
        assert_eq!(Timestamp::MAX + Seconds::new(1), Timestamp::MAX);
        assert_eq!(Timestamp::EPOCH.since(Timestamp::MAX), Seconds::ZERO);
    }

    #[test]
    fn spans_read_what_they_write() {
        for (text, seconds) in
            [("0s", 0), ("90s", 90), ("15m", 900), ("6h", 21_600), ("7d", 604_800)]
        {
            assert_eq!(Seconds::parse(text), Ok(Seconds::new(seconds)));
            assert_eq!(Seconds::new(seconds).to_string(), text);
        }
        assert_eq!(Seconds::parse("30"), Ok(Seconds::new(30)));
        for text in ["", "h", "-1s", "1.5h", "1w", "99999999999999999999s", "18446744073709551615d"]
        {
            assert_eq!(Seconds::parse(text), Err(ParseSecondsError), "{text}");
        }
    }
}
