//! What is wrong, as far as this manager knows: with itself, and with each keyset that it has
//! published. Pure; nothing is guessed, and what nobody has said is not an alarm.

use std::time::Duration;

use stek_core::keyset::Keyset;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};

use crate::readiness::LastPass;

/// How long after the last pass that succeeded its absence is an alarm. Passes are at most five
/// seconds apart.
const PASS_OVERDUE: Seconds = Seconds::new(60);

/// How far the clocks may lie apart before that is worth a warning; at 30 s the manager stops.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// How old tokens and grants may be; they are read every few minutes, and after a day they count
/// for nothing.
const ACCESS_OLD: Seconds = Seconds::from_hours(1);

/// How many keysets a notice names.
pub(crate) const MOST_NAMED: usize = 5;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Severity {
    /// Something may fail if nobody looks at it.
    Warning,
    /// Something fails now.
    Alarm,
}

/// One thing that an operator should know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Notice {
    pub(crate) severity: Severity,
    pub(crate) title: String,
    pub(crate) detail: String,
    /// Some of the keysets that it is about.
    pub(crate) keysets: Vec<KeysetName>,
}

/// What a manager knows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) now: Timestamp,
    pub(crate) last_pass: LastPass,
    /// When a pass last succeeded.
    pub(crate) succeeded_at: Option<Timestamp>,
    /// How far the database's clock and ours lay apart.
    pub(crate) clocks_apart: Duration,
    /// How many epochs the ratchet is behind the present.
    pub(crate) epochs_behind: u64,
    /// Tokens and grants whose seal does not hold.
    pub(crate) forged_rows: u64,
    /// Times since the start that a stored key could not be unwrapped.
    pub(crate) unwrap_failures: u64,
    /// Times since the start that a keyset could not be published.
    pub(crate) unpublishable: u64,
    /// When tokens and grants were read.
    pub(crate) access_read_at: Timestamp,
}

/// How rotation of one keyset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rotation {
    /// A key seals, and so will one for as long as the policy asks for.
    Sound,
    /// A key seals, and the next one should have been published: sealing is sure only until then.
    Late { until: Timestamp },
    /// A key seals, and no other can be delivered before it retires.
    Ending { until: Timestamp },
    /// Nothing seals, until a pending key does.
    Gap { until: Option<Timestamp> },
}

impl Rotation {
    /// How `keyset` stands at `now`.
    pub(crate) fn of(keyset: &Keyset, now: Timestamp) -> Self {
        if keyset.active(now).is_none() {
            let next = keyset.next_pending(now);
            return Self::Gap { until: next.map(|key| key.schedule.activate_at()) };
        }
        let policy = keyset.policy();
        let covered = keyset.covered_from(now);
        let until = now + covered;
        if covered < policy.urgent_lead() {
            Self::Ending { until }
        } else if covered + tolerance(policy.lead()) < policy.lead() {
            Self::Late { until }
        } else {
            Self::Sound
        }
    }

    /// How bad that is; `None` if it is as it should be.
    pub(crate) fn severity(self) -> Option<Severity> {
        match self {
            Self::Sound => None,
            Self::Late { .. } => Some(Severity::Warning),
            Self::Ending { .. } | Self::Gap { .. } => Some(Severity::Alarm),
        }
    }
}

/// How late a key may be published without a word: passes take a moment, and are tried again.
fn tolerance(lead: Seconds) -> Seconds {
    Seconds::new((lead.as_secs() / 10).clamp(3, 60))
}

/// What is wrong with the manager itself, worst first.
pub(crate) fn of_manager(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut say = |severity, title: &str, detail: String| {
        let (title, keysets) = (title.to_owned(), Vec::new());
        notices.push(Notice { severity, title, detail, keysets });
    };
    let since = facts.succeeded_at.map_or("never".to_owned(), |at| at.to_string());
    let overdue = facts.succeeded_at.is_none_or(|at| facts.now.since(at) > PASS_OVERDUE);
    match facts.last_pass {
        LastPass::Failed(why) => say(
            Severity::Alarm,
            why,
            format!(
                "This manager mints nothing and moves no schedule meanwhile; what was published \
                 stays. Last pass that succeeded: {since}."
            ),
        ),
        LastPass::Succeeded if overdue => say(
            Severity::Alarm,
            "the reconcile loop does not come around",
            format!("Last pass that succeeded: {since}."),
        ),
        LastPass::None | LastPass::Succeeded => {}
    }
    if facts.epochs_behind > 0 {
        say(
            Severity::Alarm,
            "the ratchet lags",
            format!(
                "It is {} h behind: keys whose time has passed could still be unwrapped.",
                facts.epochs_behind
            ),
        );
    }
    if facts.forged_rows > 0 {
        say(
            Severity::Alarm,
            "the database holds forged rows",
            format!(
                "{} tokens or grants have a seal that does not hold, and are ignored. Somebody \
                 wrote them without the cluster secret.",
                facts.forged_rows
            ),
        );
    }
    notices.extend(since_the_start(facts));
    notices.sort_by_key(|notice| std::cmp::Reverse(notice.severity));
    notices
}

