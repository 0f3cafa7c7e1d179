//! The clock that runs after a change of a keyset: how many instances say that they hold it, until
//! all do or the time is up. What they say is a claim; whoever polls nobody is not counted.

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde::Serialize;
use stek_clock::{Clock, SystemClock};
use stek_core::name::KeysetName;
use stek_core::time::Seconds;
use stek_wire::admin::TerminatorsDocument;

use crate::commands::manager_client::ManagerClient;
use crate::commands::progress;

/// How often the manager is asked.
const LOOK: Duration = Duration::from_millis(100);

/// How long nobody may report before that is taken for an answer; replicas do every two seconds.
const SILENCE: Duration = Duration::from_secs(5);

/// How many of those that lag are named.
const NAMED: usize = 20;

/// How wide the bar is, in characters.
const BAR: u64 = 30;

/// What came of waiting.
#[derive(Debug, Serialize)]
pub(crate) struct Confirmation {
    /// The revision that was waited for.
    pub(crate) revision: u64,
    /// The instances that are seen, or that were when the change was made if those were more; none if
    /// no replica reported.
    pub(crate) instances: Option<u64>,
    /// Those of them that hold the revision or a newer one.
    pub(crate) confirmed: Option<u64>,
    /// How long it was waited, in milliseconds.
    pub(crate) waited_ms: u64,
    /// Some of those that do not hold it, as `principal instance`.
    pub(crate) lagging: Vec<String>,
    /// Some that lagged and have not been heard of since: they may hold what was there before.
    pub(crate) silent: Vec<String>,
}

impl Confirmation {
    /// Whether every instance that is seen holds the revision.
    pub(crate) fn is_complete(&self) -> bool {
        self.instances.is_some() && self.instances == self.confirmed && self.silent.is_empty()
    }

    /// The outcome in words.
    pub(crate) fn lines(&self) -> Vec<String> {
        let after = seconds(Duration::from_millis(self.waited_ms));
        let (Some(instances), Some(confirmed)) = (self.instances, self.confirmed) else {
            return vec![format!("not confirmed: no replica reported an instance within {after}")];
        };
        match (self.is_complete(), instances) {
            (true, 0) => vec!["no instance polls this keyset".into()],
            (true, _) => vec![format!("all {instances} instances confirmed in {after}")],
            (false, _) => {
                // Others may have come in the place of those that fell silent.
                let named = (self.lagging.len() + self.silent.len()) as u64;
                let late = instances.saturating_sub(confirmed).max(self.silent.len() as u64);
                let mut lines = vec![format!(
                    "{late} of {instances} instances had not confirmed after {after}:"
                )];
                lines.extend(self.lagging.iter().map(|name| format!("  {name}")));
                let silent = self.silent.iter();
                lines.extend(silent.map(|name| format!("  {name}, not heard of since")));
                let unnamed = late.saturating_sub(named);
                if unnamed > 0 {
                    lines.push(format!("  and {unnamed} more"));
                }
                lines
            }
        }
    }
}

/// A change was made, and not every instance has confirmed it in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the change is made, but {0}")]
pub(crate) struct Unconfirmed(pub(crate) String);

/// Who is counted from one look to the next: an instance that vanishes has confirmed nothing.
struct Count {
    revision: u64,
    /// The instances that were seen when the change was made.
    before: u64,
    confirmed: u64,
    lagging: BTreeSet<String>,
    silent: BTreeSet<String>,
}

impl Count {
    fn new(revision: u64, before: Option<u64>) -> Self {
        let (lagging, silent) = Default::default();
        Self { revision, before: before.unwrap_or(0), confirmed: 0, lagging, silent }
    }

