//! Rows as they come, and the domain values they make. A row that breaks a rule is reported, not
//! believed.

use std::collections::HashMap;

use sqlx::FromRow;
use stek_core::access::{Grant, KeysetSelector, Role, Token, TokenHash};
use stek_core::audit::{AuditAction, AuditEvent, ChainLink, HandOver};
use stek_core::bundle::{EndCause, EndedKey};
use stek_core::id::{ContentDigest, Incarnation, Kcv, Revision};
use stek_core::keyset::{History, KeyRecord, Keyset, TicketFormat};
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::policy::{ActivationQuorum, Policy, PolicyRequest};
use stek_core::principal::PrincipalPattern;
use stek_core::schedule::Schedule;
use stek_core::time::Seconds;
use stek_core::wrapped::{Epoch, ReplicaId, SeedId, WrappedKey};
use uuid::Uuid;

use super::column::{Column, SqlTime, array, as_unsigned, key_id};
use crate::changeset::KnownKey;
use crate::{
    AuditCheckpoint, AuditHandOver, AuditRow, ClusterState, Keysets, Replica, SealedGrant,
    SealedToken, Seed, SeedPhase, SeedRow, StoreError, StoredKey, StoredKeyset, Tombstone, Unsound,
};

fn corrupt(table: &'static str, what: &(impl ToString + ?Sized)) -> StoreError {
    StoreError::Corrupt { table, what: what.to_string() }
}

#[derive(FromRow)]
pub(crate) struct ClusterRecord {
    pub(crate) incarnation: Uuid,
    pub(crate) revision: i64,
    pub(crate) access_revision: i64,
    pub(crate) audit_sequence: i64,
    pub(crate) audit_head: Vec<u8>,
}

impl TryFrom<ClusterRecord> for ClusterState {
    type Error = StoreError;

    fn try_from(row: ClusterRecord) -> Result<Self, StoreError> {
        let number = |column, number| as_unsigned("cluster", column, number);
        Ok(Self {
            incarnation: Incarnation::from_bytes(row.incarnation.into_bytes()),
            revision: Revision::new(number("revision", row.revision)?),
            access_revision: Revision::new(number("access_revision", row.access_revision)?),
            audit_sequence: number("audit_sequence", row.audit_sequence)?,
            audit_head: ChainLink::from_bytes(array("cluster", "audit_head", &row.audit_head)?),
        })
    }
}

#[derive(FromRow)]
pub(crate) struct KeysetRecord {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) rotation_period_seconds: i64,
    pub(crate) ticket_lifetime_seconds: i64,
    pub(crate) poll_interval_seconds: i64,
    pub(crate) clock_skew_seconds: i64,
    pub(crate) lead_seconds: i64,
    pub(crate) session_lifetime_seconds: i64,
    pub(crate) activation_quorum: String,
    pub(crate) activation_deadline_seconds: i64,
    pub(crate) had_keys: bool,
    pub(crate) revision: i64,
    pub(crate) content_digest: Vec<u8>,
    pub(crate) next_due: SqlTime,
    pub(crate) created_at: SqlTime,
}

impl KeysetRecord {
    fn policy(&self) -> Result<Policy, StoreError> {
        let span = |column, seconds| {
            as_unsigned("keysets", column, seconds).map(|seconds| Some(Seconds::new(seconds)))
        };
        let asked = PolicyRequest {
            rotation_period: span("rotation_period_seconds", self.rotation_period_seconds)?,
            ticket_lifetime: span("ticket_lifetime_seconds", self.ticket_lifetime_seconds)?,
            poll_interval: span("poll_interval_seconds", self.poll_interval_seconds)?,
            clock_skew: span("clock_skew_seconds", self.clock_skew_seconds)?,
            lead: span("lead_seconds", self.lead_seconds)?,
            session_lifetime: span("session_lifetime_seconds", self.session_lifetime_seconds)?,
            activation_quorum: Some(self.quorum()?),
            activation_deadline: span(
                "activation_deadline_seconds",
                self.activation_deadline_seconds,
            )?,
        };
        Policy::try_new(&asked).map_err(|error| corrupt("keysets", &error))
    }

