//! What is remembered of polls, what is counted of it, and that nobody can fill the memory.

use stek_core::check_in::{MAX_COUNTED_LAGGARDS, MAX_HOLDINGS, MAX_LAGGARDS};

use super::*;

fn keyset() -> KeysetName {
    KeysetName::try_new("main").unwrap()
}

fn poll(principal: &str, instance: &str, revision: u64, at: u64) -> CheckIn {
    CheckIn {
        keyset: keyset(),
        principal: PrincipalName::try_new(principal).unwrap(),
        instance: InstanceName::try_new(instance).unwrap(),
        revision: Revision::new(revision),
        clock_offset_millis: None,
        now: Timestamp::from_unix(1_000_000 + at),
        boot: Duration::from_secs(at),
    }
}

fn tally(check_ins: &CheckIns, newest: u64, at: u64) -> KeysetTally {
    let presence = presence(Seconds::new(60));
    let tally =
        check_ins.tally(&keyset(), Revision::new(newest), presence, Duration::from_secs(at));
    tally.unwrap_or_default()
}

fn lacks(tally: &KeysetTally, published_at: u64) -> bool {
    tally.lacks(tally.newest, Timestamp::from_unix(1_000_000 + published_at))
}

#[test]
fn an_instance_lags_once_it_has_polled_twice_since_the_publication() {
    let check_ins = CheckIns::default();
    assert!(check_ins.note(poll("token:a", "a", 41, 90)), "it is new");
    assert!(!check_ins.note(poll("token:a", "a", 41, 101)), "nothing new");
    assert!(!lacks(&tally(&check_ins, 42, 101), 100));
    check_ins.note(poll("token:a", "a", 41, 102));
    let counted = tally(&check_ins, 42, 102);
    assert!(lacks(&counted, 100));
    assert_eq!(counted.laggards[0].instance.as_str(), "a");
    assert!(check_ins.note(poll("token:a", "a", 42, 103)), "it holds something else");
    let counted = tally(&check_ins, 42, 103);
    assert!(!lacks(&counted, 100) && counted.laggards.is_empty());
    assert!(counted.standing(Revision::new(42)).is_confirmed());
}

#[test]
fn presence_ends_with_silence() {
    let check_ins = CheckIns::default();
    check_ins.note(poll("token:a", "a", 41, 100));
    check_ins.note(poll("token:a", "b", 41, 200));
    // Three polls of 60 s and one that waits 55 s.
    assert_eq!(tally(&check_ins, 42, 335).standing(Revision::ZERO).instances, 2);
    assert_eq!(tally(&check_ins, 42, 336).standing(Revision::ZERO).instances, 1);
    assert_eq!(tally(&check_ins, 42, 436), KeysetTally::default());
    assert!(check_ins.keysets().is_empty());
    assert_eq!(check_ins.lock().total, 0);
    assert!(check_ins.lock().totals.is_empty());
}

#[test]
fn sixteen_laggards_of_a_principal_count_and_those_who_lag_most() {
    let check_ins = CheckIns::default();
    for n in 0..40 {
        check_ins.note(poll("token:liar", &format!("invented-{n:02}"), 40 + n % 2, 100));
    }
    for n in 0..30 {
        check_ins.note(poll("token:liar", &format!("good-{n}"), 42, 100));
    }
    check_ins.note(poll("token:other", "other", 41, 100));
    let counted = tally(&check_ins, 42, 100);
    let standing = counted.standing(Revision::new(42));
    assert_eq!((standing.confirmed, standing.lagging()), (30, 17));
    assert_eq!(counted.uncounted, 24);
    let of_liar = counted.laggards.iter().filter(|one| one.principal.as_str() == "token:liar");
    let held: Vec<u64> = of_liar.map(|one| one.revision.as_u64()).collect();
    assert_eq!(held, [40; MAX_COUNTED_LAGGARDS]);
    assert_eq!(counted.laggards.last().unwrap().instance.as_str(), "other");
}

#[test]
fn what_is_told_upwards_is_bounded() {
    let check_ins = CheckIns::default();
    for n in 0..200 {
        check_ins.note(poll(&format!("token:{n:03}"), "x", 1 + n, 100));
    }
    let counted = tally(&check_ins, 1000, 100);
    assert_eq!((counted.holdings.len(), counted.laggards.len()), (MAX_HOLDINGS, MAX_LAGGARDS));
    assert_eq!(counted.standing(Revision::new(1000)).lagging(), 200);
    assert!(counted.holdings.is_sorted_by_key(|holding| std::cmp::Reverse(holding.revision)));
    // The oldest are one, and hold what the least of them does.
    let oldest = counted.holdings.last().unwrap();
    assert_eq!((oldest.revision.as_u64(), oldest.instances), (1, 200 - 63));
}

