//! `stekd dev`: manager, distribution and two sample terminators in one process, on loopback, with
//! an embedded database and certificates of its own.

pub(crate) mod certificates;
pub mod demo;
pub mod demo_revoke;
pub mod node;
pub mod site;
pub mod visitor;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use stek_wire::admin::PolicyDocument;
use tokio_util::sync::CancellationToken;

use crate::cli::DevArgs;
use crate::commands::table;
use crate::dev::node::{Node, Ports};
use crate::dev::site::Site;

/// Runs until a signal.
pub(crate) async fn run(asked: &DevArgs) -> Result<()> {
    crate::memory::lock();
    let site = Site::open_or_create(&asked.dir)?;
    let lifetime = asked.ticket_lifetime.unwrap_or(asked.rotation_period);
    let policy = PolicyDocument {
        rotation_period_seconds: Some(asked.rotation_period.as_secs()),
        ticket_lifetime_seconds: Some(lifetime.as_secs()),
        ..PolicyDocument::default()
    };
    let shutdown = CancellationToken::new();
    let parts = site.assemble().await?;
    let node = Node::start(&site, parts, ports(asked.port_base), policy, shutdown).await?;
    for line in node.welcome(&site) {
        table::line(&line)?;
    }
    node.run().await
}

/// The ports from `base` on, or free ones for 0.
fn ports(base: u16) -> Ports {
    if base == 0 {
        return Ports::free();
    }
    let at = |offset| SocketAddr::from((Ipv4Addr::LOCALHOST, base.saturating_add(offset)));
    Ports { admin: at(1), metrics: at(2), distribution: at(3), terminators: [at(4), at(5)] }
}
