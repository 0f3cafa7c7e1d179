//! A key whose check value does not fit is refused at the next door, wherever it was changed on its
//! way: in the feed, in the bundle, in the database. What was good before stays.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::Registry;
use stek_clock::Clock;
use stek_core::access::Role;
use stek_core::id::Revision;
use stek_core::time::Seconds;
use stek_testbed::{Bed, Tier, client};
use stek_testpg::create_database;
use stek_wire::admin::PolicyDocument;
use stekd::dev::visitor::Visitor;
use stekd::roles::terminator::{Identity, Setup, Terminator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::clocks::{POLICY, keyset, value};

const KCV: &[u8] = b"\"kcv\":\"";

/// Somebody between a server and those who ask it, who changes each check value while he may.
struct Meddler {
    url: String,
    meddles: Arc<AtomicBool>,
}

impl Meddler {
    async fn before(url: &str) -> Self {
        let upstream: SocketAddr = url.strip_prefix("http://").unwrap().parse().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let meddles = Arc::new(AtomicBool::new(false));
        let shared = Arc::clone(&meddles);
        tokio::spawn(async move {
            while let Ok((asking, _)) = listener.accept().await {
                let answering = TcpStream::connect(upstream).await.unwrap();
                tokio::spawn(pass_on(asking, answering, Arc::clone(&shared)));
            }
        });
        Self { url, meddles }
    }

    fn meddle(&self, meddles: bool) {
        self.meddles.store(meddles, Ordering::SeqCst);
    }
}

/// Hands on both ways until one side ends.
async fn pass_on(asking: TcpStream, answering: TcpStream, meddles: Arc<AtomicBool>) {
    let (mut questions, mut back) = asking.into_split();
    let (mut answers, mut forth) = answering.into_split();
    tokio::spawn(async move {
        // The end of either side is all the same.
        let _ = tokio::io::copy(&mut questions, &mut forth).await;
    });
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = answers.read(&mut bytes).await {
        let part = &mut bytes[..count];
        if meddles.load(Ordering::SeqCst) {
            let found: Vec<_> = part.windows(KCV.len()).enumerate().collect();
            let found: Vec<_> =
                found.into_iter().filter(|(_, one)| *one == KCV).map(|(at, _)| at).collect();
            for at in found {
                if let Some(digit) = part.get_mut(at + KCV.len()) {
                    *digit = if *digit == b'0' { b'1' } else { b'0' };
                }
            }
        }
        if back.write_all(part).await.is_err() {
            return;
        }
    }
}

fn refused(registry: &Registry) -> f64 {
    value(registry, "stek_client_refused_bundles_total", Some("wrong-kcv"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_changed_on_its_way_is_refused_at_the_next_door() {
    let database = create_database().await.unwrap();
    let bed = Bed::start_on(database.url(), POLICY).await.unwrap();
    let life = Seconds::from_days(300);
    let (tier_token, _) = bed.token("replica", Role::Distribution, life).await.unwrap();
    let (edge_token, _) = bed.token("edge", Role::Terminator, life).await.unwrap();
    let manager = format!("https://localhost:{}", bed.node.ports().admin.port());
    let central = Tier::start(&bed, &[manager], &tier_token, "central").await.unwrap();
    let feeds = Meddler::before(&central.url).await;
    let upstream = [feeds.url.clone()];
    let regional = Tier::start(&bed, &upstream, &tier_token, "regional").await.unwrap();
    let bundles = Meddler::before(&regional.url).await;
    let (registry, shutdown) = (Registry::new(), CancellationToken::new());
    let identity = Identity::read(&bed.site.certificate(), &bed.site.private_key()).unwrap();
    let setup = Setup {
        name: "edge".to_owned(),
        client: client(&bed, std::slice::from_ref(&bundles.url), &edge_token, "edge").unwrap(),
        keyset: keyset(),
        identity,
        clock: Arc::clone(&bed.clock) as Arc<dyn Clock>,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let edge = Terminator::start(setup, address, &registry, shutdown.clone()).await.unwrap();
    let published = || {
        let feed = bed.node.feed().borrow().clone().unwrap();
        feed.keysets[&keyset()].tag().revision
    };
    let is_current = || Ok(edge.installed() == Some(published()));
    bed.until("the edge has keys", is_current).await.unwrap();
    let visitor = Visitor::new(&bed.site.authority()).unwrap();
    let resumes = async || visitor.connect("edge", edge.address()).await.unwrap().resumed;
    assert!(!resumes().await, "the first visit");

    for (meddler, door) in [(&feeds, &regional.registry), (&bundles, &registry)] {
        let before = edge.installed();
        bed.clock.advance(Duration::from_secs(60));
        meddler.meddle(true);
        let effect = bed.node.operations().rotate(&keyset(), "test").await.unwrap();
        bed.until("it is refused", || Ok(refused(door) > 0.0)).await.unwrap();
        assert_eq!(edge.installed(), before, "the last good state stays");
        assert!(resumes().await, "and is used");
        meddler.meddle(false);
        let rotated = Some(Revision::new(effect.revision));
        bed.until("it comes as it is", || Ok(edge.installed() >= rotated)).await.unwrap();
        assert!(resumes().await);
    }

    let pending = *bed.keyset().unwrap().next_pending(bed.now()).unwrap();
    let active = bed.active_key().unwrap();
    let mut raw = database.connect().await.unwrap();
    let change = "UPDATE ticket_keys SET kcv = decode(repeat('07', 8), 'hex')";
    raw.execute(&format!("{change} WHERE id = '{}'", pending.id)).await.unwrap();
    let policy = PolicyDocument { session_lifetime_seconds: Some(6 * 86_400), ..POLICY };
    let effect = bed.node.operations().change_policy(&keyset(), policy, "test").await.unwrap();
    bed.until("the manager refuses it", || {
        let failures = value(bed.node.registry(), "stek_manager_unwrap_failures_total", None);
        Ok(failures > 0.0 && edge.installed() == Some(Revision::new(effect.revision)))
    })
    .await
    .unwrap();
    assert!(bed.keyset().unwrap().keys().iter().all(|key| key.id != pending.id), "left out");
    assert_eq!(bed.active_key().unwrap(), active, "the others serve");
    assert!(resumes().await);

    shutdown.cancel();
    edge.stopped().await;
    regional.stop().await;
    central.stop().await;
    bed.stop().await.unwrap();
    database.drop_now().await.unwrap();
}
