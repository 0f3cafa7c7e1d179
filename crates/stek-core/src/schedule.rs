//! When one key seals and opens. States are derived from the schedule and an instant, never stored.

use crate::policy::Policy;
use crate::time::{Seconds, Timestamp};

/// The four instants of a key, the last one to which they may ever be moved, and by how much they
/// have been postponed, which is no part of what is published.
///
/// `published_at ≤ activate_at < retire_at < destroy_at ≤ destroy_by`. Half-open: it seals in
/// `[activate_at, retire_at)` and opens in `[published_at, destroy_at)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Schedule {
    published_at: Timestamp,
    activate_at: Timestamp,
    retire_at: Timestamp,
    destroy_at: Timestamp,
    destroy_by: Timestamp,
    postponed: Seconds,
}

/// What a key may be used for at an instant, in the words of NIST SP 800-57, part 1, section 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyState {
    /// Published; opens, for a peer's clock may be ahead; does not seal.
    Pending,
    /// Seals and opens.
    Active,
    /// Opens what it sealed.
    DecryptOnly,
    /// Neither, and its material is erased.
    Destroyed,
}

impl KeyState {
    /// The state as it is written in tables, metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::DecryptOnly => "decrypt-only",
            Self::Destroyed => "destroyed",
        }
    }
}

/// The instants of a schedule are out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{earlier} must be {relation} {later}")]
pub struct ScheduleError {
    /// The field that must come first.
    pub earlier: &'static str,
    /// `before` or `not after`.
    pub relation: &'static str,
    /// The field that must come later.
    pub later: &'static str,
}

impl Schedule {
    /// Checks the order of the five instants, of a key that was not postponed.
    ///
    /// # Errors
    /// [`ScheduleError`] with the first pair out of order.
    pub fn try_new(
        published_at: Timestamp,
        activate_at: Timestamp,
        retire_at: Timestamp,
        destroy_at: Timestamp,
        destroy_by: Timestamp,
    ) -> Result<Self, ScheduleError> {
        let error = |earlier, relation, later| Err(ScheduleError { earlier, relation, later });
        if published_at > activate_at {
            return error("published_at", "not after", "activate_at");
        }
        if activate_at >= retire_at {
            return error("activate_at", "before", "retire_at");
        }
        if retire_at >= destroy_at {
            return error("retire_at", "before", "destroy_at");
        }
        if destroy_at > destroy_by {
            return error("destroy_at", "not after", "destroy_by");
        }
        let postponed = Seconds::ZERO;
        Ok(Self { published_at, activate_at, retire_at, destroy_at, destroy_by, postponed })
    }

    /// The schedule of a new key that seals in `[activate_at, retire_at)`:
    /// `destroy_at = retire_at + ticket_lifetime + clock_skew`, `destroy_by` one lead later.
    ///
    /// # Errors
    /// [`ScheduleError`] if the given instants are out of order or at the end of time.
    pub fn planned(
        policy: &Policy,
        published_at: Timestamp,
        activate_at: Timestamp,
        retire_at: Timestamp,
    ) -> Result<Self, ScheduleError> {
        let destroy_at = retire_at + policy.ticket_lifetime() + policy.clock_skew();
        Self::try_new(published_at, activate_at, retire_at, destroy_at, destroy_at + policy.lead())
    }

    /// The same, of a key that has been postponed by so much already.
    #[must_use]
    pub fn having_postponed(self, postponed: Seconds) -> Self {
        Self { postponed, ..self }
    }

    /// What the key may be used for at `now`. Before its publication it counts as pending.
    pub fn state(&self, now: Timestamp) -> KeyState {
        if now >= self.destroy_at {
            KeyState::Destroyed
        } else if now >= self.retire_at {
            KeyState::DecryptOnly
        } else if now >= self.activate_at {
            KeyState::Active
        } else {
            KeyState::Pending
        }
    }

    /// Whether the key may seal at `now`.
    pub fn seals(&self, now: Timestamp) -> bool {
        self.activate_at <= now && now < self.retire_at
    }

    /// Whether the key may open at `now`. Whoever holds the key knows that it is published, so a
    /// clock behind the publisher's does not stop it from opening.
    pub fn opens(&self, now: Timestamp) -> bool {
        now < self.destroy_at
    }

