use stek_core::audit::{AuditAction, AuditEvent, ChainLink};
use stek_core::feed::FeedState;
use stek_core::id::{Incarnation, Revision};
use stek_core::time::Timestamp;
use stek_store::AuditRow;

use super::*;
use crate::page::health::Facts;
use crate::page::view::{Events, Filter, Pages};

/// What somebody may try to have shown.
const HOSTILE: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u{202e}";

fn hostile() -> View {
    let now = Timestamp::from_unix(1_790_000_000);
    let facts = Facts::sound(now);
    let event = AuditEvent {
        at: now,
        actor: HOSTILE.into(),
        action: AuditAction::KeyMinted,
        keyset: None,
        key: None,
        reason: HOSTILE.into(),
    };
    let row = AuditRow { sequence: 1, revision: Revision::new(1), event, link: ChainLink::ORIGIN };
    let notice = Notice {
        severity: Severity::Alarm,
        title: HOSTILE.into(),
        detail: HOSTILE.into(),
        keysets: vec![KeysetName::try_new("main").unwrap()],
    };
    let head = Head {
        now,
        viewer: HOSTILE.into(),
        may_leave: true,
        facts,
        revision: FeedState::empty(Incarnation::from_bytes([1; 16]), now).revision,
        notices: vec![notice],
    };
    let filter = Filter::new(HOSTILE, true, Some(2));
    let pages = Pages { page: 2, last: 3, found: 60, all: 70 };
    let subject = Subject::Overview { filter, pages, keysets: Vec::new() };
    View { head, subject, events: Events { rows: vec![row], stale: true } }
}

#[test]
fn no_text_becomes_markup() {
    let html = page(&hostile(), "tag").into_string();
    assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;&quot;"), "{html}");
    // In text quotes are harmless; nowhere does a text open a tag.
    assert_eq!(html.matches("<script").count(), 1, "the page's own");
    assert!(!html.contains("<img"), "{html}");
    // What was looked for goes back into an attribute, and into addresses only as a name's letters.
    assert!(!html.contains("?q=<") && !html.contains("?q=&lt;"), "{html}");
}

#[test]
fn nothing_is_inline() {
    let pages = [page(&hostile(), "tag"), sign_in(SignIn::Refused), message("a", "b")];
    for html in pages.map(maud::PreEscaped::into_string) {
        assert!(!html.contains(" style=") && !html.contains("<style"), "{html}");
        assert!(!html.contains("<script>"), "{html}");
        assert!(!html.contains(" onclick="), "{html}");
    }
}

#[test]
fn the_verdict_counts_alarms_before_warnings() {
    let of = |notices: Vec<Severity>| {
        let mut view = hostile();
        let notice = view.head.notices[0].clone();
        let notices = notices.into_iter().map(|severity| Notice { severity, ..notice.clone() });
        view.head.notices = notices.collect();
        verdict(&view.head).into_string()
    };
    assert!(of(vec![]).contains("Rotation is healthy"));
    assert!(of(vec![Severity::Warning]).contains("Rotation goes on, 1 warning"));
    assert!(of(vec![Severity::Alarm, Severity::Alarm, Severity::Warning]).contains(">2 alarms<"));
}
