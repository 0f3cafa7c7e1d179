use std::collections::BTreeMap;
use std::sync::Weak;

use axum::body::Body;
use http::{Request, StatusCode};
use prometheus::Registry;
use stek_clock::{Clock, FleetClock, ManualClock};
use stek_core::access::{Access, Grant, KeysetSelector, Role, Token, TokenSecret};
use stek_core::bundle::BundleKey;
use stek_core::derive;
use stek_core::id::{ContentDigest, Incarnation, Revision};
use stek_core::keyset::{KeyRecord, TicketFormat};
use stek_core::name::PrincipalName;
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::principal::PrincipalPattern;
use stek_core::schedule::Schedule;
use stek_core::secret::KeyMaterial;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::*;
use crate::Distribution;
use crate::feed_shelf::Extent;

const START: u64 = 1_790_000_000;

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(START + seconds)
}

fn name() -> KeysetName {
    KeysetName::try_new("main").unwrap()
}

/// A keyset of one key for each of `ends`, at which it ends.
fn bundle(revision: u64, ends: &[u64]) -> Arc<Bundle> {
    let keys = ends.iter().zip(1u8..).map(|(end, number)| {
        let mut bytes = std::array::from_fn(|i| (i as u8).wrapping_mul(37) ^ number);
        let material = Arc::new(KeyMaterial::take_from(&mut bytes));
        let from = u64::from(number) * 10;
        let schedule =
            Schedule::try_new(at(0), at(from), at(from + 10), at(*end), at(9999)).unwrap();
        let (id, format) = (KeyId::from_bytes([number; 16]), TicketFormat::V1);
        BundleKey {
            record: KeyRecord { id, format, kcv: derive::kcv(&material), schedule },
            material,
        }
    });
    let tag = ContentTag {
        incarnation: Incarnation::from_bytes([7; 16]),
        revision: Revision::new(revision),
        digest: ContentDigest::from_bytes([1; 8]),
    };
    let policy = Policy::try_new(&PolicyRequest::default()).unwrap();
    Arc::new(Bundle::try_new(tag, name(), policy, keys.collect(), vec![]).unwrap())
}

/// A feed of one bundle, which token 1 may fetch.
fn feed(bundle: Arc<Bundle>) -> FeedState {
    let principal = PrincipalName::try_new("token:edge").unwrap();
    let keysets = KeysetSelector::All;
    let hash = TokenSecret::take_from(&mut [1; 32]).hash();
    let (id, expires_at) = (KeyId::from_bytes([1; 16]), Timestamp::MAX);
    let token = Token { id, principal: principal.clone(), hash, expires_at };
    let principal = PrincipalPattern::exactly(&principal).unwrap();
    let grants = vec![Grant { principal, keysets, role: Role::Terminator }];
    FeedState {
        incarnation: bundle.tag().incarnation,
        revision: bundle.tag().revision,
        keysets: BTreeMap::from([(name(), bundle)]),
        tombstones: BTreeMap::new(),
        access: Arc::new(Access::new(vec![token], grants)),
        access_read_at: at(0),
    }
}

fn held(shelf: &Shelf) -> Option<Weak<Rendered>> {
    shelf.watch(&name())?.borrow().as_ref().map(Arc::downgrade)
}

fn is_gone(rendered: &Weak<Rendered>) -> bool {
    rendered.strong_count() == 0
}

#[test]
fn a_buffer_is_made_once_and_replaced_when_a_key_ends() {
    let shelf = Shelf::default();
    let published = bundle(5, &[200, 300]);
    shelf.stock(&feed(Arc::clone(&published)), at(0));
    let first = held(&shelf).unwrap();
    assert_eq!(shelf.next_erasure(), Some(at(200)));
    // The same content in another value is no reason to render it again.
    shelf.stock(&feed(bundle(5, &[200, 300])), at(199));
    assert!(!is_gone(&first));
    let mut content = shelf.watch(&name()).unwrap();
    content.mark_unchanged();
    shelf.stock(&feed(Arc::clone(&published)), at(200));
    assert!(is_gone(&first) && !content.has_changed().unwrap());
    assert_eq!(shelf.next_erasure(), Some(at(300)));
    // Nor is it when the source erases what is erased here.
    let second = held(&shelf).unwrap();
    shelf.stock(&feed(Arc::new(published.erased_at(at(200)))), at(201));
    assert!(!is_gone(&second));
    // A key that comes back under the same tag, as from another replica, is served again.
    shelf.stock(&feed(bundle(5, &[290, 300])), at(201));
    assert!(is_gone(&second));
    shelf.stock(&feed(bundle(6, &[290, 300])), at(201));
    assert!(content.has_changed().unwrap());
}