#[test]
fn whoever_claims_more_than_there_is_counts_as_current() {
    let check_ins = CheckIns::default();
    for n in 0..100 {
        check_ins.note(poll("token:liar", &format!("{n}"), 1000 + n, 100));
    }
    let counted = tally(&check_ins, 42, 100);
    assert_eq!(counted.holdings.len(), 1);
    assert_eq!(counted.holdings[0].revision.as_u64(), 42);
}

#[test]
fn an_inventor_makes_room_for_his_own_inventions() {
    let check_ins = CheckIns::default();
    check_ins.note(poll("token:good", "good", 42, 0));
    let inventions = MAX_OF_PRINCIPAL * 2;
    for n in 0..inventions {
        check_ins.note(poll("token:liar", &format!("{n}"), 1, 1 + n as u64 / 1000));
    }
    let rolls = check_ins.lock();
    let liar = &rolls.keysets[&keyset()][&PrincipalName::try_new("token:liar").unwrap()];
    assert!(liar.len() <= MAX_OF_PRINCIPAL && liar.len() > MAX_OF_PRINCIPAL / 2);
    assert!(liar.contains_key(&InstanceName::try_new(&format!("{}", inventions - 1)).unwrap()));
    assert!(!liar.contains_key(&InstanceName::try_new("0").unwrap()));
    assert!(rolls.keysets[&keyset()].contains_key(&PrincipalName::try_new("token:good").unwrap()));
    assert_eq!(rolls.total, liar.len() + 1);
}

#[test]
fn when_all_is_full_whoever_has_most_makes_room() {
    let check_ins = CheckIns::default();
    for n in 0..MAX_INSTANCES {
        // The first has more than any other.
        let principal = if n % 3 == 0 { 0 } else { 1 + n % 7 };
        check_ins.note(poll(&format!("token:{principal}"), &format!("{n}"), 42, 1));
    }
    let most = PrincipalName::try_new("token:0").unwrap();
    for n in 0..10 {
        check_ins.note(poll("token:late", &format!("late-{n}"), 42, 2));
    }
    let rolls = check_ins.lock();
    assert!(rolls.total <= MAX_INSTANCES);
    assert_eq!(rolls.totals[&PrincipalName::try_new("token:late").unwrap()], 10);
    assert!(rolls.totals[&most] < MAX_INSTANCES.div_ceil(3).min(MAX_OF_PRINCIPAL));
    assert_eq!(rolls.totals.values().sum::<usize>(), rolls.total);
}

#[test]
fn all_can_be_paged_through() {
    let check_ins = CheckIns::default();
    for n in 0..25 {
        check_ins.note(poll(&format!("token:{}", n % 3), &format!("{n:02}"), 40 + n % 5, 100));
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let page = check_ins.list(&keyset(), after.as_ref(), None, 10);
        assert!(page.instances.len() <= 10);
        seen.extend(page.instances.iter().map(|one| (one.principal.clone(), one.instance.clone())));
        after = seen.last().cloned();
        if !page.more {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());
    let lagging = check_ins.list(&keyset(), None, Some(Revision::new(42)), 100);
    assert_eq!(lagging.instances.len(), 10);
    assert!(!lagging.more);
}

/// Not a limit, a figure: `cargo test -p stek-distribution ten_thousand -- --nocapture --ignored`.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "it measures and tells")]
fn ten_thousand_instances() {
    let check_ins = CheckIns::default();
    let polls: Vec<_> =
        (0..10_000).map(|n| poll("token:fleet", &format!("edge-{n}"), 42, 100)).collect();
    for round in 0..3 {
        let begun = std::time::Instant::now();
        polls.iter().cloned().for_each(|poll| {
            check_ins.note(poll);
        });
        let (noted, begun) = (begun.elapsed() / 10_000, std::time::Instant::now());
        let counted = tally(&check_ins, 42, 100);
        println!("round {round}: {noted:?} per poll, {:?} per count", begun.elapsed());
        assert_eq!(counted.standing(Revision::new(42)).confirmed, 10_000);
    }
}
