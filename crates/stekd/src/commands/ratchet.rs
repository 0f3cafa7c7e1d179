//! `stekd ratchet …`: asks a manager, or for a seed that is lost does without one.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use reqwest::Method;
use serde::Serialize;
use stek_clock::SystemClock;
use stek_custody::random::SystemRandom;
use stek_manager::replace_lost_seed;
use stek_wire::admin::RatchetDocument;

use crate::cli::{Output, RatchetArgs, RatchetCommand};
use crate::commands::manager_client::ManagerClient;
use crate::commands::table;
use crate::config::{self, ManagerConfig};
use crate::roles::database;
use crate::roles::manager::read_cluster_secret;

/// Does what was asked and prints what came of it.
pub(crate) async fn run(asked: RatchetArgs) -> Result<()> {
    let (output, profile) = (asked.reach.output, asked.reach.profile);
    if let RatchetCommand::Reseed { config: Some(config), .. } = &asked.command {
        return give_up(config, output).await;
    }
    let manager = ManagerClient::new(profile.as_ref())?;
    match asked.command {
        RatchetCommand::Show => {
            let shown: RatchetDocument =
                manager.ask(Method::GET, "/admin/v1/ratchet", None).await?;
            table::print(output, &shown, ratchet_table)
        }
        RatchetCommand::Reseed { .. } => {
            let shown: RatchetDocument =
                manager.ask(Method::POST, "/admin/v1/ratchet/reseed", None).await?;
            table::print(output, &shown, ratchet_table)
        }
        RatchetCommand::ConfirmClock => {
            let path = "/admin/v1/ratchet/confirm-clock";
            let _: serde_json::Value = manager.ask(Method::POST, path, None).await?;
            Ok(())
        }
    }
}

/// The seed that took the place of a lost one.
#[derive(Serialize)]
struct GivenUp {
    seed: String,
}

async fn give_up(config: &Path, output: Output) -> Result<()> {
    let config: ManagerConfig = config::read(config)?;
    let cluster = Arc::new(read_cluster_secret(&config.custody)?);
    let store = database::open(&config.database).await?;
    let path = &config.custody.state_file;
    let seed = replace_lost_seed(store.as_ref(), &cluster, path, &SystemRandom, &SystemClock)
        .await
        .context("the seed was not given up")?;
    table::print(output, &GivenUp { seed: seed.to_string() }, |GivenUp { seed }| {
        format!(
            "seed {seed} is live. Start this manager: it ends every key of the seed that is lost \
             and makes new ones. Every session needs a full handshake.\n"
        )
    })
}

fn ratchet_table(shown: &RatchetDocument) -> String {
    let seeds: Vec<Vec<String>> = shown
        .seeds
        .iter()
        .map(|seed| vec![seed.seed.clone(), seed.phase.clone(), seed.claimed_at.clone()])
        .collect();
    let replicas: Vec<Vec<String>> = shown
        .replicas
        .iter()
        .map(|one| {
            let held = match &one.next_seed {
                Some(next) => format!("{} and {next}", one.seed),
                None => one.seed.clone(),
            };
            vec![
                one.replica.clone(),
                held,
                one.epoch.to_string(),
                one.behind.to_string(),
                one.seen_at.clone(),
            ]
        })
        .collect();
    let mut text = table::columns(&["SEED", "PHASE", "SINCE"], &seeds);
    text.push('\n');
    text.push_str(&table::columns(
        &["REPLICA", "HOLDS", "EPOCH", "HOURS BEHIND", "SEEN"],
        &replicas,
    ));
    if let Some(needed) = shown.previous_cluster_secret_needed {
        text.push_str(if needed {
            "\nThe previous cluster secret is still needed.\n"
        } else {
            "\nThe previous cluster secret may be removed.\n"
        });
    }
    text
}
