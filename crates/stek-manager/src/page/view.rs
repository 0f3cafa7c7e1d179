//! What the page shows, as values: chosen and judged here, from what is published and the time, so
//! that `html` has nothing left to decide. Pure; holds no secret.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};

use stek_core::bundle::{Bundle, EndedKey};
use stek_core::check_in::{Census, MAX_LAGGARDS, Standing};
use stek_core::feed::FeedState;
use stek_core::id::{Incarnation, Revision};
use stek_core::name::KeysetName;
use stek_core::policy::Policy;
use stek_core::time::{Seconds, Timestamp};
use stek_store::AuditRow;

use crate::page::health::{self, Facts, Notice, Rotation, Severity, Troubles};
use crate::page::timeline::Timeline;

/// Keysets on one page.
pub(crate) const PAGE: usize = 25;

/// The most lanes of a keyset among others, and of one by itself.
const FEW_LANES: usize = 8;
const MANY_LANES: usize = 64;

/// The most ended keys that are listed.
const MOST_ENDED: usize = 64;

/// The longest text that is looked for; names are no longer.
const LONGEST_NEEDLE: usize = 63;

/// How often a page that is looked at moves on by itself, whatever happens.
const REFRESH: (Seconds, Seconds) = (Seconds::new(2), Seconds::new(15));

/// Which keysets are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Filter {
    /// Part of the name.
    pub(crate) needle: String,
    /// Only those with something wrong.
    pub(crate) only_trouble: bool,
    /// Which page of them, from 1.
    pub(crate) page: usize,
}

impl Filter {
    /// As it was typed; what no name can hold finds nothing rather than fail.
    pub(crate) fn new(needle: &str, only_trouble: bool, page: Option<usize>) -> Self {
        let needle = needle.trim().chars().take(LONGEST_NEEDLE).collect::<String>().to_lowercase();
        Self { needle, only_trouble, page: page.unwrap_or(1).max(1) }
    }

    fn wants(&self, name: &KeysetName, trouble: Option<Severity>) -> bool {
        name.as_str().contains(&self.needle) && (trouble.is_some() || !self.only_trouble)
    }
}

/// How far the newest content of a keyset has got.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Spread {
    pub(crate) instances: u64,
    pub(crate) confirmed: u64,
    /// Some of those that hold an older one.
    pub(crate) laggards: Vec<Laggard>,
}

/// An instance that holds an older revision, and where it polls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Laggard {
    pub(crate) instance: String,
    pub(crate) principal: String,
    pub(crate) revision: u64,
    pub(crate) last_seen: Timestamp,
    pub(crate) replica: String,
}

/// One keyset.
#[derive(Debug, Clone)]
pub(crate) struct KeysetView {
    pub(crate) name: KeysetName,
    pub(crate) revision: Revision,
    pub(crate) policy: Policy,
    pub(crate) rotation: Rotation,
    /// When the active key retires.
    pub(crate) next_rotation: Option<Timestamp>,
    pub(crate) timeline: Timeline,
    pub(crate) ended: Vec<EndedKey>,
    /// None while nobody reports.
    pub(crate) spread: Option<Spread>,
    live: usize,
}

impl Spread {
    /// What replicas say of the newest content of `keyset`; none if nobody does.
    fn of(
        census: &Census,
        incarnation: Incarnation,
        keyset: &KeysetName,
        newest: Revision,
    ) -> Option<Self> {
        let standing = census.standing(incarnation, keyset, newest)?;
        let mut laggards: Vec<_> = census
            .of(incarnation, keyset)
            .flat_map(|(replica, tally)| tally.laggards.iter().map(move |one| (replica, one)))
            .filter(|(_, one)| one.revision < newest)
            .map(|(replica, one)| Laggard {
                instance: one.instance.to_string(),
                principal: one.principal.to_string(),
                revision: one.revision.as_u64(),
                last_seen: one.last_seen,
                replica: replica.replica.name.to_string(),
            })
            .collect();
        laggards
            .sort_by(|one, two| (one.revision, &one.instance).cmp(&(two.revision, &two.instance)));
        laggards.truncate(MAX_LAGGARDS);
        let Standing { instances, confirmed } = standing;
        let instances = instances + census.uncounted(incarnation, keyset, newest);
        Some(Self { instances, confirmed, laggards })
    }
}

