//! A timeline as SVG. Places are percentages, so that the picture takes any width and its letters
//! keep their size; shapes differ as well as colours.

use maud::{Markup, html};
use stek_core::bundle::EndCause;
use stek_core::schedule::KeyState;
use stek_core::time::{Seconds, Timestamp};

use super::words;
use crate::page::timeline::{Lane, Mark, NOW, Span, Tick};
use crate::page::view::KeysetView;

/// Pixels from the top of one lane to that of the next.
const LANE: usize = 16;
/// Height of the parts of a lane, by what the key may do.
const THICK: usize = 10;
const THIN: usize = 4;
/// Room above the lanes, for the word at the present.
const TOP: usize = 18;
/// Room below, for the axis.
const AXIS: usize = 22;

pub(super) fn timeline(keyset: &KeysetView, now: Timestamp) -> Markup {
    let line = &keyset.timeline;
    let rows = line.lanes.len() + usize::from(!line.marks.is_empty());
    let bottom = TOP + rows.max(1) * LANE;
    let id = keyset.name.as_str();
    html! {
        svg.timeline width="100%" height=(bottom + AXIS) role="img"
            aria-labelledby={ "title-" (id) " desc-" (id) } focusable="false" {
            title id={ "title-" (id) } { "Timeline of the keys of " (id) }
            desc id={ "desc-" (id) } { (describe(keyset, now)) }
            @for tick in &line.ticks {
                (label(tick, bottom))
            }
            @if !line.marks.is_empty() {
                @for mark in &line.marks {
                    (ended(mark, TOP + LANE / 2))
                }
            }
            @for (position, lane) in line.lanes.iter().enumerate() {
                (row(lane, TOP + (rows - line.lanes.len() + position) * LANE))
            }
            line.now x1=(percent(NOW)) x2=(percent(NOW)) y1=(TOP - 4) y2=(bottom) {}
            text.now x=(percent(NOW)) y=(TOP - 7) text-anchor="middle" { "now" }
        }
    }
}

fn row(lane: &Lane, top: usize) -> Markup {
    html! {
        g data-state=(lane.state.as_str()) {
            @if let Some(span) = lane.pending { (bar(span, "pending", top + 3, THICK)) }
            @if let Some(span) = lane.opens { (bar(span, "opens", top + 3 + (THICK - THIN) / 2, THIN)) }
            @if let Some(span) = lane.seals { (bar(span, "seals", top + 3, THICK)) }
        }
    }
}

fn bar(span: Span, class: &str, y: usize, height: usize) -> Markup {
    // Half a percent at the least, or a short use would vanish.
    let width = (span.to - span.from).max(50);
    html! {
        rect class=(class) x=(percent(span.from)) y=(y) width=(percent(width)) height=(height) rx="2" {}
    }
}

fn ended(mark: &Mark, y: usize) -> Markup {
    let class = match mark.cause {
        EndCause::Expired => "ended",
        EndCause::Revoked => "revoked",
    };
    html! {
        @if mark.cause == EndCause::Revoked {
            text class=(class) x=(percent(mark.at)) y=(y + 5) text-anchor="middle" { "×" }
        } @else {
            circle class=(class) cx=(percent(mark.at)) cy=(y) r="2.5" {}
        }
    }
}

fn label(tick: &Tick, bottom: usize) -> Markup {
    let sign = if tick.offset < 0 { "−" } else { "+" };
    let distance = words::span(Seconds::new(tick.offset.unsigned_abs()));
    html! {
        line.tick x1=(percent(tick.at)) x2=(percent(tick.at)) y1=(TOP) y2=(bottom + 4) {}
        text.tick x=(percent(tick.at)) y=(bottom + 16) text-anchor="middle" { (sign) (distance) }
    }
}

/// Ten-thousandths as SVG takes them: `12.34%`.
fn percent(place: u64) -> String {
    format!("{}.{:02}%", place / 100, place % 100)
}

/// The picture in a sentence.
fn describe(keyset: &KeysetView, now: Timestamp) -> String {
    let lanes = &keyset.timeline.lanes;
    let count = |state| lanes.iter().filter(|lane| lane.state == state).count();
    let sealing = match keyset.next_rotation {
        Some(at) => format!("One key seals, and retires {}.", words::distance(at, now)),
        None => "No key seals.".into(),
    };
    let ended = keyset.timeline.marks.len();
    format!(
        "{sealing} {} pending, {} that only open, {ended} ended not long ago. The table below has \
         the instants.",
        count(KeyState::Pending),
        count(KeyState::DecryptOnly) + keyset.timeline.hidden,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_percentages() {
        assert_eq!(percent(0), "0.00%");
        assert_eq!(percent(4005), "40.05%");
        assert_eq!(percent(10_000), "100.00%");
    }
}
