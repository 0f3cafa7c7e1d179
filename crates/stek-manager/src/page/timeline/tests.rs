use stek_core::id::{Kcv, KeyId};
use stek_core::keyset::{History, TicketFormat};
use stek_core::name::KeysetName;
use stek_core::policy::PolicyRequest;
use stek_core::schedule::Schedule;

use super::*;

const START: u64 = 1_790_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(START.saturating_add_signed(seconds))
}

/// Hours of rotation, lifetime and lead; with the skew of a minute, 3 h 1 min ahead.
fn policy() -> Policy {
    let hour = Some(Seconds::from_hours(1));
    let skew = Some(Seconds::new(60));
    let asked = PolicyRequest {
        rotation_period: hour,
        ticket_lifetime: hour,
        lead: hour,
        clock_skew: skew,
        ..PolicyRequest::default()
    };
    Policy::try_new(&asked).unwrap()
}

fn key(number: u8, published: i64, activate: i64, retire: i64, destroy: i64) -> KeyRecord {
    let schedule =
        Schedule::try_new(at(published), at(activate), at(retire), at(destroy), at(destroy));
    KeyRecord {
        id: KeyId::from_bytes([number; 16]),
        format: TicketFormat::V1,
        kcv: Kcv::from_bytes([number; 8]),
        schedule: schedule.unwrap(),
    }
}

fn timeline(keys: Vec<KeyRecord>, ended: &[EndedKey], most_lanes: usize) -> Timeline {
    let name = KeysetName::try_new("main").unwrap();
    let keyset = Keyset::try_new(name, policy(), History::Used, keys).unwrap();
    Timeline::new(&keyset, ended, at(0), most_lanes)
}

const AHEAD: i64 = 3 * 3600 + 60;

#[test]
fn the_present_and_the_ends_have_fixed_places() {
    let window = Window::around(&policy(), at(0));
    assert_eq!(window.place(at(0)), NOW);
    assert_eq!(window.place(at(AHEAD)), LINE);
    assert_eq!(window.place(at(AHEAD / 2)), NOW + (LINE - NOW) / 2);
    assert_eq!(window.place(window.start), 0);
    for far in [Timestamp::EPOCH, at(-100_000)] {
        assert_eq!(window.place(far), 0);
    }
    assert_eq!(window.place(Timestamp::MAX), LINE);
}

#[test]
fn places_keep_the_order_of_instants_and_one_scale() {
    let window = Window::around(&policy(), at(0));
    let places: Vec<_> = (-9000..12_000).map(|second| window.place(at(second))).collect();
    assert!(places.is_sorted());
    // An hour is as long before the present as after it, but for rounding.
    let (before, after) = (NOW - window.place(at(-3600)), window.place(at(3600)) - NOW);
    assert!(before.abs_diff(after) <= 1, "{before} and {after}");
}

#[test]
fn the_uses_of_a_key_follow_each_other_without_a_break() {
    let lanes = timeline(vec![key(1, -1800, 1800, 3600, 7200)], &[], 8).lanes;
    let [lane] = lanes.as_slice() else { panic!("{lanes:?}") };
    let (pending, seals, opens) = (lane.pending.unwrap(), lane.seals.unwrap(), lane.opens.unwrap());
    assert!(pending.from < NOW && pending.to > NOW);
    assert_eq!((pending.to, seals.to), (seals.from, opens.from));
    assert!(opens.to < LINE);
    assert_eq!(lane.state, KeyState::Pending);
}

#[test]
fn uses_beyond_the_line_are_cut_or_left_out() {
    let keys =
        vec![key(1, -90_000, -86_400, -80_000, 600), key(2, -90_000, 70_000, 80_000, 90_000)];
    let lanes = timeline(keys, &[], 8).lanes;
    assert_eq!((lanes[0].pending, lanes[0].seals), (None, None));
    assert_eq!(lanes[0].opens.unwrap().from, 0);
    assert_eq!(lanes[1].pending, Some(Span { from: 0, to: LINE }));
    assert_eq!((lanes[1].seals, lanes[1].opens), (None, None));
    // A first key is published as it activates.
    assert_eq!(timeline(vec![key(1, 0, 0, 3600, 7200)], &[], 8).lanes[0].pending, None);
}

#[test]
fn lanes_and_marks_have_a_limit() {
    let keys: Vec<_> =
        (0..20u8).map(|n| key(n, -9000, i64::from(n) * 60, i64::from(n) * 60 + 60, 9000)).collect();
    let some = timeline(keys, &[], 8);
    assert_eq!((some.lanes.len(), some.hidden), (8, 12));
    assert_eq!(some.lanes[7].key.id, KeyId::from_bytes([19; 16]));

    let gone = |n: u8, cause, seconds| EndedKey {
        id: KeyId::from_bytes([n; 16]),
        kcv: Kcv::from_bytes([n; 8]),
        cause,
        ended_at: at(seconds),
    };
    let ended = [gone(1, EndCause::Revoked, -60), gone(2, EndCause::Expired, -86_400)];
    let marks = timeline(vec![], &ended, 8).marks;
    assert_eq!(marks.len(), 1, "what ended before the line begins is not marked");
    assert_eq!((marks[0].cause, marks[0].at < NOW), (EndCause::Revoked, true));
    let many: Vec<_> = (0..=255).map(|n| gone(n, EndCause::Expired, -i64::from(n))).collect();
    assert_eq!(timeline(vec![], &many, 8).marks.len(), MOST_MARKS);
}

#[test]
fn labels_are_few_even_and_clear_of_the_ends() {
    let ticks = timeline(vec![], &[], 8).ticks;
    let offsets: Vec<_> = ticks.iter().map(|tick| tick.offset).collect();
    assert_eq!(offsets, [-3600, 3600, 7200]);
    assert!(ticks.iter().all(|tick| tick.at >= MARGIN && tick.at <= LINE - MARGIN));
    for (rotation, lifetime) in [(10, 10), (60, 3600), (86_400, 604_800)] {
        let asked = PolicyRequest {
            rotation_period: Some(Seconds::new(rotation)),
            ticket_lifetime: Some(Seconds::new(lifetime)),
            ..PolicyRequest::default()
        };
        let ticks = Window::around(&Policy::try_new(&asked).unwrap(), at(0)).ticks();
        assert!((2..=6).contains(&ticks.len()), "{rotation} s, {lifetime} s: {ticks:?}");
    }
}
