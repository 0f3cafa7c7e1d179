//! The documents of the admin API, as the manager answers and the command line asks. They hold no
//! secret. Requests are read strictly, for an operator's slip must not be passed over in silence;
//! answers are read leniently, so that an older command line understands a newer manager.

mod audit;
mod grant;
mod ratchet;
mod request;
mod revoke;
mod terminators;
mod token;

use serde::{Deserialize, Serialize};
use stek_core::bundle::EndedKey;
use stek_core::id::ContentTag;
use stek_core::keyset::{KeyRecord, Keyset};
use stek_core::policy::{ActivationQuorum, Policy, PolicyRequest};
use stek_core::time::{Seconds, Timestamp};

pub use audit::{AuditDocument, AuditList, BrokenLink, VerdictDocument};
pub use grant::{GrantEntry, GrantList};
pub use ratchet::{HolderDocument, JoinDocument, RatchetDocument, SeedDocument, StateDocument};
pub use request::{ChangePolicy, CreateKeyset, MAX_REQUEST_BYTES};
pub use revoke::{CostDocument, MAX_REASON_BYTES, RevokeKeys};
pub use terminators::{InstanceList, LaggardDocument, ReplicaDocument, TerminatorsDocument};
pub use token::{CreateToken, GrantDocument, MAX_GRANTS, TokenDocument, TokenList};

/// A policy in seconds; a field left out takes its default, or keeps its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyDocument {
    /// How long one key seals; 10 s to 24 h.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation_period_seconds: Option<u64>,
    /// How long a ticket opens after it was issued; 10 s to 7 d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket_lifetime_seconds: Option<u64>,
    /// How often a terminator asks; 1 s to 5 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_interval_seconds: Option<u64>,
    /// How far apart clocks may be; 1 s to 10 min.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock_skew_seconds: Option<u64>,
    /// How long before activation a key is published.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lead_seconds: Option<u64>,
    /// The longest time since a full handshake that a chain of resumptions may last; at most 7 d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_lifetime_seconds: Option<u64>,
    /// Whom the activation of a key waits for.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "quorum")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<crate::schema::Quorum>"))]
    pub activation_quorum: Option<ActivationQuorum>,
    /// How much later than planned a key may activate because instances lack it. A deadline of one
    /// lead follows the lead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation_deadline_seconds: Option<u64>,
}

/// A quorum as its name. An answer of a newer manager may have a name that is not known here.
mod quorum {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use stek_core::policy::ActivationQuorum;

    pub(super) fn serialize<S: Serializer>(
        quorum: &Option<ActivationQuorum>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        quorum.map(ActivationQuorum::as_str).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<ActivationQuorum>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        Ok(text.and_then(|text| ActivationQuorum::parse(&text)))
    }
}

impl PolicyDocument {
    /// What it asks for; fields left out take their defaults.
    pub fn to_request(self) -> PolicyRequest {
        PolicyRequest {
            rotation_period: self.rotation_period_seconds.map(Seconds::new),
            ticket_lifetime: self.ticket_lifetime_seconds.map(Seconds::new),
            poll_interval: self.poll_interval_seconds.map(Seconds::new),
            clock_skew: self.clock_skew_seconds.map(Seconds::new),
            lead: self.lead_seconds.map(Seconds::new),
            session_lifetime: self.session_lifetime_seconds.map(Seconds::new),
            activation_quorum: self.activation_quorum,
            activation_deadline: self.activation_deadline_seconds.map(Seconds::new),
        }
    }

    /// What it asks for as a change of `present`; fields left out keep their values.
    #[must_use]
    pub fn over(self, present: &Policy) -> PolicyRequest {
        let present = Self::from(present);
        Self {
            rotation_period_seconds: self
                .rotation_period_seconds
                .or(present.rotation_period_seconds),
            ticket_lifetime_seconds: self
                .ticket_lifetime_seconds
                .or(present.ticket_lifetime_seconds),
            poll_interval_seconds: self.poll_interval_seconds.or(present.poll_interval_seconds),
            clock_skew_seconds: self.clock_skew_seconds.or(present.clock_skew_seconds),
            lead_seconds: self.lead_seconds.or(present.lead_seconds),
            session_lifetime_seconds: self
                .session_lifetime_seconds
                .or(present.session_lifetime_seconds),
            activation_quorum: self.activation_quorum.or(present.activation_quorum),
            activation_deadline_seconds: self.activation_deadline_seconds.or_else(|| {
                let deadline = present.activation_deadline_seconds;
                deadline.filter(|_| deadline != present.lead_seconds)
            }),
        }
        .to_request()
    }
}

impl From<&Policy> for PolicyDocument {
    fn from(policy: &Policy) -> Self {
        Self {
            rotation_period_seconds: Some(policy.rotation_period().as_secs()),
            ticket_lifetime_seconds: Some(policy.ticket_lifetime().as_secs()),
            poll_interval_seconds: Some(policy.poll_interval().as_secs()),
            clock_skew_seconds: Some(policy.clock_skew().as_secs()),
            lead_seconds: Some(policy.lead().as_secs()),
            session_lifetime_seconds: Some(policy.session_lifetime().as_secs()),
            activation_quorum: Some(policy.activation_quorum()),
            activation_deadline_seconds: Some(policy.activation_deadline().as_secs()),
        }
    }
}

