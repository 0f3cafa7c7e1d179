//! What the planner would do to a keyset until an instant if nobody interferes, for an operator to
//! read before changing anything. Runs the planner itself; makes no key.

use stek_core::id::{Kcv, KeyId};
use stek_core::keyset::{KeyRecord, Keyset, TicketFormat};
use stek_core::planner::{self, Convergence, Op};
use stek_core::schedule::Schedule;
use stek_core::time::Timestamp;
use stek_wire::admin::{PlanDocument, PlanStep};

/// The most steps of a forecast.
pub(crate) const MAX_STEPS: usize = 1000;

/// The most looks into the future: a keyset that is full is due every second and gives no step.
const MAX_LOOKS: usize = 4 * MAX_STEPS;

struct Forecast {
    steps: Vec<(Timestamp, PlanStep)>,
    imagined: u64,
}

/// The steps from `now` until `until`, at most [`MAX_STEPS`], by time.
pub(crate) fn forecast(keyset: &Keyset, now: Timestamp, until: Timestamp) -> PlanDocument {
    let mut forecast = Forecast { steps: Vec::new(), imagined: 0 };
    let mut keyset = keyset.clone();
    for key in keyset.keys() {
        forecast.turns(&key.id.to_string(), &key.schedule, now, until);
    }
    let mut clock = now;
    for _ in 0..MAX_LOOKS {
        if clock > until || forecast.steps.len() >= MAX_STEPS {
            break;
        }
        let ops = planner::plan(&keyset, &Convergence::confirmed(), clock);
        let minted = forecast.record(&ops, clock, until);
        let Ok(next) = planner::apply(&keyset, &ops, &minted) else { break };
        keyset = next;
        clock = planner::next_due(&keyset, &Convergence::confirmed(), clock);
    }
    forecast.steps.sort_by_key(|(at, _)| *at);
    forecast.steps.truncate(MAX_STEPS);
    PlanDocument {
        keyset: keyset.name().to_string(),
        until: until.to_string(),
        steps: forecast.steps.into_iter().map(|(_, step)| step).collect(),
    }
}

impl Forecast {
    fn record(&mut self, ops: &[Op], at: Timestamp, until: Timestamp) -> Vec<KeyRecord> {
        let mut minted = Vec::new();
        for op in ops {
            match op {
                Op::Mint { schedule, reason } => {
                    self.imagined += 1;
                    let name = format!("new-{}", self.imagined);
                    let (from, to) = (schedule.activate_at(), schedule.retire_at());
                    let detail = format!("mint {name}: {reason}; seals from {from} to {to}");
                    self.step(at, "mint", &name, detail);
                    self.turns(&name, schedule, at, until);
                    minted.push(imagined_key(self.imagined, *schedule));
                }
                Op::Move { id, reason, .. } => {
                    self.step(at, "move", &id.to_string(), reason.to_string());
                }
                // Told by `turns` already.
                Op::End { .. } => {}
            }
        }
        minted
    }

    /// The turns of a key's life that time brings by itself.
    fn turns(&mut self, key: &str, schedule: &Schedule, now: Timestamp, until: Timestamp) {
        for (at, action, detail) in [
            (schedule.activate_at(), "activate", "seals from now on"),
            (schedule.retire_at(), "retire", "seals no more, opens what it sealed"),
            (schedule.destroy_at(), "destroy", "opens no more and is erased"),
        ] {
            if at >= now && at <= until {
                self.step(at, action, key, format!("{key} {detail}"));
            }
        }
    }

    fn step(&mut self, at: Timestamp, action: &str, key: &str, detail: String) {
        let (key, action) = (Some(key.to_owned()), action.to_owned());
        self.steps.push((at, PlanStep { at: at.to_string(), action, key, detail }));
    }
}

/// A key that nobody has made; told apart from others by its number alone.
pub(crate) fn imagined_key(number: u64, schedule: Schedule) -> KeyRecord {
    let mut id = [0xff; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let kcv = Kcv::from_bytes((u64::MAX - number).to_be_bytes());
    KeyRecord { id: KeyId::from_bytes(id), format: TicketFormat::V1, kcv, schedule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stek_core::keyset::History;
    use stek_core::name::KeysetName;
    use stek_core::policy::{Policy, PolicyRequest};
    use stek_core::time::Seconds;

    #[test]
    fn a_forecast_is_what_the_planner_then_does() {
        let policy = Policy::try_new(&PolicyRequest::default()).unwrap();
        let name = KeysetName::try_new("main").unwrap();
        let keyset = Keyset::try_new(name, policy, History::Fresh, vec![]).unwrap();
        let now = Timestamp::from_unix(1_790_000_000);
        let document = forecast(&keyset, now, now + Seconds::from_hours(24));
        let of = |action: &str| document.steps.iter().filter(|s| s.action == action).count();
        // Six-hour keys: one active and one pending at once, then one more every six hours.
        assert_eq!((of("mint"), of("activate"), of("retire")), (6, 5, 4));
        assert_eq!(of("destroy"), 2);
        assert!(document.steps.is_sorted_by_key(|step| step.at.clone()));
    }

    #[test]
    fn a_forecast_is_bounded() {
        let asked = PolicyRequest {
            rotation_period: Some(Seconds::new(10)),
            ticket_lifetime: Some(Seconds::new(10)),
            ..PolicyRequest::default()
        };
        let policy = Policy::try_new(&asked).unwrap();
        let name = KeysetName::try_new("main").unwrap();
        let keyset = Keyset::try_new(name, policy, History::Fresh, vec![]).unwrap();
        let document = forecast(&keyset, Timestamp::from_unix(0), Timestamp::MAX);
        assert_eq!(document.steps.len(), MAX_STEPS);
    }
}
