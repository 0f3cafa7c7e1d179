//! Walks the chain link by link and says where it does not hold. Reading the rows is the store's.

use super::{AuditChain, AuditEvent, ChainLink};
use crate::id::Revision;

/// What is wrong at one place of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BrokenChain {
    /// A line is not there.
    #[error("line {expected} is missing; the next that is there is {found}")]
    Missing {
        /// The sequence that comes next.
        expected: u64,
        /// The sequence that was found.
        found: u64,
    },
    /// A line, or the one before it, was changed after it was written.
    #[error("line {sequence} is not what its link was made over")]
    Changed {
        /// The sequence of the line.
        sequence: u64,
    },
}

impl BrokenChain {
    /// The place at which the chain does not hold.
    pub fn sequence(&self) -> u64 {
        match self {
            Self::Missing { expected, .. } => *expected,
            Self::Changed { sequence } => *sequence,
        }
    }
}

/// What a key of the chain links to [`ChainLink::ORIGIN`] to show which key it is. No event reads
/// so.
pub const KEY_IDENTITY: &[u8] = b"stek/audit-key/1";

/// Where the chain went over from one key to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HandOver {
    /// The line up to which there may be links of the key before.
    pub sequence: u64,
    /// Its link, from which the next key alone verifies the rest.
    pub link: ChainLink,
    /// What the key before makes of [`KEY_IDENTITY`].
    pub before: ChainLink,
}

impl HandOver {
    /// Whether `chain` holds the key before.
    pub fn is_held(&self, chain: &dyn AuditChain) -> bool {
        chain.holds(&ChainLink::ORIGIN, KEY_IDENTITY, &self.before)
    }

    /// The bytes that its seal covers.
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = b"stek/audit-hand-over/1".to_vec();
        bytes.extend_from_slice(&self.sequence.to_be_bytes());
        bytes.extend_from_slice(self.link.as_bytes());
        bytes.extend_from_slice(self.before.as_bytes());
        bytes
    }
}

/// Verifies a chain from one link on.
pub struct Verifier<'a> {
    chain: &'a dyn AuditChain,
    handed_over: Option<HandOver>,
    sequence: u64,
    link: ChainLink,
}

impl<'a> Verifier<'a> {
    /// Begins after link number `sequence`, which is taken to be `link`: [`ChainLink::ORIGIN`]
    /// at 0, or one that was verified before.
    pub fn after(chain: &'a dyn AuditChain, sequence: u64, link: ChainLink) -> Self {
        Self { chain, handed_over: None, sequence, link }
    }

    /// The same where the key that linked the lines up to `hand_over` is not held: of those it sees
    /// whether they are there, and that they end in the link that was handed over.
    #[must_use]
    pub fn handed_over(self, hand_over: Option<HandOver>) -> Self {
        Self { handed_over: hand_over, ..self }
    }

    /// Looks at the next line.
    ///
    /// # Errors
    /// [`BrokenChain`]; what was verified before stays so.
    pub fn next(
        &mut self,
        sequence: u64,
        revision: Revision,
        event: &AuditEvent,
        link: &ChainLink,
    ) -> Result<(), BrokenChain> {
        let expected = self.sequence.saturating_add(1);
        if sequence != expected {
            return Err(BrokenChain::Missing { expected, found: sequence });
        }
        let holds = match self.handed_over {
            Some(at) if sequence < at.sequence => true,
            Some(at) if sequence == at.sequence => *link == at.link,
            _ => self.chain.holds(&self.link, &event.canonical(sequence, revision), link),
        };
        if !holds {
            return Err(BrokenChain::Changed { sequence });
        }
        (self.sequence, self.link) = (sequence, *link);
        Ok(())
    }

    /// The line up to which it cannot verify what lines say.
    pub fn unverified_to(&self) -> Option<u64> {
        self.handed_over.map(|at| at.sequence)
    }

    /// The last line that holds, 0 before the first.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Its link.
    pub fn link(&self) -> ChainLink {
        self.link
    }
}

