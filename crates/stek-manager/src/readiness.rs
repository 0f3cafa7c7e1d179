//! Whether this manager should be sent traffic: it has published, and its last pass succeeded.

use std::sync::{Arc, Mutex, PoisonError};

use stek_http::health::{Check, Readiness};

use crate::engine::Engine;

/// How the last pass ended, in words that anyone may read.
#[derive(Debug, Clone)]
enum LastPass {
    None,
    Succeeded,
    Failed(&'static str),
}

pub(crate) struct ManagerReadiness {
    last: Mutex<LastPass>,
    engine: Arc<Engine>,
}

impl ManagerReadiness {
    pub(crate) fn new(engine: Arc<Engine>) -> Self {
        Self { last: Mutex::new(LastPass::None), engine }
    }

    pub(crate) fn succeeded(&self) {
        self.set(LastPass::Succeeded);
    }

    pub(crate) fn failed(&self, why: &'static str) {
        self.set(LastPass::Failed(why));
    }

    fn set(&self, pass: LastPass) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = pass;
    }
}

impl Readiness for ManagerReadiness {
    fn checks(&self) -> Vec<Check> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let reconcile = match last {
            LastPass::None => Check::failed("reconcile", "no pass yet"),
            LastPass::Succeeded => Check::passed("reconcile", "last pass succeeded"),
            LastPass::Failed(why) => Check::failed("reconcile", why),
        };
        // Whoever is behind, this manager serves; what is wrong with its own copy fails a pass.
        vec![reconcile, Check::passed("ratchet", self.engine.ratchet_detail())]
    }
}
