use super::*;
use crate::id::Kcv;
use crate::keyset::TicketFormat;
use crate::name::KeysetName;
use crate::policy::{Policy, PolicyRequest};

pub(super) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(seconds)
}

/// A keyset that hands out key identities as the manager would.
#[derive(Debug, Clone)]
pub(super) struct World {
    pub(super) keyset: Keyset,
    next: u64,
}

impl World {
    pub(super) fn new(asked: &PolicyRequest) -> Self {
        let policy = Policy::try_new(asked).unwrap();
        let name = KeysetName::try_new("main").unwrap();
        let keyset = Keyset::try_new(name, policy, History::Fresh, vec![]).unwrap();
        Self { keyset, next: 0 }
    }

    pub(super) fn record(&mut self, schedule: Schedule) -> KeyRecord {
        self.next += 1;
        let mut id = [0; 16];
        id[8..].copy_from_slice(&self.next.to_be_bytes());
        let kcv = Kcv::from_bytes(self.next.to_be_bytes());
        KeyRecord { id: KeyId::from_bytes(id), format: TicketFormat::V1, kcv, schedule }
    }

    pub(super) fn apply(&mut self, ops: &[Op]) {
        let minted: Vec<_> = ops
            .iter()
            .filter_map(|op| match op {
                Op::Mint { schedule, .. } => Some(*schedule),
                _ => None,
            })
            .map(|schedule| self.record(schedule))
            .collect();
        self.keyset = apply(&self.keyset, ops, &minted).unwrap();
    }

    pub(super) fn pass(&mut self, now: Timestamp) -> Vec<Op> {
        let ops = plan(&self.keyset, &Convergence::confirmed(), now);
        self.apply(&ops);
        ops
    }

    fn periods(&self) -> Vec<(u64, u64)> {
        let schedules = self.keyset.keys().iter().map(|key| key.schedule);
        schedules.map(|s| (s.activate_at().as_unix(), s.retire_at().as_unix())).collect()
    }
}

/// Rotation 100 s, ticket lifetime 200 s, poll 5 s, skew 2 s, lead 100 s; urgent lead 12 s.
pub(super) fn world() -> World {
    World::new(&PolicyRequest {
        rotation_period: Some(Seconds::new(100)),
        ticket_lifetime: Some(Seconds::new(200)),
        poll_interval: Some(Seconds::new(5)),
        clock_skew: Some(Seconds::new(2)),
        ..PolicyRequest::default()
    })
}

#[test]
fn the_first_key_activates_at_once_and_the_next_is_pending() {
    let mut world = world();
    let ops = world.pass(at(1000));
    assert_eq!(world.periods(), [(1000, 1100), (1100, 1200)]);
    assert!(matches!(ops[0], Op::Mint { reason: MintReason::First, .. }));
    assert!(matches!(ops[1], Op::Mint { reason: MintReason::Scheduled, .. }));
}

#[test]
fn a_key_is_minted_one_lead_before_it_seals() {
    let mut world = world();
    world.pass(at(1000));
    assert_eq!(next_due(&world.keyset, &Convergence::confirmed(), at(1000)), at(1100));
    assert!(world.pass(at(1099)).is_empty());
    world.pass(at(1100));
    assert_eq!(world.periods(), [(1000, 1100), (1100, 1200), (1200, 1300)]);
    assert_eq!(world.keyset.keys()[2].schedule.published_at(), at(1100));
}

#[test]
fn a_key_ends_a_ticket_lifetime_and_a_skew_after_it_retires() {
    let mut world = world();
    world.pass(at(1000));
    let first = world.keyset.keys()[0];
    assert_eq!(first.schedule.destroy_at(), at(1302));
    assert_eq!(first.schedule.destroy_by(), at(1402));
    for now in [1100, 1200, 1300, 1301] {
        let ops = world.pass(at(now));
        assert!(!ops.iter().any(|op| matches!(op, Op::End { .. })), "at {now}");
    }
    let ops = world.pass(at(1302));
    assert_eq!(ops, [Op::End { id: first.id, cause: EndCause::Expired }]);
    assert!(!publishes(&ops));
}

#[test]
fn an_outage_shorter_than_the_lead_costs_nothing() {
    let mut world = world();
    world.pass(at(1000));
    // The mint due at 1100 happens 88 s late: the key is still out for the urgent lead of 12 s.
    world.pass(at(1188));
    assert_eq!(world.periods(), [(1000, 1100), (1100, 1200), (1200, 1300)]);
}

