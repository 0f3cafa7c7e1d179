//! What operators ask. An unknown field, a field given twice or a value of the wrong type is
//! refused by name, with the value, for nothing here is secret.

use serde::Serialize;
use stek_core::name::KeysetName;
use stek_core::policy::ActivationQuorum;

use super::PolicyDocument;
use crate::cursor::{At, Strings};
use crate::error::DecodeError;
use crate::node::{Limits, Node, Strangers, parse};

/// The longest request that is read, in bytes.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;

const LIMITS: Limits = Limits { bytes: MAX_REQUEST_BYTES, values: 1_024 };

const POLICY_FIELDS: [&str; 8] = [
    "rotation_period_seconds",
    "ticket_lifetime_seconds",
    "poll_interval_seconds",
    "clock_skew_seconds",
    "lead_seconds",
    "session_lifetime_seconds",
    "activation_quorum",
    "activation_deadline_seconds",
];

/// Asks for a new keyset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateKeyset {
    /// Its name.
    pub name: KeysetName,
    /// Its policy; what is left out takes its default.
    pub policy: PolicyDocument,
}

impl CreateKeyset {
    /// Reads the request; `policy` may be left out.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault. Whether the policy is sound is
    /// [`stek_core::policy::Policy::try_new`]'s to say.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let document = read(input)?;
        let at = At::top(&document, Strings::Shown);
        at.only(&["name", "policy"])?;
        let policy = at.optional("policy")?;
        Ok(Self {
            name: at.field("name")?.keyset_name()?,
            policy: policy.map(|policy| read_policy(&policy)).transpose()?.unwrap_or_default(),
        })
    }

    /// The request as JSON.
    pub fn encode(&self) -> String {
        json(&Create { name: self.name.as_str(), policy: &self.policy })
    }
}

/// Asks for another policy of a keyset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChangePolicy {
    /// The fields to change; what is left out keeps its value. See [`PolicyDocument::over`].
    pub policy: PolicyDocument,
}

impl ChangePolicy {
    /// Reads the request.
    ///
    /// # Errors
    /// [`DecodeError`] with the field at fault.
    pub fn decode(input: &[u8]) -> Result<Self, DecodeError> {
        let document = read(input)?;
        let at = At::top(&document, Strings::Shown);
        at.only(&["policy"])?;
        Ok(Self { policy: read_policy(&at.field("policy")?)? })
    }

    /// The request as JSON.
    pub fn encode(&self) -> String {
        json(&Change { policy: &self.policy })
    }
}

#[derive(Serialize)]
struct Create<'a> {
    name: &'a str,
    policy: &'a PolicyDocument,
}

#[derive(Serialize)]
struct Change<'a> {
    policy: &'a PolicyDocument,
}

pub(super) fn json(request: &impl Serialize) -> String {
    serde_json::to_string(request).expect("strings and numbers always make JSON")
}

pub(super) fn read(input: &[u8]) -> Result<Node<'_>, DecodeError> {
    parse(input, LIMITS, Strangers::Note)
}

fn read_policy(at: &At<'_, '_>) -> Result<PolicyDocument, DecodeError> {
    at.only(&POLICY_FIELDS)?;
    let seconds = |name| -> Result<Option<u64>, DecodeError> {
        at.optional(name)?.map(|at| at.seconds().map(|span| span.as_secs())).transpose()
    };
    let [rotation, ticket, poll, skew, lead, session, quorum, deadline] = POLICY_FIELDS;
    let quorum = at.optional(quorum)?;
    let quorum = quorum.map(|at| at.parsed("all or off", ActivationQuorum::parse)).transpose()?;
    Ok(PolicyDocument {
        rotation_period_seconds: seconds(rotation)?,
        ticket_lifetime_seconds: seconds(ticket)?,
        poll_interval_seconds: seconds(poll)?,
        clock_skew_seconds: seconds(skew)?,
        lead_seconds: seconds(lead)?,
        session_lifetime_seconds: seconds(session)?,
        activation_quorum: quorum,
        activation_deadline_seconds: seconds(deadline)?,
    })
}
