//! Keysets, principals, and a replica that is fed with them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use http::header::{AUTHORIZATION, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use prometheus::Registry;
use stek_clock::{Clock, FleetClock, ManualClock};
use stek_core::access::{Access, Grant, KeysetSelector, Role, Token, TokenSecret};
use stek_core::bundle::{Bundle, BundleKey};
use stek_core::derive;
use stek_core::feed::FeedState;
use stek_core::id::{ContentTag, Incarnation, KeyId, Revision};
use stek_core::keyset::{History, KeyRecord, Keyset, TicketFormat};
use stek_core::name::{KeysetName, PrincipalName};
use stek_core::policy::{Policy, PolicyRequest};
use stek_core::principal::PrincipalPattern;
use stek_core::schedule::Schedule;
use stek_core::secret::KeyMaterial;
use stek_core::time::{Seconds, Timestamp};
use stek_distribution::Distribution;
use stek_http::Routes;
use stek_wire::headers::{STEK_READ_AGE, STEK_TIME, parse_read_age, parse_stek_time};
use stek_wire::tag::{format_etag, parse_etag};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// 2026-09-21T13:46:40Z.
pub(crate) const START: u64 = 1_790_000_000;

pub(crate) const INCARNATION: Incarnation = Incarnation::from_bytes([7; 16]);

/// Far beyond what a loaded machine needs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(PATIENCE, future).await.expect("it should not have taken that long")
}

