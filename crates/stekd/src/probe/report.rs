//! Findings as a document for programs and as a table for people. Adds no judgement but one: what
//! counts as a fault.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde::Serialize;
use stek_core::time::Seconds;

use super::client::Tls;
use super::lifetime::Lifetime;
use super::matrix::{Matrix, Outcome, Reuse, Seen};
use super::target::Target;
use crate::commands::table::{Paint, columns};

/// All findings. Members are only ever added.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Whether there are no faults: every pair resumes wherever the first of it gives something to
    /// resume with, and no ticket ends before its hint.
    pub(crate) ok: bool,
    /// The name by which the servers were asked.
    pub(crate) server_name: String,
    /// What is at fault, in sentences.
    pub(crate) faults: Vec<String>,
    /// By version of TLS.
    pub(crate) versions: Vec<Version>,
}

/// The findings in one version of TLS.
#[derive(Debug, Serialize)]
pub(crate) struct Version {
    tls: &'static str,
    key_names: KeyNames,
    servers: Vec<Server>,
    pairs: Vec<Pair>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lifetimes: Vec<Measured>,
}

/// Whether servers name one ticket key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum KeyNames {
    /// All have one in common.
    Shared,
    /// Some two have none in common.
    Different,
    /// Tickets of some server begin with no name, or too few were seen.
    Unknown,
}

#[derive(Debug, Serialize)]
struct Server {
    server: String,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    cipher_suite: Option<String>,
    sessions_per_handshake: usize,
    ticket_bytes: Option<usize>,
    lifetime_hint_seconds: Option<u32>,
    key_names: Option<Vec<String>>,
    reuse: &'static str,
}

#[derive(Debug, Serialize)]
struct Pair {
    from: String,
    to: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

#[derive(Debug, Serialize)]
struct Measured {
    server: String,
    lifetime_hint_seconds: Option<u32>,
    last_resumed_at_seconds: Option<u64>,
    first_refused_at_seconds: Option<u64>,
    keeps_its_hint: bool,
    offers: Vec<Offer>,
}

#[derive(Debug, Serialize)]
struct Offer {
    age_seconds: u64,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

impl Outcome {
    pub(crate) fn as_str(&self) -> &'static str {
        match self {
            Self::Resumed => "resumed",
            Self::Full => "full",
            Self::NoTicket => "no-ticket",
            Self::Failed(_) => "failed",
            Self::NotSpoken => "not-spoken",
        }
    }

    fn detail(&self) -> Option<String> {
        match self {
            Self::Failed(why) => Some(why.clone()),
            _ => None,
        }
    }
}

impl Reuse {
    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

impl Report {
    /// No findings yet.
    pub(crate) fn new(server_name: String) -> Self {
        Self { ok: true, server_name, faults: Vec::new(), versions: Vec::new() }
    }

    /// Adds the faults that show only over all versions: a server may do without one of them, in
    /// which it is not spoken to or gives nothing, but not without all; and two servers need one in
    /// which something is taken from the one to the other.
    pub(crate) fn complete(mut self) -> Self {
        let [first, _, ..] = &self.versions[..] else { return self };
        let mut named = BTreeSet::new();
        for (index, server) in first.servers.iter().enumerate() {
            let mut everywhere = self.versions.iter().map(|version| &version.servers[index]);
            let name = &server.server;
            if everywhere.clone().all(|server| server.state == "not-spoken") {
                self.faults.push(format!("{name} speaks none of the versions of TLS"));
                named.insert(name);
            } else if everywhere.all(|server| {
                server.state == "not-spoken"
                    || (server.state == "seen" && server.sessions_per_handshake == 0)
            }) {
                self.faults.push(format!("{name} gives nothing to resume with"));
                named.insert(name);
            }
        }
        for (index, Pair { from, to, .. }) in first.pairs.iter().enumerate() {
            let mut everywhere = self.versions.iter().map(|version| version.pairs[index].outcome);
            let untried = everywhere.all(|outcome| ["not-spoken", "no-ticket"].contains(&outcome));
            if untried && !named.contains(from) && !named.contains(to) {
                let none = "no version of TLS in which the first gives what the second could take";
                self.faults.push(format!("{from} → {to}: {none}"));
            }
        }
        self.ok = self.faults.is_empty();
        self
    }

