//! How long a change takes to reach everybody: the light readers that wait, and real clients.

use std::collections::BTreeMap;
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
use crate::distribution::watch::{CONNECTIONS, Change, Watchers};
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
/// manager has committed anything. The generator is busy whenever ten thousand are woken; that
/// makes what is measured longer and never shorter, so no figure is void by it.
pub(crate) async fn measure(
    report: &mut Report,
    site: &Site,
    mut watchers: Watchers,
) -> Result<()> {
    let (sender, mut installed) = mpsc::unbounded_channel();
    let _clients = start_clients(site, &sender).await?;
    let (mut all_light, mut all_real, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        tokio::time::sleep(PAUSE).await;
        // What came of itself meanwhile, such as a key that was minted, is none of this change.
        while watchers.changes.try_recv().is_ok() {}
        while installed.try_recv().is_ok() {}
        let before = site.distribution()?.fetch(None).await?.etag;
        let begin = rotate(site).await?;
        let light = delays(&mut watchers.changes, CONNECTIONS, &before, begin);
        let real = delays(&mut installed, CLIENTS, &before, begin);
        let both = timeout(PATIENCE, async { tokio::try_join!(light, real) });
        let (light, real) = both.await.context("a change did not reach all")??;
        first.push(light.iter().copied().fold(f64::INFINITY, f64::min));
        all_light.extend(light);
        all_real.extend(real);
    }
    watchers.end().await?;
    let p99 = percentile_99(&mut all_light).max(percentile_99(&mut all_real));
    let longest = all_light.iter().chain(&all_real).copied().fold(0.0, f64::max);
    let first = median(&first);
    report.add("fanout", "p99", STEK, p99, "ms");
    report.add("fanout", "max", STEK, longest, "ms");
    report.add("commit-to-first", "median", STEK, first, "ms");
    report.judge(format!("fanout p99 {p99:.0} ms (bar {P99_MILLIS} ms)"), p99 <= P99_MILLIS);
    report.judge(format!("first {first:.1} ms (bar {FIRST_MILLIS} ms)"), first <= FIRST_MILLIS);
    Ok(())
}

/// How long after `begin` each of `count` had something else than `before` for the first time: who
/// has the change after it too before the slowest has this one counts once.
async fn delays(
    told: &mut mpsc::UnboundedReceiver<Change>,
    count: usize,
    before: &str,
    begin: Instant,
) -> Result<Vec<f64>> {
    let mut delays = BTreeMap::new();
    while delays.len() < count {
        let Change { reader, etag, at } = told.recv().await.context("those who are told ended")?;
        if etag != before {
            delays.entry(reader).or_insert_with(|| millis(at, begin));
        }
    }
    Ok(delays.into_values().collect())
}

/// What 99 % of `delays` are not over, all readers and changes taken together.
fn percentile_99(delays: &mut [f64]) -> f64 {
    delays.sort_by(f64::total_cmp);
    let position = (delays.len() * 99).div_ceil(100).saturating_sub(1);
    delays.get(position).copied().unwrap_or(f64::NAN)
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
    installed: &mpsc::UnboundedSender<Change>,
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
            while bundles.changed().await.is_ok() {
                let at = instant();
                let tag = bundles.borrow_and_update().as_ref().map(|bundle| bundle.tag());
                // As an answer would name it.
                let etag = tag.map(|tag| format!("\"{tag}\"")).unwrap_or_default();
                if told.send(Change { reader: number, etag, at }).is_err() {
                    return;
                }
            }
        });
    }
    Ok(clients)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::float_cmp, reason = "no arithmetic is done")]
    fn ninety_nine_of_a_hundred_are_not_over_it() {
        let mut delays: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile_99(&mut delays), 198.0);
        assert!(percentile_99(&mut []).is_nan());
    }

    #[tokio::test]
    async fn each_reader_counts_once_and_not_for_what_was_there_before() {
        let (sender, mut told) = mpsc::unbounded_channel();
        let begin = instant();
        for (reader, etag, after) in
            [(0, "old", 1), (0, "new", 5), (0, "newer", 6), (1, "old", 7), (1, "newer", 40)]
        {
            let at = begin + Duration::from_millis(after);
            sender.send(Change { reader, etag: etag.to_owned(), at }).unwrap();
        }
        assert_eq!(delays(&mut told, 2, "old", begin).await.unwrap(), [5.0, 40.0]);
    }
}
