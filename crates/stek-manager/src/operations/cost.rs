//! What a change would do and cost, for an operator to read before asking for it. Makes no key and
//! changes nothing.

use stek_core::keyset::{KeyRecord, Keyset};
use stek_core::name::KeysetName;
use stek_core::planner::{self, Op};
use stek_core::time::Timestamp;
use stek_store::StoredKeyset;
use stek_wire::admin::{CostDocument, Effect, KeyDocument};

use super::decide::{KeysetChange, decide};
use super::outcome;
use super::{OperationError, Operations};
use crate::draft::DraftError;
use crate::forecast::imagined_key;

const LOST: &str = "sessions whose tickets were sealed under these keys need a full handshake; \
                    live connections go on";
const KEPT: &str = "no session is lost";

impl Operations {
    /// What `asked` would do to the keyset now.
    ///
    /// # Errors
    /// As for carrying it out.
    pub async fn cost(
        &self,
        name: &KeysetName,
        asked: &KeysetChange,
    ) -> Result<CostDocument, OperationError> {
        let now = self.engine.read_time_or_fleet_time().await?.now;
        let stored = self.read(name).await?;
        let planned = decide(&stored, asked, now)?;
        let minted = imagined(&planned.ops);
        let after =
            planner::apply(&planned.keyset, &planned.ops, &minted).map_err(DraftError::from)?;
        let effects = outcome::effects(std::iter::empty(), &planned.ops, now);
        let warnings = outcome::warnings(&stored.keyset, &after, planned.policy.as_ref(), now);
        let instances = self.instances_seen(name);
        Ok(Cost { after: Some(&after), effects, warnings, instances }.document(&stored, now))
    }

    /// What deleting the keyset would do now.
    ///
    /// # Errors
    /// [`OperationError::NotFound`], or the database.
    pub async fn cost_of_deletion(
        &self,
        name: &KeysetName,
    ) -> Result<CostDocument, OperationError> {
        let now = self.engine.read_time_or_fleet_time().await?.now;
        let stored = self.read(name).await?;
        let effects = outcome::deletions(&stored, now);
        let warnings = vec!["tickets are not sealed again; there is no way back".to_owned()];
        let instances = self.instances_seen(name);
        Ok(Cost { after: None, effects, warnings, instances }.document(&stored, now))
    }

    fn instances_seen(&self, name: &KeysetName) -> Option<u64> {
        self.terminators(name, None).ok()?.instances
    }
}

struct Cost<'a> {
    /// The keyset afterwards, if it is still there.
    after: Option<&'a Keyset>,
    effects: Vec<Effect>,
    warnings: Vec<String>,
    instances: Option<u64>,
}

impl Cost<'_> {
    fn document(self, stored: &StoredKeyset, now: Timestamp) -> CostDocument {
        let live = |key: &&KeyRecord| key.schedule.opens(now);
        let stays = |key: &KeyRecord| {
            self.after.is_some_and(|after| after.keys().iter().any(|kept| kept.id == key.id))
        };
        let ends: Vec<KeyDocument> = stored
            .keyset
            .keys()
            .iter()
            .filter(live)
            .filter(|key| !stays(key))
            .map(|key| KeyDocument::new(key, now))
            .collect();
        let seals_from = self.after.and_then(|after| outcome::seals_from(after, now));
        CostDocument {
            keyset: stored.keyset.name().to_string(),
            revision: stored.revision.as_u64(),
            sessions: if ends.is_empty() { KEPT } else { LOST }.to_owned(),
            ends,
            effects: self.effects,
            gap_seconds: seals_from.map_or(0, |from| from.since(now).as_secs()),
            seals_from: seals_from.map(|from| from.to_string()),
            instances: self.instances,
            warnings: self.warnings,
        }
    }
}

/// Stand-ins for the keys that would be minted.
fn imagined(ops: &[Op]) -> Vec<KeyRecord> {
    let schedules = ops.iter().filter_map(|op| match op {
        Op::Mint { schedule, .. } => Some(*schedule),
        Op::Move { .. } | Op::End { .. } => None,
    });
    (1..).zip(schedules).map(|(number, schedule)| imagined_key(number, schedule)).collect()
}
