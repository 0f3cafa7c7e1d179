//! What is written down of every change: who did what to which key and why, as links of a chain.
//! The chain's secret is custody's; the bytes that a link covers are decided here.

use std::fmt;

use crate::id::{KeyId, Revision};
use crate::name::KeysetName;
use crate::time::Timestamp;

/// Longest actor and reason in bytes; a longer text is cut.
pub const AUDIT_TEXT_MAX: usize = 512;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuditAction {
    /// A keyset began.
    KeysetCreated,
    /// Its policy changed.
    PolicyChanged,
    /// It was deleted and its keys revoked.
    KeysetDeleted,
    /// A key was created.
    KeyMinted,
    /// A key's schedule moved.
    KeyRescheduled,
    /// A key ended as planned.
    KeyDestroyed,
    /// A key was forbidden at once.
    KeyRevoked,
    /// Nothing seals for a time.
    Gap,
    /// A token was made.
    TokenCreated,
    /// A token was revoked.
    TokenRevoked,
    /// A grant was given.
    GrantAdded,
    /// A grant was taken away.
    GrantRemoved,
    /// A manager began a ratchet.
    SeedClaimed,
    /// A manager was given the state of a ratchet.
    ManagerJoined,
    /// A new seed was offered to all managers.
    SeedOffered,
    /// An offer came to nothing.
    SeedWithdrawn,
    /// An offered seed became the one that keys are wrapped under.
    SeedPromoted,
    /// Nothing is wrapped under a seed any more; managers erase it.
    SeedEnded,
    /// A seed of which no state is left was given up, with its keys.
    SeedLost,
    /// A seed was replaced without the word of every manager that held it.
    DestructionUnproven,
    /// A manager that showed no life was forgotten.
    ReplicaForgotten,
    /// A restored database was accepted as a later lineage.
    RestoreAccepted,
    /// An operator vouched for a clock that had jumped.
    ClockConfirmed,
    /// Tokens and grants were sealed under a new cluster secret.
    AccessResealed,
}

impl AuditAction {
    const ALL: [Self; 24] = [
        Self::KeysetCreated,
        Self::PolicyChanged,
        Self::KeysetDeleted,
        Self::KeyMinted,
        Self::KeyRescheduled,
        Self::KeyDestroyed,
        Self::KeyRevoked,
        Self::Gap,
        Self::TokenCreated,
        Self::TokenRevoked,
        Self::GrantAdded,
        Self::GrantRemoved,
        Self::SeedClaimed,
        Self::ManagerJoined,
        Self::SeedOffered,
        Self::SeedWithdrawn,
        Self::SeedPromoted,
        Self::SeedEnded,
        Self::SeedLost,
        Self::DestructionUnproven,
        Self::ReplicaForgotten,
        Self::RestoreAccepted,
        Self::ClockConfirmed,
        Self::AccessResealed,
    ];

    /// The action as it is stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeysetCreated => "keyset-created",
            Self::PolicyChanged => "policy-changed",
            Self::KeysetDeleted => "keyset-deleted",
            Self::KeyMinted => "key-minted",
            Self::KeyRescheduled => "key-rescheduled",
            Self::KeyDestroyed => "key-destroyed",
            Self::KeyRevoked => "key-revoked",
            Self::Gap => "gap",
            Self::TokenCreated => "token-created",
            Self::TokenRevoked => "token-revoked",
            Self::GrantAdded => "grant-added",
            Self::GrantRemoved => "grant-removed",
            Self::SeedClaimed => "seed-claimed",
            Self::ManagerJoined => "manager-joined",
            Self::SeedOffered => "seed-offered",
            Self::SeedWithdrawn => "seed-withdrawn",
            Self::SeedPromoted => "seed-promoted",
            Self::SeedEnded => "seed-ended",
            Self::SeedLost => "seed-lost",
            Self::DestructionUnproven => "destruction-unproven",
            Self::ReplicaForgotten => "replica-forgotten",
            Self::RestoreAccepted => "restore-accepted",
            Self::ClockConfirmed => "clock-confirmed",
            Self::AccessResealed => "access-resealed",
        }
    }

    /// The action of this name, if there is one.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == text)
    }
}

/// One line of the audit trail before it is linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditEvent {
    /// When it was decided, by the database's clock.
    pub at: Timestamp,
    /// Who did it: a principal, or `manager` for what the planner decides.
    pub actor: String,
    /// What was done.
    pub action: AuditAction,
    /// To which keyset.
    pub keyset: Option<KeysetName>,
    /// To which key.
    pub key: Option<KeyId>,
    /// Why, in words.
    pub reason: String,
}

impl AuditEvent {
    /// The bytes that link number `sequence` of the chain covers beside the link before it.
    pub fn canonical(&self, sequence: u64, revision: Revision) -> Vec<u8> {
        let keyset = self.keyset.as_ref().map_or("", KeysetName::as_str);
        let key = self.key.map_or(Vec::new(), |id| id.as_bytes().to_vec());
        let fields: [&[u8]; 8] = [
            &sequence.to_be_bytes(),
            &revision.as_u64().to_be_bytes(),
            &self.at.as_unix().to_be_bytes(),
            self.actor.as_bytes(),
            self.action.as_str().as_bytes(),
            keyset.as_bytes(),
            &key,
            self.reason.as_bytes(),
        ];
        let mut bytes = b"stek/audit/1".to_vec();
        for field in fields {
            bytes.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            bytes.extend_from_slice(field);
        }
        bytes
    }
}

/// One link of the chain: a MAC over the link before it and an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainLink([u8; 32]);

impl ChainLink {
    /// What the first event is linked to.
    pub const ORIGIN: Self = Self([0; 32]);

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ChainLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChainLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes links; whoever holds the chain's secret implements it.
pub trait AuditChain: Send + Sync {
    /// The link after `previous` that covers `event` (see [`AuditEvent::canonical`]).
    fn link(&self, previous: &ChainLink, event: &[u8]) -> ChainLink;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event() -> AuditEvent {
        AuditEvent {
            at: Timestamp::from_unix(1),
            actor: "token:root".into(),
            action: AuditAction::KeyMinted,
            keyset: Some(KeysetName::try_new("main").unwrap()),
            key: Some(KeyId::from_bytes([1; 16])),
            reason: "scheduled".into(),
        }
    }

    #[test]
    fn every_field_enters_the_link() {
        let base = event().canonical(1, Revision::new(1));
        let mut others =
            vec![event().canonical(2, Revision::new(1)), event().canonical(1, Revision::new(2))];
        let changes: [fn(&mut AuditEvent); 7] = [
            |e| e.at = Timestamp::from_unix(2),
            |e| e.actor.push('x'),
            |e| e.action = AuditAction::KeyDestroyed,
            |e| e.keyset = None,
            |e| e.key = None,
            |e| e.reason.push('x'),
            |e| (e.actor, e.reason) = (String::new(), "token:rootscheduled".into()),
        ];
        for change in changes {
            let mut changed = event();
            change(&mut changed);
            others.push(changed.canonical(1, Revision::new(1)));
        }
        assert!(others.iter().all(|other| *other != base));
    }

    #[test]
    fn actions_read_what_they_write() {
        for action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(action));
        }
    }
}
