//! How following goes, for a health check or a person. Holds no secret.

use std::sync::{Mutex, PoisonError};

use stek_core::id::ContentTag;
use stek_core::time::Timestamp;

use crate::upstream::Upstream;

/// How a follower fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// What is installed.
    pub installed: Option<ContentTag>,
    /// Fleet time of the last answer that confirmed or renewed it.
    pub last_success: Option<Timestamp>,
    /// Fleet time at which the database was last read whose content is installed; none if servers
    /// do not say.
    pub database_read: Option<Timestamp>,
    /// Whom it asks, or asked last.
    pub upstream: Upstream,
    /// What went wrong last, if nothing succeeded since.
    pub failure: Option<Failure>,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The last cause, for a person.
    pub cause: String,
    /// Fleet time of the first failure since the last success.
    pub since: Timestamp,
}

/// The status, written by the poller and read by anyone.
pub(crate) struct StatusCell(Mutex<Status>);

impl StatusCell {
    pub(crate) fn new(upstream: Upstream) -> Self {
        Self(Mutex::new(Status {
            installed: None,
            last_success: None,
            database_read: None,
            upstream,
            failure: None,
        }))
    }

    pub(crate) fn read(&self) -> Status {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn note_success(
        &self,
        upstream: &Upstream,
        installed: ContentTag,
        now: Timestamp,
        database_read: Option<Timestamp>,
    ) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *status = Status {
            installed: Some(installed),
            last_success: Some(now),
            database_read,
            upstream: upstream.clone(),
            failure: None,
        };
    }

    pub(crate) fn note_failure(&self, upstream: &Upstream, cause: String, now: Timestamp) {
        let mut status = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let since = status.failure.as_ref().map_or(now, |failure| failure.since);
        status.upstream = upstream.clone();
        status.failure = Some(Failure { cause, since });
    }
}

#[cfg(test)]
mod tests {
    use stek_core::id::{ContentDigest, Incarnation, Revision};

    use super::*;

    #[test]
    fn a_failure_began_with_the_first_and_ends_with_a_success() {
        let upstream = Upstream::try_new("https://host").unwrap();
        let at = Timestamp::from_unix;
        let cell = StatusCell::new(upstream.clone());
        cell.note_failure(&upstream, "one".into(), at(10));
        cell.note_failure(&upstream, "two".into(), at(20));
        let failure = Failure { cause: "two".into(), since: at(10) };
        assert_eq!(cell.read().failure, Some(failure));
        let tag = ContentTag {
            incarnation: Incarnation::new(1, &[0; 10]),
            revision: Revision::new(1),
            digest: ContentDigest::from_bytes([0; 8]),
        };
        cell.note_success(&upstream, tag, at(30), Some(at(29)));
        let status = cell.read();
        assert_eq!((status.failure, status.last_success), (None, Some(at(30))));
        assert_eq!(status.database_read, Some(at(29)));
        cell.note_failure(&upstream, "three".into(), at(40));
        let status = cell.read();
        assert_eq!((status.installed, status.last_success), (Some(tag), Some(at(30))));
    }
}