    fn look(&mut self, seen: &TerminatorsDocument, waited: Duration) -> Confirmation {
        let lagging = seen.lagging.iter().map(|one| format!("{} {}", one.principal, one.instance));
        let lagging: BTreeSet<String> = lagging.collect();
        let confirmed = seen.confirmed.unwrap_or(0);
        // Whoever has left the list has confirmed or vanished; the count says which.
        if confirmed <= self.confirmed && !seen.truncated {
            self.silent.extend(self.lagging.difference(&lagging).cloned());
        }
        self.silent.retain(|name| !lagging.contains(name));
        (self.confirmed, self.lagging) = (confirmed, lagging);
        let some = |names: &BTreeSet<String>| names.iter().take(NAMED).cloned().collect();
        Confirmation {
            revision: self.revision,
            instances: seen.instances.map(|here| self.before.max(here + seen.uncounted)),
            confirmed: seen.confirmed,
            waited_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
            lagging: some(&self.lagging),
            silent: some(&self.silent),
        }
    }
}

/// Asks until every instance holds `revision`, for `wait` at the longest, and shows how it goes on
/// standard error. `before` are the instances that were seen when the change was made.
pub(crate) async fn wait(
    manager: &ManagerClient,
    keyset: &KeysetName,
    (revision, before): (u64, Option<u64>),
    wait: Seconds,
) -> Result<Confirmation> {
    let path = format!("/admin/v1/keysets/{keyset}/terminators?revision={revision}");
    let started = SystemClock.boot();
    let mut meter = Meter::new();
    let mut count = Count::new(revision, before);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let seen: TerminatorsDocument = manager.ask(Method::GET, &path, None).await?;
        let waited = SystemClock.boot().saturating_sub(started);
        let confirmation = count.look(&seen, waited);
        let silent = seen.instances.is_none() && waited >= SILENCE;
        let over = waited >= wait.to_std() || silent;
        meter.show(&confirmation, waited);
        if confirmation.is_complete() || over {
            meter.end();
            return Ok(confirmation);
        }
    }
}

fn seconds(span: Duration) -> String {
    format!("{:.1} s", span.as_secs_f64())
}

/// A bar that is drawn over itself on a terminal, a line for each change elsewhere.
struct Meter {
    live: bool,
    shown: Option<(u64, u64)>,
}

impl Meter {
    fn new() -> Self {
        Self { live: std::io::stderr().is_terminal(), shown: None }
    }

    #[allow(clippy::print_stderr, reason = "progress of what the command was asked for")]
    fn show(&mut self, now: &Confirmation, waited: Duration) {
        let (Some(instances), Some(confirmed)) = (now.instances, now.confirmed) else { return };
        let line = format!("{confirmed}/{instances} in {}", seconds(waited));
        if self.live {
            progress::draw(&format!("[{}] {line}", bar(confirmed, instances)));
        } else if self.shown != Some((confirmed, instances)) {
            eprintln!("{line}");
        }
        self.shown = Some((confirmed, instances));
    }

    #[allow(clippy::print_stderr, reason = "progress of what the command was asked for")]
    fn end(&self) {
        if self.live && self.shown.is_some() {
            eprintln!();
        }
    }
}

fn bar(confirmed: u64, instances: u64) -> String {
    let full = (confirmed.min(instances) * BAR).checked_div(instances).unwrap_or(BAR);
    (0..BAR).map(|place| if place < full { '#' } else { '.' }).collect()
}

#[cfg(test)]
mod tests {
    use stek_wire::admin::LaggardDocument;

    use super::*;

    fn confirmation(instances: Option<u64>, confirmed: Option<u64>) -> Confirmation {
        let lagging = vec!["token:edge web-7".to_owned()];
        let silent = Vec::new();
        Confirmation { revision: 7, instances, confirmed, waited_ms: 820, lagging, silent }
    }

