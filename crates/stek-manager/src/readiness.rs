//! Whether this manager should be sent traffic: it has published, and its last pass succeeded.

use std::sync::atomic::{AtomicUsize, Ordering};
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
pub(crate) struct ManagerReadiness {
    last: Mutex<LastPass>,
    unreadable: AtomicUsize,
}

impl ManagerReadiness {
    pub(crate) fn succeeded(&self) {
        self.set(LastPass::Succeeded);
    }

    pub(crate) fn failed(&self, why: &'static str) {
        self.set(LastPass::Failed(why));
    }

    pub(crate) fn last_pass(&self) -> LastPass {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many keysets cannot be read. That is told and no reason not to be sent traffic: the
    /// others are served.
    pub(crate) fn unreadable(&self, keysets: usize) {
        self.unreadable.store(keysets, Ordering::Relaxed);
    }

    fn set(&self, pass: LastPass) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = pass;
    }
}

impl Readiness for ManagerReadiness {
    fn checks(&self) -> Vec<Check> {
        let unreadable = match self.unreadable.load(Ordering::Relaxed) {
            0 => Check::passed("keysets", "all that are due can be read"),
            count => Check::passed("keysets", format!("{count} cannot be read")),
        };
        let last = match self.last_pass() {
            LastPass::None => Check::failed("reconcile", "no pass yet"),
            LastPass::Succeeded => Check::passed("reconcile", "last pass succeeded"),
            LastPass::Failed(why) => Check::failed("reconcile", why),
        };
        vec![last, unreadable]
    }
}
