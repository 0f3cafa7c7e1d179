//! Where the instants of a keyset's keys lie on a line with the present at one fixed place. Pure
//! arithmetic in ten-thousandths of the line's length; how it looks is `html`'s to say.

use stek_core::bundle::{EndCause, EndedKey};
use stek_core::keyset::{KeyRecord, Keyset};
use stek_core::policy::Policy;
use stek_core::schedule::KeyState;
use stek_core::time::{Seconds, Timestamp};

/// The length of the line.
pub(crate) const LINE: u64 = 10_000;

/// The place of the present: the same on every line, so that one look down a page compares them.
pub(crate) const NOW: u64 = LINE * 2 / 5;

/// The most ended keys that are marked.
const MOST_MARKS: usize = 48;

/// How near to an end of the line a label of the axis may be.
const MARGIN: u64 = LINE / 16;

/// The distances of labels on the axis, in seconds.
const STEPS: [u64; 20] = [
    1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400,
    172_800, 259_200, 604_800,
];

/// The most labels on each side of the present.
const MOST_LABELS: u64 = 3;

/// A part of the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Span {
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// The uses of one key, each as far as it lies on the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lane {
    pub(crate) key: KeyRecord,
    pub(crate) state: KeyState,
    /// Published and not sealing yet.
    pub(crate) pending: Option<Span>,
    /// Sealing.
    pub(crate) seals: Option<Span>,
    /// Opening what it sealed.
    pub(crate) opens: Option<Span>,
}

/// A key that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) at: u64,
    pub(crate) cause: EndCause,
}

/// A label of the axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) at: u64,
    /// How far from the present, in seconds; negative is past.
    pub(crate) offset: i64,
}

/// The keys of one keyset on their line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Timeline {
    pub(crate) lanes: Vec<Lane>,
    /// How many live keys have no lane, for want of room.
    pub(crate) hidden: usize,
    pub(crate) marks: Vec<Mark>,
    pub(crate) ticks: Vec<Tick>,
    /// How much time the line shows.
    pub(crate) shows: Seconds,
}

impl Timeline {
    /// The keys of `keyset` around `now`, at most `most_lanes` of those that live.
    pub(crate) fn new(
        keyset: &Keyset,
        ended: &[EndedKey],
        now: Timestamp,
        most_lanes: usize,
    ) -> Self {
        let window = Window::around(keyset.policy(), now);
        let keys = keyset.keys();
        // The newest say what comes next; those left out only open.
        let hidden = keys.len().saturating_sub(most_lanes);
        let lanes = keys[hidden..].iter().map(|key| window.lane(key, now)).collect();
        let gone = ended.iter().filter(|key| key.ended_at >= window.start && key.ended_at <= now);
        let marks = gone.map(|key| Mark { at: window.place(key.ended_at), cause: key.cause });
        let marks = marks.take(MOST_MARKS).collect();
        let shows = window.end.since(window.start);
        Self { lanes, hidden, marks, ticks: window.ticks(), shows }
    }
}

/// The time that a line shows.
#[derive(Debug, Clone, Copy)]
struct Window {
    start: Timestamp,
    now: Timestamp,
    end: Timestamp,
}

impl Window {
    /// Ahead as far as a key lives that is published now; back so far that the present is at
    /// [`NOW`].
    fn around(policy: &Policy, now: Timestamp) -> Self {
        let lifetime = policy.ticket_lifetime() + policy.clock_skew();
        let ahead = policy.lead() + policy.rotation_period() + lifetime;
        let back = ahead.as_secs().saturating_mul(NOW) / (LINE - NOW);
        Self { start: now - Seconds::new(back.max(1)), now, end: now + ahead }
    }

    /// Where `instant` is; what lies outside is put at the end it is beyond.
    fn place(&self, instant: Timestamp) -> u64 {
        let (from, to, length, origin) = if instant < self.now {
            (self.start, self.now, NOW, 0)
        } else {
            (self.now, self.end, LINE - NOW, NOW)
        };
        let whole = to.since(from).as_secs().max(1);
        let part = instant.since(from).as_secs().min(whole);
        origin + part * length / whole
    }

    /// From one instant to another, if any of it lies on the line.
    fn span(&self, from: Timestamp, to: Timestamp) -> Option<Span> {
        let span = Span { from: self.place(from), to: self.place(to) };
        (from < to && to > self.start && from < self.end).then_some(span)
    }

    fn lane(&self, key: &KeyRecord, now: Timestamp) -> Lane {
        let schedule = &key.schedule;
        Lane {
            key: *key,
            state: schedule.state(now),
            pending: self.span(schedule.published_at(), schedule.activate_at()),
            seals: self.span(schedule.activate_at(), schedule.retire_at()),
            opens: self.span(schedule.retire_at(), schedule.destroy_at()),
        }
    }

    fn ticks(&self) -> Vec<Tick> {
        let ahead = self.end.since(self.now).as_secs();
        let wide = |step: &u64| ahead / step <= MOST_LABELS;
        let step = STEPS.into_iter().find(wide).unwrap_or(ahead.max(1));
        let past = (1..=MOST_LABELS).map(|n| (self.now - Seconds::new(n * step), -1, n * step));
        let future = (1..=MOST_LABELS).map(|n| (self.now + Seconds::new(n * step), 1, n * step));
        let ticks = past.chain(future).map(|(instant, sign, distance)| Tick {
            at: self.place(instant),
            offset: i64::try_from(distance).unwrap_or(i64::MAX) * sign,
        });
        ticks.filter(|tick| (MARGIN..=LINE - MARGIN).contains(&tick.at)).collect()
    }
}

#[cfg(test)]
mod tests;
