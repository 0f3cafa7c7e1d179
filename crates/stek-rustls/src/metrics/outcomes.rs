//! What is counted: every way in which a ticket, a stored session or a handshake can end, with its
//! value of the label `outcome`. docs/PROTOCOL.md says when each is counted.

use stek_core::schedule::KeyState;
use stek_core::snapshot::{OpenMiss, SealMiss};

use crate::store::{LookUpError, PutError};

/// An enum of outcomes with its label values; `ALL` in the order of the discriminants, by which
/// counters are found. As wide as an address: where a result holds either, a narrower one is written
/// as a part of it, and who then reads the whole word has to wait.
macro_rules! outcomes {
    ($(#[$doc:meta])* $name:ident { $($outcome:ident = $label:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(usize)]
        pub(crate) enum $name { $($outcome,)+ }

        impl $name {
            pub(super) const ALL: [Self; [$($label),+].len()] = [$(Self::$outcome,)+];

            pub(super) const fn as_str(self) -> &'static str {
                match self { $(Self::$outcome => $label,)+ }
            }
        }
    };
}

outcomes! {
    /// What became of a ticket that was asked for.
    SealOutcome {
        Sealed = "sealed",
        NoActiveKey = "no-active-key",
        TooLong = "too-long",
        NoRandomness = "no-randomness",
        SessionTooOld = "session-too-old",
        Unreadable = "unreadable",
        NotAllowed = "not-allowed",
    }
}

outcomes! {
    /// What became of a ticket that was offered.
    OpenOutcome {
        Active = "active",
        DecryptOnly = "decrypt-only",
        Pending = "pending",
        Malformed = "malformed",
        Unknown = "unknown",
        Expired = "expired",
        Revoked = "revoked",
        Forged = "forged",
        FromTheFuture = "from-the-future",
        SessionTooOld = "session-too-old",
        TooMany = "too-many",
        NotAllowed = "not-allowed",
    }
}

outcomes! {
    /// What became of a session that was to be kept.
    PutOutcome {
        Accepted = "accepted",
        NoActiveKey = "no-active-key",
        TooLong = "too-long",
        NoRandomness = "no-randomness",
        SessionTooOld = "session-too-old",
        Unreadable = "unreadable",
        NotAllowed = "not-allowed",
        KeyLength = "key-length",
        QueueFull = "queue-full",
        BreakerOpen = "breaker-open",
    }
}

outcomes! {
    /// What became of a session that was asked for.
    LookUpOutcome {
        Active = "active",
        DecryptOnly = "decrypt-only",
        Pending = "pending",
        Malformed = "malformed",
        Unknown = "unknown",
        Expired = "expired",
        Revoked = "revoked",
        Forged = "forged",
        FromTheFuture = "from-the-future",
        SessionTooOld = "session-too-old",
        TooMany = "too-many",
        NotAllowed = "not-allowed",
        Absent = "absent",
        Swapped = "swapped",
        KeyLength = "key-length",
        NoKeys = "no-keys",
        TimedOut = "timed-out",
        Unavailable = "unavailable",
        Busy = "busy",
        BreakerOpen = "breaker-open",
    }
}

outcomes! {
    /// What became of a session after it was accepted.
    #[cfg_attr(not(feature = "redis"), allow(dead_code, reason = "only I/O fails later"))]
    WriteOutcome {
        Written = "written",
        Failed = "failed",
    }
}

outcomes! {
    /// How a handshake ended.
    HandshakeOutcome {
        Full = "full",
        Resumed = "resumed",
        Failed = "failed",
    }
}

impl From<SealMiss> for SealOutcome {
    fn from(miss: SealMiss) -> Self {
        match miss {
            SealMiss::NoActiveKey => Self::NoActiveKey,
            SealMiss::SessionTooOld => Self::SessionTooOld,
            SealMiss::TooLong(_) => Self::TooLong,
        }
    }
}

impl From<KeyState> for OpenOutcome {
    fn from(state: KeyState) -> Self {
        match state {
            KeyState::Active => Self::Active,
            KeyState::DecryptOnly => Self::DecryptOnly,
            KeyState::Pending => Self::Pending,
            // Such a key opens nothing.
            KeyState::Destroyed => Self::Expired,
        }
    }
}

