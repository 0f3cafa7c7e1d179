//! `stekd audit …`.

use std::cell::Cell;
use std::path::Path;

use anyhow::Result;
use reqwest::Method;
use stek_clock::{Clock, SystemClock};
use stek_core::audit::ChainLink;
use stek_core::time::{Seconds, Timestamp};
use stek_manager::{TrailQuery, list_offline, verify_offline};
use stek_wire::admin::{AuditList, VerdictDocument};

use crate::Refused;
use crate::cli::{AuditArgs, AuditCommand};
use crate::commands::manager_client::ManagerClient;
use crate::commands::{progress, table};
use crate::config::{self, ManagerConfig};
use crate::exit::Faulty;
use crate::roles::database;
use crate::roles::manager::read_cluster_secret;

/// Does what was asked and prints what came of it.
pub(crate) async fn run(asked: AuditArgs) -> Result<()> {
    let (output, profile) = (asked.reach.output, asked.reach.profile);
    match asked.command {
        AuditCommand::List { keyset, since, offline } => {
            let since = since.as_deref().map(instant).transpose()?;
            let line = Cell::new(0);
            let words = || format!("reading the audit trail, after line {}", line.get());
            let query = TrailQuery { after: 0, keyset, since };
            let read = async {
                match offline {
                    Some(config) => read_offline(&config, query, &line).await,
                    None => read(&ManagerClient::new(profile.as_ref())?, query, &line).await,
                }
            };
            let list = progress::show(words, read).await?;
            table::print(output, &list, list_table)
        }
        AuditCommand::Verify { anchor, offline } => {
            let anchor = anchor.as_deref().map(parse_anchor).transpose()?;
            let verify = async {
                match offline {
                    Some(config) => verify_alone(&config, anchor).await,
                    None => verify(&ManagerClient::new(profile.as_ref())?, anchor).await,
                }
            };
            let verdict = progress::show(|| "verifying the audit trail".to_owned(), verify).await?;
            table::print(output, &verdict, verdict_table)?;
            judge(&verdict, anchor)
        }
    }
}

fn parse_anchor(text: &str) -> Result<ChainLink> {
    ChainLink::parse(text)
        .map_err(|error| Refused(format!("--anchor {text:?} is not allowed: {error}")).into())
}

/// An instant, or a span before now.
fn instant(text: &str) -> Result<Timestamp> {
    let now = Timestamp::from_unix(SystemClock.wall_millis() / 1000);
    let past = || Seconds::parse(text).map(|span| now - span);
    Timestamp::parse(text).or_else(|_| past()).map_err(|_| {
        let allowed = "an RFC 3339 instant or a span such as 12h";
        Refused(format!("--since {text:?} is not allowed: {allowed}")).into()
    })
}

async fn read(manager: &ManagerClient, query: TrailQuery, line: &Cell<u64>) -> Result<AuditList> {
    let TrailQuery { mut after, keyset, since } = query;
    let mut all = AuditList { events: Vec::new(), unreadable: Vec::new(), next: None };
    loop {
        line.set(after);
        let mut path = format!("/admin/v1/audit?after={after}");
        if let Some(keyset) = &keyset {
            path.push_str(&format!("&keyset={keyset}"));
        }
        if let Some(since) = since {
            path.push_str(&format!("&since={since}"));
        }
        let page: AuditList = manager.ask(Method::GET, &path, None).await?;
        all.events.extend(page.events);
        all.unreadable.extend(page.unreadable);
        match page.next {
            Some(next) => after = next,
            None => return Ok(all),
        }
    }
}

async fn read_offline(config: &Path, mut query: TrailQuery, line: &Cell<u64>) -> Result<AuditList> {
    let config: ManagerConfig = config::read(config)?;
    let store = database::open(&config.database).await?;
    let mut all = AuditList { events: Vec::new(), unreadable: Vec::new(), next: None };
    loop {
        line.set(query.after);
        let page = list_offline(store.as_ref(), &query).await?;
        all.events.extend(page.events);
        all.unreadable.extend(page.unreadable);
        match page.next {
            Some(next) => query.after = next,
            None => return Ok(all),
        }
    }
}

async fn verify_alone(config: &Path, anchor: Option<ChainLink>) -> Result<VerdictDocument> {
    let config: ManagerConfig = config::read(config)?;
    let cluster = read_cluster_secret(&config.custody)?;
    let store = database::open(&config.database).await?;
    Ok(verify_offline(store.as_ref(), &cluster, anchor).await?)
}

async fn verify(manager: &ManagerClient, anchor: Option<ChainLink>) -> Result<VerdictDocument> {
    let (mut after, mut anchored_at, mut begin) = (0, None, None);
    loop {
        let mut path = format!("/admin/v1/audit/verify?after={after}");
        if let Some(anchor) = anchor {
            path.push_str(&format!("&anchor={anchor}"));
        }
        let mut verdict: VerdictDocument = manager.ask(Method::GET, &path, None).await?;
        anchored_at = anchored_at.or(verdict.anchored_at);
        let begin = *begin.get_or_insert((verdict.first, verdict.handed_over_at));
        if verdict.broken.is_some() || !verdict.more {
            verdict.anchored_at = anchored_at;
            (verdict.first, verdict.handed_over_at) = begin;
            return Ok(verdict);
        }
        after = verdict.verified_to;
    }
}

/// A chain that is broken, or does not hold the anchor, is a finding.
fn judge(verdict: &VerdictDocument, anchor: Option<ChainLink>) -> Result<()> {
    if let Some(broken) = &verdict.broken {
        let line = broken.sequence;
        return Err(
            Faulty(format!("the audit trail is broken at line {line}: {}", broken.why)).into()
        );
    }
    if let (Some(anchor), None) = (anchor, verdict.anchored_at) {
        let found = format!("no line of the audit trail has the link {anchor}");
        return Err(Faulty(format!("{found}: it was cut or written anew")).into());
    }
    Ok(())
}

fn list_table(list: &AuditList) -> String {
    let rows: Vec<Vec<String>> = list
        .events
        .iter()
        .map(|event| {
            let about = [event.keyset.as_deref(), event.key.as_deref()];
            let about: Vec<&str> = about.into_iter().flatten().collect();
            let line = event.sequence.to_string();
            let (at, actor, action) = (event.at.clone(), shown(&event.actor), event.action.clone());
            vec![line, at, actor, action, about.join(" "), shown(&event.reason)]
        })
        .collect();
    let mut text = table::columns(&["LINE", "AT", "WHO", "WHAT", "OF", "WHY"], &rows);
    for sequence in &list.unreadable {
        text.push_str(&format!("note: line {sequence} cannot be read\n"));
    }
    text
}

/// A text of the database without what would steer a terminal.
fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn verdict_table(verdict: &VerdictDocument) -> String {
    let VerdictDocument { first, verified_to, link, .. } = verdict;
    let mut text = String::new();
    let mut held = *first;
    if let Some(at) = verdict.handed_over_at.filter(|at| at >= first && verdict.broken.is_none()) {
        text.push_str(&format!(
            "lines {first} to {at} are there, but were linked under a cluster secret that is not \
             given: what they say is not verified\n"
        ));
        held = at + 1;
    }
    text.push_str(&format!("lines {held} to {verified_to} hold; link {link}\n"));
    if let Some(at) = verdict.anchored_at {
        text.push_str(&format!("the anchor is the link of line {at}\n"));
    }
    text
}