impl KeysetView {
    fn new(bundle: &Bundle, spread: Option<Spread>, now: Timestamp, most_lanes: usize) -> Self {
        let (keyset, ended) = (bundle.keyset(), bundle.ended());
        Self {
            name: keyset.name().clone(),
            revision: bundle.tag().revision,
            policy: *keyset.policy(),
            rotation: Rotation::of(keyset, now),
            next_rotation: keyset.active(now).map(|key| key.schedule.retire_at()),
            timeline: Timeline::new(keyset, ended, now, most_lanes),
            ended: ended.iter().take(MOST_ENDED).copied().collect(),
            spread,
            live: keyset.keys().len(),
        }
    }

    /// How many keys live, shown or not.
    pub(crate) fn live(&self) -> usize {
        self.live
    }

    /// What there is to see, without where it lies on the line.
    fn sign(&self, hash: &mut DefaultHasher) {
        (&self.name, self.revision, &self.rotation, self.live, &self.spread).hash(hash);
        for lane in &self.timeline.lanes {
            (lane.key.id, lane.key.schedule, lane.state as u8).hash(hash);
        }
        self.ended.iter().for_each(|key| key.id.hash(hash));
    }

    /// When the next of its keys changes its state.
    fn next_change(&self, now: Timestamp) -> Option<Timestamp> {
        let lanes = self.timeline.lanes.iter();
        let instants = lanes.flat_map(|lane| {
            let schedule = &lane.key.schedule;
            [schedule.activate_at(), schedule.retire_at(), schedule.destroy_at()]
        });
        instants.filter(|instant| *instant > now).min()
    }
}

/// What has happened, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Events {
    /// Newest first.
    pub(crate) rows: Vec<AuditRow>,
    /// Whether the database did not answer: then there may be newer ones.
    pub(crate) stale: bool,
}

/// The pages of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Pages {
    pub(crate) page: usize,
    pub(crate) last: usize,
    /// Keysets that fit the filter.
    pub(crate) found: usize,
    /// All that may be seen.
    pub(crate) all: usize,
}

/// What both kinds of page begin with.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    pub(crate) now: Timestamp,
    /// Who looks.
    pub(crate) viewer: String,
    /// Whether that ends with a button.
    pub(crate) may_leave: bool,
    pub(crate) facts: Facts,
    pub(crate) revision: Revision,
    /// Worst first.
    pub(crate) notices: Vec<Notice>,
}

/// What a page is about.
#[derive(Debug, Clone)]
pub(crate) enum Subject {
    /// Many keysets.
    Overview { filter: Filter, pages: Pages, keysets: Vec<KeysetView> },
    /// One, whose events are those of the page.
    Detail(Box<KeysetView>),
}

/// One page.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) head: Head,
    pub(crate) subject: Subject,
    pub(crate) events: Events,
}

impl View {
    /// The keysets that are shown.
    pub(crate) fn keysets(&self) -> &[KeysetView] {
        match &self.subject {
            Subject::Overview { keysets, .. } => keysets,
            Subject::Detail(keyset) => std::slice::from_ref(keyset.as_ref()),
        }
    }

    /// What tells this content from another; the same while only time has passed.
    pub(crate) fn signature(&self) -> u64 {
        let mut hash = DefaultHasher::new();
        self.head.notices.hash(&mut hash);
        (self.events.stale, self.events.rows.first().map(|row| row.sequence)).hash(&mut hash);
        if let Subject::Overview { pages, .. } = &self.subject {
            pages.hash(&mut hash);
        }
        self.keysets().iter().for_each(|keyset| keyset.sign(&mut hash));
        hash.finish()
    }

