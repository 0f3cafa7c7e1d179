//! `stekd keyset …`.

use anyhow::{Context, Result};
use reqwest::Method;
use stek_core::name::KeysetName;
use stek_core::policy::ActivationQuorum;
use stek_wire::admin::{
    ChangePolicy, CreateKeyset, EffectDocument, KeysetDocument, KeysetList, PlanDocument,
    PolicyDocument, RevokeKeys,
};

use crate::Refused;
use crate::cli::{KeysetArgs, KeysetCommand, Output, PolicyArgs};
use crate::commands::change::{self, Change};
use crate::commands::manager_client::ManagerClient;
use crate::commands::{table, terminators};

/// Does what was asked and prints what came of it.
pub(crate) async fn run(asked: KeysetArgs) -> Result<()> {
    let manager = ManagerClient::new(asked.reach.profile.as_ref())?;
    let subject = asked.command.keyset().map(|keyset| format!("keyset {keyset}"));
    let outcome = carry_out(&manager, asked.command, asked.reach.output).await;
    match subject {
        Some(subject) => outcome.context(subject),
        None => outcome,
    }
}

async fn carry_out(manager: &ManagerClient, command: KeysetCommand, output: Output) -> Result<()> {
    match command {
        KeysetCommand::Create { keyset, policy } => {
            let body = CreateKeyset { name: keyset, policy: document(policy) }.encode();
            let made: KeysetDocument =
                manager.ask(Method::POST, "/admin/v1/keysets", Some(body)).await?;
            table::print(output, &made, keyset_table)
        }
        KeysetCommand::List => {
            let all = list(manager).await?;
            table::print(output, &all, list_table)
        }
        KeysetCommand::Show { keyset } => {
            let shown: KeysetDocument = manager.ask(Method::GET, &path(&keyset, ""), None).await?;
            table::print(output, &shown, keyset_table)
        }
        KeysetCommand::Policy { keyset, policy, how } => {
            let policy = document(policy);
            if policy == PolicyDocument::default() {
                return Err(Refused("nothing to change: give at least one option".into()).into());
            }
            let body = ChangePolicy { policy }.encode();
            change::make(manager, Change::policy(keyset, &body), &how, output).await
        }
        KeysetCommand::Rotate { keyset, how } => {
            change::make(manager, Change::rotate(keyset), &how, output).await
        }
        KeysetCommand::Revoke { keyset, key, reason, how } => {
            change::check_reason(&reason)?;
            let asked = RevokeKeys { reason, key, dry_run: false };
            change::make(manager, Change::revoke(keyset, &asked), &how, output).await
        }
        KeysetCommand::Plan { keyset, until } => {
            let until = until.replace('+', "%2B");
            let query = path(&keyset, &format!("/plan?until={until}"));
            let plan: PlanDocument = manager.ask(Method::GET, &query, None).await?;
            table::print(output, &plan, plan_table)
        }
        KeysetCommand::Terminators(asked) => terminators::run(manager, &asked, output).await,
        KeysetCommand::Delete { keyset, how } => {
            change::make(manager, Change::delete(keyset), &how, output).await
        }
    }
}

pub(crate) fn path(keyset: &KeysetName, rest: &str) -> String {
    format!("/admin/v1/keysets/{keyset}{rest}")
}

fn document(policy: PolicyArgs) -> PolicyDocument {
    let seconds = |span: Option<stek_core::time::Seconds>| span.map(|span| span.as_secs());
    PolicyDocument {
        rotation_period_seconds: seconds(policy.rotation_period),
        ticket_lifetime_seconds: seconds(policy.ticket_lifetime),
        poll_interval_seconds: seconds(policy.poll_interval),
        clock_skew_seconds: seconds(policy.clock_skew),
        lead_seconds: seconds(policy.lead),
        session_lifetime_seconds: seconds(policy.session_lifetime),
        activation_quorum: policy.activation_quorum,
        activation_deadline_seconds: seconds(policy.activation_deadline),
    }
}

async fn list(manager: &ManagerClient) -> Result<KeysetList> {
    let mut all = KeysetList { keysets: Vec::new(), next: None };
    let mut query = String::new();
    loop {
        let path = format!("/admin/v1/keysets{query}");
        let page: KeysetList = manager.ask(Method::GET, &path, None).await?;
        all.keysets.extend(page.keysets);
        match page.next {
            Some(next) => query = format!("?after={next}"),
            None => return Ok(all),
        }
    }
}

fn keyset_table(keyset: &KeysetDocument) -> String {
    let policy = &keyset.policy;
    let seconds = |n: Option<u64>| {
        n.map_or_else(|| "?".into(), |n| stek_core::time::Seconds::new(n).to_string())
    };
    let mut text = format!(
        "keyset {} at revision {}\nrotation {}, ticket lifetime {}, session lifetime {}, lead {}, \
         poll {}, skew {}\nactivation waits for {}, at most {}\n\n",
        keyset.name,
        keyset.revision,
        seconds(policy.rotation_period_seconds),
        seconds(policy.ticket_lifetime_seconds),
        seconds(policy.session_lifetime_seconds),
        seconds(policy.lead_seconds),
        seconds(policy.poll_interval_seconds),
        seconds(policy.clock_skew_seconds),
        policy.activation_quorum.map_or("?", |quorum| match quorum {
            ActivationQuorum::All => "all instances",
            ActivationQuorum::Off => "nobody",
        }),
        seconds(policy.activation_deadline_seconds),
    );
    let rows: Vec<Vec<String>> = keyset
        .keys
        .iter()
        .map(|key| {
            [&key.id, &key.kcv, &key.state, &key.activate_at, &key.retire_at, &key.destroy_at]
                .map(String::clone)
                .to_vec()
        })
        .collect();
    let heading = ["KEY", "CHECK VALUE", "STATE", "SEALS FROM", "SEALS UNTIL", "OPENS UNTIL"];
    text.push_str(&table::columns(&heading, &rows));
    text
}

fn list_table(list: &KeysetList) -> String {
    let rows: Vec<Vec<String>> = list
        .keysets
        .iter()
        .map(|keyset| {
            let active = keyset.keys.iter().find(|key| key.state == "active");
            vec![
                keyset.name.clone(),
                keyset.revision.to_string(),
                keyset.keys.len().to_string(),
                active.map_or("none".into(), |key| key.retire_at.clone()),
            ]
        })
        .collect();
    table::columns(&["KEYSET", "REVISION", "KEYS", "NEXT ROTATION"], &rows)
}

pub(crate) fn effect_table(effect: &EffectDocument) -> String {
    let rows: Vec<Vec<String>> = effect
        .effects
        .iter()
        .map(|effect| {
            let or_none = |text: &Option<String>| text.clone().unwrap_or_default();
            vec![
                effect.action.clone(),
                or_none(&effect.key),
                or_none(&effect.at),
                effect.reason.clone(),
            ]
        })
        .collect();
    let mut text = format!("keyset {} at revision {}\n\n", effect.keyset, effect.revision);
    text.push_str(&table::columns(&["WHAT", "KEY", "AT", "WHY"], &rows));
    for warning in &effect.warnings {
        text.push_str(&format!("\nnote: {warning}\n"));
    }
    text
}

fn plan_table(plan: &PlanDocument) -> String {
    let rows: Vec<Vec<String>> = plan
        .steps
        .iter()
        .map(|step| vec![step.at.clone(), step.action.clone(), step.detail.clone()])
        .collect();
    table::columns(&["AT", "WHAT", "DETAIL"], &rows)
}
