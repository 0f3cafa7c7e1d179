//! What has happened, newest first.

use maud::{Markup, html};

use super::{path_of, words};
use crate::page::view::Events;

pub(super) fn events(events: &Events, of_one: bool) -> Markup {
    let whose = if of_one { "Last events of this keyset" } else { "Last events" };
    html! {
        section.block.events id="events" data-part aria-labelledby="events-title" {
            h2 id="events-title" { (whose) }
            @if !of_one {
                p.aside { "What the planner does every day is on the pages of the keysets." }
            }
            @if events.stale {
                p.stale { "The database does not answer; there may be newer ones." }
            }
            @if events.rows.is_empty() {
                p { "None among the newest of the audit trail." }
            } @else {
                ol {
                    @for row in &events.rows {
                        @let event = &row.event;
                        li data-action=(event.action.as_str()) {
                            span.when { (words::instant(event.at)) }
                            span.what {
                                b { (event.action.as_str()) }
                                @if let (false, Some(name)) = (of_one, &event.keyset) {
                                    " " a href=(path_of(name)) id={ "event-" (row.sequence) } { (name.as_str()) }
                                }
                                @if let Some(key) = &event.key {
                                    " " code title=(key) { (words::short(key)) }
                                }
                            }
                            span.why { (event.reason) }
                            span.by { "by " (event.actor) }
                        }
                    }
                }
            }
        }
    }
}
