//! Whether this manager should be sent traffic: it has published, and its last pass succeeded.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use stek_http::health::{Check, Readiness};

use crate::engine::Engine;

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

pub(crate) struct ManagerReadiness {
    last: Mutex<LastPass>,
    unreadable: AtomicUsize,
    engine: Arc<Engine>,
}

impl ManagerReadiness {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { last: Mutex::default(), unreadable: AtomicUsize::new(0), engine }
    }

    pub(crate) fn succeeded(&self) {
        self.set(LastPass::Succeeded);
    }

    pub(crate) fn failed(&self, why: &'static str) {
        self.set(LastPass::Failed(why));
    }

    pub(crate) fn last_pass(&self) -> LastPass {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
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
        // Whoever is behind, this manager serves; what is wrong with its own copy fails a pass.
        let ratchet = Check::passed("ratchet", self.engine.ratchet_detail());
        vec![last, unreadable, ratchet]
    }
}
