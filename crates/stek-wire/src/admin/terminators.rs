//! Who holds which revision of a keyset, as operators see it.

use serde::{Deserialize, Serialize};
use stek_core::check_in::{Laggard, ReplicaId};

/// How far a revision of a keyset has got. Check-ins are claims: what an instance says that it has
/// installed, in the name of its credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TerminatorsDocument {
    /// The keyset.
    pub keyset: String,
    /// The revision that was asked for.
    pub revision: u64,
    /// The newest revision that is published.
    pub newest: u64,
    /// The instances that count. None while no replica reports: silence confirms nothing.
    #[serde(default)]
    pub instances: Option<u64>,
    /// Those of them that hold the revision or a newer one.
    #[serde(default)]
    pub confirmed: Option<u64>,
    /// Some that hold an older one, those that hold the oldest first.
    pub lagging: Vec<LaggardDocument>,
    /// Whether more lag than are named.
    pub truncated: bool,
    /// Instances that lag and are not counted, for their credential has many of them.
    #[serde(default)]
    pub uncounted: u64,
    /// The replicas whose instances are counted.
    pub replicas: Vec<ReplicaDocument>,
    /// Fleet time of the answer.
    pub now: String,
}

/// One replica's part of a [`TerminatorsDocument`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReplicaDocument {
    /// What it calls itself.
    pub replica: String,
    /// Whose credential it reports with.
    #[serde(default)]
    pub principal: Option<String>,
    /// The newest revision that it has to give.
    pub newest: u64,
    /// The instances that it sees.
    pub instances: u64,
    /// Those of them that hold the revision or a newer one.
    pub confirmed: u64,
    /// How long ago it counted, in milliseconds.
    pub age_ms: u64,
}

/// An instance and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LaggardDocument {
    /// Whose credential it used.
    pub principal: String,
    /// What it calls itself.
    pub instance: String,
    /// What it holds; 0 for nothing.
    pub revision: u64,
    /// When it last polled.
    pub last_seen: String,
    /// How far its wall clock is ahead of fleet time, if it said so.
    #[serde(default)]
    pub clock_offset_ms: Option<i32>,
    /// The replica that it polls, unless that is the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica: Option<String>,
}

impl LaggardDocument {
    /// An instance at `replica`.
    pub fn new(laggard: &Laggard, replica: Option<&ReplicaId>) -> Self {
        Self {
            principal: laggard.principal.to_string(),
            instance: laggard.instance.to_string(),
            revision: laggard.revision.as_u64(),
            last_seen: laggard.last_seen.to_string(),
            clock_offset_ms: laggard.clock_offset_millis,
            replica: replica.map(|replica| replica.name.to_string()),
        }
    }
}

/// One page of the instances that poll a replica, by principal and name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct InstanceList {
    /// The page.
    pub instances: Vec<LaggardDocument>,
    /// What to ask for as `after` to get the next page; none on the last one.
    #[serde(default)]
    pub next: Option<String>,
}
