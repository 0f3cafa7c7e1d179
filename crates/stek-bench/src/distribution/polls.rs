//! Requests per second that one core serves: polls that change nothing, and whole bundles.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::task::JoinSet;

use crate::distribution::bare::Bare;
use crate::distribution::light::{Light, Target};
use crate::distribution::machine::{BUSY_LIMIT, TOO_BUSY, cpu_seconds};
use crate::distribution::nginx::Nginx;
use crate::distribution::site::Site;
use crate::measure::{instant, median};
use crate::report::{Report, STEK};

const NGINX: &str = "nginx";
const BARE: &str = "bare-hyper";
/// Connections that ask, one request after another.
const CONNECTIONS: usize = 32;
/// How long one contender is loaded before the other.
const SPAN: Duration = Duration::from_millis(250);
/// How often each of them is.
const ROUNDS: usize = 81;
/// The bar: so many times what nginx serves.
const FACTOR: f64 = 1.0;

/// What one contender did in one round.
struct Round {
    per_second: f64,
    generator_busy: f64,
    server_busy: f64,
}

/// Measures both kinds of request on all contenders in turn.
pub(crate) async fn measure(
    report: &mut Report,
    site: &Site,
    nginx: &Nginx,
    bare: &Bare,
) -> Result<()> {
    let ours = site.distribution()?;
    let (theirs, least) = (ours.at(nginx.port), ours.at(bare.port));
    for (what, status) in [("poll304", 304), ("bundle200", 200)] {
        let mut rounds: [Vec<Round>; 3] = Default::default();
        let contenders = [(&ours, site.pid()), (&theirs, nginx.pid()), (&least, bare.pid())];
        for round in 0..ROUNDS {
            for turn in 0..contenders.len() {
                // To and fro, so that nobody always comes after the same.
                let at = if round % 2 == 0 { turn } else { contenders.len() - 1 - turn };
                let (target, pid) = contenders[at];
                rounds[at].push(load(target, status, pid).await?);
            }
        }
        let [ours, theirs, least] = &rounds;
        add(report, what, STEK, ours);
        add(report, what, NGINX, theirs);
        let beside_nginx = factor(ours, theirs);
        let bar = format!("{what}/1w {beside_nginx:.2}x nginx, round by round (bar {FACTOR:.1}x)");
        report.judge_by(what, "1w", bar, beside_nginx >= FACTOR);
        // Afterwards: the bar does not go by it, and it may be faster than the load that is made.
        add(report, what, BARE, least);
        println!("# {what}/1w/{STEK} is {:.2}x bare hyper, round by round", factor(ours, least));
    }
    Ok(())
}

/// So many times what `theirs` served `ours` did, in the middle one of all rounds: a machine that is
/// shared is faster and slower for seconds at a time, so only neighbours can be compared.
fn factor(ours: &[Round], theirs: &[Round]) -> f64 {
    let pairs = ours.iter().zip(theirs);
    median(&pairs.map(|(ours, theirs)| ours.per_second / theirs.per_second).collect::<Vec<_>>())
}

fn add(report: &mut Report, what: &str, contender: &'static str, rounds: &[Round]) {
    let middle = |of: fn(&Round) -> f64| median(&rounds.iter().map(of).collect::<Vec<_>>());
    let busy = middle(|round| round.generator_busy);
    report.add(what, "1w", contender, middle(|round| round.per_second), "req/s");
    let server = 100.0 * middle(|round| round.server_busy);
    println!("# {what}/1w/{contender}: generator {:.0} % busy, server {server:.0} %", busy * 100.0);
    if busy > BUSY_LIMIT {
        report.void(what, "1w", contender, TOO_BUSY);
    }
}

/// Loads `target` for one span.
async fn load(target: &Target, status: u16, server: u32) -> Result<Round> {
    let current = target.fetch(None).await?;
    let request = target.request((status == 304).then_some(current.etag.as_str()), None);
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(Light::connect(target).await?);
    }
    let (generator_before, server_before) =
        (cpu_seconds(std::process::id())?, cpu_seconds(server)?);
    let begin = instant();
    let mut tasks = JoinSet::new();
    for mut connection in connections {
        let request = request.clone();
        tasks.spawn(async move {
            let mut answers = 0_u32;
            while begin.elapsed() < SPAN {
                let got = connection.status(&request).await?;
                ensure!(got == status, "the answer is {got}, expected was {status}");
                answers += 1;
            }
            anyhow::Ok(answers)
        });
    }
    let mut answers = 0;
    while let Some(ended) = tasks.join_next().await {
        answers += ended??;
    }
    let took = begin.elapsed().as_secs_f64();
    Ok(Round {
        per_second: f64::from(answers) / took,
        generator_busy: (cpu_seconds(std::process::id())? - generator_before) / took,
        server_busy: (cpu_seconds(server)? - server_before) / took,
    })
}
