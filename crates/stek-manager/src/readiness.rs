//! Whether this manager should be sent traffic: it has published, and its last pass succeeded.

use std::sync::{Mutex, PoisonError};

use stek_http::health::{Check, Readiness};

/// How the last pass ended, in words that anyone may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum LastPass {
    /// There was none yet.
    #[default]
    None,
    Succeeded,
    /// Why it failed.
    Failed(&'static str),
}

#[derive(Debug, Default)]
pub(crate) struct ManagerReadiness(Mutex<LastPass>);

impl ManagerReadiness {
    pub(crate) fn succeeded(&self) {
        self.set(LastPass::Succeeded);
    }

    pub(crate) fn failed(&self, why: &'static str) {
        self.set(LastPass::Failed(why));
    }

    pub(crate) fn last_pass(&self) -> LastPass {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, pass: LastPass) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = pass;
    }
}

impl Readiness for ManagerReadiness {
    fn checks(&self) -> Vec<Check> {
        vec![match self.last_pass() {
            LastPass::None => Check::failed("reconcile", "no pass yet"),
            LastPass::Succeeded => Check::passed("reconcile", "last pass succeeded"),
            LastPass::Failed(why) => Check::failed("reconcile", why),
        }]
    }
}
