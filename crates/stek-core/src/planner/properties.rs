//! Invariants of the planner over generated policies, outages, rotations and laggards. A failing
//! case prints its seed and shrinks.

use proptest::prelude::*;

use super::tests::{World, at};
use super::*;
use crate::policy::{Policy, PolicyRequest};

const START: u64 = 1_000_000;

fn requests() -> impl Strategy<Value = PolicyRequest> {
    (10u64..2000, 10u64..6000, 1u64..20, 1u64..20, 0u64..3).prop_filter_map(
        "relations hold",
        |(rotation, lifetime, poll, skew, leads)| {
            let asked = PolicyRequest {
                rotation_period: Some(Seconds::new(rotation)),
                ticket_lifetime: Some(Seconds::new(lifetime)),
                poll_interval: Some(Seconds::new(poll)),
                clock_skew: Some(Seconds::new(skew)),
                lead: match leads {
                    0 => Some(Seconds::new(4 * poll + 2 * skew)),
                    _ => Some(Seconds::new(rotation * leads)),
                },
                session_lifetime: None,
                activation_quorum: None,
                activation_deadline: None,
            };
            Policy::try_new(&asked).ok().map(|_| asked)
        },
    )
}

/// What happens at a step, and how many thousandths of a rotation later.
#[derive(Debug, Clone, Copy)]
enum Event {
    Pass,
    Rotate,
    /// Every key is revoked, or the one at this position.
    Revoke(Option<usize>),
    /// A pass that is told that every pending key is lacking somewhere.
    Lagging,
}

fn histories() -> impl Strategy<Value = (PolicyRequest, Vec<(u64, Event)>)> {
    let event = prop_oneof![
        6 => Just(Event::Pass),
        1 => Just(Event::Rotate),
        2 => Just(Event::Lagging),
    ];
    steps(event)
}

/// Histories in which keys are revoked too.
fn troubled_histories() -> impl Strategy<Value = (PolicyRequest, Vec<(u64, Event)>)> {
    let event = prop_oneof![
        6 => Just(Event::Pass),
        1 => Just(Event::Rotate),
        1 => Just(Event::Revoke(None)),
        2 => (0usize..6).prop_map(|position| Event::Revoke(Some(position))),
    ];
    steps(event)
}

fn steps(
    event: impl Strategy<Value = Event>,
) -> impl Strategy<Value = (PolicyRequest, Vec<(u64, Event)>)> {
    // Mostly regular passes; now and then an outage of up to three rotations.
    let step = prop_oneof![8 => 1u64..400, 1 => 400u64..3000];
    (requests(), prop::collection::vec((step, event), 1..60))
}

/// Runs a history and hands each state, with the time since which it holds, to `look`.
fn run(
    asked: &PolicyRequest,
    events: &[(u64, Event)],
    mut look: impl FnMut(&Keyset, &[Op], Timestamp) -> Result<(), TestCaseError>,
) -> Result<(), TestCaseError> {
    let mut world = World::new(asked);
    let rotation = world.keyset.policy().rotation_period().as_secs();
    let mut now = START;
    let first = world.pass(at(now));
    look(&world.keyset, &first, at(now))?;
    for (step, event) in events {
        now += (step * rotation / 1000).max(1);
        let lacking = Convergence::lacking(world.keyset.keys().iter().map(|key| key.id).collect());
        let ops = match event {
            Event::Pass => plan(&world.keyset, &Convergence::confirmed(), at(now)),
            Event::Lagging => plan(&world.keyset, &lacking, at(now)),
            // What cannot be rotated now is left to the next pass, as the manager does it.
            Event::Rotate => rotate_now(&world.keyset, at(now))
                .unwrap_or_else(|_| plan(&world.keyset, &Convergence::confirmed(), at(now))),
            Event::Revoke(position) => revoke(&world.keyset, selection(&world, *position), at(now))
                .unwrap_or_else(|_| plan(&world.keyset, &Convergence::confirmed(), at(now))),
        };
        world.apply(&ops);
        look(&world.keyset, &ops, at(now))?;
    }
    Ok(())
}