    /// Whether any server spoke any version that was asked for.
    pub(crate) fn spoken(&self) -> bool {
        let mut servers = self.versions.iter().flat_map(|version| &version.servers);
        servers.any(|server| server.state == "seen")
    }

    /// Adds what was found in one version. A server that does not speak it, or gives nothing to
    /// resume with in it, is at fault only if it is the one version asked for, which whoever asks
    /// says by `demanded`.
    pub(crate) fn add(
        &mut self,
        tls: Tls,
        targets: &[Target],
        matrix: &Matrix,
        lifetimes: &[Lifetime],
        demanded: bool,
    ) {
        let names: Vec<_> = matrix.seen.iter().filter(|seen| seen.failure.is_none()).collect();
        let key_names = compare(&names);
        let mut pairs = Vec::new();
        for (from, row) in targets.iter().zip(&matrix.pairs) {
            for (to, outcome) in targets.iter().zip(row) {
                if let Some(fault) = fault(outcome, key_names, demanded) {
                    let tls = tls.as_str();
                    self.faults.push(format!("{from} → {to} in TLS {tls}: {fault}"));
                }
                let (from, to) = (from.to_string(), to.to_string());
                pairs.push(Pair { from, to, outcome: outcome.as_str(), detail: outcome.detail() });
            }
        }
        let mut measured = Vec::new();
        for found in lifetimes {
            let server = &targets[found.server];
            if found.breaks_its_word() {
                self.faults.push(format!(
                    "{server} in TLS {}: tickets end before their hint of {}",
                    tls.as_str(),
                    found
                        .hint
                        .map_or_else(String::new, |hint| Seconds::new(hint.into()).to_string()),
                ));
            }
            measured.push(Measured::new(server, found));
        }
        let servers =
            targets.iter().zip(&matrix.seen).map(|(target, seen)| Server::new(target, seen));
        let servers = servers.collect();
        let tls = tls.as_str();
        self.versions.push(Version { tls, key_names, servers, pairs, lifetimes: measured });
        self.ok = self.faults.is_empty();
    }

