//! Every place whose clock can be wrong, with every fault: an hour, a day and a year ahead and
//! behind, and a terminator that was suspended for as long. One at a time, on one fleet, which is
//! whole again after each.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_client::{ClientConfig, ClientOptions};
use stek_clock::Clock;
use stek_core::access::Role;
use stek_core::feed::FeedState;
use stek_core::id::KeyId;
use stek_core::name::{InstanceName, KeysetName};
use stek_core::schedule::{KeyState, Schedule};
use stek_core::time::{Seconds, Timestamp};
use stek_testbed::{Bed, Database, HostClock, Tier};
use stek_wire::admin::PolicyDocument;
use stekd::dev::node::KEYSET;
use stekd::dev::visitor::Visitor;
use stekd::roles::terminator::{Identity, Setup, Terminator};
use tokio_util::sync::CancellationToken;

const HOUR: i64 = 3_600_000;
const FAULTS: [(&str, i64); 6] = [
    ("an hour ahead", HOUR),
    ("an hour behind", -HOUR),
    ("a day ahead", 24 * HOUR),
    ("a day behind", -24 * HOUR),
    ("a year ahead", 365 * 24 * HOUR),
    ("a year behind", -365 * 24 * HOUR),
];

/// How much time passes between two looks at the fleet, and how often that happens during a fault:
/// over a day in all, so that a key takes over from another while the clock is wrong.
const STEP: Duration = Duration::from_secs(3 * 3600);
const STEPS: u32 = 9;

/// How long before a boundary a fault begins.
const AHEAD: Seconds = Seconds::from_hours(2);

/// A key seals for a day, and is published three days before.
pub(super) const POLICY: PolicyDocument = PolicyDocument {
    rotation_period_seconds: Some(86_400),
    ticket_lifetime_seconds: Some(86_400),
    poll_interval_seconds: Some(1),
    clock_skew_seconds: Some(120),
    lead_seconds: Some(3 * 86_400),
    session_lifetime_seconds: Some(7 * 86_400),
    activation_quorum: None,
    activation_deadline_seconds: None,
};
const SKEW: Seconds = Seconds::new(120);

/// Whose clock is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Manager,
    Database,
    /// The one machine of manager and database.
    ManagerAndDatabase,
    Distribution,
    Terminator,
}

/// A terminator on a machine of its own.
struct Edge {
    name: &'static str,
    host: Arc<HostClock>,
    registry: Registry,
    terminator: Terminator,
}

struct Site {
    bed: Bed,
    tier_host: Arc<HostClock>,
    tier: Tier,
    edges: [Edge; 2],
    /// The newest schedule of every key that was ever published.
    ledger: RefCell<BTreeMap<KeyId, Schedule>>,
    /// What the manager and each edge had done when time last passed at once.
    turns: Cell<[f64; 3]>,
    shutdown: CancellationToken,
}

/// Asks without long-polls: nobody answers a machine that is suspended.
fn client(bed: &Bed, upstream: &str, token: &std::path::Path, name: &str) -> ClientConfig {
    let options = ClientOptions {
        upstreams: vec![upstream.to_owned()],
        roots: vec![bed.site.authority()],
        token: Some(token.to_owned()),
        certificate: None,
        wait: Some(Seconds::ZERO),
        max_body_bytes: None,
        instance: InstanceName::try_new(name).unwrap(),
    };
    ClientConfig::try_new(&options).unwrap()
}

pub(super) fn value(registry: &Registry, name: &str, label: Option<&str>) -> f64 {
    let families = registry.gather();
    let family = families.iter().find(|one| one.name() == name).expect(name);
    let wanted = family.get_metric().iter().filter(|metric| {
        label.is_none_or(|label| metric.get_label().iter().any(|pair| pair.value() == label))
    });
    wanted.map(|one| one.get_gauge().get_value() + one.get_counter().get_value()).sum()
}

