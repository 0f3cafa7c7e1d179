//! Whether this replica should be sent traffic: it has something to serve, and may serve it.

use std::sync::Arc;

use stek_http::health::{Check, Readiness};

use crate::Shared;
use crate::visitor::ACCESS_MAX_AGE;

pub(crate) struct DistributionReadiness(pub(crate) Arc<Shared>);

impl Readiness for DistributionReadiness {
    fn checks(&self) -> Vec<Check> {
        let Some(feed) = self.0.feed.borrow().clone() else {
            return vec![Check::failed("feed", "nothing is published here yet")];
        };
        let now = self.0.fleet.now();
        let age = now.since(feed.access_read_at);
        let detail = format!("{} keysets at revision {}", feed.keysets.len(), feed.revision);
        let access = if age < ACCESS_MAX_AGE {
            Check::passed("access", format!("tokens and grants confirmed {age} ago"))
        } else {
            Check::failed("access", format!("tokens and grants confirmed {age} ago"))
        };
        vec![Check::passed("feed", detail), access]
    }
}
