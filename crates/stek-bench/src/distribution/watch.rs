//! What ten thousand long-polls cost while nothing happens: memory and processor.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::distribution::light::{Light, Target};
use crate::distribution::machine::{BUSY_LIMIT, TOO_BUSY, cpu_seconds, resident_kib};
use crate::distribution::site::Site;
use crate::measure::instant;
use crate::report::{Report, STEK};

/// How many wait.
pub(crate) const CONNECTIONS: usize = 10_000;
/// How long each asks to wait, in seconds.
const WAIT: u32 = 55;
/// Handshakes under way at once.
const CONNECTING: usize = 32;
/// A span in which every long-poll is answered and asked anew once.
const IDLE: Duration = Duration::from_secs(60);
/// The bars.
const RSS_KIB: f64 = 24.0;
const IDLE_CPU_PERCENT: f64 = 2.0;

/// A change that reached somebody.
pub(crate) struct Change {
    /// Whom, numbered from zero.
    pub(crate) reader: usize,
    /// The entity tag of what came.
    pub(crate) etag: String,
    /// When it was there.
    pub(crate) at: Instant,
}

/// Connections that wait for a change, and who hears of each that gets one.
pub(crate) struct Watchers {
    readers: JoinSet<Result<()>>,
    pub(crate) changes: mpsc::UnboundedReceiver<Change>,
    stop: watch::Sender<bool>,
}

impl Watchers {
    /// Ends them all; an error that one of them met.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.stop.send_replace(true);
        while let Some(ended) = self.readers.join_next().await {
            ended??;
        }
        Ok(())
    }
}

/// Measures, and leaves the connections waiting.
pub(crate) async fn measure(report: &mut Report, site: &Site) -> Result<Watchers> {
    let target = site.distribution()?;
    let before = resident_kib(site.pid())?;
    let watchers = connect(&target).await?;
    let own = std::process::id();
    let (cpu, generator) = (cpu_seconds(site.pid())?, cpu_seconds(own)?);
    let begin = instant();
    tokio::time::sleep(IDLE).await;
    let took = begin.elapsed().as_secs_f64();
    let idle = 100.0 * (cpu_seconds(site.pid())? - cpu) / took;
    let busy = (cpu_seconds(own)? - generator) / took;
    let count = f64::from(u32::try_from(CONNECTIONS)?);
    let per_connection = (resident_kib(site.pid())? - before) / count;
    report.add("watch", "rss-per-conn", STEK, per_connection, "KiB");
    report.add("watch", "idle-cpu", STEK, idle, "%");
    println!("# watch: generator {:.0} % busy", busy * 100.0);
    // Of one that is too busy nobody knows whether it has asked as often as it should.
    if busy > BUSY_LIMIT {
        report.void("watch", "idle-cpu", STEK, TOO_BUSY);
    }
    let bar = format!("watch {per_connection:.1} KiB a connection (bar {RSS_KIB} KiB)");
    report.judge_by("watch", "rss-per-conn", bar, per_connection <= RSS_KIB);
    let bar = format!("watch {idle:.1} % of a core while idle (bar {IDLE_CPU_PERCENT} %)");
    report.judge_by("watch", "idle-cpu", bar, idle <= IDLE_CPU_PERCENT);
    Ok(watchers)
}

/// Connects all of them, and has each wait for a change of what is there now.
async fn connect(target: &Target) -> Result<Watchers> {
    let current = target.fetch(None).await?.etag;
    let (sender, changes) = mpsc::unbounded_channel();
    let (stop, stopped) = watch::channel(false);
    let places = Arc::new(Semaphore::new(CONNECTING));
    let mut readers = JoinSet::new();
    for number in 0..CONNECTIONS {
        let place = Arc::clone(&places).acquire_owned().await?;
        let reader = Reader {
            number,
            target: target.clone(),
            etag: current.clone(),
            changes: sender.clone(),
        };
        readers.spawn(reader.run(place, stopped.clone()));
    }
    // Each gives its place back when it is connected.
    let _all = places.acquire_many(u32::try_from(CONNECTING)?).await?;
    Ok(Watchers { readers, changes, stop })
}

struct Reader {
    number: usize,
    target: Target,
    etag: String,
    changes: mpsc::UnboundedSender<Change>,
}

impl Reader {
    async fn run(mut self, place: OwnedSemaphorePermit, stop: watch::Receiver<bool>) -> Result<()> {
        let mut light = Light::connect(&self.target).await?;
        drop(place);
        let mut stopped = stop.clone();
        tokio::select! {
            outcome = self.watch(&mut light) => outcome,
            _ = stopped.wait_for(|stop| *stop) => Ok(()),
        }
    }

    async fn watch(&mut self, light: &mut Light) -> Result<()> {
        loop {
            let answer = light.ask(&self.target.request(Some(&self.etag), Some(WAIT))).await?;
            match answer.status {
                304 => {}
                200 => {
                    self.etag = answer.etag;
                    // Nobody may be listening any more.
                    let (reader, etag) = (self.number, self.etag.clone());
                    let _ = self.changes.send(Change { reader, etag, at: instant() });
                }
                other => bail!("a long-poll was answered with {other}"),
            }
        }
    }
}