impl Site {
    async fn start() -> Self {
        let bed = Bed::start(Database::Sqlite, POLICY).await.unwrap();
        let life = Seconds::from_days(800);
        let (tier_token, _) = bed.token("replica", Role::Distribution, life).await.unwrap();
        let (edge_token, _) = bed.token("edge", Role::Terminator, life).await.unwrap();
        let manager = format!("https://localhost:{}", bed.node.ports().admin.port());
        let tier_host = HostClock::new(&bed.clock);
        let config = client(&bed, &manager, &tier_token, "replica");
        let tier = Tier::start_on(Arc::clone(&tier_host) as Arc<dyn Clock>, &config).await.unwrap();
        let shutdown = CancellationToken::new();
        let edge = async |name: &'static str| {
            let (host, registry) = (HostClock::new(&bed.clock), Registry::new());
            let (certificate, key) = (bed.site.certificate(), bed.site.private_key());
            let setup = Setup {
                name: name.to_owned(),
                client: client(&bed, &tier.url, &edge_token, name),
                keyset: keyset(),
                identity: Identity::read(&certificate, &key).unwrap(),
                clock: Arc::clone(&host) as Arc<dyn Clock>,
            };
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let terminator = Terminator::start(setup, address, &registry, shutdown.clone()).await;
            Edge { name, host, registry, terminator: terminator.unwrap() }
        };
        let edges = [edge("edge-1").await, edge("edge-2").await];
        let (ledger, turns) = (RefCell::default(), Cell::default());
        Self { bed, tier_host, tier, edges, ledger, turns, shutdown }
    }

    fn set_ahead(&self, place: Place, millis: i64) {
        let (manager, database) = (&self.bed.manager_host, &self.bed.database_host);
        let hosts: &[&Arc<HostClock>] = match place {
            Place::Manager => &[manager],
            Place::Database => &[database],
            Place::ManagerAndDatabase => &[manager, database],
            Place::Distribution => &[&self.tier_host],
            Place::Terminator => &[&self.edges[1].host],
        };
        for host in hosts {
            host.set_ahead(millis);
        }
    }

    /// Writes down what is published.
    fn note(&self) {
        let keyset = self.bed.keyset().unwrap();
        self.ledger.borrow_mut().extend(keyset.keys().iter().map(|key| (key.id, key.schedule)));
    }

    /// The keys that must be there at `now`, and none besides.
    fn living(&self, now: Timestamp) -> BTreeMap<KeyId, Schedule> {
        let ledger = self.ledger.borrow();
        let living = ledger.iter().filter(|(_, schedule)| now < schedule.destroy_at());
        living.map(|(id, schedule)| (*id, *schedule)).collect()
    }

    /// Whether `feed` holds the keys that must be there, no fewer and no more.
    fn is_whole(&self, feed: Option<&FeedState>) -> bool {
        let bundle = feed.and_then(|feed| feed.keysets.get(&keyset()));
        let held = bundle.into_iter().flat_map(|bundle| bundle.keys());
        let held: Vec<_> = held.map(|key| key.record.id).collect();
        let living = self.living(self.bed.now());
        held.len() == living.len() && held.iter().all(|id| living.contains_key(id))
    }

    /// Whether a terminator holds these keys, each in the state that it has by true time, and seals
    /// under the one whose turn it is.
    fn is_right(&self, edge: &Edge) -> bool {
        let now = self.bed.now();
        let living = self.living(now);
        let states = [KeyState::Pending, KeyState::Active, KeyState::DecryptOnly];
        let counts = states.iter().all(|state| {
            let expected = living.values().filter(|schedule| schedule.state(now) == *state);
            let held = value(&edge.registry, "stek_keys_held", Some(state.as_str()));
            held as usize == expected.count()
        });
        let active = living.values().find(|schedule| schedule.seals(now));
        let since = active.map(|schedule| now.since(schedule.activate_at()).as_secs() as f64);
        let age = value(&edge.registry, "stek_key_age_seconds", None);
        counts && since.is_some_and(|since| (age - since).abs() <= SKEW.as_secs() as f64)
    }

    /// Nothing is destroyed early or late anywhere, and nothing seals out of its turn.
    async fn look(&self, edges: &[usize], when: &str) {
        let manager = self.bed.node.feed();
        let tier = self.tier.feed();
        self.bed
            .until(when, || {
                self.note();
                let whole = self.is_whole(manager.borrow().as_deref())
                    && self.is_whole(tier.borrow().as_deref());
                Ok(whole && edges.iter().all(|edge| self.is_right(&self.edges[*edge])))
            })
            .await
            .unwrap_or_else(|error| {
                let metrics = edges.iter().map(|edge| &self.edges[*edge].registry);
                let ages: Vec<_> =
                    metrics.map(|one| value(one, "stek_key_age_seconds", None)).collect();
                panic!("{error:#}: {ages:?}, {:#?}", self.living(self.bed.now()));
            });
    }

    async fn visit(&self, visitor: &Visitor, edge: usize) -> bool {
        let edge = &self.edges[edge];
        visitor.connect(edge.name, edge.terminator.address()).await.unwrap().resumed
    }

    /// Everybody holds what is published, the next keys are out, and nobody complains.
    async fn is_whole_again(&self, when: &str) {
        let bed = &self.bed;
        bed.until(when, || {
            let now = bed.now();
            let is_covered = bed.keyset()?.covered_from(now) >= Seconds::from_days(2);
            let checks = serde_json::to_value(bed.node.readiness().checks())?;
            let ready = checks.as_array().unwrap().iter().all(|check| check["ok"] == true);
            let revision = bed.node.feed().borrow().as_ref().unwrap().keysets[&keyset()].tag();
            let installed = |edge: &Edge| edge.terminator.installed() == Some(revision.revision);
            let edges = self.edges.iter().map(|edge| &edge.registry);
            let clocks = edges.chain([&self.tier.registry]).all(|registry| {
                value(registry, "stek_client_clock_offset_seconds", None).abs() < 60.0
            });
            let apart = value(bed.node.registry(), "stek_manager_clock_disagreement_seconds", None);
            Ok(is_covered && ready && clocks && apart < 1.0 && self.edges.iter().all(installed))
        })
        .await
        .unwrap();
        self.look(&[0, 1], when).await;
    }

    /// Lets time pass up to two hours before another key seals.
    async fn approach_a_boundary(&self, when: &str) {
        let now = self.bed.now();
        let keyset = self.bed.keyset().unwrap();
        let boundaries = keyset.keys().iter().map(|key| key.schedule.retire_at());
        let begin = boundaries.map(|at| at - AHEAD).filter(|at| *at > now).min().unwrap();
        self.advance(begin.since(now).to_std());
        self.is_whole_again(when).await;
        self.manager_has_noticed(when).await;
        self.edges_have_noticed(when).await;
    }

    /// Lets time pass at once, and remembers what everybody has done by then.
    fn advance(&self, span: Duration) {
        self.bed.clock.advance(span);
        self.turns.set(self.turns_now());
    }

    /// How many passes of the manager have succeeded, and how often each edge has asked.
    fn turns_now(&self) -> [f64; 3] {
        let [one, two] = self
            .edges
            .each_ref()
            .map(|edge| value(&edge.registry, "stek_client_polls_total", None));
        let manager = self.bed.node.registry();
        [value(manager, "stek_manager_passes_total", Some("succeeded")), one, two]
    }

    /// The pass that was under way when time last passed at once, and may have read one clock before
    /// that and the other after it, has ended.
    async fn manager_has_noticed(&self, when: &str) {
        let what = format!("the manager goes on, {when}");
        let noticed = || Ok(self.turns_now()[0] > self.turns.get()[0]);
        self.bed.until(&what, noticed).await.unwrap();
    }

    /// Each edge has counted how late it was when time last passed at once: that is done between
    /// two polls.
    async fn edges_have_noticed(&self, when: &str) {
        let what = format!("the edges go on, {when}");
        let noticed = |edge: usize| self.turns_now()[edge] >= self.turns.get()[edge] + 2.0;
        self.bed.until(&what, || Ok(noticed(1) && noticed(2))).await.unwrap();
    }

    /// The alarm that docs/OPERATIONS.md names for a wrong clock at `place`, where `passes` had
    /// failed for their clocks before. Each time that time passed at once one more may have,
    /// which read one clock before that and the other after it.
    async fn alarm(&self, place: Place, ahead: i64, (passes, leaps): (f64, u32), when: &str) {
        let clock_passes = || clock_passes(&self.bed);
        let seconds = ahead as f64 / 1000.0;
        let sounds = || {
            let offsets = [&self.tier.registry, &self.edges[0].registry, &self.edges[1].registry]
                .map(|registry| value(registry, "stek_client_clock_offset_seconds", None));
            let of_place = [Place::Distribution, Place::Manager, Place::Terminator];
            let told = offsets.iter().zip(of_place).all(|(offset, of)| {
                let expected = if of == place && of != Place::Manager { seconds } else { 0.0 };
                (offset - expected).abs() < 60.0
            });
            let checks = serde_json::to_string(&self.bed.node.readiness().checks())?;
            let apart =
                value(self.bed.node.registry(), "stek_manager_clock_disagreement_seconds", None);
            Ok(told
                && match place {
                    Place::Manager | Place::Database => {
                        clock_passes() > passes
                            && checks.contains("the clocks disagree")
                            && (apart - seconds.abs()).abs() < 1.0
                    }
                    Place::ManagerAndDatabase => {
                        clock_passes() > passes && checks.contains("the clock jumped")
                    }
                    Place::Distribution | Place::Terminator => {
                        let torn = f64::from(leaps);
                        clock_passes() <= passes + torn && !checks.contains("disagree")
                    }
                })
        };
        self.bed.until(&format!("the alarm, {when}"), sounds).await.unwrap();
    }
}