/// The bytes that the seal of a checkpoint covers: all lines up to `sequence`, whose link is
/// `link`, were removed because of their age.
pub fn checkpoint_canonical(sequence: u64, link: &ChainLink) -> Vec<u8> {
    let mut bytes = b"stek/audit-checkpoint/1".to_vec();
    bytes.extend_from_slice(&sequence.to_be_bytes());
    bytes.extend_from_slice(link.as_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::super::AuditAction;
    use super::*;
    use crate::time::Timestamp;

    struct Plain;

    impl AuditChain for Plain {
        fn link(&self, previous: &ChainLink, event: &[u8]) -> ChainLink {
            let mut hash = Sha256::new_with_prefix(previous.as_bytes());
            hash.update(event);
            ChainLink::from_bytes(hash.finalize().into())
        }

        fn holds(&self, previous: &ChainLink, event: &[u8], link: &ChainLink) -> bool {
            self.link(previous, event) == *link
        }
    }

    fn event(reason: &str) -> AuditEvent {
        AuditEvent {
            at: Timestamp::from_unix(1),
            actor: "manager".into(),
            action: AuditAction::Gap,
            keyset: None,
            key: None,
            reason: reason.into(),
        }
    }

    fn chain() -> Vec<(u64, AuditEvent, ChainLink)> {
        let mut head = ChainLink::ORIGIN;
        (1..=4)
            .map(|sequence| {
                let event = event(&sequence.to_string());
                head = Plain.link(&head, &event.canonical(sequence, Revision::new(1)));
                (sequence, event, head)
            })
            .collect()
    }

    fn verify(rows: &[(u64, AuditEvent, ChainLink)]) -> Result<u64, BrokenChain> {
        let mut verifier = Verifier::after(&Plain, 0, ChainLink::ORIGIN);
        for (sequence, event, link) in rows {
            verifier.next(*sequence, Revision::new(1), event, link)?;
        }
        Ok(verifier.sequence())
    }

    #[test]
    fn a_whole_chain_holds_and_any_change_is_found_where_it_is() {
        assert_eq!(verify(&chain()), Ok(4));
        let mut changed = chain();
        changed[2].1.reason.push('!');
        assert_eq!(verify(&changed), Err(BrokenChain::Changed { sequence: 3 }));
        let mut relinked = chain();
        relinked[1].2 = ChainLink::from_bytes([9; 32]);
        assert_eq!(verify(&relinked), Err(BrokenChain::Changed { sequence: 2 }));
        let mut removed = chain();
        removed.remove(1);
        assert_eq!(verify(&removed), Err(BrokenChain::Missing { expected: 2, found: 3 }));
        let mut swapped = chain();
        swapped.swap(0, 1);
        assert_eq!(verify(&swapped).unwrap_err().sequence(), 1);
    }

    /// A chain that was linked under a key that is lost up to line 2, and the rest under another.
    #[test]
    fn what_was_handed_over_is_only_looked_for_and_the_rest_verified() {
        let verify = |rows: &[(u64, AuditEvent, ChainLink)]| {
            let (sequence, link) = (2, chain()[1].2);
            let hand_over = HandOver { sequence, link, before: ChainLink::ORIGIN };
            let mut verifier =
                Verifier::after(&Plain, 0, ChainLink::ORIGIN).handed_over(Some(hand_over));
            for (sequence, event, link) in rows {
                verifier.next(*sequence, Revision::new(1), event, link)?;
            }
            Ok(verifier.sequence())
        };
        let mut unknown = chain();
        unknown[0].2 = ChainLink::from_bytes([7; 32]);
        unknown[1].1.reason.push('?');
        assert_eq!(verify(&unknown), Ok(4));
        let mut removed = unknown.clone();
        removed.remove(0);
        assert_eq!(verify(&removed), Err(BrokenChain::Missing { expected: 1, found: 2 }));
        let mut other_head = unknown.clone();
        other_head[1].2 = ChainLink::from_bytes([7; 32]);
        assert_eq!(verify(&other_head), Err(BrokenChain::Changed { sequence: 2 }));
        unknown[2].1.reason.push('!');
        assert_eq!(verify(&unknown), Err(BrokenChain::Changed { sequence: 3 }));
    }
}
