//! How long a change takes to reach everybody: the light readers that wait, and real clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use prometheus::Registry;
use stek_client::{ClientConfig, ClientOptions, KeysetFollower};
use stek_clock::SystemClock;
use stek_core::name::{InstanceName, KeysetName};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::distribution::light::Light;
use crate::distribution::site::{KEYSET, Site};
use crate::distribution::watch::{CONNECTIONS, Watchers};
use crate::measure::{instant, median};
use crate::report::{Report, STEK};

/// Followers as terminators use them, which verify and install.
const CLIENTS: usize = 100;
/// Changes that are made.
const CHANGES: usize = 9;
/// Time between them: an encrypt period is a second at least, and the readers shall wait again.
const PAUSE: Duration = Duration::from_secs(3);
/// How long one change may take to reach all.
const PATIENCE: Duration = Duration::from_secs(30);
/// The bars.
const P99_MILLIS: f64 = 1000.0;
const FIRST_MILLIS: f64 = 20.0;

/// Rotates, and measures from the instant at which the operator's request is sent, before the
/// manager has committed anything.
pub(crate) async fn measure(
    report: &mut Report,
    site: &Site,
    mut watchers: Watchers,
) -> Result<()> {
    let (sender, mut installed) = mpsc::unbounded_channel();
    let _clients = start_clients(site, &sender).await?;
    let (mut p99, mut first) = (Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        tokio::time::sleep(PAUSE).await;
        while installed.try_recv().is_ok() {}
        let begin = rotate(site).await?;
        let light = async {
            let mut delays = Vec::with_capacity(CONNECTIONS);
            while delays.len() < CONNECTIONS {
                let (_, at) = watchers.changes.recv().await.context("the readers ended")?;
                delays.push(millis(at, begin));
            }
            anyhow::Ok(delays)
        };
        let real = async {
            let mut delays = Vec::with_capacity(CLIENTS);
            while delays.len() < CLIENTS {
                delays.push(millis(installed.recv().await.context("the clients ended")?, begin));
            }
            anyhow::Ok(delays)
        };
        let both = timeout(PATIENCE, async { tokio::try_join!(light, real) });
        let (mut light, mut real) = both.await.context("a change did not reach all")??;
        light.sort_by(f64::total_cmp);
        real.sort_by(f64::total_cmp);
        first.push(light.first().copied().unwrap_or(f64::NAN));
        let of_readers = light.get(CONNECTIONS * 99 / 100 - 1).copied().unwrap_or(f64::NAN);
        p99.push(of_readers.max(real.last().copied().unwrap_or(f64::NAN)));
    }
    watchers.end().await?;
    let (p99, first) = (median(&p99), median(&first));
    report.add("fanout", "p99", STEK, p99, "ms");
    report.add("commit-to-first", "median", STEK, first, "ms");
    report.judge(format!("fanout p99 {p99:.0} ms (bar {P99_MILLIS} ms)"), p99 <= P99_MILLIS);
    report.judge(format!("first {first:.1} ms (bar {FIRST_MILLIS} ms)"), first <= FIRST_MILLIS);
    Ok(())
}

fn millis(at: Instant, begin: Instant) -> f64 {
    at.saturating_duration_since(begin).as_secs_f64() * 1e3
}

/// Asks the manager to rotate, on a connection that is there already; when that was.
async fn rotate(site: &Site) -> Result<Instant> {
    let target = site.rotate()?;
    let mut operator = Light::connect(&target).await?;
    let begin = instant();
    let answer = timeout(PATIENCE, operator.ask(&target.request(None, None))).await??;
    let said = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(answer.status == 200, "rotating was answered with {}: {said}", answer.status);
    Ok(begin)
}

/// Starts the clients and waits until each has keys; from then on each installation is told.
async fn start_clients(
    site: &Site,
    installed: &mpsc::UnboundedSender<Instant>,
) -> Result<JoinSet<()>> {
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let options = ClientOptions {
            upstreams: vec![site.url()],
            roots: vec![site.authority()],
            token: Some(site.token_file("terminator")),
            certificate: None,
            wait: None,
            max_body_bytes: None,
            instance: InstanceName::try_new(&format!("client-{number}"))?,
        };
        let keyset = KeysetName::try_new(KEYSET)?;
        let config = ClientConfig::try_new(&options)?;
        let clock = Arc::new(SystemClock);
        let follower = KeysetFollower::start(&config, keyset, clock, &Registry::new())?;
        timeout(PATIENCE, follower.ready()).await.context("a client got no keys")??;
        let told = installed.clone();
        clients.spawn(async move {
            let mut bundles = follower.bundles();
            bundles.mark_unchanged();
            while bundles.changed().await.is_ok() && told.send(instant()).is_ok() {}
        });
    }
    Ok(clients)
}
