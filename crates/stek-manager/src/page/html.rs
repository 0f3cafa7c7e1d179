//! Views as HTML. Whatever comes from data is escaped by the template language; markup is written
//! here and nowhere else. No inline style or script, for the content security policy refuses both.

mod events;
mod keyset;
mod overview;
mod sign_in;
mod timeline;
mod words;

use maud::{DOCTYPE, Markup, html};
use stek_core::name::KeysetName;

use crate::page::health::{Notice, Severity};
use crate::page::view::{Head, Subject, View};
use crate::page::{ICON_PATH, LOGOUT_PATH, SCRIPT_PATH, STATUS_PATH, STYLE_PATH};
use crate::readiness::LastPass;

pub(crate) use sign_in::{SignIn, sign_in};

/// Seconds after which a page without script is loaded again.
const RELOAD_SECONDS: u32 = 15;

/// The whole page of `view`; `tag` is what a script names as what it has.
pub(crate) fn page(view: &View, tag: &str) -> Markup {
    let (title, body) = match &view.subject {
        Subject::Overview { filter, pages, keysets } => {
            ("Keysets", overview::overview(filter, *pages, keysets, view.head.now))
        }
        Subject::Detail(keyset) => (keyset.name.as_str(), keyset::detail(keyset, view.head.now)),
    };
    let of_one = matches!(view.subject, Subject::Detail(_));
    let mark = if view.head.notices.is_empty() { "" } else { "⚠ " };
    let content = html! {
        (bar(&view.head))
        main id="main" data-tag=(tag) {
            (verdict(&view.head))
            (notices(&view.head.notices))
            @if of_one {
                nav.crumbs aria-label="Where you are" {
                    a href=(STATUS_PATH) id="all-keysets" { "All keysets" }
                    span aria-hidden="true" { " / " }
                    span aria-current="page" { (title) }
                }
            }
            (body)
            (legend())
            (events::events(&view.events, of_one))
        }
    };
    document(&format!("{mark}{title} · stekd"), Script::Live, &content)
}

/// A page that says one thing, such as that there is no such keyset.
pub(crate) fn message(title: &str, words: &str) -> Markup {
    let content = html! {
        main.alone id="main" {
            h1 { (title) }
            p { (words) }
            p { a href=(STATUS_PATH) { "To the status page" } }
        }
    };
    document(&format!("{title} · stekd"), Script::None, &content)
}

/// Whether a page moves on by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    None,
    Live,
}

fn document(title: &str, script: Script, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) }
                link rel="icon" type="image/svg+xml" href=(ICON_PATH);
                link rel="stylesheet" href=(STYLE_PATH);
                @if script == Script::Live {
                    script src=(SCRIPT_PATH) defer {}
                    noscript { meta http-equiv="refresh" content=(RELOAD_SECONDS); }
                }
            }
            body {
                a.skip href="#main" { "Skip to content" }
                (content)
            }
        }
    }
}

fn bar(head: &Head) -> Markup {
    html! {
        header.bar {
            a.brand href=(STATUS_PATH) { "stekd" }
            p.live id="live" role="status" {
                // A script puts its own word here.
                "Reloads every " (RELOAD_SECONDS) " s"
            }
            p.who title=(head.viewer) { (head.viewer) }
            @if head.may_leave {
                form method="post" action=(LOGOUT_PATH) {
                    button.quiet type="submit" { "Sign out" }
                }
            }
        }
    }
}

/// The one line that says whether to go back to sleep.
fn verdict(head: &Head) -> Markup {
    let alarms = head.notices.iter().filter(|one| one.severity == Severity::Alarm).count();
    let warnings = head.notices.len() - alarms;
    let (class, words) = match (alarms, warnings, head.facts.last_pass) {
        (0, 0, LastPass::None) => ("waiting", "The manager is starting".to_owned()),
        (0, 0, _) => ("sound", "Rotation is healthy".to_owned()),
        (0, n, _) => ("warning", format!("Rotation goes on, {}", words::count(n, "warning"))),
        (n, _, _) => ("alarm", words::count(n, "alarm")),
    };
    let apart = head.facts.clocks_apart.as_millis();
    html! {
        section.verdict id="verdict" data-part data-verdict=(class) aria-label="Verdict" {
            h1 { (words) }
            p {
                "As of " (words::instant(head.now)) " UTC"
                span.sep aria-hidden="true" { " · " }
                "revision " (head.revision.as_u64())
                span.sep aria-hidden="true" { " · " }
                "last pass "
                @match head.facts.succeeded_at {
                    Some(at) => (words::clock(at)),
                    None => "never",
                }
                span.sep aria-hidden="true" { " · " }
                "clocks " (apart) " ms apart"
            }
        }
    }
}

fn notices(notices: &[Notice]) -> Markup {
    html! {
        section.notices id="notices" data-part aria-live="polite" aria-label="Notices" {
            @for notice in notices {
                @let (class, word) = match notice.severity {
                    Severity::Alarm => ("alarm", "Alarm"),
                    Severity::Warning => ("warning", "Warning"),
                };
                div.notice data-severity=(class) {
                    h2 { span.word { (word) } " " span.title { (notice.title) } }
                    p {
                        (notice.detail)
                        @if !notice.keysets.is_empty() {
                            " "
                            @for (position, name) in notice.keysets.iter().enumerate() {
                                @if position > 0 { ", " }
                                a href=(path_of(name)) id={ "notice-" (class) "-" (name.as_str()) } {
                                    (name.as_str())
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn legend() -> Markup {
    html! {
        section.legend aria-label="Legend" {
            ul {
                li { i.swatch.pending {} "published, opens, does not seal yet" }
                li { i.swatch.seals {} "seals and opens" }
                li { i.swatch.opens {} "opens only, then destroyed" }
                li { i.swatch.ended {} "destroyed" }
                li { i.swatch.revoked {} "revoked" }
            }
        }
    }
}

/// Where one keyset has its page. Its name has only characters that a path takes as they are.
fn path_of(name: &KeysetName) -> String {
    format!("{STATUS_PATH}/keysets/{}", name.as_str())
}

#[cfg(test)]
mod tests;