    /// When it should be drawn anew though nothing was said to have changed: when a key changes its
    /// state, and before the line for the present has moved by more than the eye forgives.
    pub(crate) fn refresh_at(&self) -> Timestamp {
        let now = self.head.now;
        let shown = self.keysets().iter();
        let pace = shown.clone().map(|keyset| keyset.timeline.shows.as_secs() / 200).min();
        let pace = pace.unwrap_or(u64::MAX).clamp(REFRESH.0.as_secs(), REFRESH.1.as_secs());
        let changes = shown.filter_map(|keyset| keyset.next_change(now));
        changes.fold(now + Seconds::new(pace), Timestamp::min)
    }
}

/// What is published, seen by somebody who may see some of it.
pub(crate) struct Published<'a> {
    pub(crate) feed: &'a FeedState,
    pub(crate) now: Timestamp,
    pub(crate) may_see: &'a dyn Fn(&KeysetName) -> bool,
    /// What replicas say of the instances that poll them.
    pub(crate) census: &'a Census,
}

impl Published<'_> {
    /// The keysets that `filter` wants, and what is wrong with any that may be seen.
    pub(crate) fn overview(&self, filter: Filter) -> (Vec<Notice>, Subject) {
        let mut troubles = Troubles::default();
        let mut wanted = Vec::new();
        let mut all = 0;
        for (name, bundle) in self.feed.keysets.iter().filter(|(name, _)| (self.may_see)(name)) {
            let rotation = Rotation::of(bundle.keyset(), self.now);
            let lags = self.lags(bundle);
            troubles.add(name, rotation);
            troubles.add_lagging(name, lags);
            all += 1;
            if filter.wants(name, rotation.severity().max(lags.then_some(Severity::Warning))) {
                wanted.push(bundle);
            }
        }
        let last = wanted.len().div_ceil(PAGE).max(1);
        let page = filter.page.clamp(1, last);
        let shown = wanted.iter().skip((page - 1) * PAGE).take(PAGE);
        let keysets =
            shown.map(|bundle| KeysetView::new(bundle, self.spread(bundle), self.now, FEW_LANES));
        let keysets = keysets.collect();
        let pages = Pages { page, last, found: wanted.len(), all };
        (troubles.into_notices(), Subject::Overview { filter, pages, keysets })
    }

    /// One keyset, if it is published and may be seen.
    pub(crate) fn detail(&self, name: &KeysetName) -> Option<(Vec<Notice>, Subject)> {
        let bundle = self.feed.keysets.get(name).filter(|_| (self.may_see)(name))?;
        let mut troubles = Troubles::default();
        troubles.add(name, Rotation::of(bundle.keyset(), self.now));
        troubles.add_lagging(name, self.lags(bundle));
        let view = KeysetView::new(bundle, self.spread(bundle), self.now, MANY_LANES);
        Some((troubles.into_notices(), Subject::Detail(Box::new(view))))
    }

    fn spread(&self, bundle: &Bundle) -> Option<Spread> {
        Spread::of(self.census, self.feed.incarnation, bundle.name(), bundle.tag().revision)
    }

    /// Whether instances lack content that has been out for longer than they need to fetch it.
    fn lags(&self, bundle: &Bundle) -> bool {
        let keys = bundle.keys().iter().map(|key| key.record.schedule.published_at());
        let patience = bundle.policy().urgent_lead();
        let (name, revision) = (bundle.name(), bundle.tag().revision);
        let standing = || self.census.standing(self.feed.incarnation, name, revision);
        keys.max().is_some_and(|at| self.now >= at + patience)
            && standing().is_some_and(|standing| standing.lagging() > 0)
    }
}

/// All notices of a page: the manager's, then the keysets', worst first.
pub(crate) fn notices(facts: &Facts, of_keysets: Vec<Notice>) -> Vec<Notice> {
    let mut notices = health::of_manager(facts);
    notices.extend(of_keysets);
    notices.sort_by_key(|notice| std::cmp::Reverse(notice.severity));
    notices
}

#[cfg(test)]
mod tests;
