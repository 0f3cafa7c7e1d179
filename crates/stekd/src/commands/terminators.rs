//! `stekd keyset terminators`: who holds a keyset's keys and who lags, as the manager has heard it,
//! or all that poll one replica, as that knows it.

use anyhow::Result;
use reqwest::Method;
use stek_wire::admin::{InstanceList, LaggardDocument, TerminatorsDocument};

use crate::cli::{Output, TerminatorsArgs};
use crate::commands::manager_client::ManagerClient;
use crate::commands::table;

const HEADING: [&str; 6] =
    ["INSTANCE", "PRINCIPAL", "REVISION", "LAST SEEN", "CLOCK OFFSET", "REPLICA"];

/// Asks and prints what comes back.
pub(crate) async fn run(
    manager: &ManagerClient,
    asked: &TerminatorsArgs,
    output: Output,
) -> Result<()> {
    if let Some(distribution) = &asked.distribution {
        let replica = manager.at(distribution)?;
        let all = list(&replica, asked).await?;
        return table::print(output, &all, |all| {
            table::columns(&HEADING[..5], &rows(&all.instances))
        });
    }
    let query = asked.revision.map_or(String::new(), |revision| format!("?revision={revision}"));
    let path = format!("/admin/v1/keysets/{}/terminators{query}", asked.keyset);
    let known: TerminatorsDocument = manager.ask(Method::GET, &path, None).await?;
    table::print(output, &known, known_table)
}

/// All pages, one after another.
async fn list(replica: &ManagerClient, asked: &TerminatorsArgs) -> Result<InstanceList> {
    let mut all = InstanceList { instances: Vec::new(), next: None };
    let below = asked.revision.map_or(String::new(), |revision| format!("&below={revision}"));
    let mut after = String::new();
    loop {
        let path = format!("/v1/keysets/{}/terminators?limit=1000{below}{after}", asked.keyset);
        let page: InstanceList = replica.ask(Method::GET, &path, None).await?;
        all.instances.extend(page.instances);
        match page.next {
            Some(next) => after = format!("&after={next}"),
            None => return Ok(all),
        }
    }
}

fn rows(instances: &[LaggardDocument]) -> Vec<Vec<String>> {
    let rows = instances.iter().map(|one| {
        vec![
            one.instance.clone(),
            one.principal.clone(),
            if one.revision == 0 { "none".into() } else { one.revision.to_string() },
            one.last_seen.clone(),
            one.clock_offset_ms.map_or_else(String::new, |offset| format!("{offset} ms")),
            one.replica.clone().unwrap_or_default(),
        ]
    });
    rows.collect()
}

fn known_table(known: &TerminatorsDocument) -> String {
    let mut text = format!("keyset {} at revision {}\n", known.keyset, known.newest);
    match (known.instances, known.confirmed) {
        (Some(instances), Some(confirmed)) => text.push_str(&format!(
            "{confirmed} of {instances} instances hold revision {} or a newer one\n",
            known.revision
        )),
        _ => text.push_str("no replica reports any instance: nothing is known\n"),
    }
    let replicas: Vec<_> = known
        .replicas
        .iter()
        .map(|one| {
            vec![
                one.replica.clone(),
                one.newest.to_string(),
                one.instances.to_string(),
                one.confirmed.to_string(),
                format!("{} ms ago", one.age_ms),
            ]
        })
        .collect();
    if !replicas.is_empty() {
        let heading = ["REPLICA", "REVISION", "INSTANCES", "CONFIRMED", "COUNTED"];
        text.push_str(&format!("\n{}", table::columns(&heading, &replicas)));
    }
    if !known.lagging.is_empty() {
        text.push_str(&format!("\n{}", table::columns(&HEADING, &rows(&known.lagging))));
    }
    if known.uncounted > 0 {
        text.push_str(&format!(
            "\nnote: {} more lag and are not counted, for their credential has many of them\n",
            known.uncounted
        ));
    }
    if known.truncated {
        text.push_str(
            "\nnote: not all that lag are named; --distribution lists those of a replica\n",
        );
    }
    text
}
