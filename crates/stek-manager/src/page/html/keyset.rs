//! One keyset: as a row among others, and on a page of its own.

use maud::{Markup, html};
use stek_core::time::Timestamp;

use super::{path_of, timeline, words};
use crate::page::health::{Rotation, Severity};
use crate::page::view::{KeysetView, Laggard, Spread};

/// How many laggards a row names.
const FEW_NAMED: usize = 3;

pub(super) fn row(keyset: &KeysetView, now: Timestamp) -> Markup {
    let name = keyset.name.as_str();
    html! {
        article.keyset id={ "keyset-" (name) } data-part data-rotation=(class(keyset.rotation))
            aria-labelledby={ "name-" (name) } {
            div.facts {
                h2 id={ "name-" (name) } {
                    a href=(path_of(&keyset.name)) id={ "link-" (name) } { (name) }
                }
                (state(keyset, now))
                (spread(keyset.spread.as_ref(), FEW_NAMED))
            }
            div.picture {
                (timeline::timeline(keyset, now))
                details id={ "keys-" (name) } {
                    summary id={ "summary-" (name) } { "Keys of " (name) " as a table" }
                    (keys(keyset, now))
                }
            }
        }
    }
}

pub(super) fn detail(keyset: &KeysetView, now: Timestamp) -> Markup {
    let policy = &keyset.policy;
    let name = keyset.name.as_str();
    html! {
        article.keyset.whole id="keyset" data-part data-rotation=(class(keyset.rotation))
            aria-labelledby="name" {
            div.facts {
                h2 id="name" { (name) }
                (state(keyset, now))
            }
            div.picture { (timeline::timeline(keyset, now)) }
            dl {
                div { dt { "Revision" } dd { (keyset.revision.as_u64()) } }
                div { dt { "Rotation" } dd { "every " (words::span(policy.rotation_period())) } }
                div { dt { "Published ahead" } dd { (words::span(policy.lead())) } }
                div { dt { "Ticket lifetime" } dd { (words::span(policy.ticket_lifetime())) } }
                div { dt { "Session lifetime" } dd { (words::span(policy.session_lifetime())) } }
                div { dt { "Poll interval" } dd { (words::span(policy.poll_interval())) } }
                div { dt { "Clock skew" } dd { (words::span(policy.clock_skew())) } }
            }
        }
        section.block id="keys" data-part aria-labelledby="keys-title" {
            h2 id="keys-title" { "Keys" }
            (keys(keyset, now))
        }
        section.block id="instances" data-part aria-labelledby="instances-title" {
            h2 id="instances-title" { "Instances" }
            (spread(keyset.spread.as_ref(), 0))
            (laggards(keyset.spread.as_ref()))
        }
    }
}

/// The word for how rotation goes, which the colours follow.
fn class(rotation: Rotation) -> &'static str {
    match rotation.severity() {
        None => "sound",
        Some(Severity::Warning) => "warning",
        Some(Severity::Alarm) => "alarm",
    }
}

fn state(keyset: &KeysetView, now: Timestamp) -> Markup {
    let word = match keyset.rotation {
        Rotation::Sound => "Sealing",
        Rotation::Late { .. } => "Rotation late",
        Rotation::Ending { .. } => "About to stop sealing",
        Rotation::Gap { .. } => "Nothing seals",
    };
    let next = match (keyset.rotation, keyset.next_rotation) {
        (Rotation::Gap { until: Some(at) }, _) => {
            format!("a key seals {}", words::distance(at, now))
        }
        (Rotation::Gap { until: None }, _) => "no key is on its way".into(),
        (Rotation::Late { until } | Rotation::Ending { until }, _) => {
            format!("sealing ends {}", words::distance(until, now))
        }
        (Rotation::Sound, Some(at)) => format!("next rotation {}", words::distance(at, now)),
        (Rotation::Sound, None) => String::new(),
    };
    html! { p.state { b { (word) } span { (next) } } }
}

fn spread(spread: Option<&Spread>, most_named: usize) -> Markup {
    let Some(spread) = spread else {
        return html! { p.spread { "No check-ins reported" } };
    };
    let lagging = spread.instances.saturating_sub(spread.confirmed);
    let class = if lagging > 0 { "some" } else { "none" };
    let named: Vec<_> = spread.laggards.iter().take(most_named).collect();
    let more = lagging.saturating_sub(u64::try_from(named.len()).unwrap_or(0));
    html! {
        p.spread data-lagging=(class) {
            (spread.confirmed) " of " (spread.instances) " instances confirmed"
            @if !named.is_empty() {
                br;
                "Lagging: "
                @for (position, laggard) in named.iter().enumerate() {
                    @if position > 0 { ", " }
                    code { (laggard.instance) }
                }
                @if more > 0 { " and " (more) " more" }
            }
        }
    }
}

fn laggards(spread: Option<&Spread>) -> Markup {
    let named: &[Laggard] = spread.map_or(&[], |spread| &spread.laggards);
    html! {
        @if !named.is_empty() {
            div.scroll tabindex="0" role="region" aria-label="Lagging instances" id="lagging-region" {
                table {
                    caption { "Instances that hold an older revision, as they say themselves" }
                    thead { tr {
                        th scope="col" { "Instance" } th scope="col" { "Holds" }
                        th scope="col" { "Last seen, UTC" } th scope="col" { "Polls" }
                        th scope="col" { "Credential" }
                    } }
                    tbody {
                        @for one in named {
                            tr {
                                th scope="row" { code { (one.instance) } }
                                td.number { @if one.revision == 0 { "nothing" } @else { (one.revision) } }
                                td { (words::instant(one.last_seen)) }
                                td { code { (one.replica) } }
                                td { code { (one.principal) } }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn keys(keyset: &KeysetView, now: Timestamp) -> Markup {
    let line = &keyset.timeline;
    let region = format!("region-{}", keyset.name.as_str());
    html! {
        div.scroll tabindex="0" role="region" id=(region)
            aria-label={ "Table of the keys of " (keyset.name.as_str()) } {
            table {
                caption {
                    (words::count(keyset.live(), "live key")) ", instants in UTC"
                    @if line.hidden > 0 { "; the " (line.hidden) " oldest are left out" }
                }
                thead { tr {
                    th scope="col" { "Key" } th scope="col" { "State" }
                    th scope="col" { "Published" } th scope="col" { "Seals from" }
                    th scope="col" { "Seals until" } th scope="col" { "Opens until" }
                    th scope="col" { "Check value" }
                } }
                tbody {
                    @for lane in line.lanes.iter().rev() {
                        @let schedule = &lane.key.schedule;
                        tr data-state=(lane.state.as_str()) {
                            th scope="row" { code title=(lane.key.id) { (words::short(&lane.key.id)) } }
                            td { (lane.state.as_str()) }
                            td { (words::instant(schedule.published_at())) }
                            td { (words::instant(schedule.activate_at())) }
                            td { (words::instant(schedule.retire_at())) }
                            td { (words::instant(schedule.destroy_at())) }
                            td { code { (lane.key.kcv) } }
                        }
                    }
                    @for key in keyset.ended.iter().filter(|key| key.ended_at <= now) {
                        tr data-state=(key.cause.as_str()) {
                            th scope="row" { code title=(key.id) { (words::short(&key.id)) } }
                            td { (key.cause.as_str()) }
                            td colspan="3" {}
                            td { (words::instant(key.ended_at)) }
                            td { code { (key.kcv) } }
                        }
                    }
                }
            }
        }
    }
}