/// What is worth a look, though nothing has stopped.
fn since_the_start(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut warn = |title: &str, detail: String| {
        let (severity, title, keysets) = (Severity::Warning, title.to_owned(), Vec::new());
        notices.push(Notice { severity, title, detail, keysets });
    };
    let held = matches!(facts.last_pass, LastPass::Failed(_));
    if facts.clocks_apart >= CLOCKS_APART && !held {
        let apart = facts.clocks_apart.as_secs();
        let detail = format!("They lie {apart} s apart; from 30 s on nothing is minted.");
        warn("the database's clock and this machine's drift apart", detail);
    }
    if facts.unwrap_failures > 0 {
        let times = facts.unwrap_failures;
        let detail = format!("{times} times since this manager started; its log names the keys.");
        warn("stored keys cannot be unwrapped", detail);
    }
    if facts.unpublishable > 0 {
        let times = facts.unpublishable;
        let detail = format!("{times} times since this manager started; its log names them.");
        warn("keysets cannot be published", detail);
    }
    if facts.now.since(facts.access_read_at) > ACCESS_OLD {
        let detail = format!(
            "Tokens and grants were read at {}; a day later nobody is served by them.",
            facts.access_read_at
        );
        warn("tokens and grants are old", detail);
    }
    notices
}

/// What is wrong with keysets, gathered so that a thousand of them are one line each.
#[derive(Debug, Default)]
pub(crate) struct Troubles {
    gap: Trouble,
    ending: Trouble,
    late: Trouble,
    lagging: Trouble,
}

#[derive(Debug, Default)]
struct Trouble {
    count: usize,
    named: Vec<KeysetName>,
}

impl Trouble {
    fn add(&mut self, name: &KeysetName) {
        self.count += 1;
        if self.named.len() < MOST_NAMED {
            self.named.push(name.clone());
        }
    }

    fn notice(self, severity: Severity, what: &str, detail: &str) -> Option<Notice> {
        let noun = if self.count == 1 { "keyset" } else { "keysets" };
        let (title, detail) = (format!("{} {noun}: {what}", self.count), detail.to_owned());
        (self.count > 0).then_some(Notice { severity, title, detail, keysets: self.named })
    }
}

impl Troubles {
    /// Adds how one keyset stands.
    pub(crate) fn add(&mut self, name: &KeysetName, rotation: Rotation) {
        match rotation {
            Rotation::Sound => {}
            Rotation::Late { .. } => self.late.add(name),
            Rotation::Ending { .. } => self.ending.add(name),
            Rotation::Gap { .. } => self.gap.add(name),
        }
    }

    /// Adds a keyset whose newest content some instances lack.
    pub(crate) fn add_lagging(&mut self, name: &KeysetName, lags: bool) {
        if lags {
            self.lagging.add(name);
        }
    }

    /// One notice for each kind, worst first.
    pub(crate) fn into_notices(self) -> Vec<Notice> {
        let gap = self.gap.notice(
            Severity::Alarm,
            "nothing seals",
            "Every handshake is a full one until a key seals again.",
        );
        let ending = self.ending.notice(
            Severity::Alarm,
            "the last key is about to retire",
            "A new key can no longer be delivered in time: for a while nothing will seal.",
        );
        let late = self.late.notice(
            Severity::Warning,
            "rotation is late",
            "The next key should have been published. Tickets go on for now.",
        );
        let lagging = self.lagging.notice(
            Severity::Warning,
            "instances lag",
            "They poll and hold older keys than they should by now.",
        );
        [gap, ending, late, lagging].into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests;