#[test]
fn an_outage_longer_than_the_lead_leaves_a_gap_and_no_overlap() {
    let mut world = world();
    world.pass(at(1000));
    let ops = world.pass(at(1195));
    assert_eq!(world.periods()[2], (1207, 1307));
    let cause = GapCause::Late;
    let expected = MintReason::AfterGap { cause, from: at(1200), until: at(1207) };
    assert!(matches!(ops[0], Op::Mint { reason, .. } if reason == expected), "{ops:?}");
    let mut late = super::tests::world();
    late.pass(at(1000));
    late.pass(at(5000));
    // The chain goes on from the end of the first key after the gap.
    assert_eq!(late.periods(), [(5012, 5112)]);
    assert!(late.pass(at(5011)).is_empty());
    late.pass(at(5012));
    assert_eq!(late.periods(), [(5012, 5112), (5112, 5212)]);
}

#[test]
fn rotating_now_activates_the_pending_key_and_loses_no_ticket() {
    let mut world = world();
    world.pass(at(1000));
    let before = world.keyset.clone();
    let ops = rotate_now(&world.keyset, at(1040)).unwrap();
    world.apply(&ops);
    assert_eq!(world.periods(), [(1000, 1040), (1040, 1140), (1140, 1240)]);
    for (old, new) in before.keys().iter().zip(world.keyset.keys()) {
        assert_eq!(old.schedule.destroy_at(), new.schedule.destroy_at());
    }
    assert!(publishes(&ops));
    assert!(world.pass(at(1040)).is_empty());
}

#[test]
fn rotating_twice_in_a_second_is_refused_by_name() {
    let mut world = world();
    world.pass(at(1000));
    world.apply(&rotate_now(&world.keyset.clone(), at(1040)).unwrap());
    let active = world.keyset.active(at(1040)).unwrap().id;
    assert_eq!(rotate_now(&world.keyset, at(1040)), Err(RotateError::UnderWay(active, at(1041))));
    assert!(rotate_now(&world.keyset, at(1041)).is_ok());
}

#[test]
fn rotating_without_a_pending_key_takes_the_urgent_lead() {
    let asked = PolicyRequest {
        rotation_period: Some(Seconds::new(100)),
        ticket_lifetime: Some(Seconds::new(200)),
        poll_interval: Some(Seconds::new(5)),
        clock_skew: Some(Seconds::new(2)),
        lead: Some(Seconds::new(30)),
        ..PolicyRequest::default()
    };
    let mut world = World::new(&asked);
    world.pass(at(1000));
    assert_eq!(world.periods(), [(1000, 1100)]);
    world.apply(&rotate_now(&world.keyset.clone(), at(1040)).unwrap());
    assert_eq!(world.periods(), [(1000, 1052), (1052, 1152)]);
}

#[test]
fn rotating_in_a_gap_activates_what_is_pending_or_says_so() {
    let mut world = world();
    assert_eq!(rotate_now(&world.keyset, at(1000)), Err(RotateError::Gap));
    world.pass(at(1000));
    world.pass(at(5000));
    world.apply(&rotate_now(&world.keyset.clone(), at(5003)).unwrap());
    assert_eq!(world.periods()[0], (5003, 5103));
}

#[test]
fn a_boundary_waits_while_an_instance_lacks_the_next_key() {
    let mut world = world();
    world.pass(at(1000));
    let [active, pending] = [world.keyset.keys()[0], world.keyset.keys()[1]];
    let lacking = Convergence::lacking(vec![pending.id]);
    // Margin: 5 s poll + 2 s skew + 2 s.
    assert_eq!(next_due(&world.keyset, &lacking, at(1000)), at(1091));
    assert!(plan(&world.keyset, &lacking, at(1090)).is_empty());
    let ops = plan(&world.keyset, &lacking, at(1091));
    world.apply(&ops);
    assert_eq!(world.periods()[..2], [(1000, 1109), (1109, 1209)]);
    let extended = world.keyset.keys()[0].schedule;
    assert_eq!(extended.destroy_at(), active.schedule.destroy_at() + Seconds::new(9));
    assert_eq!(extended.destroy_by(), active.schedule.destroy_by());
    assert!(plan(&world.keyset, &lacking, at(1091)).is_empty(), "a pass is idempotent");
}

