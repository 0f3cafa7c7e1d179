//! What is written down of every change: who did what to which key and why, as links of a chain.
//! The chain's secret is custody's; the bytes that a link covers are decided here.

mod verify;

use std::fmt;

use sha2::{Digest, Sha256};

use crate::id::{KeyId, Revision};
use crate::name::KeysetName;
use crate::time::Timestamp;

pub use verify::{BrokenChain, HandOver, KEY_IDENTITY, Verifier, checkpoint_canonical};

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
    /// A manager saw that a key has begun to seal.
    KeyActivated,
    /// A key activates though instances are known to lack it.
    ActivationForced,
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
    /// A manager decrypted keys for the first time since it began.
    KeysRead,
    /// Lines of this trail were removed because of their age.
    TrailPruned,
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
    /// Tokens, grants and anchors of this trail were sealed under a new cluster secret.
    AccessResealed,
    /// From here on this trail is linked under a new cluster secret alone.
    TrailHandedOver,
}

impl AuditAction {
    const ALL: [Self; 29] = [
        Self::KeysetCreated,
        Self::PolicyChanged,
        Self::KeysetDeleted,
        Self::KeyMinted,
        Self::KeyRescheduled,
        Self::KeyDestroyed,
        Self::KeyRevoked,
        Self::KeyActivated,
        Self::ActivationForced,
        Self::Gap,
        Self::TokenCreated,
        Self::TokenRevoked,
        Self::GrantAdded,
        Self::GrantRemoved,
        Self::SeedClaimed,
        Self::KeysRead,
        Self::TrailPruned,
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
        Self::TrailHandedOver,
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
            Self::KeyActivated => "key-activated",
            Self::ActivationForced => "activation-forced",
            Self::Gap => "gap",
            Self::TokenCreated => "token-created",
            Self::TokenRevoked => "token-revoked",
            Self::GrantAdded => "grant-added",
            Self::GrantRemoved => "grant-removed",
            Self::SeedClaimed => "seed-claimed",
            Self::KeysRead => "keys-read",
            Self::TrailPruned => "trail-pruned",
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
            Self::TrailHandedOver => "trail-handed-over",
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

/// What stands in the trail for a list of keys: 16 hexadecimal digits of the SHA-256 of their
/// identities in order.
pub fn list_digest(keys: &[KeyId]) -> String {
    let mut keys: Vec<[u8; 16]> = keys.iter().map(|key| *key.as_bytes()).collect();
    keys.sort_unstable();
    let digest = Sha256::digest(keys.concat());
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// One link of the chain: a MAC over the link before it and an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainLink([u8; 32]);

/// A text that is no link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 64 hexadecimal digits")]
pub struct ParseLinkError;

impl ChainLink {
    /// What the first event is linked to.
    pub const ORIGIN: Self = Self([0; 32]);

    /// From its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`ParseLinkError`] for anything else.
    pub fn parse(text: &str) -> Result<Self, ParseLinkError> {
        let digits = text.as_bytes();
        let mut bytes = [0; 32];
        if digits.len() != 2 * bytes.len() {
            return Err(ParseLinkError);
        }
        let value = |digit: u8| char::from(digit).to_digit(16).ok_or(ParseLinkError);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let number = value(pair[0])? * 16 + value(pair[1])?;
            *byte = u8::try_from(number).map_err(|_| ParseLinkError)?;
        }
        Ok(Self(bytes))
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

    /// Whether `link` covers `event` and the link before it, under this key or one before it.
    fn holds(&self, previous: &ChainLink, event: &[u8], link: &ChainLink) -> bool;
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
    fn a_list_has_one_digest_whatever_its_order() {
        let key = |number: u8| KeyId::from_bytes([number; 16]);
        assert_eq!(list_digest(&[key(1), key(2)]), list_digest(&[key(2), key(1)]));
        assert_ne!(list_digest(&[key(1), key(2)]), list_digest(&[key(1), key(3)]));
        assert_eq!(list_digest(&[key(1)]).len(), 16);
    }

    #[test]
    fn links_read_what_they_write() {
        let link = ChainLink::from_bytes(std::array::from_fn(|i| 7 * u8::try_from(i).unwrap()));
        assert_eq!(ChainLink::parse(&link.to_string()), Ok(link));
        for text in ["", "00", &"g".repeat(64), &"0".repeat(65), &"+0".repeat(32)] {
            assert_eq!(ChainLink::parse(text), Err(ParseLinkError), "{text}");
        }
    }

    #[test]
    fn actions_read_what_they_write() {
        for action in AuditAction::ALL {
            assert_eq!(AuditAction::parse(action.as_str()), Some(action));
        }
    }
}
