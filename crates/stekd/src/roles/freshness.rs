//! Whether a distribution replica still hears from those that it follows, and they of the database. It
//! stays ready when it does not, for what it has goes on being served; but it says so.

use std::sync::Arc;

use stek_client::Status;
use stek_clock::FleetClock;
use stek_core::time::Timestamp;
use stek_http::health::{Check, Readiness};

/// The checks of a replica, with how old its feed is.
pub(crate) struct Freshness<S> {
    /// What the replica says of itself.
    pub(crate) replica: Arc<dyn Readiness>,
    /// How its follower fares.
    pub(crate) status: S,
    /// The time that ages are told by.
    pub(crate) fleet: Arc<FleetClock>,
}

impl<S: Fn() -> Status + Send + Sync> Readiness for Freshness<S> {
    fn checks(&self) -> Vec<Check> {
        let mut checks = self.replica.checks();
        let status = (self.status)();
        checks.push(Check::passed("upstream", detail(&status, self.fleet.now())));
        checks
    }
}

fn detail(status: &Status, now: Timestamp) -> String {
    let heard = match status.last_success {
        Some(last) => format!("feed confirmed {} ago", now.since(last)),
        None => "feed not yet confirmed".to_owned(),
    };
    let heard = match status.database_read {
        Some(read) => format!("{heard}, the database read {} ago", now.since(read)),
        None => heard,
    };
    match &status.failure {
        // The cause is in the log, for it names hosts.
        Some(failure) => {
            let span = now.since(failure.since);
            format!("{heard}; no upstream answers for {span}, the last good state is served")
        }
        None => heard,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

    use stek_client::{Failure, Upstream};

    use super::*;

    #[test]
    fn it_says_how_old_the_feed_is_and_since_when_nobody_answers() {
        let at = Timestamp::from_unix;
        let fresh = Status {
            installed: None,
            last_success: Some(at(1_000)),
            database_read: None,
            upstream: Upstream::try_new("https://secret-host").unwrap(),
            failure: None,
        };
        assert_eq!(detail(&fresh, at(1_055)), "feed confirmed 55s ago");
        let cut_off = Status { database_read: Some(at(900)), ..fresh.clone() };
        let words = "feed confirmed 55s ago, the database read 155s ago";
        assert_eq!(detail(&cut_off, at(1_055)), words);
        let failure = Some(Failure { cause: "no connection".into(), since: at(1_060) });
        let stale = Status { failure, ..fresh };
        assert_eq!(
            detail(&stale, at(4_660)),
            "feed confirmed 61m ago; no upstream answers for 1h, the last good state is served"
        );
        let empty = Status { last_success: None, ..stale };
        assert!(detail(&empty, at(4_660)).starts_with("feed not yet confirmed; no upstream"));
    }
}
