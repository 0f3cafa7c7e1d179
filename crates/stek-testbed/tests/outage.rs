//! The longest outage that costs nothing, from the worst moment on: the database is away for a lead
//! less what delivery takes and a minute in which the manager finds it again, or there is no control
//! plane at all for a lead less delivery. No resumption is missed.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_clock::Clock;
use stek_core::access::Role;
use stek_core::keyset::KeyRecord;
use stek_core::name::KeysetName;
use stek_core::time::{Seconds, Timestamp};
use stek_testbed::{Bed, Database, OpenSsl, client};
use stek_testpg::{PostgresServer, create_database_on};
use stek_wire::admin::PolicyDocument;
use stekd::dev::node::KEYSET;
use stekd::dev::visitor::Visitor;
use stekd::roles::terminator::{Identity, Setup, Terminator};
use tokio_util::sync::CancellationToken;

/// In how many steps the time of the outage passes.
const STEPS: u32 = 96;

/// How long a manager whose passes fail rests between them at most, and how many more passes it is
/// given to find the database again.
const REST: Duration = Duration::from_secs(5);
const PASSES: u32 = 12;

/// How many passes have ended, however they did.
fn passes(bed: &Bed) -> f64 {
    let families = bed.node.registry().gather();
    let family = families.iter().find(|one| one.name() == "stek_manager_passes_total").unwrap();
    family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()
}

/// Lets the manager make one pass. Time stands still during it, however long it takes a connection
/// to come about.
async fn pass(bed: &Bed) {
    let before = passes(bed);
    bed.clock.advance(REST);
    let ended = async {
        let mut looks = tokio::time::interval(Duration::from_millis(2));
        while passes(bed) == before {
            looks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), ended).await.expect("a pass ends");
}

/// Visits each server of the bed with the newest ticket; both must resume, and give a new one.
async fn resume_everywhere(bed: &Bed, visitor: &Visitor, when: &str) {
    let servers = bed.node.servers.iter().map(|server| (server.name, &server.terminator));
    resume_at(servers, visitor, when).await;
}

async fn resume_at(
    servers: impl IntoIterator<Item = (&'static str, &Terminator)>,
    visitor: &Visitor,
    when: &str,
) {
    for (name, terminator) in servers {
        let visit = visitor.connect(name, terminator.address()).await.unwrap();
        assert!(visit.resumed, "{name}, {when}");
    }
}

fn week() -> PolicyDocument {
    PolicyDocument { session_lifetime_seconds: Some(7 * 24 * 3600), ..PolicyDocument::default() }
}

/// Lets time pass until the worst moment: a second before the manager mints, so that what is held
/// ends a lead later. Returns when that is.
fn to_the_worst_moment(bed: &Bed) -> Timestamp {
    let keyset = bed.keyset().unwrap();
    let last = keyset.keys().iter().map(|key| key.schedule.retire_at()).max().unwrap();
    let mint = last - keyset.policy().lead();
    bed.clock.advance(mint.since(bed.now()).to_std() - Duration::from_secs(1));
    last
}

/// A server that outlives the bed whose distribution it asks.
async fn server(bed: &Bed, name: &str, token: &Path) -> Terminator {
    let upstream = format!("https://localhost:{}", bed.node.ports().distribution.port());
    let setup = Setup {
        name: name.to_owned(),
        client: client(bed, &[upstream], token, name).unwrap(),
        keyset: KeysetName::try_new(KEYSET).unwrap(),
        identity: Identity::read(&bed.site.certificate(), &bed.site.private_key()).unwrap(),
        clock: Arc::clone(&bed.clock) as Arc<dyn Clock>,
    };
    let (address, registry) = (([127, 0, 0, 1], 0).into(), Registry::new());
    let server = Terminator::start(setup, address, &registry, CancellationToken::new());
    let server = server.await.unwrap();
    bed.until("the server has keys", || Ok(server.installed().is_some())).await.unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn no_control_plane_at_all_for_a_lead_less_delivery_misses_no_resumption() {
    let bed = Bed::start(Database::Sqlite, week()).await.unwrap();
    let (token, _) = bed.token("servers", Role::Terminator, Seconds::from_days(30)).await.unwrap();
    let servers = [server(&bed, "one", &token).await, server(&bed, "two", &token).await];
    let named = || ["one", "two"].into_iter().zip(&servers);
    let visitor = Visitor::new(&bed.site.authority()).unwrap();
    let policy = *bed.keyset().unwrap().policy();
    to_the_worst_moment(&bed);
    assert!(!visitor.connect("one", servers[0].address()).await.unwrap().resumed);
    resume_at(named(), &visitor, "before the outage").await;

    // Manager, distribution and database; time goes on.
    let clock = Arc::clone(&bed.clock);
    bed.stop().await.unwrap();
    let outage = policy.lead() - policy.urgent_lead();
    for step in 1..=STEPS {
        clock.advance(outage.to_std() / STEPS);
        resume_at(named(), &visitor, &format!("step {step} of the outage")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_a_lead_less_delivery_misses_no_resumption() {
    let mut server =
        tokio::task::spawn_blocking(PostgresServer::start_throwaway).await.unwrap().unwrap();
    let database = create_database_on(server.url()).await.unwrap();
    let bed = Bed::start_on(database.url(), week()).await.unwrap();
    let visitor = Visitor::new(&bed.site.authority()).unwrap();
    let first = &bed.node.servers[0];
    assert!(!visitor.connect(first.name, first.terminator.address()).await.unwrap().resumed);

    let policy = *bed.keyset().unwrap().policy();
    let last = to_the_worst_moment(&bed);
    let held = bed.keyset().unwrap().keys().len();
    resume_everywhere(&bed, &visitor, "before the outage").await;

    server.stop_immediate().unwrap();
    let found_again = Seconds::new(REST.as_secs() * u64::from(PASSES));
    let outage = policy.lead() - policy.urgent_lead() - found_again;
    for step in 1..=STEPS {
        bed.clock.advance(outage.to_std() / STEPS);
        resume_everywhere(&bed, &visitor, &format!("step {step} of the outage")).await;
    }
    assert_eq!(bed.keyset().unwrap().keys().len(), held, "nothing could be minted");

    server.restart().unwrap();
    let follows = |key: &KeyRecord| key.schedule.activate_at() == last;
    for _ in 0..PASSES {
        if !bed.keyset().unwrap().next_pending(bed.now()).is_some_and(follows) {
            pass(&bed).await;
        }
    }
    let next = *bed.keyset().unwrap().next_pending(bed.now()).unwrap();
    assert!(follows(&next), "{next:?} begins at {last}, where the others end");
    bed.servers_are_current().await.unwrap();
    resume_everywhere(&bed, &visitor, "after the outage").await;

    // Over the boundary without a gap: tickets are sealed under the new key at once.
    let before = bed.active_key().unwrap();
    bed.rotate_by_time().await.unwrap();
    assert_ne!(bed.active_key().unwrap(), before);
    resume_everywhere(&bed, &visitor, "under the new key").await;
    let openssl = OpenSsl::new(bed.site.authority(), bed.site.dir().join("session"));
    assert!(!openssl.begin(bed.node.servers[0].terminator.address()).await.unwrap().reused);
    assert!(openssl.offer(bed.node.servers[1].terminator.address()).await.unwrap().reused);
    bed.stop().await.unwrap();
    database.drop_now().await.unwrap();
}