#[test]
fn postponing_ends_with_the_envelope_and_rotation_goes_on() {
    let mut world = world();
    world.pass(at(1000));
    let pending = world.keyset.keys()[1].id;
    let lacking = Convergence::lacking(vec![pending]);
    for now in 1000..1400 {
        let ops = plan(&world.keyset, &lacking, at(now));
        world.apply(&ops);
    }
    let schedule = world.keyset.keys().iter().find(|key| key.id == pending).unwrap().schedule;
    // 9, 9, 18, 36 and what is left of the lead of 100 s.
    assert_eq!(schedule.activate_at(), at(1200));
    assert_eq!(schedule.destroy_at(), schedule.destroy_by());
}

/// World with a pending key that instances lack, under this quorum and deadline.
fn doubtful(quorum: ActivationQuorum, deadline: u64) -> (World, KeyId, Convergence) {
    let mut world = world();
    let policy = world.keyset.policy();
    let asked = PolicyRequest {
        rotation_period: Some(policy.rotation_period()),
        ticket_lifetime: Some(policy.ticket_lifetime()),
        poll_interval: Some(policy.poll_interval()),
        clock_skew: Some(policy.clock_skew()),
        activation_quorum: Some(quorum),
        activation_deadline: Some(Seconds::new(deadline)),
        ..PolicyRequest::default()
    };
    world = World::new(&asked);
    world.pass(at(1000));
    let pending = world.keyset.keys()[1].id;
    (world, pending, Convergence::lacking(vec![pending]))
}

#[test]
fn postponing_ends_with_the_deadline_and_says_so_once() {
    let (mut world, pending, lacking) = doubtful(ActivationQuorum::All, 20);
    let mut said = Vec::new();
    for now in 1000..1400 {
        let ops = plan(&world.keyset, &lacking, at(now));
        said.extend(forced(&world.keyset, &lacking, at(now)).map(|(key, since)| (key, since, now)));
        world.apply(&ops);
    }
    let activated = world.keyset.keys().iter().find(|key| key.id == pending).unwrap().schedule;
    assert_eq!(activated.activate_at(), at(1118), "two steps of 9 s fit into 20 s");
    // From the decision to the activation; only the first has what the keyset was due for.
    assert_eq!(said.first(), Some(&(pending, at(1109), 1109)));
    assert!(
        said.iter().all(|(key, since, now)| (*key, *since) == (pending, at(1109)) && *now < 1118)
    );
}

/// The world's keys under another lead, for a policy changes nothing of what was minted.
fn with_lead(world: &mut World, lead: u64, deadline: Option<u64>) {
    let policy = world.keyset.policy();
    let asked = PolicyRequest {
        rotation_period: Some(policy.rotation_period()),
        ticket_lifetime: Some(policy.ticket_lifetime()),
        poll_interval: Some(policy.poll_interval()),
        clock_skew: Some(policy.clock_skew()),
        lead: Some(Seconds::new(lead)),
        activation_deadline: deadline.map(Seconds::new),
        ..PolicyRequest::default()
    };
    let policy = Policy::try_new(&asked).unwrap();
    let (name, keys) = (world.keyset.name().clone(), world.keyset.keys().to_vec());
    world.keyset = Keyset::try_new(name, policy, History::Used, keys).unwrap();
}

/// The activations that a key, planned for 1100, is moved to while instances lack it.
fn postponements(world: &mut World, pending: KeyId) -> Vec<u64> {
    let lacking = Convergence::lacking(vec![pending]);
    let mut moved_to = Vec::new();
    for now in 1000..1400 {
        let ops = plan(&world.keyset, &lacking, at(now));
        moved_to.extend(ops.iter().filter_map(|op| match op {
            Op::Move { id, schedule, .. } if *id == pending => Some(schedule.activate_at()),
            _ => None,
        }));
        world.apply(&ops);
    }
    moved_to.into_iter().map(Timestamp::as_unix).collect()
}

#[test]
fn what_was_postponed_is_no_matter_of_the_present_lead() {
    let as_ever = [1109, 1118, 1136, 1172];
    for (lead, deadline, expected) in [
        (100, None, &[&as_ever[..], &[1200]].concat()[..]),
        // A longer lead: as long as the envelope that the key was minted with, step by step.
        (300, None, &[&as_ever[..], &[1200]].concat()),
        (300, Some(50), &[1109, 1118, 1136, 1150]),
        // A shorter one: no longer than it allows, though the envelope would.
        (30, None, &[1109, 1118, 1130]),
    ] {
        let mut world = world();
        world.pass(at(1000));
        let pending = world.keyset.keys()[1].id;
        with_lead(&mut world, lead, deadline);
        assert_eq!(postponements(&mut world, pending), expected, "{lead} {deadline:?}");
    }
}

