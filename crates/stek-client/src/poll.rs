//! The loop: ask, take what is good, decide when to ask again. The same for a keyset and the feed;
//! it never takes anything away, erasing is [`crate::erase`]'s.

use std::sync::Arc;
use std::time::Duration;

use stek_clock::{Clock, FleetClock};
use stek_core::id::ContentTag;
use stek_core::time::Seconds;
use stek_wire::SecretBytes;
use stek_wire::headers::STALE_AFTER;
use tokio::sync::Notify;
use tracing::Instrument;

use crate::backoff::{Backoff, Pace, between_searches, ceiling, spacing};
use crate::content::{Content, Rejected, Source};
use crate::installed::Installed;
use crate::metrics::Metrics;
use crate::request_id::RequestId;
use crate::status::StatusCell;
use crate::transport::{Answer, Ask, Told, Transport, chain};
use crate::upstream::{Freshness, Search, Upstreams};

/// How often stale content is fetched anew at most.
const REFRESH_SPACING: Duration = Duration::from_secs(3600);

/// The pause after a change. Bounds what a server can make of us that always has another.
const CHANGE_SPACING: Duration = Duration::from_millis(50);

/// What the poller and those around it share.
pub(crate) struct Shared<C> {
    pub(crate) source: Source,
    pub(crate) installed: Installed<C>,
    pub(crate) fleet: Arc<FleetClock>,
    pub(crate) metrics: Metrics,
    pub(crate) status: StatusCell,
    /// Tells the eraser of other content and of fleet time that moved.
    pub(crate) rearm: Notify,
}

/// Asks for ever.
pub(crate) struct Poller<C> {
    shared: Arc<Shared<C>>,
    transport: Transport,
    upstreams: Upstreams,
    backoff: Backoff,
    clock: Arc<dyn Clock>,
    wait: Seconds,
    mode: Mode,
    refreshed: Option<Duration>,
    /// When all of the content came last.
    whole: Option<Duration>,
    /// Whether the last reading of fleet time was not followed; said once.
    stepping: bool,
    /// Whether the wall clock was wrong when last looked at; said once.
    is_clock_wrong: bool,
}

/// How to ask next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Whether anybody answers is not known: ask for an answer at once.
    Probe,
    /// The last answer was good: let the server wait for a change.
    LongPoll,
    /// A difference did not fit: ask for everything.
    Snapshot,
}

/// How one poll ended.
enum Outcome {
    /// Something else is installed now.
    Changed(Told),
    /// What is installed was confirmed.
    Unchanged(Told),
    /// A difference did not fit; everything is to be asked for.
    NeedsSnapshot,
    Failed(Failed),
}

impl Outcome {
    /// As it is counted and traced.
    const fn as_str(&self) -> &'static str {
        match self {
            Self::Changed(_) => "changed",
            Self::Unchanged(_) => "not-modified",
            Self::NeedsSnapshot => "unfit",
            Self::Failed(failed) => failed.outcome,
        }
    }
}

struct Failed {
    outcome: &'static str,
    /// Tells one cause from another, without what differs between two of the same.
    kind: String,
    /// The cause for a person.
    cause: String,
    retry_after: Option<Seconds>,
}

impl<C: Content> Poller<C> {
    pub(crate) fn new(
        shared: Arc<Shared<C>>,
        transport: Transport,
        upstreams: Upstreams,
        backoff: Backoff,
        wait: Seconds,
    ) -> Self {
        let clock = Arc::clone(shared.fleet.clock());
        Self {
            shared,
            transport,
            upstreams,
            backoff,
            clock,
            wait,
            mode: Mode::Probe,
            refreshed: None,
            whole: None,
            stepping: false,
            is_clock_wrong: false,
        }
    }

    /// Polls until it is dropped.
    pub(crate) async fn run(mut self) {
        loop {
            let started = self.clock.boot();
            let ask = self.next_ask(started);
            let outcome = self.poll(&ask, started).await;
            let next = self.settle(&ask, started, outcome).max(self.clock.boot());
            self.clock.sleep_until(next).await;
            self.note_stall(next);
        }
    }

