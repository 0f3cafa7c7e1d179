//! `stekd grant …`.

use std::path::Path;

use anyhow::Result;
use reqwest::{Method, Url};
use stek_clock::SystemClock;
use stek_core::access::Grant;
use stek_manager::add_grant_offline;
use stek_wire::admin::{GrantEntry, GrantList};

use crate::cli::{GrantArgs, GrantCommand};
use crate::commands::manager_client::ManagerClient;
use crate::commands::table;
use crate::config::{self, ManagerConfig};
use crate::roles::database;
use crate::roles::manager::{read_cluster_secret, read_high_water};

const PATH: &str = "/admin/v1/grants";

/// Does what was asked and prints what came of it.
pub(crate) async fn run(asked: GrantArgs) -> Result<()> {
    let (output, profile) = (asked.reach.output, asked.reach.profile);
    match asked.command {
        GrantCommand::Add { grant, offline } => {
            let grant: Grant = grant.into();
            let mut entry = GrantEntry::from(&grant);
            match offline {
                Some(config) => add_offline(&config, grant).await?,
                None => {
                    let manager = ManagerClient::new(profile.as_ref())?;
                    entry = manager.ask(Method::POST, PATH, Some(entry.encode())).await?;
                }
            }
            // For people, what was asked for is not said again.
            table::print(output, &entry, |_| String::new())
        }
        GrantCommand::List => {
            let manager = ManagerClient::new(profile.as_ref())?;
            let list: GrantList = manager.ask(Method::GET, PATH, None).await?;
            table::print(output, &list, list_table)
        }
        GrantCommand::Remove { grant } => {
            let path = removal(&GrantEntry::from(&grant.into()))?;
            let manager = ManagerClient::new(profile.as_ref())?;
            let _: serde_json::Value = manager.ask(Method::DELETE, &path, None).await?;
            Ok(())
        }
    }
}

/// The path that names this grant.
fn removal(grant: &GrantEntry) -> Result<String> {
    let GrantEntry { principal, keysets, role } = grant;
    let pairs = [("principal", principal), ("keysets", keysets), ("role", role)];
    let url = Url::parse_with_params(&format!("https://manager{PATH}"), pairs)?;
    Ok(format!("{PATH}?{}", url.query().unwrap_or("")))
}

async fn add_offline(config: &Path, grant: Grant) -> Result<()> {
    let config: ManagerConfig = config::read(config)?;
    let cluster = read_cluster_secret(&config.custody)?;
    let mark = read_high_water(&config.custody)?;
    let store = database::open(&config.database).await?;
    add_grant_offline(store.as_ref(), &cluster, &SystemClock, mark, grant).await?;
    Ok(())
}

fn list_table(list: &GrantList) -> String {
    let row = |grant: &GrantEntry| {
        vec![grant.principal.clone(), grant.keysets.clone(), grant.role.clone()]
    };
    let rows: Vec<Vec<String>> = list.grants.iter().map(row).collect();
    table::columns(&["PRINCIPAL", "KEYSET", "ROLE"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_principal_survives_the_way_into_a_path() {
        let grant = GrantEntry {
            principal: "spiffe://td/a&role=b%20+#?/*".into(),
            keysets: "*".into(),
            role: "auditor".into(),
        };
        let url = Url::parse(&format!("https://manager{}", removal(&grant).unwrap())).unwrap();
        let pairs: Vec<_> = url.query_pairs().map(|(_, value)| value.into_owned()).collect();
        assert_eq!(pairs, [grant.principal, grant.keysets, grant.role]);
    }
}
