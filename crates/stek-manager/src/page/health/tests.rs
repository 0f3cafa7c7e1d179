use stek_core::id::{Kcv, KeyId};
use stek_core::keyset::{History, KeyRecord, TicketFormat};
use stek_core::policy::Policy;
use stek_core::schedule::Schedule;

use super::*;

const START: u64 = 1_790_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(START + seconds)
}

/// Under the default policy (six hours ahead, an urgent lead of three minutes), keys that seal
/// in these spans of seconds.
fn keyset(spans: &[(u64, u64)]) -> Keyset {
    let keys = (1..).zip(spans).map(|(number, (from, to))| KeyRecord {
        id: KeyId::from_bytes([number; 16]),
        format: TicketFormat::V1,
        kcv: Kcv::from_bytes([number; 8]),
        schedule: Schedule::try_new(at(0), at(*from), at(*to), at(90_000), at(90_000)).unwrap(),
    });
    Keyset::try_new(name("main"), Policy::default(), History::Used, keys.collect()).unwrap()
}

fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

fn sound() -> Facts {
    Facts { access_read_at: at(900), ..Facts::sound(at(1000)) }
}

fn titles(facts: Facts) -> Vec<String> {
    of_manager(&facts).into_iter().map(|notice| notice.title).collect()
}

#[test]
fn a_sound_manager_has_nothing_to_say() {
    assert_eq!(titles(sound()), Vec::<String>::new());
    // One that is starting has nothing to say either.
    let starting = Facts { last_pass: LastPass::None, succeeded_at: None, ..sound() };
    assert_eq!(titles(starting), Vec::<String>::new());
}

#[test]
fn each_fault_is_said_once() {
    let faults = [
        (
            Facts { last_pass: LastPass::Failed("the clocks disagree"), ..sound() },
            "clocks disagree",
        ),
        (Facts { succeeded_at: Some(at(1000 - 61)), ..sound() }, "does not come around"),
        (Facts { clocks_apart: Duration::from_secs(10), ..sound() }, "drift apart"),
        (Facts { epochs_behind: 1, ..sound() }, "ratchet lags"),
        (Facts { forged_rows: 1, ..sound() }, "forged rows"),
        (Facts { unwrap_failures: 1, ..sound() }, "unwrapped"),
        (Facts { unpublishable: 1, ..sound() }, "published"),
        (Facts { now: at(5000), succeeded_at: Some(at(4999)), ..sound() }, "grants are old"),
        (Facts { unreadable_rows: 1, ..sound() }, "cannot be read"),
        (Facts { audit_broken: true, ..sound() }, "does not hold"),
        (Facts { lost_audit_lines: 1, ..sound() }, "shorter"),
        (Facts { ratchet: RatchetView { behind: 2, ..sound().ratchet }, ..sound() }, "another"),
        (
            Facts { ratchet: RatchetView { unproven: 1, ..sound().ratchet }, ..sound() },
            "not proven",
        ),
        (Facts { forced_at: Some(at(999)), ..sound() }, "instances lack"),
        (Facts { certificate_end: Some(at(1001)), ..sound() }, "ends soon"),
        (Facts { certificate_end: Some(at(999)), ..sound() }, "has ended"),
    ];
    for (facts, words) in faults {
        let said = titles(facts);
        assert!(said.len() == 1 && said[0].contains(words), "{words}: {said:?}");
    }
    let certificate_end = Some(at(1000) + CERTIFICATE_ENDS);
    let limit = Facts { succeeded_at: Some(at(1000 - 60)), certificate_end, ..sound() };
    assert_eq!(titles(limit), Vec::<String>::new());
}

#[test]
fn what_takes_its_time_is_told_once_it_takes_too_long() {
    let changing = |since: u64| {
        let ratchet = RatchetView { changing_since: Some(at(since)), ..sound().ratchet };
        let now = Facts { now: at(9000), succeeded_at: Some(at(9000)), ..sound() };
        titles(Facts { access_read_at: at(9000), ratchet, ..now })
    };
    assert_eq!(changing(9000 - 3600), Vec::<String>::new());
    assert_eq!(changing(9000 - 3601), ["a change of seeds does not come to its end"]);
    let forced = Facts { forced_at: Some(at(0)), now: at(3600), ..sound() };
    let said = |facts: Facts| titles(Facts { succeeded_at: Some(facts.now), ..facts });
    assert_eq!(said(forced), ["a key activated that instances lack"]);
    assert_eq!(said(Facts { now: at(3601), ..forced }), Vec::<String>::new());
    // The manager's own lag is the alarm, and the others' is not said beside it.
    let ratchet = RatchetView { behind: 2, ..sound().ratchet };
    assert_eq!(titles(Facts { epochs_behind: 2, ratchet, ..sound() }), ["the ratchet lags"]);
}

#[test]
fn the_worst_comes_first() {
    let facts = Facts { unwrap_failures: 1, epochs_behind: 2, ..sound() };
    let severities: Vec<_> = of_manager(&facts).iter().map(|notice| notice.severity).collect();
    assert_eq!(severities, [Severity::Alarm, Severity::Warning]);
}

#[test]
fn rotation_is_judged_by_what_is_published() {
    let six = 21_600;
    // Sealing is sure for the lead of six hours, but for the minute that a pass may take.
    assert_eq!(Rotation::of(&keyset(&[(0, 100), (100, six)]), at(0)), Rotation::Sound);
    assert_eq!(Rotation::of(&keyset(&[(0, six)]), at(60)), Rotation::Sound);
    let late = Rotation::Late { until: at(six) };
    assert_eq!(Rotation::of(&keyset(&[(0, six)]), at(61)), late);
    // A hole that is already in the schedule.
    let hole = keyset(&[(0, 1000), (1100, six)]);
    assert_eq!(Rotation::of(&hole, at(0)), Rotation::Late { until: at(1000) });
    assert_eq!(Rotation::of(&hole, at(820)), Rotation::Late { until: at(1000) });
    assert_eq!(Rotation::of(&hole, at(821)), Rotation::Ending { until: at(1000) });
    assert_eq!(Rotation::of(&hole, at(1000)), Rotation::Gap { until: Some(at(1100)) });
    assert_eq!(Rotation::of(&keyset(&[]), at(0)), Rotation::Gap { until: None });
}

#[test]
fn a_thousand_keysets_in_trouble_are_one_notice() {
    let mut troubles = Troubles::default();
    for number in 0..1000 {
        let name = name(&format!("k{number:04}"));
        troubles.add(&name, Rotation::Gap { until: None });
        troubles.add_lagging(&name, number == 7);
    }
    troubles.add(&name("sound"), Rotation::Sound);
    let notices = troubles.into_notices();
    assert_eq!(notices.len(), 2, "{notices:?}");
    assert_eq!(notices[0].title, "1000 keysets: nothing seals");
    assert_eq!(notices[0].keysets.len(), MOST_NAMED);
    assert_eq!(notices[1].title, "1 keyset: instances lag");
    assert_eq!(notices[1].keysets, [name("k0007")]);
}
