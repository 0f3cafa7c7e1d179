use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use stek_core::bundle::{Bundle, BundleKey};
use stek_core::check_in::{self, Holding, KeysetTally, ReplicaId, ReplicaTally};
use stek_core::derive;
use stek_core::id::{ContentTag, Incarnation, KeyId};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::{InstanceName, PrincipalName};
use stek_core::schedule::Schedule;
use stek_core::secret::KeyMaterial;

use super::*;

const START: u64 = 1_790_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(START + seconds)
}

fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

/// A keyset whose one key seals from the start for `seals` seconds.
fn bundle(text: &str, number: u64, seals: u64) -> Arc<Bundle> {
    let mut bytes = std::array::from_fn(|i| {
        let i = u64::try_from(i).unwrap();
        (number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(8 * (i % 8) as u32) >> (i % 5))
            as u8
            ^ (i * i) as u8
    });
    let material = Arc::new(KeyMaterial::take_from(&mut bytes));
    let schedule = Schedule::try_new(at(0), at(0), at(seals), at(90_000), at(90_000)).unwrap();
    let mut id = [0; 16];
    id[..8].copy_from_slice(&number.to_be_bytes());
    let record = KeyRecord {
        id: KeyId::from_bytes(id),
        format: TicketFormat::V1,
        kcv: derive::kcv(&material),
        schedule,
    };
    let incarnation = Incarnation::from_bytes([1; 16]);
    let digest = stek_core::id::ContentDigest::from_bytes([0; 8]);
    let tag = ContentTag { incarnation, revision: Revision::new(number), digest };
    let keys = vec![BundleKey { record, material }];
    Arc::new(Bundle::try_new(tag, name(text), Policy::default(), keys, Vec::new()).unwrap())
}

fn feed(bundles: impl IntoIterator<Item = Arc<Bundle>>) -> FeedState {
    let mut feed = FeedState::empty(Incarnation::from_bytes([1; 16]), at(0));
    feed.keysets = bundles.into_iter().map(|bundle| (bundle.name().clone(), bundle)).collect();
    feed
}

/// `k00000` to `k09999`; every thousandth has nothing that seals.
fn many() -> FeedState {
    feed((0..10_000_u64).map(|number| {
        let seals = if number % 1000 == 0 { 10 } else { 43_200 };
        bundle(&format!("k{number:05}"), number + 1, seals)
    }))
}

fn overview(feed: &FeedState, filter: Filter) -> (Vec<Notice>, Pages, Vec<String>) {
    let (may_see, census) = (|_: &KeysetName| true, Census::default());
    let published = Published { feed, now: at(100), may_see: &may_see, census: &census };
    let (notices, subject) = published.overview(filter);
    let Subject::Overview { pages, keysets, .. } = subject else { panic!("an overview") };
    (notices, pages, keysets.iter().map(|one| one.name.to_string()).collect())
}

#[test]
fn ten_thousand_keysets_come_in_pages() {
    let feed = many();
    let (notices, pages, names) = overview(&feed, Filter::new("", false, None));
    assert_eq!(pages, Pages { page: 1, last: 400, found: 10_000, all: 10_000 });
    assert_eq!(names.len(), PAGE);
    assert_eq!(names[0], "k00000");
    assert_eq!(notices[0].title, "10 keysets: nothing seals");

    let (_, pages, names) = overview(&feed, Filter::new("", false, Some(400)));
    assert_eq!((pages.page, names.last().unwrap().as_str()), (400, "k09999"));
    let (_, pages, names) = overview(&feed, Filter::new("", false, Some(usize::MAX)));
    assert_eq!((pages.page, names.len()), (400, PAGE), "past the end is the last page");
}

#[test]
fn a_filter_finds_by_name_and_by_trouble() {
    let feed = many();
    let (_, pages, names) = overview(&feed, Filter::new("  K0123 ", false, None));
    assert_eq!((pages.found, names[0].as_str()), (10, "k01230"));
    let (_, pages, names) = overview(&feed, Filter::new("", true, None));
    assert_eq!((pages.found, names[9].as_str()), (10, "k09000"));
    let (notices, pages, names) = overview(&feed, Filter::new("<b>", true, Some(0)));
    assert_eq!((pages.found, pages.page, names.len()), (0, 1, 0));
    assert_eq!(notices.len(), 1, "what is wrong is said whatever is looked for");
}