pub(super) fn keyset() -> KeysetName {
    KeysetName::try_new(KEYSET).unwrap()
}

fn clock_passes(bed: &Bed) -> f64 {
    value(bed.node.registry(), "stek_manager_passes_total", Some("clock"))
}

async fn wrong_clock(site: &Site, place: Place, (fault, ahead): (&str, i64)) {
    let what = format!("{place:?} {fault}");
    site.approach_a_boundary(&format!("before {what}")).await;
    let visitor = Visitor::new(&site.bed.site.authority()).unwrap();
    assert!(!site.visit(&visitor, 0).await, "a new client");
    let before = clock_passes(&site.bed);
    site.set_ahead(place, ahead);
    for step in 1..=STEPS {
        site.advance(STEP);
        let when = format!("{what}, step {step}");
        site.look(&[0, 1], &when).await;
        if matches!(place, Place::Distribution | Place::Terminator) {
            site.manager_has_noticed(&when).await;
        }
        site.alarm(place, ahead, (before, step), &when).await;
        for edge in [1, 0] {
            assert!(site.visit(&visitor, edge).await, "{when}, {edge}");
        }
    }
    site.set_ahead(place, 0);
    site.is_whole_again(&format!("after {what}")).await;
    for edge in [1, 0] {
        assert!(site.visit(&visitor, edge).await, "after {what}, {edge}");
    }
}

