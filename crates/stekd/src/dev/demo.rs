//! `stekd demo`: a client hops between two servers of one fleet while its keys rotate every ten
//! seconds, and is expected to resume each time.

mod report;
mod screen;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use stek_clock::{Clock, SystemClock};
use stek_core::id::Kcv;
use stek_core::name::KeysetName;
use stek_core::time::Seconds;
use stek_wire::admin::PolicyDocument;
use tokio_util::sync::CancellationToken;

use crate::cli::DemoArgs;
use crate::commands::table;
use crate::dev::demo::report::{Kind, Report, Visit};
use crate::dev::demo::screen::{KeyLine, Screen};
use crate::dev::node::{KEYSET, Node, Ports, Server};
use crate::dev::site::Site;
use crate::dev::visitor::{Handshake, Visitor};

/// How long one key seals.
const ROTATION: Seconds = Seconds::new(10);
/// How long a ticket opens.
const LIFETIME: Seconds = Seconds::new(20);
/// How far apart clocks may be.
const SKEW: Seconds = Seconds::new(1);
/// How often the client connects.
const HOP: Duration = Duration::from_secs(1);

/// Runs the demonstration.
pub(crate) async fn run(asked: &DemoArgs) -> Result<()> {
    if asked.duration < ROTATION.times(2) {
        let need = format!("--duration is {}, allowed is 20s and more", asked.duration);
        return Err(crate::Refused(need).into());
    }
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let site = Site::open_or_create(dir.path())?;
    let policy = PolicyDocument {
        rotation_period_seconds: Some(ROTATION.as_secs()),
        ticket_lifetime_seconds: Some(LIFETIME.as_secs()),
        clock_skew_seconds: Some(SKEW.as_secs()),
        session_lifetime_seconds: Some(Seconds::from_hours(1).as_secs()),
        ..PolicyDocument::default()
    };
    let parts = site.assemble().await?;
    let node = Node::start(&site, parts, Ports::free(), policy, CancellationToken::new()).await?;
    for line in introduction(asked, &node, &site) {
        table::line(&line)?;
    }
    let report = Hop::new(&node, &site)?.run(asked.duration).await?;
    node.stop().await;
    for line in report.summary() {
        table::line(&line)?;
    }
    let faults = report.faults(asked.duration, ROTATION);
    if faults.is_empty() { Ok(()) } else { bail!("{}", faults.join("; ")) }
}

fn introduction(asked: &DemoArgs, node: &Node, site: &Site) -> Vec<String> {
    let mut lines = vec![
        format!(
            "A key-manager rotates session-ticket keys every {ROTATION}; a ticket opens for \
             {LIFETIME}. Two TLS servers poll them."
        ),
        format!("A client hops between the servers for {}. By hand, meanwhile:", asked.duration),
    ];
    lines.extend(node.openssl_lines(site));
    lines.push(String::new());
    lines
}

/// The client on its way, and what it has seen.
struct Hop<'a> {
    node: &'a Node,
    visitor: Visitor,
    report: Report,
    screen: Screen,
    started: Duration,
    active: Option<Kcv>,
    stale_tried: bool,
}

impl<'a> Hop<'a> {
    fn new(node: &'a Node, site: &Site) -> Result<Self> {
        Ok(Self {
            node,
            visitor: Visitor::new(&site.authority())?,
            report: Report::default(),
            screen: Screen::new(),
            started: SystemClock.boot(),
            active: None,
            stale_tried: false,
        })
    }

    async fn run(mut self, duration: Seconds) -> Result<Report> {
        let mut next = self.started;
        while self.elapsed() < duration.to_std() {
            self.watch_rotation();
            let server = &self.node.servers[self.report.visits() % self.node.servers.len()];
            let visit = self.visit(server).await?;
            self.screen.visit(&visit, &self.keys());
            self.report.add(visit);
            self.try_stale_ticket().await?;
            next += HOP;
            SystemClock.sleep_until(next).await;
        }
        self.watch_rotation();
        Ok(self.report)
    }

    fn elapsed(&self) -> Duration {
        SystemClock.boot().saturating_sub(self.started)
    }

    async fn visit(&self, server: &Server) -> Result<Visit> {
        let before = server.opened();
        let handshake = self.visitor.connect(server.name, server.terminator.address()).await?;
        let after = server.opened();
        Ok(self.describe(server, handshake, &before, &after, Kind::Hop))
    }

    fn describe(
        &self,
        server: &Server,
        handshake: Handshake,
        before: &[(String, u64)],
        after: &[(String, u64)],
        kind: Kind,
    ) -> Visit {
        let outcome = after.iter().find(|(name, count)| {
            before.iter().all(|(earlier, had)| earlier != name || had < count) && *count > 0
        });
        Visit {
            at: self.elapsed(),
            server: server.name,
            resumed: handshake.resumed,
            issuer: handshake.issuer,
            outcome: outcome.map(|(name, _)| name.clone()),
            kind,
        }
    }

    /// A client that keeps a ticket too long: on a clock that stands still it offers one of its
    /// first, and no server may take it.
    async fn try_stale_ticket(&mut self) -> Result<()> {
        let too_old = (LIFETIME + SKEW + Seconds::new(2)).to_std();
        if self.stale_tried || self.elapsed() < too_old {
            return Ok(());
        }
        self.stale_tried = true;
        for server in &self.node.servers {
            let before = server.opened();
            let address = server.terminator.address();
            let handshake = self.visitor.connect_with_stale_ticket(server.name, address).await?;
            let after = server.opened();
            let visit = self.describe(server, handshake, &before, &after, Kind::Stale);
            self.screen.visit(&visit, &self.keys());
            self.report.add(visit);
        }
        Ok(())
    }

    fn watch_rotation(&mut self) {
        let now = self.node.fleet().now();
        let Some(keyset) = self.keyset() else { return };
        let active = keyset.active(now).map(|key| key.kcv);
        if let (Some(before), Some(after)) = (self.active, active)
            && before != after
        {
            self.report.rotated();
            self.screen.rotated(self.elapsed(), before, after);
        }
        self.active = active.or(self.active);
    }

    fn keyset(&self) -> Option<stek_core::keyset::Keyset> {
        let feed = self.node.feed();
        let state = feed.borrow().clone()?;
        let bundle = state.keysets.get(&KeysetName::try_new(KEYSET).ok()?)?;
        Some(bundle.keyset().clone())
    }

    fn keys(&self) -> Vec<KeyLine> {
        let now = self.node.fleet().now();
        let Some(keyset) = self.keyset() else { return Vec::new() };
        keyset.keys().iter().map(|key| KeyLine::new(key, now)).collect()
    }
}
