//! Changes of a keyset as an operator makes them: first what they cost, then the question, then the
//! change, then the clock of who has confirmed it.

use anyhow::{Result, bail};
use reqwest::Method;
use serde::Serialize;
use stek_core::name::KeysetName;
use stek_wire::admin::{CostDocument, EffectDocument, RevokeKeys};

use crate::Refused;
use crate::cli::{ChangeArgs, Output};
use crate::commands::confirmation::{self, Confirmation, Unconfirmed};
use crate::commands::keyset::{effect_table, path};
use crate::commands::manager_client::ManagerClient;
use crate::commands::table;

/// One change: how it is asked for, and how its cost is.
pub(crate) struct Change {
    /// The keyset.
    pub(crate) keyset: KeysetName,
    method: Method,
    ask: Request,
    cost: Request,
    /// Whether it is made only after a question; what a question is about, in a word.
    question: Option<&'static str>,
}

struct Request {
    path: String,
    body: Option<String>,
}

impl Change {
    /// Rotates at once.
    pub(crate) fn rotate(keyset: KeysetName) -> Self {
        Self::plain(keyset, Method::POST, "/rotate", None)
    }

    /// Changes the policy; `body` is the request.
    pub(crate) fn policy(keyset: KeysetName, body: &str) -> Self {
        Self::plain(keyset, Method::PUT, "/policy", Some(body))
    }

    /// Deletes the keyset.
    pub(crate) fn delete(keyset: KeysetName) -> Self {
        let plain = Self::plain(keyset, Method::DELETE, "", None);
        Self { question: Some("Deleting"), ..plain }
    }

    /// Forbids keys at once.
    pub(crate) fn revoke(keyset: KeysetName, asked: &RevokeKeys) -> Self {
        let path = path(&keyset, "/revoke");
        let request = |dry_run| {
            let body = Some(RevokeKeys { dry_run, ..asked.clone() }.encode());
            Request { path: path.clone(), body }
        };
        let (ask, cost) = (request(false), request(true));
        Self { keyset, method: Method::POST, ask, cost, question: Some("Revoking keys of") }
    }

    fn plain(keyset: KeysetName, method: Method, tail: &str, body: Option<&str>) -> Self {
        let request = |query| Request {
            path: path(&keyset, &format!("{tail}{query}")),
            body: body.map(str::to_owned),
        };
        let (ask, cost) = (request(""), request("?dry_run=true"));
        Self { keyset, method, ask, cost, question: None }
    }
}

/// What came of a change.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    effect: EffectDocument,
    /// Who has confirmed it; none if that was not waited for, or could not be asked.
    confirmation: Option<Confirmation>,
}

/// Makes the change, or only shows what it costs.
///
/// # Errors
/// Whatever stopped it; [`Unconfirmed`] if it was made and not confirmed by all in time.
pub(crate) async fn make(
    manager: &ManagerClient,
    change: Change,
    how: &ChangeArgs,
    output: Output,
) -> Result<()> {
    let Request { path, body } = change.cost;
    let cost: CostDocument = manager.ask(change.method.clone(), &path, body).await?;
    if how.dry_run {
        return table::print(output, &cost, cost_table);
    }
    tell(&cost_table(&cost));
    if let Some(what) = change.question.filter(|_| !how.yes) {
        confirm(what, &change.keyset)?;
    }
    let Request { path, body } = change.ask;
    let effect: EffectDocument = manager.ask(change.method, &path, body).await?;
    let counted = (effect.revision, cost.instances);
    // The change is made: whatever fails from here on, what it did is shown.
    let (confirmation, missing) = match how.wait.as_secs() {
        0 => (None, None),
        _ => match confirmation::wait(manager, &change.keyset, counted, how.wait).await {
            Ok(found) if found.is_complete() => (Some(found), None),
            Ok(found) => {
                let missing = Unconfirmed(found.lines().join("\n"));
                (Some(found), Some(missing))
            }
            Err(error) => (None, Some(Unconfirmed(format!("who has it is not known: {error:#}")))),
        },
    };
    table::print(output, &Outcome { effect, confirmation }, outcome_table)?;
    missing.map_or(Ok(()), |missing| Err(missing.into()))
}

/// Whether a text may be a reason, before anybody is asked.
pub(crate) fn check_reason(reason: &str) -> Result<()> {
    if RevokeKeys::is_reason(reason) {
        return Ok(());
    }
    let allowed = "a text of 1 to 256 bytes without control characters is";
    Err(Refused(format!("--reason {reason:?} is not allowed: {allowed}")).into())
}

#[allow(clippy::print_stderr, reason = "a dialogue, beside the result on standard output")]
fn tell(text: &str) {
    eprintln!("{}", text.trim_end());
}

fn confirm(what: &str, keyset: &KeysetName) -> Result<()> {
    tell(&format!("{what} {keyset} cannot be undone. Type the keyset's name to go on:"));
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() != keyset.as_str() {
        bail!("not confirmed; nothing was changed");
    }
    Ok(())
}

fn cost_table(cost: &CostDocument) -> String {
    let mut text = format!("keyset {} at revision {}\n", cost.keyset, cost.revision);
    if !cost.ends.is_empty() {
        let rows: Vec<Vec<String>> = cost
            .ends
            .iter()
            .map(|key| {
                [&key.id, &key.state, &key.activate_at, &key.retire_at].map(String::clone).to_vec()
            })
            .collect();
        text.push_str("\nThese keys end at once:\n");
        text.push_str(&table::columns(&["KEY", "STATE", "SEALS FROM", "SEALS UNTIL"], &rows));
    }
    text.push('\n');
    text.push_str(&format!("sessions   {}\n", cost.sessions));
    text.push_str(&match (&cost.seals_from, cost.gap_seconds) {
        (None, _) => "tickets    are not sealed any more\n".to_owned(),
        (Some(_), 0) => "tickets    are sealed without a break\n".to_owned(),
        (Some(from), gap) => format!("tickets    are not sealed for {gap}s, until {from}\n"),
    });
    if let Some(instances) = cost.instances {
        text.push_str(&format!("instances  {instances} seen lately\n"));
    }
    for warning in &cost.warnings {
        text.push_str(&format!("note: {warning}\n"));
    }
    text
}

fn outcome_table(outcome: &Outcome) -> String {
    let mut text = effect_table(&outcome.effect);
    for line in outcome.confirmation.iter().flat_map(Confirmation::lines) {
        text.push_str(&format!("\n{line}"));
    }
    if outcome.confirmation.is_some() {
        text.push('\n');
    }
    text
}
