//! `stekd demo-revoke`: a hundred terminators hold the keys of a fleet, the keys are revoked, and it
//! is shown how long it takes until the last of them has dropped them and what a client sees of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use prometheus::Registry;
use stek_client::KeysetFollower;
use stek_clock::{Clock, SystemClock};
use stek_core::id::Revision;
use stek_core::name::KeysetName;
use stek_core::planner::Selection;
use stek_manager::KeysetChange;
use stek_wire::admin::PolicyDocument;
use tokio_util::sync::CancellationToken;

use crate::commands::table;
use crate::dev::node::{KEYSET, Node, Ports};
use crate::dev::site::Site;
use crate::dev::visitor::{Handshake, Visitor};
use crate::roles::distribution::client_config;

/// How many terminators there are, the two TLS servers among them.
const TERMINATORS: usize = 100;
/// How long any step may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the count is looked at.
const LOOK: Duration = Duration::from_millis(10);
/// Why the keys are revoked.
const REASON: &str = "demonstration: a core dump left the house";

/// Runs the demonstration.
pub(crate) async fn run() -> Result<()> {
    let dir = tempfile::tempdir().context("no temporary directory")?;
    let site = Site::open_or_create(dir.path())?;
    let policy = PolicyDocument {
        // Whatever ends by itself does so long after the story.
        rotation_period_seconds: Some(3600),
        ticket_lifetime_seconds: Some(3600),
        poll_interval_seconds: Some(1),
        clock_skew_seconds: Some(1),
        ..PolicyDocument::default()
    };
    let parts = site.assemble().await?;
    let node = Node::start(&site, parts, Ports::free(), policy, CancellationToken::new()).await?;
    let followers = followers(&node, &site)?;
    let shown = show(&node, &site).await;
    for follower in followers {
        follower.shutdown().await;
    }
    node.stop().await;
    shown
}

/// Terminators that only hold keys, beside the node's two TLS servers.
fn followers(node: &Node, site: &Site) -> Result<Vec<KeysetFollower>> {
    let keyset = KeysetName::try_new(KEYSET)?;
    let upstream = site.upstream(node.ports().distribution.port());
    let others = node.servers.len() + 1..=TERMINATORS;
    let start = |number| {
        let config = client_config(&upstream, Some(&format!("terminator-{number:03}")))?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        Ok(KeysetFollower::start(&config, keyset.clone(), clock, &Registry::new())?)
    };
    others.map(start).collect()
}

async fn show(node: &Node, site: &Site) -> Result<()> {
    let story = Story { node, visitor: Visitor::new(&site.authority())?, keyset: KEYSET };
    say(&format!("{TERMINATORS} terminators of one fleet fetch the keys of keyset {KEYSET}."));
    story.until_all_hold(None).await?;
    let first = story.visit(0).await?;
    ensure!(!first.resumed, "the first handshake was no full one");
    say("A client makes a full handshake with server-a and is given a ticket.");
    ensure!(story.visit(1).await?.resumed, "the session did not resume");
    say("It resumes at server-b: both hold the same keys.");

    let name = KeysetName::try_new(KEYSET)?;
    let all = KeysetChange::Revoke { selection: Selection::All, reason: REASON.into() };
    let cost = node.operations().cost(&name, &all).await?;
    say("");
    say(&format!("Revoking would end {} keys: {}.", cost.ends.len(), cost.sessions));
    say(&format!("Tickets would not be sealed for {} s.", cost.gap_seconds));
    let effect = node.operations().revoke(&name, Selection::All, REASON, "demo").await?;
    say("");
    say(&format!("stekd keyset revoke {KEYSET} --reason {REASON:?}"));
    let took = story.until_all_hold(Some(Revision::new(effect.revision))).await?;
    say(&format!("All {TERMINATORS} terminators have dropped the keys after {took:.2} s."));

    let refused = story.refusals();
    let after = story.visit(0).await?;
    ensure!(!after.resumed, "a session under a revoked key resumed");
    ensure!(story.refusals() > refused, "the ticket was not counted as revoked");
    say("");
    say("The client's next handshake is a full one; server-a counts its ticket as revoked.");
    story.until_sealed().await?;
    say("The fresh key has been out for the urgent lead: tickets are sealed again.");
    ensure!(!story.visit(0).await?.resumed, "there was no ticket to resume with");
    ensure!(story.visit(1).await?.resumed, "the session did not resume under the fresh key");
    say("One full handshake later the client resumes at server-b again.");
    Ok(())
}

struct Story<'a> {
    node: &'a Node,
    visitor: Visitor,
    keyset: &'static str,
}

impl Story<'_> {
    async fn visit(&self, server: usize) -> Result<Handshake> {
        let server = &self.node.servers[server];
        self.visitor.connect(server.name, server.terminator.address()).await
    }

    /// How many tickets the servers refused because their key was revoked.
    fn refusals(&self) -> u64 {
        let counts = self.node.servers.iter().flat_map(|server| server.opened());
        counts.filter(|(outcome, _)| outcome == "revoked").map(|(_, count)| count).sum()
    }

    /// Waits until every terminator holds the revision, or the newest; tells how many do as that
    /// changes, and how long it took in seconds.
    async fn until_all_hold(&self, revision: Option<Revision>) -> Result<f32> {
        let name = KeysetName::try_new(self.keyset)?;
        let begun = SystemClock.boot();
        let mut told = None;
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let seen = self.node.operations().terminators(&name, revision)?;
            let took = SystemClock.boot().saturating_sub(begun);
            let confirmed = seen.confirmed.unwrap_or(0);
            if revision.is_some() && told != Some(confirmed) {
                say(&format!("  {confirmed:>3}/{TERMINATORS} in {:.2} s", took.as_secs_f32()));
                told = Some(confirmed);
            }
            if confirmed >= TERMINATORS as u64 {
                return Ok(took.as_secs_f32());
            }
            if took > PATIENCE {
                bail!("{confirmed} of {TERMINATORS} terminators confirmed within {PATIENCE:?}");
            }
        }
    }

    /// Waits until a key seals again.
    async fn until_sealed(&self) -> Result<()> {
        let name = KeysetName::try_new(self.keyset)?;
        let begun = SystemClock.boot();
        let mut looks = tokio::time::interval(LOOK);
        loop {
            looks.tick().await;
            let now = self.node.fleet().now();
            let feed = self.node.feed().borrow().clone();
            let bundle = feed.as_ref().and_then(|feed| feed.keysets.get(&name));
            // A second more, for the servers' idea of the time may lie behind.
            let sealed = now - stek_core::time::Seconds::new(1);
            if bundle.is_some_and(|bundle| bundle.keyset().active(sealed).is_some()) {
                return Ok(());
            }
            ensure!(SystemClock.boot().saturating_sub(begun) < PATIENCE, "nothing seals");
        }
    }
}

fn say(text: &str) {
    // What nobody reads is not worth failing for.
    let _ = table::line(text);
}