    /// Tells if this goes on much later than at `due`: the machine was suspended, or the process
    /// stopped. Keys ended meanwhile as they should, by boot time, and nobody asked for others.
    fn note_stall(&self, due: Duration) {
        let late = self.clock.boot().saturating_sub(due);
        if late > self.pace().unwrap_or(Pace::UNKNOWN).clock_skew.to_std() {
            self.shared.metrics.count_stall();
            let (keyset, seconds) = (self.shared.source.keyset(), late.as_secs());
            tracing::warn!(keyset, seconds, "stood still: the machine was suspended, or too busy");
        }
    }

    /// One poll, in a span of its own.
    async fn poll(&mut self, ask: &Ask, started: Duration) -> Outcome {
        let span = tracing::debug_span!(
            "poll",
            keyset = self.shared.source.keyset(),
            upstream = %ask.upstream,
            request_id = %ask.request_id,
            outcome = tracing::field::Empty,
        );
        let asking = async {
            let answer = self.transport.fetch(ask).await;
            self.note_stall(started + self.transport.longest(ask));
            self.take(ask, answer).await
        };
        let outcome = asking.instrument(span.clone()).await;
        span.record("outcome", outcome.as_str());
        outcome
    }

    fn next_ask(&mut self, now: Duration) -> Ask {
        let installed = self.shared.installed.current();
        let is_stale =
            installed.as_ref().is_some_and(|content| content.is_stale(self.shared.fleet.now()));
        let is_due = self.refreshed.is_none_or(|at| now >= at + REFRESH_SPACING);
        let is_pieced = C::DIFFERENCES_FOR
            .zip(self.whole)
            .is_some_and(|(longest, whole)| now >= whole + longest);
        let refresh = (is_stale || is_pieced) && is_due;
        if refresh {
            self.refreshed = Some(now);
        }
        let wants_all = refresh || self.mode == Mode::Snapshot;
        let installed = installed.map(|content| content.tag()).filter(|_| !wants_all);
        let told = self.shared.installed.current().is_some();
        let clock_offset_millis = told.then(|| self.clock_offset_millis());
        self.note_clock(clock_offset_millis);
        let may_wait = self.mode == Mode::LongPoll && installed.is_some();
        Ask {
            upstream: self.upstreams.current().clone(),
            installed,
            wait: if may_wait { self.wait } else { Seconds::ZERO },
            request_id: RequestId::new(),
            clock_offset_millis,
        }
    }

    fn clock_offset_millis(&self) -> i64 {
        let signed = |millis| i64::try_from(millis).unwrap_or(i64::MAX);
        signed(self.clock.wall_millis()) - signed(self.shared.fleet.now_millis())
    }

    /// Tells of a wall clock that is wrong. Nothing goes by it here, but certificates do, and
    /// whoever starts before it hears of fleet time.
    fn note_clock(&mut self, offset_millis: Option<i64>) {
        let Some(millis) = offset_millis else { return };
        self.shared.metrics.set_clock_offset(millis);
        let skew = self.pace().unwrap_or(Pace::UNKNOWN).clock_skew;
        let is_wrong = u128::from(millis.unsigned_abs()) > u128::from(skew.as_secs()) * 1000;
        if std::mem::replace(&mut self.is_clock_wrong, is_wrong) == is_wrong {
            return;
        }
        let (keyset, ahead_millis) = (self.shared.source.keyset(), millis);
        if is_wrong {
            tracing::warn!(keyset, ahead_millis, "the wall clock is not at fleet time");
        } else {
            tracing::info!(keyset, ahead_millis, "the wall clock is at fleet time again");
        }
    }

    async fn take(&mut self, ask: &Ask, answer: Answer) -> Outcome {
        match answer {
            Answer::Changed { tag, body, told } => match self.install(tag, body, told).await {
                Ok(outcome) => outcome,
                Err(rejected) => self.reject(ask, &rejected),
            },
            Answer::NotModified { told } => {
                self.observe(told, self.pace());
                self.shared.metrics.count_poll("not-modified");
                Outcome::Unchanged(told)
            }
            Answer::Behind => Outcome::Failed(Failed::behind()),
            Answer::Refused { status, problem } => {
                let cause = format!("status {status}: {problem}");
                Outcome::Failed(Failed::new("refused", status.to_string(), cause))
            }
            Answer::Busy { retry_after } => {
                let failed = Failed::new("busy", String::new(), "busy".to_owned());
                Outcome::Failed(Failed { retry_after, ..failed })
            }
            Answer::Unreachable(error) => {
                Outcome::Failed(Failed::new("unreachable", error.to_string(), chain(&error)))
            }
            Answer::Invalid(error) => {
                Outcome::Failed(Failed::new("invalid", error.to_string(), chain(&error)))
            }
        }
    }

