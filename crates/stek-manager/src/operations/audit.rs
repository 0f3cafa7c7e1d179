//! The audit trail, for auditors.

use stek_core::audit::ChainLink;
use stek_wire::admin::{AuditList, VerdictDocument};

use super::{OperationError, Operations};
use crate::trail::{self, Secrets, TrailQuery};

impl Operations {
    /// One page of the audit trail, oldest line first.
    ///
    /// # Errors
    /// The database.
    pub async fn audit(&self, query: &TrailQuery) -> Result<AuditList, OperationError> {
        Ok(trail::list(self.engine.store.as_ref(), query).await?)
    }

    /// Whether the chain of the trail holds after line `after`, as far as one question may look.
    ///
    /// # Errors
    /// The database. A chain that is broken is an answer, not an error.
    pub async fn verify_audit(
        &self,
        after: u64,
        anchor: Option<ChainLink>,
    ) -> Result<VerdictDocument, OperationError> {
        let secrets = Secrets { chain: &self.engine.audit, sealer: &self.engine.sealer };
        Ok(trail::verify(self.engine.store.as_ref(), secrets, after, anchor).await?)
    }
}