pub(crate) async fn eventually(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Lets everything go on that can.
pub(crate) async fn settle() {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn name(text: &str) -> KeysetName {
    KeysetName::try_new(text).unwrap()
}

pub(crate) fn at(seconds: u64) -> Timestamp {
    Timestamp::from_unix(START + seconds)
}

/// The secret of whoever has this number.
pub(crate) fn secret(number: u8) -> TokenSecret {
    TokenSecret::take_from(&mut [number; 32])
}

/// Key number `number`: seals in `[from, until)`, opens 100 s more.
fn key(number: u8, from: u64, until: u64) -> BundleKey {
    let mut bytes = std::array::from_fn(|i| (i as u8).wrapping_mul(37) ^ number.wrapping_mul(101));
    let material = KeyMaterial::take_from(&mut bytes);
    let schedule =
        Schedule::try_new(at(0), at(from), at(until), at(until + 100), at(until + 9999)).unwrap();
    let (id, format) = (KeyId::from_bytes([number; 16]), TicketFormat::V1);
    let record = KeyRecord { id, format, kcv: derive::kcv(&material), schedule };
    BundleKey { record, material: Arc::new(material) }
}

/// A keyset of two keys, the first of which ends after 200 s and the second after 300 s.
pub(crate) fn bundle(keyset: &str, revision: u64, number: u8) -> Arc<Bundle> {
    let policy = Policy::try_new(&PolicyRequest::default()).unwrap();
    let keys = vec![key(number, 0, 100), key(number + 1, 100, 200)];
    let records = keys.iter().map(|key| key.record).collect();
    let whole = Keyset::try_new(name(keyset), policy, History::Used, records).unwrap();
    let (incarnation, revision) = (INCARNATION, Revision::new(revision));
    let tag = ContentTag { incarnation, revision, digest: whole.content_digest() };
    Arc::new(Bundle::try_new(tag, name(keyset), policy, keys, vec![]).unwrap())
}

/// Who may do what: each principal has the number of its token.
pub(crate) fn access(grants: &[(u8, Role, &str)]) -> Access {
    let principal = |number: &u8| PrincipalName::try_new(&format!("token:{number}")).unwrap();
    let mut numbers: Vec<u8> = grants.iter().map(|(number, ..)| *number).collect();
    numbers.dedup();
    let token = |number: &u8| Token {
        id: KeyId::from_bytes([*number; 16]),
        principal: principal(number),
        hash: secret(*number).hash(),
        expires_at: at(1_000_000),
    };
    let grant = |(number, role, keysets): &(u8, Role, &str)| Grant {
        principal: PrincipalPattern::exactly(&principal(number)).unwrap(),
        keysets: KeysetSelector::parse(keysets).unwrap(),
        role: *role,
    };
    Access::new(numbers.iter().map(token).collect(), grants.iter().map(grant).collect())
}

/// A feed with these bundles at the highest of their revisions.
pub(crate) fn state(bundles: &[Arc<Bundle>], access: Access) -> FeedState {
    let keysets: BTreeMap<_, _> =
        bundles.iter().map(|bundle| (bundle.name().clone(), Arc::clone(bundle))).collect();
    let revision = bundles.iter().map(|bundle| bundle.tag().revision).max();
    FeedState {
        incarnation: INCARNATION,
        revision: revision.unwrap_or(Revision::ZERO),
        keysets,
        tombstones: BTreeMap::new(),
        access: Arc::new(access),
        access_read_at: at(0),
    }
}

/// One replica.
pub(crate) struct Replica {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) fleet: Arc<FleetClock>,
    pub(crate) feed: watch::Sender<Option<Arc<FeedState>>>,
    pub(crate) registry: Registry,
    pub(crate) shutdown: CancellationToken,
    pub(crate) distribution: Distribution,
    pub(crate) routes: Routes,
}

impl Replica {
    pub(crate) fn empty() -> Self {
        let clock = Arc::new(ManualClock::at_unix_millis(START * 1000));
        let fleet = Arc::new(FleetClock::new(Arc::clone(&clock) as Arc<dyn Clock>));
        fleet.set(START * 1000);
        let (feed, states) = watch::channel(None);
        let (registry, shutdown) = (Registry::new(), CancellationToken::new());
        let following = Arc::clone(&fleet);
        let distribution =
            Distribution::start(states, following, &registry, shutdown.clone()).unwrap();
        let api = distribution.bundle_api().merge(distribution.feed_api());
        let routes = api.into_routes().with_fallbacks();
        Self { clock, fleet, feed, registry, shutdown, distribution, routes }
    }

    /// One with this feed, on the shelf.
    pub(crate) async fn with(state: FeedState) -> Self {
        let replica = Self::empty();
        replica.put_out(state).await;
        replica
    }

    /// Feeds `state`, and waits until it is on the shelf.
    pub(crate) async fn put_out(&self, state: FeedState) {
        let revision = state.revision.as_u64() as f64;
        self.feed.send_replace(Some(Arc::new(state)));
        eventually(|| self.metric("stek_distribution_revision") == revision).await;
        settle().await;
    }

    pub(crate) fn advance(&self, seconds: u64) {
        self.clock.advance(Duration::from_secs(seconds));
    }

    pub(crate) fn metric(&self, family: &str) -> f64 {
        let families = self.registry.gather();
        let found = families.iter().find(|one| one.name() == family).unwrap();
        let metrics = found.get_metric().iter();
        metrics.map(|one| one.get_gauge().get_value() + one.get_counter().get_value()).sum()
    }

    /// Asks, and is answered at once.
    pub(crate) async fn ask(&self, ask: &Ask) -> Answer {
        soon(ask.send(self.routes.clone())).await
    }

    /// Asks, and waits: returns when the replica counts one more who does.
    pub(crate) async fn wait(&self, ask: &Ask) -> JoinHandle<Answer> {
        let before = self.metric("stek_distribution_waiting_requests");
        let waiting = tokio::spawn(ask.send(self.routes.clone()));
        eventually(|| self.metric("stek_distribution_waiting_requests") > before).await;
        waiting
    }
}

impl Replica {
    /// Lets one who waits go away.
    pub(crate) async fn abandon(&self, task: JoinHandle<Answer>) {
        task.abort();
        eventually(|| self.metric("stek_distribution_waiting_requests") == 0.0).await;
    }
}

/// A request.
#[derive(Clone, Default)]
pub(crate) struct Ask {
    path: String,
    token: Option<u8>,
    headers: Vec<(String, String)>,
}

impl Ask {
    pub(crate) fn keyset(keyset: &str, token: u8) -> Self {
        let path = format!("/v1/keysets/{keyset}");
        Self { path, token: Some(token), headers: vec![] }
    }

    pub(crate) fn feed(token: u8) -> Self {
        Self { path: "/v1/feed".into(), token: Some(token), headers: vec![] }
    }

    pub(crate) fn without_token(mut self) -> Self {
        self.token = None;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn has(self, tag: ContentTag) -> Self {
        self.header(IF_NONE_MATCH.as_str(), format_etag(tag))
    }

    pub(crate) fn waits(self, seconds: u64) -> Self {
        self.header("prefer", format!("wait={seconds}"))
    }

    /// The request itself.
    pub(crate) fn request(&self) -> Request<Body> {
        let mut request = Request::get(&self.path);
        if let Some(number) = self.token {
            let text = secret(number).expose_text();
            request = request.header(AUTHORIZATION, format!("Bearer {text}"));
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Body::empty()).unwrap()
    }

    fn send(&self, routes: Routes) -> impl Future<Output = Answer> + use<> {
        let request = self.request();
        async move {
            let response = routes.oneshot(request).await.unwrap();
            let (parts, body) = response.into_parts();
            assert_eq!(parts.headers[CACHE_CONTROL], "no-store");
            let body = body.collect().await.unwrap().to_bytes();
            Answer { status: parts.status, headers: parts.headers, body }
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn tag(&self) -> ContentTag {
        parse_etag(self.headers[ETAG].to_str().unwrap()).unwrap()
    }

    /// How long before its sending the database was read, if it says so.
    pub(crate) fn read_age(&self) -> Option<Duration> {
        parse_read_age(self.headers.get(STEK_READ_AGE)?.to_str().unwrap())
    }

    /// Fleet time at which it was sent, in seconds since the start.
    pub(crate) fn sent_at(&self) -> u64 {
        let text = self.headers[STEK_TIME].to_str().unwrap();
        parse_stek_time(text).unwrap() / 1000 - START
    }
}

/// A lead that nobody needs but the type.
pub(crate) const DAY: Seconds = Seconds::from_days(1);
