//! What an operator may ask of a keyset that exists, and what the planner makes of it. The same
//! decision is carried out or only shown.

use stek_core::audit::AuditAction;
use stek_core::keyset::Keyset;
use stek_core::planner::{self, Convergence, Op, Selection};
use stek_core::policy::Policy;
use stek_core::time::Timestamp;
use stek_store::StoredKeyset;
use stek_wire::admin::PolicyDocument;

use super::{OperationError, outcome};
use crate::draft::DraftError;

/// What is asked of a keyset.
#[derive(Debug, Clone)]
pub enum KeysetChange {
    /// Rotate at once; see [`planner::rotate_now`].
    Rotate,
    /// Another policy, from the next mint on.
    Policy(PolicyDocument),
    /// Forbid keys at once; see [`planner::revoke`].
    Revoke {
        /// Which.
        selection: Selection,
        /// Why, for the audit trail.
        reason: String,
    },
}

/// A decision about one keyset, with the event of the request itself.
pub(super) struct Planned {
    pub(super) keyset: Keyset,
    pub(super) ops: Vec<Op>,
    pub(super) policy: Option<Policy>,
    pub(super) event: Option<(AuditAction, String)>,
}

pub(super) fn decide(
    stored: &StoredKeyset,
    asked: &KeysetChange,
    now: Timestamp,
) -> Result<Planned, OperationError> {
    let keyset = stored.keyset.clone();
    let plain = |keyset, ops| Planned { keyset, ops, policy: None, event: None };
    match asked {
        KeysetChange::Rotate => {
            let ops = planner::rotate_now(&keyset, now)?;
            Ok(plain(keyset, ops))
        }
        KeysetChange::Revoke { selection, .. } => {
            let ops = planner::revoke(&keyset, *selection, now)?;
            Ok(plain(keyset, ops))
        }
        KeysetChange::Policy(asked) => {
            let policy = Policy::try_new(&asked.over(keyset.policy()))?;
            let keys = keyset.keys().to_vec();
            let keyset = Keyset::try_new(keyset.name().clone(), policy, keyset.history(), keys)
                .map_err(DraftError::from)?;
            let ops = planner::plan(&keyset, &Convergence::confirmed(), now);
            let event = Some((AuditAction::PolicyChanged, outcome::describe(&policy)));
            Ok(Planned { keyset, ops, policy: Some(policy), event })
        }
    }
}
