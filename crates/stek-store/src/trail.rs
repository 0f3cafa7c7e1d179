//! Events as links of the audit chain: numbered, cut to length, each over the link before it.

use stek_core::audit::{AUDIT_TEXT_MAX, AuditChain, AuditEvent, ChainLink};
use stek_core::id::Revision;

use crate::AuditRow;

/// Links `events` after link number `sequence`, which is `head`; returns the rows and the new head.
pub(crate) fn link(
    events: &[AuditEvent],
    revision: Revision,
    mut sequence: u64,
    mut head: ChainLink,
    chain: &dyn AuditChain,
) -> (Vec<AuditRow>, ChainLink) {
    let mut rows = Vec::with_capacity(events.len());
    for event in events {
        let event = storable(event);
        sequence += 1;
        head = chain.link(&head, &event.canonical(sequence, revision));
        rows.push(AuditRow { sequence, revision, event, link: head });
    }
    (rows, head)
}

/// The event with texts that every database takes. It is cut rather than refused, for a revocation
/// must not fail over its reason.
fn storable(event: &AuditEvent) -> AuditEvent {
    AuditEvent { actor: text(&event.actor), reason: text(&event.reason), ..event.clone() }
}

/// At most [`AUDIT_TEXT_MAX`] bytes, and no NUL, which PostgreSQL does not store.
fn text(text: &str) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    text.truncate(text.floor_char_boundary(AUDIT_TEXT_MAX));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(text("short"), "short");
        assert_eq!(text("a\0b"), "a\u{fffd}b");
        let long = text(&"ä".repeat(AUDIT_TEXT_MAX));
        assert_eq!(long.len(), AUDIT_TEXT_MAX);
        assert_eq!(text(&format!("a{}", "ä".repeat(AUDIT_TEXT_MAX))).len(), AUDIT_TEXT_MAX - 1);
    }
}
