//! Many keysets: the filter, the rows, the way to other pages.

use maud::{Markup, html};
use stek_core::time::Timestamp;

use super::keyset;
use crate::page::STATUS_PATH;
use crate::page::view::{Filter, KeysetView, Pages};

pub(super) fn overview(
    filter: &Filter,
    pages: Pages,
    keysets: &[KeysetView],
    now: Timestamp,
) -> Markup {
    html! {
        form.filter id="filter" method="get" action=(STATUS_PATH) role="search" {
            label for="q" { "Name contains" }
            input id="q" name="q" type="search" value=(filter.needle) maxlength="63"
                autocomplete="off" autocapitalize="none" spellcheck="false";
            label.check for="only" {
                input id="only" name="only" type="checkbox" value="trouble"
                    checked[filter.only_trouble];
                " Only with trouble"
            }
            button type="submit" { "Show" }
        }
        section.keysets id="keysets" data-rows aria-label="Keysets" {
            (counted(pages))
            @for one in keysets { (keyset::row(one, now)) }
        }
        (way(filter, pages))
    }
}

fn counted(pages: Pages) -> Markup {
    html! {
        p.counted id="counted" data-part {
            @match (pages.all, pages.found) {
                (0, _) => { "No keyset may be seen here yet. Make one with stekd keyset create." }
                (_, 0) => { "No keyset fits." }
                (all, found) if all == found => { (super::words::count(all, "keyset")) }
                (all, found) => { (found) " of " (all) " keysets" }
            }
        }
    }
}

fn way(filter: &Filter, pages: Pages) -> Markup {
    html! {
        nav.pages id="pages" data-part aria-label="Pages" {
            @if pages.last > 1 {
                @if pages.page > 1 {
                    a href=(path(filter, pages.page - 1)) rel="prev" id="previous" { "Previous" }
                }
                span { "Page " (pages.page) " of " (pages.last) }
                @if pages.page < pages.last {
                    a href=(path(filter, pages.page + 1)) rel="next" id="next" { "Next" }
                }
            }
        }
    }
}

fn path(filter: &Filter, page: usize) -> String {
    // What a name cannot hold needs no page: nothing fits it.
    let name = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let needle: String = filter.needle.chars().filter(name).collect();
    let only = if filter.only_trouble { "&only=trouble" } else { "" };
    format!("{STATUS_PATH}?q={needle}{only}&page={page}")
}