    /// What the manager says of so many instances, these of which lag.
    fn seen(instances: u64, lagging: &[&str], uncounted: u64) -> TerminatorsDocument {
        let laggard = |name: &&str| LaggardDocument {
            principal: "token:edge".into(),
            instance: (*name).into(),
            revision: 6,
            last_seen: "2026-09-21T13:46:40Z".into(),
            clock_offset_ms: None,
            replica: None,
        };
        TerminatorsDocument {
            keyset: "main".into(),
            revision: 7,
            newest: 7,
            instances: Some(instances),
            confirmed: Some(instances - lagging.len() as u64),
            lagging: lagging.iter().map(laggard).collect(),
            truncated: uncounted > 0,
            uncounted,
            replicas: Vec::new(),
            now: "2026-09-21T13:46:40Z".into(),
        }
    }

    fn look(count: &mut Count, seen: &TerminatorsDocument) -> Confirmation {
        count.look(seen, Duration::from_millis(820))
    }

    #[test]
    fn those_that_are_not_counted_are_waited_for() {
        let mut count = Count::new(7, Some(100));
        let some = look(&mut count, &seen(32, &["web-1", "web-2"], 68));
        assert_eq!(
            (some.instances, some.confirmed, some.is_complete()),
            (Some(100), Some(30), false)
        );
        assert_eq!(some.lines()[0], "70 of 100 instances had not confirmed after 0.8 s:");
        assert_eq!(some.lines()[3], "  and 68 more");
        let mut count = Count::new(7, Some(16));
        assert!(!look(&mut count, &seen(16, &[], 1)).is_complete());
        assert!(look(&mut count, &seen(17, &[], 0)).is_complete());
    }

    #[test]
    fn who_falls_silent_has_not_confirmed() {
        let mut count = Count::new(7, Some(3));
        look(&mut count, &seen(3, &["web-1", "web-2"], 0));
        assert!(look(&mut count, &seen(3, &["web-2"], 0)).silent.is_empty(), "it has confirmed");
        let gone = look(&mut count, &seen(2, &[], 0));
        assert_eq!((gone.instances, gone.confirmed, gone.is_complete()), (Some(3), Some(2), false));
        let expected = [
            "1 of 3 instances had not confirmed after 0.8 s:",
            "  token:edge web-2, not heard of since",
        ];
        assert_eq!(gone.lines(), expected);
        let replaced = look(&mut count, &seen(3, &[], 0));
        assert!(!replaced.is_complete(), "another is no proof of where it is");
        assert_eq!(replaced.lines(), expected);
        // It was heard of again, and then confirms.
        assert!(look(&mut count, &seen(3, &["web-2"], 0)).silent.is_empty());
        assert!(look(&mut count, &seen(3, &[], 0)).is_complete());
        let mut unnamed = Count::new(7, Some(3));
        assert!(!look(&mut unnamed, &seen(2, &[], 0)).is_complete(), "gone before the first look");
    }

    #[test]
    fn silence_confirms_nothing() {
        let silent = confirmation(None, None);
        assert!(!silent.is_complete());
        assert_eq!(silent.lines(), ["not confirmed: no replica reported an instance within 0.8 s"]);
        assert!(confirmation(Some(0), Some(0)).is_complete());
    }

    #[test]
    fn those_that_lag_are_named() {
        let late = confirmation(Some(100), Some(98));
        assert!(!late.is_complete());
        let expected = [
            "2 of 100 instances had not confirmed after 0.8 s:",
            "  token:edge web-7",
            "  and 1 more",
        ];
        assert_eq!(late.lines(), expected);
        let all = confirmation(Some(100), Some(100));
        assert_eq!(all.lines(), ["all 100 instances confirmed in 0.8 s"]);
    }

    #[test]
    fn the_bar_is_as_full_as_the_count() {
        assert_eq!(bar(0, 2), ".".repeat(30));
        assert_eq!(bar(1, 2), format!("{}{}", "#".repeat(15), ".".repeat(15)));
        assert_eq!(bar(3, 2), "#".repeat(30));
        assert_eq!(bar(0, 0), "#".repeat(30));
    }
}