fn selection(world: &World, position: Option<usize>) -> Selection {
    let keys = world.keyset.keys();
    let key = position.filter(|_| !keys.is_empty()).map(|at| keys[at % keys.len()].id);
    key.map_or(Selection::All, Selection::Key)
}

/// The encrypt periods that were really used: a node seals by the schedule it holds at the time.
fn check_no_overlap(keyset: &Keyset) -> Result<(), TestCaseError> {
    for pair in keyset.keys().windows(2) {
        prop_assert!(pair[0].schedule.retire_at() <= pair[1].schedule.activate_at());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn at_every_instant_at_most_one_key_of_a_schedule_seals((asked, events) in histories()) {
        run(&asked, &events, |keyset, _, now| {
            check_no_overlap(keyset)?;
            for instant in keyset.keys().iter().flat_map(|key| {
                [key.schedule.activate_at(), key.schedule.retire_at(), now]
            }) {
                let sealing = keyset.keys().iter().filter(|key| key.schedule.seals(instant));
                prop_assert!(sealing.count() <= 1, "at {instant}");
            }
            Ok(())
        })?;
    }

    #[test]
    fn encrypt_periods_tile_or_leave_an_audited_gap((asked, events) in histories()) {
        let mut audited: Vec<(Timestamp, Timestamp)> = Vec::new();
        let mut was_covered_until = at(START);
        run(&asked, &events, |keyset, ops, now| {
            audited.extend(ops.iter().filter_map(|op| match op {
                Op::Mint { reason: MintReason::AfterGap { from, until, .. }, .. } => Some((*from, *until)),
                _ => None,
            }));
            let gap_began = (now > was_covered_until).then_some(was_covered_until);
            was_covered_until = now + keyset.covered_from(now);
            for pair in keyset.keys().windows(2) {
                let (from, until) = (pair[0].schedule.retire_at(), pair[1].schedule.activate_at());
                let known = audited.iter().any(|gap| gap.1 == until) || from == until;
                // A rotation in a gap moves its end, which is a decision with a reason, too.
                let moved = ops.iter().any(|op| matches!(op, Op::Move { schedule, .. }
                    if schedule.activate_at() == until || schedule.retire_at() == from));
                if moved { audited.push((from, until)); }
                prop_assert!(known || moved, "unexplained gap {from} to {until} at {now}");
            }
            let sealing = keyset.active(now).is_some();
            let coming = audited.iter().any(|gap| gap.1 > now);
            prop_assert!(sealing || coming, "nothing seals at {now}, since {gap_began:?}");
            Ok(())
        })?;
    }

    #[test]
    fn whatever_seals_has_been_out_for_the_urgent_lead_unless_somebody_asked(
        (asked, events) in histories()
    ) {
        run(&asked, &events, |keyset, ops, now| {
            for op in ops {
                if let Op::Mint { schedule, reason } = op {
                    prop_assert_eq!(schedule.published_at(), now);
                    let out = schedule.activate_at().since(now);
                    // Nobody holds an older key of a keyset that has just begun.
                    let first = now == at(START);
                    prop_assert_eq!(first && out == Seconds::ZERO, *reason == MintReason::First);
                    prop_assert!(first || out >= keyset.policy().urgent_lead(), "{op:?}");
                }
            }
            Ok(())
        })?;
    }

    /// Nodes poll at will and hold what was current then. What one seals, every node that has
    /// polled since the sealing key was published opens for the ticket lifetime; after a
    /// postponement, every node that has polled since that was published.
    #[test]
    fn a_ticket_opens_for_its_lifetime_on_every_node_that_polled_since_its_key_was_published(
        (asked, events) in histories(), staleness in 0usize..4
    ) {
        let mut published: Vec<(Timestamp, Keyset)> = Vec::new();
        run(&asked, &events, |keyset, _, now| {
            published.push((now, keyset.clone()));
            Ok(())
        })?;
        let lifetime = published[0].1.policy().ticket_lifetime();
        for (position, (_, sealer)) in published.iter().enumerate() {
            for key in sealer.keys() {
                // The last second in which a node with this schedule seals.
                let sealed_at = key.schedule.retire_at() - Seconds::new(1);
                let last_open = sealed_at + lifetime - Seconds::new(1);
                let others = published.iter().skip(position.saturating_sub(staleness));
                for (polled_at, opener) in others {
                    let knows = *polled_at >= key.schedule.published_at() && *polled_at <= last_open;
                    if !knows { continue; }
                    let held = opener.keys().iter().find(|other| other.id == key.id);
                    let postponed_since = |held: &KeyRecord| {
                        *polled_at < published[position].0
                            && held.schedule.destroy_at() < key.schedule.destroy_at()
                    };
                    if held.is_some_and(postponed_since) { continue; }
                    prop_assert!(
                        held.is_some_and(|held| held.schedule.opens(last_open)),
                        "key {} of {polled_at}, needed until {last_open}", key.id
                    );
                }
            }
        }
    }

    #[test]
    fn nothing_opens_at_or_after_destroy_at((asked, events) in histories()) {
        run(&asked, &events, |keyset, ops, now| {
            for key in keyset.keys() {
                prop_assert!(now < key.schedule.destroy_at(), "a pass leaves only what opens");
                prop_assert!(!key.schedule.opens(key.schedule.destroy_at()));
                prop_assert!(key.schedule.destroy_at() <= key.schedule.destroy_by());
            }
            let early = ops.iter().any(|op| matches!(op, Op::End { cause: EndCause::Revoked, .. }));
            prop_assert!(!early);
            Ok(())
        })?;
    }

    #[test]
    fn a_key_is_never_ended_early_nor_its_end_brought_forward((asked, events) in histories()) {
        let mut ends: Vec<(KeyId, Timestamp)> = Vec::new();
        run(&asked, &events, |keyset, ops, now| {
            for op in ops {
                if let Op::End { id, .. } = op {
                    let end = ends.iter().find(|(key, _)| key == id).map(|(_, end)| *end);
                    prop_assert!(end.is_some_and(|end| end <= now), "{id} at {now}");
                }
            }
            for (id, before) in &ends {
                let now_ends = keyset.keys().iter().find(|key| key.id == *id);
                prop_assert!(now_ends.is_none_or(|key| key.schedule.destroy_at() >= *before));
            }
            ends.retain(|(id, _)| !keyset.keys().iter().any(|key| key.id == *id));
            ends.extend(keyset.keys().iter().map(|key| (key.id, key.schedule.destroy_at())));
            Ok(())
        })?;
    }

    #[test]
    fn a_pass_is_idempotent((asked, events) in histories()) {
        run(&asked, &events, |keyset, _, now| {
            let mut again = World::new(&PolicyRequest::default());
            again.keyset = keyset.clone();
            again.pass(now);
            prop_assert_eq!(plan(&again.keyset, &Convergence::confirmed(), now), vec![]);
            Ok(())
        })?;
    }

    #[test]
    fn the_next_pass_has_work_exactly_when_it_is_due((asked, events) in histories()) {
        run(&asked, &events, |keyset, _, now| {
            let confirmed = Convergence::confirmed();
            if !plan(keyset, &confirmed, now).is_empty() { return Ok(()); }
            let due = next_due(keyset, &confirmed, now);
            prop_assert!(due > now);
            let just_before = due - Seconds::new(1);
            prop_assert_eq!(plan(keyset, &confirmed, just_before), vec![]);
            prop_assert!(!plan(keyset, &confirmed, due).is_empty(), "nothing to do at {due}");
            Ok(())
        })?;
    }

    /// Whatever the database holds, also keys of a future that a wrong clock made: one pass leads
    /// to a keyset in which something seals within the urgent lead, and goes on sealing.
    #[test]
    fn from_arbitrary_states_it_converges(
        asked in requests(),
        holes in prop::collection::vec((0u64..3000, 1u64..3000), 0..12),
        now in START..START + 20_000,
    ) {
        let mut world = World::new(&asked);
        let mut instant = START - 10_000;
        let mut keys = Vec::new();
        for (hole, period) in holes {
            let (activate, retire) = (at(instant + hole), at(instant + hole + period));
            let published = activate - Seconds::new(hole);
            let schedule = Schedule::planned(world.keyset.policy(), published, activate, retire);
            keys.push(world.record(schedule.unwrap()));
            instant += hole + period;
        }
        let (name, policy) = (world.keyset.name().clone(), *world.keyset.policy());
        world.keyset = Keyset::try_new(name, policy, History::Used, keys).unwrap();
        world.pass(at(now));
        prop_assert_eq!(plan(&world.keyset, &Convergence::confirmed(), at(now)), vec![]);
        let ready = at(now) + policy.urgent_lead();
        let end = at(now) + policy.lead();
        let sealing_from = ready.max(at(now) + world.keyset.covered_from(at(now)));
        if sealing_from <= end {
            prop_assert!(sealing_from + world.keyset.covered_from(sealing_from) > end);
        }
        // And it stays so, second by second, over two rotations.
        let mut clock = at(now);
        while clock < ready + policy.rotation_period().times(2) {
            world.pass(clock);
            prop_assert!(clock < ready || world.keyset.active(clock).is_some(), "at {clock}");
            check_no_overlap(&world.keyset)?;
            clock = next_due(&world.keyset, &Convergence::confirmed(), clock);
        }
    }

    #[test]
    fn a_revoked_key_is_gone_for_ever_and_nothing_else_is_erased_early(
        (asked, events) in troubled_histories()
    ) {
        let mut gone: Vec<KeyId> = Vec::new();
        run(&asked, &events, |keyset, ops, now| {
            let is_revoked = |op: &Op| match op {
                Op::End { id, cause: EndCause::Revoked } => Some(*id),
                _ => None,
            };
            gone.extend(ops.iter().filter_map(is_revoked));
            prop_assert!(keyset.keys().iter().all(|key| !gone.contains(&key.id)));
            prop_assert!(keyset.keys().iter().all(|key| key.schedule.opens(now)));
            check_no_overlap(keyset)
        })?;
    }

    #[test]
    fn after_a_revocation_sealing_resumes_within_the_urgent_lead_and_nothing_is_left_to_do(
        (asked, events) in troubled_histories()
    ) {
        run(&asked, &events, |keyset, ops, now| {
            let revoked = ops.iter().any(|op| matches!(op, Op::End { cause: EndCause::Revoked, .. }));
            if revoked {
                prop_assert_eq!(plan(keyset, &Convergence::confirmed(), now), vec![]);
                let ready = now + keyset.policy().urgent_lead();
                prop_assert!(keyset.active(ready).is_some(), "nothing seals at {ready}");
            }
            Ok(())
        })?;
    }

    /// What opens what an instance seals that has not heard of the revocation is kept.
    #[test]
    fn a_revocation_brings_no_end_forward_but_that_of_the_revoked((asked, events) in troubled_histories()) {
        let mut ends: Vec<(KeyId, Timestamp)> = Vec::new();
        run(&asked, &events, |keyset, ops, _| {
            for (id, before) in &ends {
                let after = keyset.keys().iter().find(|key| key.id == *id);
                let ended = ops.iter().any(|op| matches!(op, Op::End { id: gone, .. } if gone == id));
                prop_assert!(ended || after.is_some_and(|key| key.schedule.destroy_at() >= *before));
            }
            ends = keyset.keys().iter().map(|key| (key.id, key.schedule.destroy_at())).collect();
            Ok(())
        })?;
    }
}