/// While a terminator is suspended the fleet goes on. The first thing that it does afterwards is to
/// be visited, before it has asked anybody.
async fn suspended(site: &Site, (fault, hours): (&str, u32)) {
    let what = format!("suspended for {fault}");
    site.approach_a_boundary(&format!("before being {what}")).await;
    let stalls = |site: &Site| value(&site.edges[1].registry, "stek_client_stalls_total", None);
    let before = stalls(site);
    let newest = site.ledger.borrow().values().map(Schedule::destroy_at).max().unwrap();
    site.edges[1].host.suspend();
    // All but the last day passes at once, for the whole fleet.
    let mut left = Duration::from_secs(3600) * hours;
    let mut span = left.saturating_sub(8 * STEP).max(STEP).min(left);
    while !left.is_zero() {
        site.advance(span);
        site.look(&[0], &what).await;
        left -= span;
        span = left.min(STEP);
    }
    let visitor = Visitor::new(&site.bed.site.authority()).unwrap();
    assert!(!site.visit(&visitor, 0).await, "a new client");
    assert_eq!(stalls(site), before);
    site.turns.set(site.turns_now());
    site.edges[1].host.resume();
    // Without waiting for a poll: what it holds it uses by true time, and only that.
    let age = value(&site.edges[1].registry, "stek_key_age_seconds", None);
    assert!(age <= 86_400.0, "{what}: seals under a key that has retired");
    let held_since_before = site.bed.now() < newest;
    let resumed = site.visit(&visitor, 1).await;
    assert!(resumed || !held_since_before, "{what}");
    let after = format!("after being {what}");
    site.is_whole_again(&after).await;
    site.edges_have_noticed(&after).await;
    assert_eq!(stalls(site), before + 1.0, "{what}: the alarm");
    let visitor = Visitor::new(&site.bed.site.authority()).unwrap();
    for (edge, resumes) in [(0, false), (1, true), (0, true)] {
        assert_eq!(site.visit(&visitor, edge).await, resumes, "after being {what}, {edge}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_wrong_clock_ends_a_key_early_moves_a_period_or_costs_a_resumption() {
    let site = Site::start().await;
    site.is_whole_again("at the start").await;
    for place in [
        Place::Manager,
        Place::Database,
        Place::ManagerAndDatabase,
        Place::Distribution,
        Place::Terminator,
    ] {
        for fault in FAULTS {
            wrong_clock(&site, place, fault).await;
        }
    }
    for fault in [("an hour", 1), ("a day", 24), ("a year", 365 * 24)] {
        suspended(&site, fault).await;
    }
    let Site { bed, tier, edges, shutdown, .. } = site;
    shutdown.cancel();
    for edge in edges {
        edge.terminator.stopped().await;
    }
    tier.stop().await;
    bed.stop().await.unwrap();
}
