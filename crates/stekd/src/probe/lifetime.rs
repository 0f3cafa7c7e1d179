//! For how long tickets really resume: collects them up front, offers them to the server that gave
//! them at growing ages, and compares the end with the hint.

use std::collections::BTreeSet;
use std::time::Duration;

use stek_core::time::Seconds;

use super::client::{Client, Tls};
use super::matrix::Outcome;
use super::target::Target;
use super::wallet::Session;

/// The most ages that are tried with one server.
pub(crate) const MAX_AGES: usize = 32;
/// The oldest that a ticket is tried at: past the seven days that RFC 8446 allows.
pub(crate) const MAX_AGE: Seconds = Seconds::from_days(8);
/// Ages in thousandths of the hint. Most lie around its end; the last shows that there is one.
const OF_HINT: [u64; 11] = [250, 500, 750, 900, 950, 990, 1_010, 1_050, 1_100, 1_250, 1_500];

/// Which ages are tried.
#[derive(Debug, Clone)]
pub(crate) enum Ages {
    /// These.
    Listed(BTreeSet<Seconds>),
    /// Such as lie around the end of the hint.
    OfHint,
}

impl Ages {
    fn of(&self, hint: Option<u32>) -> BTreeSet<Seconds> {
        match (self, hint) {
            (Self::Listed(ages), _) => ages.clone(),
            (Self::OfHint, Some(hint)) => {
                let ages = OF_HINT.iter().map(|part| u64::from(hint) * part / 1_000);
                ages.map(|age| Seconds::new(age.max(1)).min(MAX_AGE)).collect()
            }
            // Without a hint there is nothing to compare with.
            (Self::OfHint, None) => BTreeSet::new(),
        }
    }
}

/// What was found out of one server.
#[derive(Debug)]
pub(crate) struct Lifetime {
    /// Which server, by position.
    pub(crate) server: usize,
    /// Its hint.
    pub(crate) hint: Option<u32>,
    /// What a ticket of this age came to, by age.
    pub(crate) offers: Vec<(Seconds, Outcome)>,
}

impl Lifetime {
    /// The greatest age at which a ticket was resumed.
    pub(crate) fn resumed_at(&self) -> Option<Seconds> {
        let resumed = self.offers.iter().filter(|(_, outcome)| *outcome == Outcome::Resumed);
        resumed.map(|(age, _)| *age).max()
    }

    /// The least age at which none was, and none older either.
    pub(crate) fn refused_at(&self) -> Option<Seconds> {
        let refused = self
            .offers
            .iter()
            .filter(|(age, outcome)| *outcome == Outcome::Full && Some(*age) > self.resumed_at());
        refused.map(|(age, _)| *age).min()
    }

    /// Whether a ticket was refused at an age that the hint still covers.
    pub(crate) fn breaks_its_word(&self) -> bool {
        let within = |age: Seconds| self.hint.is_some_and(|hint| age.as_secs() < u64::from(hint));
        self.offers.iter().any(|(age, outcome)| *outcome == Outcome::Full && within(*age))
    }
}

/// One ticket and when it is due.
struct Due {
    at: Duration,
    age: Seconds,
    server: usize,
    session: Session,
}

/// Tries tickets of `targets` at `ages`; calls `done` with each finding as it comes. Ends with the
/// greatest age, or when every server has refused two ages in a row.
pub(crate) async fn measure(
    client: &Client,
    targets: &[Target],
    tls: Tls,
    ages: &Ages,
    mut done: impl FnMut(&Target, Seconds, &Outcome),
) -> Vec<Lifetime> {
    let (mut lifetimes, mut queue) = (Vec::new(), Vec::new());
    for (server, target) in targets.iter().enumerate() {
        let (hint, dues) = collect(client, server, target, tls, ages).await;
        if !dues.is_empty() {
            lifetimes.push(Lifetime { server, hint, offers: Vec::new() });
        }
        queue.extend(dues);
    }
    queue.sort_by_key(|due| due.at);
    for Due { at, age, server, session } in queue {
        let Some(found) = lifetimes.iter_mut().find(|found| found.server == server) else {
            continue;
        };
        if is_over(&found.offers) {
            continue;
        }
        client.clock().sleep_until(at).await;
        let target = &targets[server];
        let outcome = match client.visit(target, tls, Some(session)).await {
            Ok(visit) if visit.resumed => Outcome::Resumed,
            Ok(_) => Outcome::Full,
            Err(error) => Outcome::Failed(error.to_string()),
        };
        done(target, age, &outcome);
        found.offers.push((age, outcome));
    }
    lifetimes
}

fn is_over(offers: &[(Seconds, Outcome)]) -> bool {
    matches!(offers, [.., (_, Outcome::Full), (_, Outcome::Full)])
}

/// A ticket for each age, each from a session that began with a full handshake.
async fn collect(
    client: &Client,
    server: usize,
    target: &Target,
    tls: Tls,
    ages: &Ages,
) -> (Option<u32>, Vec<Due>) {
    let (mut hint, mut dues, mut stock) = (None, Vec::new(), Vec::new());
    let mut wanted: Option<Vec<Seconds>> = None;
    while wanted.as_ref().is_none_or(|wanted| dues.len() < wanted.len()) {
        if stock.is_empty() {
            let Ok(visit) = client.visit(target, tls, None).await else { break };
            stock = visit.sessions;
        }
        let Some(session) = stock.pop() else { break };
        hint = hint.or(session.hint());
        let wanted = wanted.get_or_insert_with(|| ages.of(hint).into_iter().collect());
        let Some(age) = wanted.get(dues.len()).copied() else { break };
        let at = session.received + age.to_std();
        dues.push(Due { at, age, server, session });
    }
    (hint, dues)
}
