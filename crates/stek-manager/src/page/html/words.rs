//! Instants and spans in the words of the page.

use maud::{Markup, html};
use stek_core::time::{Seconds, Timestamp};

/// `2026-09-21 13:46:40`, for machines too.
pub(super) fn instant(at: Timestamp) -> Markup {
    let text = at.to_string();
    html! { time datetime=(text) { (text.replace('T', " ").trim_end_matches('Z')) } }
}

/// `13:46:40`, with the whole for machines.
pub(super) fn clock(at: Timestamp) -> Markup {
    let text = at.to_string();
    let time = text.split_once('T').map_or("", |(_, time)| time).trim_end_matches('Z');
    html! { time datetime=(text) { (time) } }
}

/// A span in its two largest units: `3 h 12 min`.
pub(super) fn span(span: Seconds) -> String {
    let units = [(86_400, "d"), (3600, "h"), (60, "min"), (1, "s")];
    let seconds = span.as_secs();
    let Some(first) = units.iter().position(|(length, _)| seconds >= *length) else {
        return "0 s".into();
    };
    let (length, unit) = units[first];
    let mut text = format!("{} {unit}", seconds / length);
    if let Some((smaller, unit)) = units.get(first + 1) {
        let rest = seconds % length / smaller;
        if rest > 0 {
            text.push_str(&format!(" {rest} {unit}"));
        }
    }
    text
}

/// How far an instant is from another: `in 3 h`, `2 min ago`.
pub(super) fn distance(at: Timestamp, now: Timestamp) -> String {
    if at > now {
        format!("in {}", span(at.since(now)))
    } else if at < now {
        format!("{} ago", span(now.since(at)))
    } else {
        "now".into()
    }
}

/// `1 alarm`, `2 alarms`.
pub(super) fn count(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The end of an identity, which tells one key from its neighbours; its beginning is a time.
pub(super) fn short(id: &impl std::fmt::Display) -> String {
    let text = id.to_string();
    text.rsplit('-').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_two_units_at_most() {
        let spans = [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min"),
            (11_530, "3 h 12 min"),
            (86_400 + 60, "1 d"),
            (180_000, "2 d 2 h"),
        ];
        for (seconds, text) in spans {
            assert_eq!(span(Seconds::new(seconds)), text);
        }
    }

    #[test]
    fn distances_say_their_direction() {
        let at = Timestamp::from_unix;
        assert_eq!(distance(at(100), at(40)), "in 1 min");
        assert_eq!(distance(at(40), at(100)), "1 min ago");
        assert_eq!(distance(at(40), at(40)), "now");
    }

    #[test]
    fn instants_are_read_by_people_and_machines() {
        let at = Timestamp::from_unix(1_790_000_000);
        let text = instant(at).into_string();
        assert_eq!(text, "<time datetime=\"2026-09-21T14:13:20Z\">2026-09-21 14:13:20</time>");
        assert!(clock(at).into_string().ends_with(">14:13:20</time>"));
    }
}
