//! Resumes from each server to each, and looks at the tickets on the way.

use std::collections::BTreeSet;

use super::client::{Client, Tls, Visit, VisitError};
use super::target::Target;
use super::wallet::Session;

/// What a pair came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The session of the first went on at the second.
    Resumed,
    /// The second did not take it up: a full handshake.
    Full,
    /// The first gave nothing to resume with.
    NoTicket,
    /// No handshake; why.
    Failed(String),
    /// One of the two does not speak this version of TLS.
    NotSpoken,
}

/// Whether a server takes up one session more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reuse {
    /// It does.
    Accepted,
    /// It does not: sessions are for single use.
    Refused,
    /// It could not be found out.
    Unknown,
}

/// What was seen of one server.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Why there was no first connection.
    pub(crate) failure: Option<Outcome>,
    /// Its cipher suite.
    pub(crate) suite: Option<String>,
    /// How many sessions it gives after a full handshake.
    pub(crate) sessions_per_handshake: usize,
    /// Bytes of its tickets; `None` without tickets.
    pub(crate) ticket_bytes: Option<usize>,
    /// Its first lifetime hint, in seconds; `None` if it gives none.
    pub(crate) hint: Option<u32>,
    /// The first 16 bytes of each ticket that it sent.
    names: Vec<[u8; 16]>,
    /// Whether it takes up one session more than once.
    pub(crate) reuse: Reuse,
}

impl Seen {
    /// The names of the keys under which it sealed. `None` where tickets do not begin with a name:
    /// then no two of them begin alike. One ticket alone tells nothing.
    pub(crate) fn key_names(&self) -> Option<BTreeSet<[u8; 16]>> {
        let distinct: BTreeSet<_> = self.names.iter().copied().collect();
        (distinct.len() < self.names.len()).then_some(distinct)
    }

    fn note(&mut self, visit: &Visit) {
        let tickets = visit.sessions.iter().filter_map(|session| session.ticket.as_ref());
        self.names.extend(tickets.filter_map(|ticket| ticket.key_name()));
    }
}

/// What was found out in one version of TLS.
#[derive(Debug)]
pub(crate) struct Matrix {
    /// By server.
    pub(crate) seen: Vec<Seen>,
    /// By first and second server.
    pub(crate) pairs: Vec<Vec<Outcome>>,
}

/// Tries every ordered pair of `targets`; calls `done` after each with how many are through.
pub(crate) async fn measure(
    client: &Client,
    targets: &[Target],
    tls: Tls,
    mut done: impl FnMut(usize),
) -> Matrix {
    let prober = Prober { client, targets, tls };
    let mut stocks = Vec::new();
    for target in targets {
        stocks.push(prober.begin(target).await);
    }
    let mut pairs = Vec::new();
    for first in 0..targets.len() {
        let mut row = Vec::new();
        for second in 0..targets.len() {
            row.push(prober.pair(&mut stocks, first, second).await);
            done(first * targets.len() + second + 1);
        }
        pairs.push(row);
    }
    Matrix { seen: stocks.into_iter().map(|stock| stock.seen).collect(), pairs }
}

/// Sessions of one server that nobody has offered yet, and what is known of it.
struct Stock {
    sessions: Vec<Session>,
    seen: Seen,
}

struct Prober<'a> {
    client: &'a Client,
    targets: &'a [Target],
    tls: Tls,
}

impl Prober<'_> {
    /// A full handshake, from which the first sessions come.
    async fn begin(&self, target: &Target) -> Stock {
        let mut seen = Seen {
            failure: None,
            suite: None,
            sessions_per_handshake: 0,
            ticket_bytes: None,
            hint: None,
            names: Vec::new(),
            reuse: Reuse::Unknown,
        };
        let mut sessions = match self.client.visit(target, self.tls, None).await {
            Ok(visit) => {
                seen.note(&visit);
                seen.sessions_per_handshake = visit.sessions.len();
                let ticket = visit.sessions.iter().find_map(|session| session.ticket.as_ref());
                seen.ticket_bytes = ticket.map(|ticket| ticket.ticket.len());
                seen.hint = visit.sessions.iter().find_map(Session::hint);
                seen.suite = Some(visit.suite);
                visit.sessions
            }
            Err(error) => {
                seen.failure = Some(failure(error));
                Vec::new()
            }
        };
        // Whether tickets begin with a name shows only beside another.
        if seen.names.len() == 1
            && let Ok(visit) = self.client.visit(target, self.tls, None).await
        {
            seen.note(&visit);
            sessions.extend(visit.sessions);
        }
        Stock { sessions, seen }
    }

    /// A session of `stock` that nobody has offered yet.
    async fn session(&self, stock: &mut Stock, target: &Target) -> Result<Session, Outcome> {
        if let Some(failure) = &stock.seen.failure {
            return Err(failure.clone());
        }
        if stock.sessions.is_empty() && stock.seen.sessions_per_handshake > 0 {
            let visit = self.client.visit(target, self.tls, None).await.map_err(failure)?;
            stock.seen.note(&visit);
            stock.sessions = visit.sessions;
        }
        stock.sessions.pop().ok_or(Outcome::NoTicket)
    }

    async fn pair(&self, stocks: &mut [Stock], first: usize, second: usize) -> Outcome {
        if let Some(failure) = &stocks[second].seen.failure {
            return failure.clone();
        }
        let session = match self.session(&mut stocks[first], &self.targets[first]).await {
            Ok(session) => session,
            Err(outcome) => return outcome,
        };
        let again = session.again();
        let (target, seen) = (&self.targets[second], &mut stocks[second].seen);
        match self.client.visit(target, self.tls, Some(session)).await {
            Ok(visit) if visit.resumed => {
                seen.note(&visit);
                if first == second {
                    seen.reuse = self.reuse(target, &visit, again).await;
                }
                Outcome::Resumed
            }
            Ok(visit) => {
                seen.note(&visit);
                Outcome::Full
            }
            Err(error) => failure(error),
        }
    }

    /// Whether `target` takes up the session that `visit` has resumed once more.
    async fn reuse(&self, target: &Target, visit: &Visit, again: Option<Session>) -> Reuse {
        let taken_up = match again {
            Some(again) => {
                let visit = self.client.visit(target, self.tls, Some(again)).await;
                visit.ok().map(|visit| visit.resumed)
            }
            None => self.client.offer_again(target, visit).await,
        };
        match taken_up {
            Some(true) => Reuse::Accepted,
            Some(false) => Reuse::Refused,
            None => Reuse::Unknown,
        }
    }
}

fn failure(error: VisitError) -> Outcome {
    match error {
        VisitError::NotSpoken => Outcome::NotSpoken,
        error => Outcome::Failed(error.to_string()),
    }
}
