//! The audit trail as auditors read it, and the verdict on its chain.

use serde::{Deserialize, Serialize};
use stek_core::audit::{AuditEvent, ChainLink};
use stek_core::id::Revision;

/// One line of the trail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditDocument {
    /// Its place in the chain, from 1.
    pub sequence: u64,
    /// The revision of the transaction that wrote it.
    pub revision: u64,
    /// When it was decided, RFC 3339 in UTC.
    pub at: String,
    /// Who did it.
    pub actor: String,
    /// What was done, in a word, such as `key-minted` or `key-revoked`.
    pub action: String,
    /// To which keyset.
    #[serde(default)]
    pub keyset: Option<String>,
    /// To which key, a UUID.
    #[serde(default)]
    pub key: Option<String>,
    /// Why, in words.
    pub reason: String,
    /// The link, 64 hexadecimal digits.
    pub link: String,
}

impl AuditDocument {
    /// Line `sequence` of the trail.
    pub fn new(sequence: u64, revision: Revision, event: &AuditEvent, link: &ChainLink) -> Self {
        Self {
            sequence,
            revision: revision.as_u64(),
            at: event.at.to_string(),
            actor: event.actor.clone(),
            action: event.action.as_str().into(),
            keyset: event.keyset.as_ref().map(ToString::to_string),
            key: event.key.map(|key| key.to_string()),
            reason: event.reason.clone(),
            link: link.to_string(),
        }
    }
}

/// One page of the trail, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AuditList {
    /// The lines of the page that were asked for.
    pub events: Vec<AuditDocument>,
    /// The lines that cannot be read; `verify` says more of them.
    #[serde(default)]
    pub unreadable: Vec<u64>,
    /// The sequence after which the next page begins; none on the last one.
    #[serde(default)]
    pub next: Option<u64>,
}

/// The first line at which the chain does not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BrokenLink {
    /// Its place in the chain.
    pub sequence: u64,
    /// What is wrong, in a sentence.
    pub why: String,
}

/// Whether the chain holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct VerdictDocument {
    /// The first line at which it does not; none if all that was looked at holds.
    #[serde(default)]
    pub broken: Option<BrokenLink>,
    /// The first line that is still there; those before it are past their retention.
    pub first: u64,
    /// The line up to which the trail was linked under a cluster secret that is not held here, as
    /// after an exchange; of those lines it was verified that they are there, and not what they
    /// say. None if all could be verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub handed_over_at: Option<u64>,
    /// The last line that was looked at and holds.
    pub verified_to: u64,
    /// The link of that line, 64 hexadecimal digits: an anchor to keep elsewhere.
    pub link: String,
    /// Where the anchor that was asked for was found; none if it was not.
    #[serde(default)]
    pub anchored_at: Option<u64>,
    /// Whether there is more to look at: ask again from `verified_to`.
    #[serde(default)]
    pub more: bool,
}