    /// Verifies content and installs it. Reading a long document takes a while, so it is done
    /// beside the run time's workers.
    async fn install(
        &mut self,
        tag: ContentTag,
        body: SecretBytes,
        told: Told,
    ) -> Result<Outcome, Rejected> {
        let read = tokio::task::spawn_blocking(move || C::decode(body.as_slice())).await;
        let offer = read.map_err(|_| Rejected::Crashed)?.map_err(Rejected::Document)?;
        let document = C::offer_tag(&offer);
        if document != tag {
            return Err(Rejected::OtherTag { header: tag, document });
        }
        let shared = Arc::clone(&self.shared);
        let mut before = None;
        let content = shared.installed.replace(|installed| {
            let content = C::join(offer, installed, &shared.source)?;
            before = installed.map(Content::tag);
            self.observe(told, installed.map_or_else(|| content.pace(), Content::pace));
            Ok(content.erased_at(shared.fleet.now()))
        })?;
        shared.rearm.notify_one();
        shared.metrics.set_installed_revision(tag.revision);
        shared.metrics.set_last_key_end(content.last_end());
        shared.metrics.set_least_span(content.least_span());
        if before == Some(tag) {
            shared.metrics.count_poll("not-modified");
            return Ok(Outcome::Unchanged(told));
        }
        shared.metrics.count_poll("changed");
        let keys = content.key_count();
        tracing::info!(keyset = shared.source.keyset(), revision = %tag.revision, keys, "installed");
        Ok(Outcome::Changed(told))
    }

    fn reject(&self, ask: &Ask, rejected: &Rejected) -> Outcome {
        if rejected.wants_snapshot() && ask.installed.is_some() {
            self.shared.metrics.count_poll("unfit");
            return Outcome::NeedsSnapshot;
        }
        if rejected.is_behind() {
            return Outcome::Failed(Failed::behind());
        }
        self.shared.metrics.count_refused(rejected);
        Outcome::Failed(Failed::new("rejected", rejected.cause().to_owned(), chain(rejected)))
    }

    /// Follows fleet time unless it steps.
    fn observe(&mut self, told: Told, pace: Option<Pace>) {
        let fleet = &self.shared.fleet;
        let Some(reading) = told.fleet_millis_at(self.clock.boot()) else { return };
        let Pace { clock_skew, patience, .. } = pace.unwrap_or(Pace::UNKNOWN);
        let keyset = self.shared.source.keyset();
        match fleet.observe(reading, clock_skew, patience) {
            Ok(()) => {
                if std::mem::replace(&mut self.stepping, false) {
                    tracing::info!(keyset, now = %fleet.now(), "fleet time is followed again");
                }
            }
            Err(error) => {
                self.shared.metrics.count_step_refusal();
                if !std::mem::replace(&mut self.stepping, true) {
                    tracing::warn!(keyset, %error, "fleet time not followed");
                }
            }
        }
        self.shared.rearm.notify_one();
    }

    fn pace(&self) -> Option<Pace> {
        self.shared.installed.current().and_then(|content| content.pace())
    }

    /// Draws the consequences, and says at which boot time to ask again.
    fn settle(&mut self, ask: &Ask, started: Duration, outcome: Outcome) -> Duration {
        let now = self.clock.boot();
        let pace = self.pace();
        match outcome {
            Outcome::Changed(told) => {
                self.succeed(ask, started, told);
                self.backoff.reset();
                // A change that was waited for may be the first of several.
                let next = if ask.installed.is_some() {
                    now + CHANGE_SPACING
                } else {
                    started + spacing(pace)
                };
                self.seek_fresh(ask, told, started, next)
            }
            Outcome::Unchanged(told) => {
                self.succeed(ask, started, told);
                // An answer that was asked for at once does not show that waiting works.
                if ask.wait == self.wait {
                    self.backoff.reset();
                }
                let waited = (now - started) * 10 >= ask.wait.to_std() * 9;
                let next = if self.wait == Seconds::ZERO || !waited {
                    now + self.backoff.between_polls(self.wait, pace)
                } else {
                    started + spacing(pace)
                };
                self.seek_fresh(ask, told, started, next)
            }
            Outcome::NeedsSnapshot => {
                self.mode = Mode::Snapshot;
                now
            }
            Outcome::Failed(failed) => self.fail(ask, failed, now, pace),
        }
    }