    /// The same for people.
    pub(crate) fn table(&self, paint: Paint) -> String {
        let mut text = String::new();
        for version in &self.versions {
            version.table(paint, &mut text);
        }
        if self.ok {
            text.push_str(&paint.good("no faults"));
            text.push('\n');
        }
        text
    }
}

/// What is wrong with a pair.
fn fault(outcome: &Outcome, key_names: KeyNames, demanded: bool) -> Option<String> {
    match outcome {
        Outcome::Resumed => None,
        Outcome::NotSpoken | Outcome::NoTicket if !demanded => None,
        Outcome::NotSpoken => Some("a server does not speak it".into()),
        Outcome::NoTicket => Some("the first gives nothing to resume with".into()),
        Outcome::Failed(why) => Some(why.clone()),
        Outcome::Full if key_names == KeyNames::Different => {
            Some("a full handshake; the servers seal under different keys".into())
        }
        Outcome::Full => Some("a full handshake".into()),
    }
}

/// Whether all servers have a key name in common.
fn compare(seen: &[&Seen]) -> KeyNames {
    let names: Option<Vec<BTreeSet<_>>> = seen.iter().map(|seen| seen.key_names()).collect();
    let Some(names) = names.filter(|names| !names.is_empty()) else { return KeyNames::Unknown };
    let shared = |a: &BTreeSet<_>, b: &BTreeSet<_>| !a.is_disjoint(b);
    if names.iter().all(|a| names.iter().all(|b| shared(a, b))) {
        KeyNames::Shared
    } else {
        KeyNames::Different
    }
}

fn hex(name: &[u8]) -> String {
    name.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl Server {
    fn new(target: &Target, seen: &Seen) -> Self {
        let state = seen.failure.as_ref().map_or("seen", Outcome::as_str);
        let names = seen.key_names();
        Self {
            server: target.to_string(),
            state,
            detail: seen.failure.as_ref().and_then(Outcome::detail),
            cipher_suite: seen.suite.clone(),
            sessions_per_handshake: seen.sessions_per_handshake,
            ticket_bytes: seen.ticket_bytes,
            lifetime_hint_seconds: seen.hint,
            key_names: names.map(|names| names.iter().map(|name| hex(name)).collect()),
            reuse: seen.reuse.as_str(),
        }
    }
}

impl Measured {
    fn new(server: &Target, found: &Lifetime) -> Self {
        let offers = found.offers.iter().map(|(age, outcome)| Offer {
            age_seconds: age.as_secs(),
            outcome: outcome.as_str(),
            detail: outcome.detail(),
        });
        Self {
            server: server.to_string(),
            lifetime_hint_seconds: found.hint,
            last_resumed_at_seconds: found.resumed_at().map(Seconds::as_secs),
            first_refused_at_seconds: found.refused_at().map(Seconds::as_secs),
            keeps_its_hint: !found.breaks_its_word(),
            offers: offers.collect(),
        }
    }
}

fn span(seconds: Option<u64>) -> String {
    seconds.map_or_else(|| "–".into(), |seconds| Seconds::new(seconds).to_string())
}

impl Version {
    fn table(&self, paint: Paint, text: &mut String) {
        let mut heading = vec!["FROM \\ TO"];
        heading.extend(self.servers.iter().map(|server| server.server.as_str()));
        let rows = self.servers.iter().map(|from| {
            let row = self.pairs.iter().filter(|pair| pair.from == from.server);
            let cells = row.map(|pair| pair.outcome.to_owned());
            std::iter::once(from.server.clone()).chain(cells).collect()
        });
        let matrix = paint.words(&columns(&heading, &rows.collect::<Vec<_>>()));
        let heading =
            ["SERVER", "CIPHER SUITE", "SESSIONS", "TICKET", "HINT", "TWICE", "KEY NAMES"];
        let rows: Vec<_> = self.servers.iter().map(Server::row).collect();
        let tls = self.tls;
        let key_names = match self.key_names {
            KeyNames::Shared if self.servers.len() == 1 => "the server names its ticket key",
            KeyNames::Shared => "the servers name a common ticket key",
            KeyNames::Different => "the servers name different ticket keys",
            KeyNames::Unknown => "no key names to compare",
        };
        // Writing to a string does not fail.
        let _ = write!(text, "TLS {tls}\n{matrix}\n{}{key_names}\n\n", columns(&heading, &rows));
        if !self.lifetimes.is_empty() {
            let heading = ["SERVER", "HINT", "LAST RESUMED AT", "FIRST REFUSED AT", "HINT KEPT"];
            let rows: Vec<_> = self.lifetimes.iter().map(Measured::row).collect();
            let _ = writeln!(text, "{}", paint.words(&columns(&heading, &rows)));
        }
    }
}

impl Server {
    fn row(&self) -> Vec<String> {
        if self.state != "seen" {
            let detail = self.detail.as_ref().map_or_else(String::new, |why| format!(": {why}"));
            return vec![self.server.clone(), format!("{}{detail}", self.state)];
        }
        vec![
            self.server.clone(),
            self.cipher_suite.clone().unwrap_or_default(),
            self.sessions_per_handshake.to_string(),
            self.ticket_bytes.map_or_else(|| "–".into(), |bytes| format!("{bytes} B")),
            span(self.lifetime_hint_seconds.map(u64::from)),
            self.reuse.to_owned(),
            self.key_names.as_ref().map_or_else(|| "–".into(), |names| names.join(" ")),
        ]
    }
}

impl Measured {
    fn row(&self) -> Vec<String> {
        vec![
            self.server.clone(),
            span(self.lifetime_hint_seconds.map(u64::from)),
            span(self.last_resumed_at_seconds),
            span(self.first_refused_at_seconds),
            if self.keeps_its_hint { "yes" } else { "no" }.to_owned(),
        ]
    }
}
