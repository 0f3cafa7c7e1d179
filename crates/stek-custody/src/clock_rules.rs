//! When the clock may be believed enough to move the ratchet, which cannot be moved back. Pure:
//! readings are arguments; what an operator is told and how he confirms is decided elsewhere.

use stek_core::time::Timestamp;
use stek_core::wrapped::Epoch;

/// How far wall time may leave boot time in a running process, in milliseconds: 24 h.
pub const MAX_JUMP_MS: u64 = 24 * 3600 * 1000;

/// How far the database's clock and ours may lie apart, in milliseconds: 30 s.
pub const MAX_DISAGREEMENT_MS: u64 = 30_000;

/// Both clocks of a host, read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Milliseconds since 1970-01-01T00:00:00Z, from a clock that anyone may set.
    pub wall_ms: u64,
    /// Milliseconds since boot (`CLOCK_BOOTTIME`), from a clock that runs through suspend and that
    /// nobody sets.
    pub boot_ms: u64,
}

/// What the ratchet does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ruling {
    /// It goes to this epoch, if it is not there already.
    Advance(Epoch),
    /// It stays where it is until an operator confirms the time.
    Hold(HoldReason),
}

/// Why the ratchet stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HoldReason {
    /// Wall time ran ahead of boot time by more than [`MAX_JUMP_MS`].
    #[error("the clock jumped {by_ms} ms forward, allowed are {MAX_JUMP_MS}")]
    Forward {
        /// How far.
        by_ms: u64,
    },
    /// Wall time fell behind boot time by more than [`MAX_JUMP_MS`].
    #[error("the clock jumped {by_ms} ms back, allowed are {MAX_JUMP_MS}")]
    Back {
        /// How far.
        by_ms: u64,
    },
    /// Boot time went back, so the readings are not of one boot and say nothing of each other.
    #[error("boot time went back by {by_ms} ms")]
    OtherBoot {
        /// How far.
        by_ms: u64,
    },
}

/// Judges the reading `now` against `anchor`, the one taken when the process started or when an
/// operator last confirmed the time. Not against the last tick: a clock moved by 23 h at a time
/// would pass.
pub fn judge(anchor: ClockReading, now: ClockReading) -> Ruling {
    let Some(elapsed_ms) = now.boot_ms.checked_sub(anchor.boot_ms) else {
        return Ruling::Hold(HoldReason::OtherBoot { by_ms: anchor.boot_ms - now.boot_ms });
    };
    let expected_ms = anchor.wall_ms.saturating_add(elapsed_ms);
    let by_ms = now.wall_ms.abs_diff(expected_ms);
    if by_ms <= MAX_JUMP_MS {
        Ruling::Advance(Epoch::of(Timestamp::from_unix(now.wall_ms / 1000)))
    } else if now.wall_ms > expected_ms {
        Ruling::Hold(HoldReason::Forward { by_ms })
    } else {
        Ruling::Hold(HoldReason::Back { by_ms })
    }
}

/// The database's clock and ours lie too far apart to trust either.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database's clock shows {database_ms} and ours {process_ms} ms since 1970, \
     allowed are {MAX_DISAGREEMENT_MS} ms between them"
)]
pub struct ClockDisagreement {
    /// What the database's clock shows, in milliseconds since 1970.
    pub database_ms: u64,
    /// What ours shows.
    pub process_ms: u64,
}

/// Whether the database's clock, which then decides, is within [`MAX_DISAGREEMENT_MS`] of ours.
///
/// # Errors
/// [`ClockDisagreement`] if it is not.
pub fn agree(database_ms: u64, process_ms: u64) -> Result<(), ClockDisagreement> {
    if database_ms.abs_diff(process_ms) <= MAX_DISAGREEMENT_MS {
        Ok(())
    } else {
        Err(ClockDisagreement { database_ms, process_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const WALL: u64 = 500_000 * HOUR;
    const BOOT: u64 = 10 * HOUR;

    fn at(wall_ms: u64, boot_ms: u64) -> ClockReading {
        ClockReading { wall_ms, boot_ms }
    }

    #[test]
    fn the_table_of_rulings() {
        let advance = |epoch| Ruling::Advance(Epoch::new(epoch));
        let forward = |by_ms| Ruling::Hold(HoldReason::Forward { by_ms });
        let back = |by_ms| Ruling::Hold(HoldReason::Back { by_ms });
        let table = [
            ("no time passed", at(WALL, BOOT), advance(500_000)),
            ("the end of the epoch", at(WALL + HOUR - 1, BOOT + HOUR - 1), advance(500_000)),
            ("the next epoch", at(WALL + HOUR, BOOT + HOUR), advance(500_001)),
            ("a month suspended", at(WALL + 744 * HOUR, BOOT + 744 * HOUR), advance(500_744)),
            ("set forward an hour", at(WALL + 2 * HOUR, BOOT + HOUR), advance(500_002)),
            ("set back an hour", at(WALL, BOOT + HOUR), advance(500_000)),
            ("forward by the limit", at(WALL + 25 * HOUR, BOOT + HOUR), advance(500_025)),
            ("a millisecond past it", at(WALL + 24 * HOUR + 1, BOOT), forward(24 * HOUR + 1)),
            ("back by the limit", at(WALL - 23 * HOUR, BOOT + HOUR), advance(499_977)),
            ("a millisecond past that", at(WALL - 24 * HOUR - 1, BOOT), back(24 * HOUR + 1)),
            ("stopped for two days", at(WALL, BOOT + 48 * HOUR), back(48 * HOUR)),
            ("a year ahead", at(WALL + 8760 * HOUR, BOOT), forward(8760 * HOUR)),
            ("1970", at(0, BOOT), back(WALL)),
            ("the end of time", at(u64::MAX, BOOT), forward(u64::MAX - WALL)),
            (
                "another boot",
                at(WALL + HOUR, BOOT - 1),
                Ruling::Hold(HoldReason::OtherBoot { by_ms: 1 }),
            ),
        ];
        for (name, now, expected) in table {
            assert_eq!(judge(at(WALL, BOOT), now), expected, "{name}");
        }
    }

    #[test]
    fn small_jumps_add_up_against_one_anchor() {
        let held = (1..=10).map(|n| judge(at(WALL, BOOT), at(WALL + n * 23 * HOUR, BOOT)));
        assert_eq!(held.filter(|ruling| matches!(ruling, Ruling::Hold(_))).count(), 9);
    }

    #[test]
    fn clocks_agree_within_thirty_seconds() {
        for apart in [0, 1, 30_000] {
            assert_eq!(agree(WALL, WALL + apart), Ok(()));
            assert_eq!(agree(WALL + apart, WALL), Ok(()));
        }
        for apart in [30_001, HOUR, u64::MAX - WALL] {
            assert!(agree(WALL, WALL + apart).is_err());
            assert!(agree(WALL + apart, WALL).is_err());
        }
        let text = agree(1_000, 90_000).unwrap_err().to_string();
        assert!(
            text.contains("1000") && text.contains("90000") && text.contains("30000"),
            "{text}"
        );
    }
}