#[test]
fn a_rotation_asked_for_is_no_postponement() {
    let mut world = world();
    world.pass(at(1000));
    let pending = world.keyset.keys()[1].id;
    world.apply(&plan(&world.keyset, &Convergence::lacking(vec![pending]), at(1091)));
    world.apply(&rotate_now(&world.keyset, at(1095)).unwrap());
    let active = world.keyset.active(at(1095)).unwrap();
    assert_eq!((active.id, active.schedule.postponed()), (pending, Seconds::new(9)));
}

#[test]
fn without_a_quorum_nothing_waits() {
    let (mut world, _, lacking) = doubtful(ActivationQuorum::Off, 100);
    assert!(plan(&world.keyset, &lacking, at(1095)).is_empty());
    assert_eq!(forced(&world.keyset, &lacking, at(1095)), None);
    world.pass(at(1100));
    assert_eq!(world.periods()[..2], [(1000, 1100), (1100, 1200)]);
}

#[test]
fn what_a_change_finds_undecided_stays_due() {
    let keyset = |quorum| doubtful(quorum, 100).0.keyset;
    let (all, off) = (keyset(ActivationQuorum::All), keyset(ActivationQuorum::Off));
    // Decided 9 s before 1100.
    let table = [
        ("before there is anything to decide", &off, 1100, 1090, None),
        ("the quorum is turned on too late", &off, 1100, 1095, Some(at(1091))),
        ("just so", &off, 1100, 1091, Some(at(1091))),
        ("it has activated", &off, 1100, 1100, None),
        ("the pass has decided", &all, 1100, 1095, None),
        ("the change comes before the pass", &all, 1091, 1095, Some(at(1091))),
    ];
    for (what, before, due, now, expected) in table {
        assert_eq!(undecided((before, at(due)), &all, at(now)), expected, "{what}");
    }
    assert_eq!(undecided((&all, at(1091)), &off, at(1095)), None, "nothing waits");
    // Brought so near by a revocation, or minted so late.
    let empty = all.retaining(|_| false);
    assert_eq!(undecided((&empty, at(1200)), &all, at(1095)), Some(at(1091)));
}

#[test]
fn a_policy_change_applies_from_the_next_mint() {
    let mut world = world();
    world.pass(at(1000));
    let asked = PolicyRequest {
        rotation_period: Some(Seconds::new(50)),
        ticket_lifetime: Some(Seconds::new(200)),
        poll_interval: Some(Seconds::new(5)),
        clock_skew: Some(Seconds::new(2)),
        ..PolicyRequest::default()
    };
    let policy = Policy::try_new(&asked).unwrap();
    let (name, keys) = (world.keyset.name().clone(), world.keyset.keys().to_vec());
    world.keyset = Keyset::try_new(name, policy, History::Used, keys).unwrap();
    assert!(world.pass(at(1100)).is_empty());
    world.pass(at(1150));
    assert_eq!(world.periods(), [(1000, 1100), (1100, 1200), (1200, 1250)]);
}

#[test]
fn keys_of_a_wrong_future_are_bridged_and_not_ended() {
    let mut world = world();
    world.pass(at(10_000));
    let future = world.keyset.clone();
    // The clock was ahead; now it is right.
    world.pass(at(1000));
    assert_eq!(world.periods(), [(1012, 1112), (10_000, 10_100), (10_100, 10_200)]);
    assert!(future.keys().iter().all(|key| world.keyset.keys().contains(key)));
    for now in 1001..10_000 {
        world.pass(at(now));
    }
    let periods = world.periods();
    let last = periods.iter().find(|(_, retire)| *retire == 10_000).unwrap();
    assert_eq!(last.1, 10_000, "the bridge ends where the next key begins: {periods:?}");
}

#[test]
fn rotating_late_never_keeps_the_old_key_sealing_longer() {
    let mut world = world();
    world.pass(at(1000));
    // The manager was away; key two retires at 1200, before a new key can be delivered.
    world.apply(&rotate_now(&world.keyset.clone(), at(1195)).unwrap());
    assert_eq!(world.periods(), [(1000, 1100), (1100, 1200), (1207, 1307)]);
}