#[test]
fn nobody_learns_of_what_he_may_not_see() {
    let feed = feed([bundle("mine", 1, 43_200), bundle("theirs", 2, 10)]);
    let may_see = |one: &KeysetName| one == &name("mine");
    let census = Census::default();
    let published = Published { feed: &feed, now: at(100), may_see: &may_see, census: &census };
    let (notices, subject) = published.overview(Filter::default());
    let Subject::Overview { pages, keysets, .. } = subject else { panic!("an overview") };
    assert_eq!((notices.len(), pages.all, keysets.len()), (0, 1, 1));
    assert!(published.detail(&name("theirs")).is_none());
    assert!(published.detail(&name("none")).is_none());
    assert!(published.detail(&name("mine")).is_some());
}

#[test]
fn instances_lag_once_they_have_had_time() {
    let feed = feed([bundle("main", 1, 43_200)]);
    let may_see = |_: &KeysetName| true;
    let lags = |now, held: [u64; 2]| {
        let census = census(held);
        let published = Published { feed: &feed, now, may_see: &may_see, census: &census };
        published.overview(Filter::default()).0.len()
    };
    // Under the default policy three minutes after publication.
    assert_eq!([lags(at(179), [0, 1]), lags(at(180), [0, 1]), lags(at(180), [1, 1])], [0, 1, 0]);
    let census = census([0, 1]);
    let published = Published { feed: &feed, now: at(180), may_see: &may_see, census: &census };
    let (_, subject) = published.detail(&name("main")).unwrap();
    let Subject::Detail(keyset) = subject else { panic!("one keyset") };
    let spread = keyset.spread.unwrap();
    assert_eq!((spread.instances, spread.confirmed), (2, 1));
    assert_eq!((spread.laggards.len(), spread.laggards[0].instance.as_str()), (1, "edge-0"));
}

/// Two instances of `main` at one replica, with the revisions that they hold.
fn census(held: [u64; 2]) -> Census {
    let holding =
        |revision| Holding { revision: Revision::new(revision), instances: 1, twice_since: None };
    let laggards = (0..).zip(held).filter(|(_, revision)| *revision < 1);
    let laggards = laggards.map(|(number, revision): (u32, _)| check_in::Laggard {
        principal: PrincipalName::try_new("token:edge").unwrap(),
        instance: InstanceName::try_new(&format!("edge-{number}")).unwrap(),
        revision: Revision::new(revision),
        last_seen: at(170),
        clock_offset_millis: None,
    });
    let tally = KeysetTally {
        newest: Revision::new(1),
        holdings: held.map(holding).to_vec(),
        laggards: laggards.collect(),
        uncounted: 0,
    };
    let replica = ReplicaId { principal: None, name: InstanceName::try_new("eu-1").unwrap() };
    let keysets = BTreeMap::from([(name("main"), Arc::new(tally))]);
    let incarnation = Incarnation::from_bytes([1; 16]);
    Census { replicas: vec![ReplicaTally { replica, age: Duration::ZERO, incarnation, keysets }] }
}

fn view(feed: &FeedState, now: Timestamp) -> View {
    let (may_see, census) = (|_: &KeysetName| true, Census::default());
    let published = Published { feed, now, may_see: &may_see, census: &census };
    let facts = Facts::sound(now);
    let (of_keysets, subject) = published.overview(Filter::default());
    let head = Head {
        now,
        viewer: "token:root".into(),
        may_leave: true,
        facts,
        revision: feed.revision,
        notices: notices(&facts, of_keysets),
    };
    View { head, subject, events: Events::default() }
}

#[test]
fn the_signature_stays_while_only_time_passes() {
    let one = feed([bundle("main", 1, 43_200)]);
    let at_first = view(&one, at(10)).signature();
    assert_eq!(view(&one, at(20)).signature(), at_first);
    assert_ne!(view(&feed([bundle("main", 2, 43_200)]), at(10)).signature(), at_first);
    assert_ne!(view(&one, at(43_200)).signature(), at_first, "a key has changed its state");
    let mut stale = view(&one, at(10));
    stale.events.stale = true;
    assert_ne!(stale.signature(), at_first);
}

#[test]
fn a_page_is_drawn_anew_when_a_key_changes_or_the_line_has_moved() {
    let one = feed([bundle("main", 1, 43_200)]);
    assert_eq!(view(&one, at(10)).refresh_at(), at(10) + REFRESH.1);
    assert_eq!(view(&one, at(43_195)).refresh_at(), at(43_200));
}
