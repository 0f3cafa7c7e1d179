//! Asking for a revocation, and what a change costs before it is made.

use serde::{Deserialize, Serialize};
use stek_core::id::KeyId;

use super::request::{json, read};
use super::{Effect, KeyDocument};
use crate::cursor::{At, Strings};
use crate::error::DecodeError;

/// The longest reason of a revocation, in bytes.
pub const MAX_REASON_BYTES: usize = 256;

/// Asks for keys of a keyset to be forbidden at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevokeKeys {
    /// Why; written into the audit trail. 1 to [`MAX_REASON_BYTES`] bytes without control
    /// characters.
    pub reason: String,
    /// This key alone; every key if left out.
    pub key: Option<KeyId>,
    /// Whether to answer with a [`CostDocument`] and change nothing.
    pub dry_run: bool,
}

impl RevokeKeys {
    /// Reads the request; `key` and `dry_run` may be left out.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let document = read(input)?;
        let at = At::top(&document, Strings::Shown);
        at.only(&["reason", "key", "dry_run"])?;
        let allowed = "a text of 1 to 256 bytes without control characters";
        let reason = at
            .field("reason")?
            .parsed(allowed, |text| Self::is_reason(text).then(|| text.to_owned()))?;
        let key = at.optional("key")?.map(|at| at.key_id()).transpose()?;
        let dry_run = at.optional("dry_run")?.map(|at| at.truth()).transpose()?;
        Ok(Self { reason, key, dry_run: dry_run.unwrap_or(false) })
    }

    /// Whether a text may be the reason of a revocation.
    pub fn is_reason(text: &str) -> bool {
        (1..=MAX_REASON_BYTES).contains(&text.len())
            && !text.trim().is_empty()
            && !text.chars().any(char::is_control)
    }

    /// The request as JSON.
    pub fn encode(&self) -> String {
        let key = self.key.map(|key| key.to_string());
        json(&Revoke { reason: &self.reason, key, dry_run: self.dry_run })
    }
}

#[derive(Serialize)]
struct Revoke<'a> {
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    dry_run: bool,
}

/// What a change of a keyset would do and cost, were it made now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CostDocument {
    /// The keyset.
    pub keyset: String,
    /// Its revision before the change.
    pub revision: u64,
    /// The keys that would end, as they are now.
    pub ends: Vec<KeyDocument>,
    /// What would happen, in order; keys that are yet to be made have no identity.
    pub effects: Vec<Effect>,
    /// From when on tickets are sealed, if they are at all: the present if there is no break.
    #[serde(default)]
    pub seals_from: Option<String>,
    /// How long nothing would be sealed from now on, in seconds.
    pub gap_seconds: u64,
    /// What it means for sessions, in a sentence.
    pub sessions: String,
    /// How many instances were seen lately, if that is known.
    #[serde(default)]
    pub instances: Option<u64>,
    /// What the operator should know beside, one sentence each.
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> RevokeKeys {
        let key = Some(KeyId::from_bytes([3; 16]));
        RevokeKeys { reason: "a core dump left the house".into(), key, dry_run: true }
    }

    #[test]
    fn requests_read_what_they_write() {
        for request in [request(), RevokeKeys { key: None, dry_run: false, ..request() }] {
            assert_eq!(RevokeKeys::decode(request.encode().as_bytes()), Ok(request));
        }
        let short = RevokeKeys::decode(br#"{"reason":"leak"}"#).unwrap();
        assert_eq!((short.key, short.dry_run), (None, false));
    }

    #[test]
    fn what_is_wrong_is_refused_by_name() {
        let long = format!(r#"{{"reason":"{}"}}"#, "x".repeat(MAX_REASON_BYTES + 1));
        for (text, field) in [
            ("{}", "reason"),
            (r#"{"reason":""}"#, "reason"),
            (r#"{"reason":"   "}"#, "reason"),
            (r#"{"reason":"a\nb"}"#, "reason"),
            (r#"{"reason":7}"#, "reason"),
            (long.as_str(), "reason"),
            (r#"{"reason":"leak","key":"main"}"#, "key"),
            (r#"{"reason":"leak","dry_run":"yes"}"#, "dry_run"),
            (r#"{"reason":"leak","keys":[]}"#, "keys"),
            (r#"{"reason":"leak","reason":"other"}"#, "reason"),
        ] {
            let error = RevokeKeys::decode(text.as_bytes()).unwrap_err();
            assert!(error.to_string().contains(field), "{text}: {error}");
        }
    }
}