#[test]
fn what_is_not_published_leaves_no_slot_behind() {
    let shelf = Shelf::default();
    shelf.stock(&feed(bundle(5, &[200])), at(0));
    let (buffer, content) = (held(&shelf).unwrap(), shelf.watch(&name()).unwrap());
    let empty = FeedState::empty(Incarnation::from_bytes([7; 16]), at(0));
    shelf.stock(&empty, at(1));
    assert!(is_gone(&buffer) && content.borrow().is_none());
    assert!(shelf.slots.read().unwrap().is_empty());
}

#[tokio::test]
async fn a_source_that_is_gone_is_waited_for_and_not_asked_for_ever() {
    let (source, mut content) = watch::channel(0);
    source.send_replace(1);
    drop(source);
    // What it said last is still heard.
    changed(&mut content).await;
    let others = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        () = changed(&mut content) => panic!("nothing can have changed"),
        () = others => {}
    }
}

#[tokio::test]
async fn whoever_waits_does_not_keep_the_buffer_of_an_ended_key() {
    let clock = Arc::new(ManualClock::at_unix_millis(START * 1000));
    let fleet = Arc::new(FleetClock::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let published = bundle(5, &[50, 300]);
    let tag = published.tag();
    let (_source, states) = watch::channel(Some(Arc::new(feed(published))));
    let (registry, shutdown) = (Registry::new(), CancellationToken::new());
    let replica = Distribution::start(states, fleet, &registry, shutdown).unwrap();
    let shelf = &replica.shared.shelf;
    eventually(|| held(shelf).is_some()).await;
    let buffer = held(shelf).unwrap();
    let secret = TokenSecret::take_from(&mut [1; 32]).expose_text();
    let request = Request::get("/v1/keysets/main")
        .header("authorization", format!("Bearer {secret}"))
        .header("if-none-match", format!("\"{tag}\""))
        .header("prefer", "wait=55")
        .body(Body::empty())
        .unwrap();
    let task = tokio::spawn(replica.bundle_api().into_routes().oneshot(request));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(50));
    eventually(|| is_gone(&buffer)).await;
    assert!(!task.is_finished());
    clock.advance(Duration::from_secs(5));
    assert_eq!(task.await.unwrap().unwrap().status(), StatusCode::NOT_MODIFIED);
}

#[tokio::test]
async fn the_whole_feed_does_not_outlast_a_key_in_it() {
    let clock = Arc::new(ManualClock::at_unix_millis(START * 1000));
    let fleet = Arc::new(FleetClock::new(Arc::clone(&clock) as Arc<dyn Clock>));
    let state = Arc::new(feed(bundle(5, &[50, 300])));
    let (source, states) = watch::channel(Some(Arc::clone(&state)));
    let (registry, shutdown) = (Registry::new(), CancellationToken::new());
    let replica = Distribution::start(states, fleet, &registry, shutdown).unwrap();
    let (shared, feeds) = (&replica.shared, &replica.shared.feeds);
    eventually(|| held(&shared.shelf).is_some()).await;
    for end in [Duration::from_secs(50), Duration::ZERO] {
        feeds.get(shared, Arc::clone(&state), Extent::View).await.unwrap();
        assert!(!feeds.is_kept(), "what not everybody may see");
        feeds.get(shared, Arc::clone(&state), Extent::Everything).await.unwrap();
        assert!(feeds.is_kept());
        clock.advance(end);
        if end.is_zero() {
            source.send_replace(Some(Arc::new(feed(bundle(6, &[300])))));
        }
        eventually(|| !feeds.is_kept()).await;
    }
    // Nor is one kept that is out of date when it is ready.
    feeds.get(shared, state, Extent::Everything).await.unwrap();
    assert!(!feeds.is_kept());
}

async fn eventually(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.unwrap();
}