    /// The same schedule with its encrypt period begun and ended elsewhere; `destroy_at` keeps its
    /// distance from `retire_at` unless `destroy` says otherwise, and if that makes it later, the
    /// key has been postponed by as much.
    ///
    /// # Errors
    /// [`ScheduleError`] if that breaks the order or leaves the envelope that ends at `destroy_by`.
    pub fn moved(
        &self,
        activate_at: Timestamp,
        retire_at: Timestamp,
        destroy: MoveDestroy,
    ) -> Result<Self, ScheduleError> {
        let destroy_at = match destroy {
            MoveDestroy::WithRetire => retire_at + self.destroy_at.since(self.retire_at),
            MoveDestroy::Keep => self.destroy_at,
        };
        let postponed = self.postponed + destroy_at.since(self.destroy_at);
        Self::try_new(self.published_at, activate_at, retire_at, destroy_at, self.destroy_by)
            .map(|schedule| schedule.having_postponed(postponed))
    }

    /// When the key was given out.
    pub fn published_at(&self) -> Timestamp {
        self.published_at
    }

    /// When it begins to seal.
    pub fn activate_at(&self) -> Timestamp {
        self.activate_at
    }

    /// When it ceases to seal.
    pub fn retire_at(&self) -> Timestamp {
        self.retire_at
    }

    /// When it ceases to open and is erased.
    pub fn destroy_at(&self) -> Timestamp {
        self.destroy_at
    }

    /// The last instant to which `destroy_at` may be moved; fixed when the key is minted.
    pub fn destroy_by(&self) -> Timestamp {
        self.destroy_by
    }

    /// By how much `destroy_at` has been postponed since the key was minted; of a pending key its
    /// activation as well. Known to whoever plans; zero in what was read from a bundle.
    pub fn postponed(&self) -> Seconds {
        self.postponed
    }
}

/// What happens to `destroy_at` when the encrypt period moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveDestroy {
    /// It moves along with `retire_at`.
    WithRetire,
    /// It stays, as for a key that is retired early.
    Keep,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix(seconds)
    }

    fn schedule() -> Schedule {
        Schedule::try_new(at(10), at(20), at(30), at(40), at(50)).unwrap()
    }

    #[test]
    fn states_are_half_open_intervals() {
        let expected = [
            (0, KeyState::Pending),
            (19, KeyState::Pending),
            (20, KeyState::Active),
            (29, KeyState::Active),
            (30, KeyState::DecryptOnly),
            (39, KeyState::DecryptOnly),
            (40, KeyState::Destroyed),
            (u64::MAX, KeyState::Destroyed),
        ];
        for (now, state) in expected {
            assert_eq!(schedule().state(at(now)), state, "at {now}");
            assert_eq!(schedule().seals(at(now)), state == KeyState::Active);
            assert_eq!(schedule().opens(at(now)), state != KeyState::Destroyed);
        }
    }

    #[test]
    fn order_is_proven_at_construction() {
        let instants = [at(10), at(20), at(30), at(40), at(50)];
        for swapped in 0..4 {
            let mut i = instants;
            i.swap(swapped, swapped + 1);
            assert!(Schedule::try_new(i[0], i[1], i[2], i[3], i[4]).is_err(), "{swapped}");
        }
        assert!(Schedule::try_new(at(10), at(10), at(30), at(40), at(40)).is_ok());
        assert!(Schedule::try_new(at(10), at(20), at(20), at(40), at(50)).is_err());
        assert!(Schedule::try_new(at(10), at(20), at(30), at(30), at(50)).is_err());
    }

    #[test]
    fn a_move_stays_inside_the_envelope() {
        let moved = schedule().moved(at(25), at(40), MoveDestroy::WithRetire).unwrap();
        assert_eq!((moved.destroy_at(), moved.postponed()), (at(50), Seconds::new(10)));
        let error = schedule().moved(at(25), at(41), MoveDestroy::WithRetire).unwrap_err();
        assert_eq!(error.to_string(), "destroy_at must be not after destroy_by");
        let kept = schedule().moved(at(20), at(25), MoveDestroy::Keep).unwrap();
        assert_eq!((kept.destroy_at(), kept.postponed()), (at(40), Seconds::ZERO));
    }
}
