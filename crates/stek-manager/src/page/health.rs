//! What is wrong, as far as this manager knows: with itself, and with each keyset that it has
//! published. Pure; nothing is guessed, and what nobody has said is not an alarm.

use std::time::Duration;

use stek_core::keyset::Keyset;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};

use crate::metrics::RatchetView;
use crate::readiness::LastPass;

/// How long after the last pass that succeeded its absence is an alarm. Passes are at most five
/// seconds apart.
const PASS_OVERDUE: Seconds = Seconds::new(60);

/// How far the clocks may lie apart before that is worth a warning; at 30 s the manager stops.
const CLOCKS_APART: Duration = Duration::from_secs(10);

/// How old tokens and grants may be; they are read every few minutes, and after a day they count
/// for nothing.
const ACCESS_OLD: Seconds = Seconds::from_hours(1);

/// How long a change of seeds may take before that is worth a warning.
const RESEED_SLOW: Seconds = Seconds::from_hours(1);

/// How long an activation that instances were not ready for is told of.
const FORCED_LATELY: Seconds = Seconds::from_hours(1);

/// How long before its end a certificate is a warning.
const CERTIFICATE_ENDS: Seconds = Seconds::from_days(3);

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
    /// Tokens, grants and keysets in the database that cannot be read.
    pub(crate) unreadable_rows: u64,
    /// Whether the audit trail does not hold, as far as this manager has verified it.
    pub(crate) audit_broken: bool,
    /// Lines of the audit trail that were there since the start, and are no more.
    pub(crate) lost_audit_lines: u64,
    /// Where all managers are with the ratchet.
    pub(crate) ratchet: RatchetView,
    /// When a key last activated though instances were known to lack it.
    pub(crate) forced_at: Option<Timestamp>,
    /// When the certificate of the page's listener ends.
    pub(crate) certificate_end: Option<Timestamp>,
}