    /// Turns to another upstream if this one has not heard of the database for too long: what it
    /// has is good, but others may know of more. If all are like that, the one that was followed is
    /// followed on, and the others are looked at after each wait. `next` is when it would be asked.
    fn seek_fresh(&mut self, ask: &Ask, told: Told, started: Duration, next: Duration) -> Duration {
        let (now, pace) = (self.clock.boot(), self.pace());
        let age = told.read_age_at(now).filter(|age| *age >= STALE_AFTER);
        let is_news = self.note_freshness(ask, age);
        if age.is_none() {
            return next;
        }
        match self.upstreams.seek(now) {
            Search::On => {
                self.mode = Mode::Probe;
                now + self.backoff.spread(pace)
            }
            // It ended the wait to say so; the next wait is a whole one.
            Search::Over if is_news => started + spacing(pace),
            Search::Over => next,
        }
    }

    /// Notes how old what the upstream has is, if that is too old, and whether that is news.
    fn note_freshness(&mut self, ask: &Ask, stale: Option<Duration>) -> bool {
        let freshness = stale.map_or(Freshness::Fresh, |_| Freshness::Stale);
        let is_news = self.upstreams.note_freshness(freshness);
        let (keyset, upstream) = (self.shared.source.keyset(), &ask.upstream);
        match stale {
            Some(age) if is_news => {
                let read_seconds_ago = age.as_secs();
                tracing::warn!(keyset, %upstream, read_seconds_ago, "upstream has stale content");
            }
            None if is_news => tracing::info!(keyset, %upstream, "upstream is fresh again"),
            _ => {}
        }
        is_news
    }

    fn succeed(&mut self, ask: &Ask, started: Duration, told: Told) {
        self.mode = Mode::LongPoll;
        if ask.installed.is_none() {
            self.whole = Some(started);
        }
        let fleet = &self.shared.fleet;
        fleet.note_read(told.read_age_at(self.clock.boot()));
        let now = fleet.now();
        let read_at = fleet.read_age().map(|age| now - Seconds::new(age.as_secs()));
        if let Some(content) = self.shared.installed.current() {
            self.shared.status.note_success(&ask.upstream, content.tag(), now, read_at);
        }
        self.shared.metrics.set_last_success(now);
        self.shared.metrics.set_database_read(read_at);
        if self.upstreams.note_success() {
            let keyset = self.shared.source.keyset();
            tracing::info!(keyset, upstream = %ask.upstream, "poll works again");
        }
    }

    fn fail(&mut self, ask: &Ask, failed: Failed, now: Duration, pace: Option<Pace>) -> Duration {
        self.mode = Mode::Probe;
        self.shared.metrics.count_poll(failed.outcome);
        let Failed { outcome, kind, cause, retry_after } = failed;
        if self.upstreams.note_failure(&format!("{outcome} {kind}")) {
            let keyset = self.shared.source.keyset();
            let (upstream, request_id) = (&ask.upstream, ask.request_id);
            tracing::warn!(keyset, %upstream, %request_id, outcome, cause, "poll failed");
        }
        let longest = ceiling(pace);
        if let Some(asked) = retry_after {
            self.upstreams.hold_off(now + asked.to_std().min(longest));
        }
        let pause = self.backoff.after_failure(pace);
        let free = if self.upstreams.is_seeking() {
            // The one that is followed answers: that this one does not is no news of how that goes.
            let wait = self.wait;
            self.upstreams.pass_over(now, |before| between_searches(wait, before, pace));
            if self.upstreams.seek(now) == Search::Over {
                self.mode = Mode::LongPoll;
            }
            now
        } else {
            self.shared.status.note_failure(&ask.upstream, cause, self.shared.fleet.now());
            self.upstreams.rotate(now)
        };
        // The pause also spreads those that were all asked to come back at one instant.
        (free + pause).min(now + longest)
    }
}

impl Failed {
    fn new(outcome: &'static str, kind: String, cause: String) -> Self {
        Self { outcome, kind, cause, retry_after: None }
    }

    fn behind() -> Self {
        let cause = "upstream has not got as far as what is installed".to_owned();
        Self::new("behind", String::new(), cause)
    }
}
