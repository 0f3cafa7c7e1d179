//! Forbidding keys at once.

use stek_core::name::KeysetName;
use stek_core::planner::Selection;
use stek_wire::admin::EffectDocument;

use super::decide::KeysetChange;
use super::{OperationError, Operations};

impl Operations {
    /// Forbids and erases the selected keys in one transaction and supplies what seals after them;
    /// see [`stek_core::planner::revoke`]. There is no way back.
    ///
    /// # Errors
    /// [`OperationError::Revoke`], [`OperationError::NotFound`], or the parts below.
    pub async fn revoke(
        &self,
        name: &KeysetName,
        selection: Selection,
        reason: &str,
        actor: &str,
    ) -> Result<EffectDocument, OperationError> {
        let asked = KeysetChange::Revoke { selection, reason: reason.to_owned() };
        self.update(name, actor, &asked).await
    }
}