/// A live key as an operator sees it. Instants are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeyDocument {
    /// Its identity, a UUID.
    pub id: String,
    /// Its check value, 16 hexadecimal digits.
    pub kcv: String,
    /// The number of its ticket format.
    pub format: u16,
    /// Its state at the document's `now`: `pending`, `active`, `decrypt-only` or `destroyed`.
    pub state: String,
    /// When it was given out.
    pub published_at: String,
    /// When it begins to seal.
    pub activate_at: String,
    /// When it ceases to seal.
    pub retire_at: String,
    /// When it ceases to open and is erased.
    pub destroy_at: String,
    /// The last instant to which that may be moved.
    pub destroy_by: String,
}

impl KeyDocument {
    /// The key as of `now`.
    pub fn new(key: &KeyRecord, now: Timestamp) -> Self {
        let schedule = &key.schedule;
        Self {
            id: key.id.to_string(),
            kcv: key.kcv.to_string(),
            format: key.format.as_u16(),
            state: schedule.state(now).as_str().into(),
            published_at: schedule.published_at().to_string(),
            activate_at: schedule.activate_at().to_string(),
            retire_at: schedule.retire_at().to_string(),
            destroy_at: schedule.destroy_at().to_string(),
            destroy_by: schedule.destroy_by().to_string(),
        }
    }
}

/// A key that ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EndedKeyDocument {
    /// Its identity, a UUID.
    pub id: String,
    /// Its check value, 16 hexadecimal digits.
    pub kcv: String,
    /// `expired` or `revoked`.
    pub cause: String,
    /// When it ended.
    pub ended_at: String,
    /// Since when no known manager can unwrap it, not even from a backup of the database; absent
    /// until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provably_destroyed_at: Option<String>,
}

impl From<&EndedKey> for EndedKeyDocument {
    fn from(key: &EndedKey) -> Self {
        Self {
            id: key.id.to_string(),
            kcv: key.kcv.to_string(),
            cause: key.cause.as_str().into(),
            ended_at: key.ended_at.to_string(),
            provably_destroyed_at: None,
        }
    }
}

/// A keyset as an operator sees it, without secrets. Instants are RFC 3339 in UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeysetDocument {
    /// Its name.
    pub name: String,
    /// The lineage of the database, a UUID.
    pub incarnation: String,
    /// The revision of its published content.
    pub revision: u64,
    /// The digest of that content, 16 hexadecimal digits.
    pub digest: String,
    /// Its policy, every field given.
    pub policy: PolicyDocument,
    /// The live keys by activation.
    pub keys: Vec<KeyDocument>,
    /// The keys that ended not long ago.
    #[serde(default)]
    pub ended: Vec<EndedKeyDocument>,
    /// When the planner looks at it next.
    #[serde(default)]
    pub next_due: Option<String>,
    /// When it was created.
    pub created_at: String,
    /// The instant to which the states of its keys belong.
    pub now: String,
}

/// The instants of a [`KeysetDocument`] that are not those of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysetTimes {
    /// When the planner looks at it next, if it ever does.
    pub next_due: Option<Timestamp>,
    /// When it was created.
    pub created_at: Timestamp,
    /// The present.
    pub now: Timestamp,
}

impl KeysetDocument {
    /// The keyset as of `times.now`.
    pub fn new(keyset: &Keyset, tag: ContentTag, ended: &[EndedKey], times: KeysetTimes) -> Self {
        Self {
            name: keyset.name().to_string(),
            incarnation: tag.incarnation.to_string(),
            revision: tag.revision.as_u64(),
            digest: tag.digest.to_string(),
            policy: keyset.policy().into(),
            keys: keyset.keys().iter().map(|key| KeyDocument::new(key, times.now)).collect(),
            ended: ended.iter().map(EndedKeyDocument::from).collect(),
            next_due: times.next_due.map(|instant| instant.to_string()),
            created_at: times.created_at.to_string(),
            now: times.now.to_string(),
        }
    }
}

/// One page of keysets, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeysetList {
    /// The page.
    pub keysets: Vec<KeysetDocument>,
    /// The name after which the next page begins; none on the last one.
    #[serde(default)]
    pub next: Option<String>,
}

/// What a change did: the answer to rotating, revoking, changing a policy and deleting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct EffectDocument {
    /// The keyset.
    pub keyset: String,
    /// Its revision after the change.
    pub revision: u64,
    /// What happened or is now going to, in order.
    pub effects: Vec<Effect>,
    /// What the operator should know, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One thing that a change did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Effect {
    /// What, in a word: `mint`, `move`, `end`.
    pub action: String,
    /// The key, if it is one key's.
    #[serde(default)]
    pub key: Option<String>,
    /// When it takes effect.
    #[serde(default)]
    pub at: Option<String>,
    /// Why.
    pub reason: String,
}

/// What the planner would do to a keyset until an instant, if nobody interferes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanDocument {
    /// The keyset.
    pub keyset: String,
    /// The end of the forecast.
    pub until: String,
    /// The steps by time.
    pub steps: Vec<PlanStep>,
}

/// One step of a forecast.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlanStep {
    /// When.
    pub at: String,
    /// What, in a word.
    pub action: String,
    /// The key, unless it is yet to be made.
    #[serde(default)]
    pub key: Option<String>,
    /// The same for a person.
    pub detail: String,
}

#[cfg(test)]
mod tests;