    fn quorum(&self) -> Result<ActivationQuorum, StoreError> {
        ActivationQuorum::parse(&self.activation_quorum).ok_or_else(|| StoreError::Corrupt {
            table: "keysets",
            what: format!("activation_quorum is {:?}", self.activation_quorum),
        })
    }

    fn try_into_stored(
        self,
        mut keys: Vec<StoredKey>,
        ended: Vec<EndedKey>,
    ) -> Result<StoredKeyset, StoreError> {
        let policy = self.policy()?;
        let name = KeysetName::try_new(&self.name).map_err(|error| corrupt("keysets", &error))?;
        keys.sort_by_key(|key| (key.record.schedule.activate_at(), key.record.id));
        let records = keys.iter().map(|key| key.record).collect();
        let history = if self.had_keys { History::Used } else { History::Fresh };
        let keyset = Keyset::try_new(name, policy, history, records)
            .map_err(|error| corrupt("ticket_keys", &error))?;
        Ok(StoredKeyset {
            keyset,
            keys,
            ended,
            revision: Revision::new(as_unsigned("keysets", "revision", self.revision)?),
            digest: ContentDigest::from_bytes(array(
                "keysets",
                "content_digest",
                &self.content_digest,
            )?),
            next_due: self.next_due.read("keysets", "next_due")?,
            created_at: self.created_at.read("keysets", "created_at")?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct LiveKeyRecord {
    pub(crate) id: Uuid,
    pub(crate) keyset_id: i64,
    pub(crate) format: i32,
    pub(crate) kcv: Vec<u8>,
    pub(crate) published_at: SqlTime,
    pub(crate) activate_at: SqlTime,
    pub(crate) retire_at: SqlTime,
    pub(crate) destroy_at: SqlTime,
    pub(crate) destroy_by: SqlTime,
    pub(crate) postponed_seconds: i64,
    pub(crate) seed_id: Uuid,
    pub(crate) epoch: i64,
    pub(crate) wrap_nonce: Option<Vec<u8>>,
    pub(crate) wrap_ciphertext: Option<Vec<u8>>,
}

impl TryFrom<LiveKeyRecord> for StoredKey {
    type Error = StoreError;

    fn try_from(row: LiveKeyRecord) -> Result<Self, StoreError> {
        const TABLE: &str = "ticket_keys";
        let schedule = Schedule::try_new(
            row.published_at.read(TABLE, "published_at")?,
            row.activate_at.read(TABLE, "activate_at")?,
            row.retire_at.read(TABLE, "retire_at")?,
            row.destroy_at.read(TABLE, "destroy_at")?,
            row.destroy_by.read(TABLE, "destroy_by")?,
        );
        let postponed = as_unsigned(TABLE, "postponed_seconds", row.postponed_seconds)?;
        let schedule = schedule.map(|it| it.having_postponed(Seconds::new(postponed)));
        let format = u16::try_from(row.format).ok().and_then(TicketFormat::from_u16);
        Ok(Self {
            record: KeyRecord {
                id: key_id(row.id),
                format: format
                    .ok_or_else(|| corrupt(TABLE, &format_args!("format is {}", row.format)))?,
                kcv: Kcv::from_bytes(array(TABLE, "kcv", &row.kcv)?),
                schedule: schedule.map_err(|error| corrupt(TABLE, &error))?,
            },
            wrapped: WrappedKey {
                seed: SeedId::from_bytes(row.seed_id.into_bytes()),
                epoch: Epoch::new(as_unsigned(TABLE, "epoch", row.epoch)?),
                nonce: array(TABLE, "wrap_nonce", &row.wrap_nonce.unwrap_or_default())?,
                ciphertext: array(
                    TABLE,
                    "wrap_ciphertext",
                    &row.wrap_ciphertext.unwrap_or_default(),
                )?,
            },
        })
    }
}

#[derive(FromRow)]
pub(crate) struct EndedKeyRecord {
    pub(crate) id: Uuid,
    pub(crate) keyset_id: i64,
    pub(crate) kcv: Vec<u8>,
    pub(crate) ended_at: SqlTime,
    pub(crate) end_cause: String,
}

impl TryFrom<EndedKeyRecord> for EndedKey {
    type Error = StoreError;

    fn try_from(row: EndedKeyRecord) -> Result<Self, StoreError> {
        const TABLE: &str = "ticket_keys";
        Ok(Self {
            id: key_id(row.id),
            kcv: Kcv::from_bytes(array(TABLE, "kcv", &row.kcv)?),
            cause: EndCause::parse(&row.end_cause)
                .ok_or_else(|| corrupt(TABLE, "end_cause is unknown"))?,
            ended_at: row.ended_at.read(TABLE, "ended_at")?,
        })
    }
}

/// Puts the keys into their keysets, which keep their order. One that is not sound, or has a key
/// that is not, is set aside.
pub(crate) fn assemble(
    keysets: Vec<KeysetRecord>,
    live: Vec<LiveKeyRecord>,
    ended: Vec<EndedKeyRecord>,
) -> Keysets {
    let mut live_by_keyset: HashMap<i64, Result<Vec<StoredKey>, StoreError>> = HashMap::new();
    for row in live {
        push(&mut live_by_keyset, row.keyset_id, row);
    }
    let mut ended_by_keyset: HashMap<i64, Result<Vec<EndedKey>, StoreError>> = HashMap::new();
    for row in ended {
        push(&mut ended_by_keyset, row.keyset_id, row);
    }
    let mut assembled = Keysets::default();
    for row in keysets {
        let name = row.name.clone();
        let keys = live_by_keyset.remove(&row.id).unwrap_or_else(|| Ok(vec![]));
        let ended = ended_by_keyset.remove(&row.id).unwrap_or_else(|| Ok(vec![]));
        match keys.and_then(|keys| row.try_into_stored(keys, ended?)) {
            Ok(keyset) => assembled.sound.push(keyset),
            Err(error) => assembled.unsound.push(Unsound { name, why: error.to_string() }),
        }
    }
    assembled
}

/// Adds a row to those of its keyset, of which one that is not sound spoils all.
fn push<Row, Value>(
    rows: &mut HashMap<i64, Result<Vec<Value>, StoreError>>,
    keyset_id: i64,
    row: Row,
) where
    Value: TryFrom<Row, Error = StoreError>,
{
    let slot = rows.entry(keyset_id).or_insert_with(|| Ok(vec![]));
    if let Ok(values) = slot {
        match Value::try_from(row) {
            Ok(value) => values.push(value),
            Err(error) => *slot = Err(error),
        }
    }
}

/// The rows that are sound as domain values, and how many are not.
pub(crate) fn sift<Row, Value>(rows: Vec<Row>) -> (Vec<Value>, usize)
where
    Value: TryFrom<Row, Error = StoreError>,
{
    let all = rows.len();
    let sound: Vec<Value> = rows.into_iter().filter_map(|row| row.try_into().ok()).collect();
    let unsound = all - sound.len();
    (sound, unsound)
}

/// All rows as domain values, or the first that is not sound.
pub(crate) fn collect<Row, Value>(rows: Vec<Row>) -> Result<Vec<Value>, StoreError>
where
    Value: TryFrom<Row, Error = StoreError>,
{
    rows.into_iter().map(Value::try_from).collect()
}

#[derive(FromRow)]
pub(crate) struct CheckpointRecord {
    pub(crate) sequence: i64,
    pub(crate) link: Vec<u8>,
    pub(crate) seal: Vec<u8>,
}

impl TryFrom<CheckpointRecord> for AuditCheckpoint {
    type Error = StoreError;

    fn try_from(row: CheckpointRecord) -> Result<Self, StoreError> {
        const TABLE: &str = "audit_checkpoint";
        Ok(Self {
            sequence: as_unsigned(TABLE, "sequence", row.sequence)?,
            link: ChainLink::from_bytes(array(TABLE, "link", &row.link)?),
            seal: array(TABLE, "seal", &row.seal)?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct HandOverRecord {
    pub(crate) sequence: i64,
    pub(crate) link: Vec<u8>,
    pub(crate) before: Vec<u8>,
    pub(crate) seal: Vec<u8>,
}

impl TryFrom<HandOverRecord> for AuditHandOver {
    type Error = StoreError;

    fn try_from(row: HandOverRecord) -> Result<Self, StoreError> {
        const TABLE: &str = "audit_hand_overs";
        Ok(Self {
            hand_over: HandOver {
                sequence: as_unsigned(TABLE, "sequence", row.sequence)?,
                link: ChainLink::from_bytes(array(TABLE, "link", &row.link)?),
                before: ChainLink::from_bytes(array(TABLE, "before", &row.before)?),
            },
            seal: array(TABLE, "seal", &row.seal)?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct KnownKeyRecord {
    pub(crate) id: Uuid,
    pub(crate) keyset_id: i64,
    pub(crate) published_at: SqlTime,
    pub(crate) destroy_by: SqlTime,
    pub(crate) ended: bool,
}

impl KnownKeyRecord {
    pub(crate) fn known(&self) -> Result<KnownKey, StoreError> {
        Ok(KnownKey {
            published_at: self.published_at.read("ticket_keys", "published_at")?,
            destroy_by: self.destroy_by.read("ticket_keys", "destroy_by")?,
            ended: self.ended,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct TombstoneRecord {
    pub(crate) name: String,
    pub(crate) deleted_revision: i64,
    pub(crate) deleted_at: SqlTime,
}

impl TryFrom<TombstoneRecord> for Tombstone {
    type Error = StoreError;

    fn try_from(row: TombstoneRecord) -> Result<Self, StoreError> {
        let revision = as_unsigned("keysets", "deleted_revision", row.deleted_revision)?;
        Ok(Self {
            name: KeysetName::try_new(&row.name).map_err(|error| corrupt("keysets", &error))?,
            revision: Revision::new(revision),
            deleted_at: row.deleted_at.read("keysets", "deleted_at")?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct TokenRecord {
    pub(crate) id: Column<Uuid>,
    pub(crate) principal: Column<String>,
    pub(crate) hash: Column<Vec<u8>>,
    pub(crate) expires_at: Column<SqlTime>,
    pub(crate) seal: Column<Vec<u8>>,
}

impl TryFrom<TokenRecord> for SealedToken {
    type Error = StoreError;

    fn try_from(row: TokenRecord) -> Result<Self, StoreError> {
        const TABLE: &str = "tokens";
        let expires_at = row.expires_at.read(TABLE, "expires_at")?;
        Ok(Self {
            token: Token {
                id: key_id(row.id.read(TABLE, "id")?),
                principal: PrincipalName::try_new(&row.principal.read(TABLE, "principal")?)
                    .map_err(|error| corrupt(TABLE, &error))?,
                hash: TokenHash::from_bytes(array(TABLE, "hash", &row.hash.read(TABLE, "hash")?)?),
                expires_at: expires_at.read(TABLE, "expires_at")?,
            },
            seal: array(TABLE, "seal", &row.seal.read(TABLE, "seal")?)?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct GrantRecord {
    pub(crate) principal: Column<String>,
    pub(crate) keysets: Column<String>,
    pub(crate) role: Column<String>,
    pub(crate) seal: Column<Vec<u8>>,
}

impl TryFrom<GrantRecord> for SealedGrant {
    type Error = StoreError;

    fn try_from(row: GrantRecord) -> Result<Self, StoreError> {
        const TABLE: &str = "grants";
        let name_error = |error| corrupt(TABLE, &error);
        let (principal, keysets) =
            (row.principal.read(TABLE, "principal")?, row.keysets.read(TABLE, "keysets")?);
        let role = Role::parse(&row.role.read(TABLE, "role")?);
        Ok(Self {
            grant: Grant {
                principal: PrincipalPattern::try_new(&principal).map_err(name_error)?,
                keysets: KeysetSelector::parse(&keysets).map_err(name_error)?,
                role: role.ok_or_else(|| corrupt(TABLE, "unknown role"))?,
            },
            seal: array(TABLE, "seal", &row.seal.read(TABLE, "seal")?)?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct SeedRecord {
    pub(crate) seed_id: Uuid,
    pub(crate) check_value: Vec<u8>,
    pub(crate) claimed_at: SqlTime,
}

impl TryFrom<SeedRecord> for SeedRow {
    type Error = StoreError;

    fn try_from(row: SeedRecord) -> Result<Self, StoreError> {
        Ok(Self {
            seed: SeedId::from_bytes(row.seed_id.into_bytes()),
            check: array("ratchet_seeds", "check_value", &row.check_value)?,
            claimed_at: row.claimed_at.read("ratchet_seeds", "claimed_at")?,
        })
    }
}

#[derive(FromRow)]
pub(crate) struct SeedPhaseRecord {
    pub(crate) seed_id: Uuid,
    pub(crate) check_value: Vec<u8>,
    pub(crate) claimed_at: SqlTime,
    pub(crate) phase: String,
}

impl TryFrom<SeedPhaseRecord> for Seed {
    type Error = StoreError;

    fn try_from(row: SeedPhaseRecord) -> Result<Self, StoreError> {
        let phase = SeedPhase::parse(&row.phase);
        let phase = phase.ok_or_else(|| corrupt("ratchet_seeds", "unknown phase"))?;
        let SeedPhaseRecord { seed_id, check_value, claimed_at, .. } = row;
        Ok(Self { row: SeedRecord { seed_id, check_value, claimed_at }.try_into()?, phase })
    }
}

#[derive(FromRow)]
pub(crate) struct ReplicaRecord {
    pub(crate) replica_id: Uuid,
    pub(crate) seed_id: Uuid,
    pub(crate) next_seed_id: Option<Uuid>,
    pub(crate) epoch: i64,
    pub(crate) seen_at: SqlTime,
}

impl TryFrom<ReplicaRecord> for Replica {
    type Error = StoreError;

    fn try_from(row: ReplicaRecord) -> Result<Self, StoreError> {
        let seed = |id: Uuid| SeedId::from_bytes(id.into_bytes());
        Ok(Self {
            id: ReplicaId::from_bytes(row.replica_id.into_bytes()),
            seed: seed(row.seed_id),
            next_seed: row.next_seed_id.map(seed),
            epoch: Epoch::new(as_unsigned("ratchet_replicas", "epoch", row.epoch)?),
            seen_at: row.seen_at.read("ratchet_replicas", "seen_at")?,
        })
    }
}

/// Keys with the names of their keysets; a key of a keyset without name was deleted meanwhile.
pub(crate) fn named_keys(
    keys: Vec<LiveKeyRecord>,
    names: &HashMap<i64, String>,
) -> Result<Vec<(KeysetName, StoredKey)>, StoreError> {
    let mut named = Vec::with_capacity(keys.len());
    for row in keys {
        if let Some(name) = names.get(&row.keyset_id) {
            let name = KeysetName::try_new(name).map_err(|error| corrupt("keysets", &error))?;
            named.push((name, row.try_into()?));
        }
    }
    Ok(named)
}

#[derive(FromRow)]
pub(crate) struct AuditRecord {
    pub(crate) sequence: i64,
    pub(crate) revision: i64,
    pub(crate) at: SqlTime,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) keyset: Option<String>,
    pub(crate) key_id: Option<Uuid>,
    pub(crate) reason: String,
    pub(crate) link: Vec<u8>,
}

impl TryFrom<AuditRecord> for AuditRow {
    type Error = StoreError;

    fn try_from(row: AuditRecord) -> Result<Self, StoreError> {
        let keyset = row.keyset.as_deref().map(KeysetName::try_new).transpose();
        Ok(Self {
            sequence: as_unsigned("audit", "sequence", row.sequence)?,
            revision: Revision::new(as_unsigned("audit", "revision", row.revision)?),
            event: AuditEvent {
                at: row.at.read("audit", "at")?,
                actor: row.actor,
                action: AuditAction::parse(&row.action)
                    .ok_or_else(|| corrupt("audit", "unknown action"))?,
                keyset: keyset.map_err(|error| corrupt("audit", &error))?,
                key: row.key_id.map(key_id),
                reason: row.reason,
            },
            link: ChainLink::from_bytes(array("audit", "link", &row.link)?),
        })
    }
}