#[cfg(test)]
impl Facts {
    /// Those of one of two managers, in which nothing is wrong.
    pub(crate) fn sound(now: Timestamp) -> Self {
        Self {
            now,
            last_pass: LastPass::Succeeded,
            succeeded_at: Some(now - Seconds::new(2)),
            clocks_apart: Duration::from_millis(3),
            epochs_behind: 0,
            forged_rows: 0,
            unwrap_failures: 0,
            unpublishable: 0,
            access_read_at: now,
            unreadable_rows: 0,
            audit_broken: false,
            lost_audit_lines: 0,
            ratchet: RatchetView { replicas: 2, behind: 1, ..RatchetView::default() },
            forced_at: None,
            certificate_end: Some(now + Seconds::from_days(30)),
        }
    }
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

fn notice(severity: Severity, title: &str, detail: String) -> Notice {
    Notice { severity, title: title.to_owned(), detail, keysets: Vec::new() }
}

/// What is wrong with the manager itself, worst first.
pub(crate) fn of_manager(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::from_iter(of_passes(facts));
    notices.extend(of_rows(facts));
    notices.extend(of_ratchet(facts));
    notices.extend(of_time(facts));
    notices.extend(since_the_start(facts));
    notices.sort_by_key(|notice| std::cmp::Reverse(notice.severity));
    notices
}

fn of_passes(facts: &Facts) -> Option<Notice> {
    let since = facts.succeeded_at.map_or("never".to_owned(), |at| at.to_string());
    let overdue = facts.succeeded_at.is_none_or(|at| facts.now.since(at) > PASS_OVERDUE);
    match facts.last_pass {
        LastPass::Failed(why) => Some(notice(
            Severity::Alarm,
            why,
            format!(
                "This manager mints nothing and moves no schedule meanwhile; what was published \
                 stays. Last pass that succeeded: {since}."
            ),
        )),
        LastPass::Succeeded if overdue => Some(notice(
            Severity::Alarm,
            "the reconcile loop does not come around",
            format!("Last pass that succeeded: {since}."),
        )),
        LastPass::None | LastPass::Succeeded => None,
    }
}

/// What stands in the database and should not, or should and does not.
fn of_rows(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut alarm = |title, detail| notices.push(notice(Severity::Alarm, title, detail));
    if facts.forged_rows > 0 {
        let detail = format!(
            "{} tokens or grants have a seal that does not hold, and are ignored. Somebody wrote \
             them without the cluster secret.",
            facts.forged_rows
        );
        alarm("the database holds forged rows", detail);
    }
    if facts.unreadable_rows > 0 {
        let rows = facts.unreadable_rows;
        let detail = format!("{rows} tokens, grants or keysets; the log names them. Others go on.");
        alarm("rows of the database cannot be read", detail);
    }
    if facts.audit_broken {
        let detail = "A line was changed or is missing: `stekd audit verify` names the first. Who \
                      did it can write the database."
            .to_owned();
        alarm("the audit trail does not hold", detail);
    }
    if facts.lost_audit_lines > 0 {
        let lines = facts.lost_audit_lines;
        let detail = format!(
            "{lines} lines are gone: the database was restored, or somebody cut it. \
             `stekd audit verify --anchor` tells."
        );
        alarm("the audit trail is shorter than it was", detail);
    }
    notices
}

/// What is wrong with the ratchet, here and at the other managers.
fn of_ratchet(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::new();
    if facts.epochs_behind > 0 {
        let detail = format!(
            "It is {} h behind: keys whose time has passed could still be unwrapped.",
            facts.epochs_behind
        );
        notices.push(notice(Severity::Alarm, "the ratchet lags", detail));
    }
    let mut warn = |title, detail| notices.push(notice(Severity::Warning, title, detail));
    let RatchetView { behind, unproven, changing_since, .. } = facts.ratchet;
    // Another turns its own in its own time.
    if facts.epochs_behind == 0 && behind > 1 {
        let detail = format!(
            "The slowest is {behind} h behind: what ended since is not proven destroyed. \
             `stekd ratchet show` names it."
        );
        warn("another manager's ratchet lags", detail);
    }
    if unproven > 0 {
        let detail = format!(
            "{unproven} managers have not said that they erased a seed that has ended. \
             `stekd ratchet show` names them."
        );
        warn("destruction is not proven", detail);
    }
    if let Some(since) = changing_since.filter(|since| facts.now.since(*since) > RESEED_SLOW) {
        let detail = format!(
            "It began at {since}: a manager has not fetched the new seed. `stekd ratchet show` \
             names who holds what."
        );
        warn("a change of seeds does not come to its end", detail);
    }
    notices
}

/// What has happened lately, or will soon.
fn of_time(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::new();
    if let Some(end) = facts.certificate_end.filter(|end| *end < facts.now + CERTIFICATE_ENDS) {
        let (severity, title) = if end < facts.now {
            (Severity::Alarm, "the certificate of this listener has ended")
        } else {
            (Severity::Warning, "the certificate of this listener ends soon")
        };
        notices.push(notice(severity, title, format!("At {end}. Renew it in its place.")));
    }
    if let Some(at) = facts.forced_at.filter(|at| facts.now.since(*at) <= FORCED_LATELY) {
        let detail = format!(
            "At {at}, after as long as the policy allows. Its tickets miss at the instances that \
             lag until they poll."
        );
        notices.push(notice(Severity::Warning, "a key activated that instances lack", detail));
    }
    if facts.now.since(facts.access_read_at) > ACCESS_OLD {
        let detail = format!(
            "Tokens and grants were read at {}; a day later nobody is served by them.",
            facts.access_read_at
        );
        notices.push(notice(Severity::Warning, "tokens and grants are old", detail));
    }
    notices
}

/// What is worth a look, though nothing has stopped.
fn since_the_start(facts: &Facts) -> Vec<Notice> {
    let mut notices = Vec::new();
    let mut warn = |title, detail| notices.push(notice(Severity::Warning, title, detail));
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