impl From<OpenMiss> for OpenOutcome {
    fn from(miss: OpenMiss) -> Self {
        match miss {
            OpenMiss::Malformed => Self::Malformed,
            OpenMiss::Unknown => Self::Unknown,
            OpenMiss::Expired => Self::Expired,
            OpenMiss::Revoked => Self::Revoked,
            OpenMiss::Forged => Self::Forged,
            OpenMiss::FromTheFuture => Self::FromTheFuture,
            OpenMiss::SessionTooOld => Self::SessionTooOld,
        }
    }
}

impl From<SealOutcome> for PutOutcome {
    fn from(outcome: SealOutcome) -> Self {
        match outcome {
            SealOutcome::Sealed => Self::Accepted,
            SealOutcome::NoActiveKey => Self::NoActiveKey,
            SealOutcome::TooLong => Self::TooLong,
            SealOutcome::NoRandomness => Self::NoRandomness,
            SealOutcome::SessionTooOld => Self::SessionTooOld,
            SealOutcome::Unreadable => Self::Unreadable,
            SealOutcome::NotAllowed => Self::NotAllowed,
        }
    }
}

impl From<PutError> for PutOutcome {
    fn from(error: PutError) -> Self {
        match error {
            PutError::QueueFull => Self::QueueFull,
            PutError::BreakerOpen => Self::BreakerOpen,
        }
    }
}

impl From<OpenOutcome> for LookUpOutcome {
    fn from(outcome: OpenOutcome) -> Self {
        match outcome {
            OpenOutcome::Active => Self::Active,
            OpenOutcome::DecryptOnly => Self::DecryptOnly,
            OpenOutcome::Pending => Self::Pending,
            OpenOutcome::Malformed => Self::Malformed,
            OpenOutcome::Unknown => Self::Unknown,
            OpenOutcome::Expired => Self::Expired,
            OpenOutcome::Revoked => Self::Revoked,
            OpenOutcome::Forged => Self::Forged,
            OpenOutcome::FromTheFuture => Self::FromTheFuture,
            OpenOutcome::SessionTooOld => Self::SessionTooOld,
            OpenOutcome::TooMany => Self::TooMany,
            OpenOutcome::NotAllowed => Self::NotAllowed,
        }
    }
}

impl From<LookUpError> for LookUpOutcome {
    fn from(error: LookUpError) -> Self {
        match error {
            LookUpError::TimedOut => Self::TimedOut,
            LookUpError::Unavailable => Self::Unavailable,
            LookUpError::Busy => Self::Busy,
            LookUpError::BreakerOpen => Self::BreakerOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// The outcomes in the table of docs/PROTOCOL.md whose heading has these words.
    fn table(column: usize, heading: &str) -> BTreeSet<&'static str> {
        let document = include_str!("../../../../docs/PROTOCOL.md");
        let lines = document.lines().skip_while(|line| !line.contains(heading)).skip(2);
        let rows = lines.take_while(|line| line.starts_with('|'));
        let cells = rows.map(|row| row.trim_matches('|').split('|').nth(column).unwrap());
        let found: BTreeSet<_> =
            cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(!found.is_empty(), "no table: {heading}");
        found
    }

    fn labels<T: Copy>(all: &[T], label: impl Fn(T) -> &'static str) -> BTreeSet<&'static str> {
        all.iter().copied().map(label).collect()
    }

    #[test]
    fn the_protocol_has_every_outcome() {
        let sealing = table(1, "`outcome` in `stek_tickets_sealed_total`");
        let sealed = labels(&SealOutcome::ALL, SealOutcome::as_str);
        assert_eq!(&sealing | &["sealed"].into(), sealed);
        let opening = table(1, "`outcome` in `stek_tickets_opened_total`");
        let opening = &opening | &["active", "decrypt-only", "pending"].into();
        assert_eq!(opening, labels(&OpenOutcome::ALL, OpenOutcome::as_str));

        let put = &(&sealing | &["accepted"].into()) | &table(0, "why a session was not kept");
        assert_eq!(put, labels(&PutOutcome::ALL, PutOutcome::as_str));
        let looked_up = &opening | &table(0, "why none resumed");
        assert_eq!(looked_up, labels(&LookUpOutcome::ALL, LookUpOutcome::as_str));
    }
}
