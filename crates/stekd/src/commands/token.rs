//! `stekd token …`. The secret is made here and only its hash leaves this process.

use std::path::Path;

use anyhow::{Context, Result};
use reqwest::Method;
use serde::Serialize;
use stek_clock::{Clock, SystemClock};
use stek_core::access::{Grant, KeysetSelector, Role, Token, TokenSecret};
use stek_core::name::PrincipalName;
use stek_core::principal::PrincipalPattern;
use stek_core::time::{Seconds, Timestamp};
use stek_custody::random::{RandomSource, SystemRandom};
use stek_manager::{NewToken, add_token_offline};
use stek_wire::admin::{CreateToken, GrantDocument, TokenDocument, TokenList};
use zeroize::Zeroizing;

use crate::Refused;
use crate::cli::{Output, RoleArg, TokenArgs, TokenCommand};
use crate::commands::manager_client::ManagerClient;
use crate::commands::secret::write_private;
use crate::commands::table;
use crate::config::{self, ManagerConfig};
use crate::roles::database;
use crate::roles::manager::{read_cluster_secret, read_high_water};

/// Room for a token as a document, so that what is written of it stays in one place.
const MOST_SHOWN: usize = 4096;

/// Does what was asked and prints what came of it.
pub(crate) async fn run(asked: TokenArgs) -> Result<()> {
    let (output, profile) = (asked.reach.output, asked.reach.profile);
    match asked.command {
        TokenCommand::Create { name, role, keyset, valid_for, out, offline } => {
            let keysets =
                KeysetSelector::parse(&keyset).map_err(|error| Refused(error.to_string()))?;
            let exactly = PrincipalPattern::exactly(&name);
            let principal = exactly.map_err(|error| Refused(error.to_string()))?;
            let grant = Grant { principal, keysets, role: role.into() };
            let (secret, new) = draw(name, vec![grant], valid_for)?;
            let made = match offline {
                Some(config) => create_offline(&config, new).await?,
                None => {
                    let manager = ManagerClient::new(profile.as_ref())?;
                    let NewToken { principal, hash, expires_at, grants } = new;
                    let body = CreateToken { principal, hash, expires_at, grants }.encode();
                    manager.ask(Method::POST, "/admin/v1/tokens", Some(body)).await?
                }
            };
            hand_over(&secret, out.as_deref(), made, output)
        }
        TokenCommand::List => {
            let manager = ManagerClient::new(profile.as_ref())?;
            let list: TokenList = manager.ask(Method::GET, "/admin/v1/tokens", None).await?;
            table::print(output, &list, list_table)
        }
        TokenCommand::Revoke { id } => {
            if stek_core::id::KeyId::parse(&id).is_err() {
                return Err(Refused(format!("token {id:?} is not allowed: a UUID is")).into());
            }
            let manager = ManagerClient::new(profile.as_ref())?;
            let _: serde_json::Value =
                manager.ask(Method::DELETE, &format!("/admin/v1/tokens/{id}"), None).await?;
            Ok(())
        }
    }
}

/// A new token and what is to be stored of it.
pub(crate) fn draw(
    principal: PrincipalName,
    grants: Vec<Grant>,
    valid_for: Seconds,
) -> Result<(TokenSecret, NewToken)> {
    let mut random = Zeroizing::new([0; 32]);
    SystemRandom.fill(random.as_mut_slice())?;
    let secret = TokenSecret::take_from(&mut random);
    let now = Timestamp::from_unix(SystemClock.wall_millis() / 1000);
    let hash = secret.hash();
    Ok((secret, NewToken { principal, hash, expires_at: now + valid_for, grants }))
}

async fn create_offline(config: &Path, new: NewToken) -> Result<TokenDocument> {
    let config: ManagerConfig = config::read(config)?;
    let cluster = read_cluster_secret(&config.custody)?;
    let mark = read_high_water(&config.custody)?;
    let store = database::open(&config.database).await?;
    let grants = new.grants.iter().map(GrantDocument::from).collect();
    let made = add_token_offline(store.as_ref(), &cluster, &SystemRandom, &SystemClock, mark, new);
    let Token { id, principal, expires_at, .. } = made.await?;
    let (id, principal) = (id.to_string(), principal.to_string());
    Ok(TokenDocument { id, principal, expires_at: expires_at.to_string(), grants })
}

/// A new token as a document, with what its bearer shows.
#[derive(Serialize)]
struct Made<'a> {
    #[serde(flatten)]
    document: TokenDocument,
    token: &'a str,
}

/// Gives the secret away, into the file or to whoever reads what is printed.
fn hand_over(
    secret: &TokenSecret,
    out: Option<&Path>,
    document: TokenDocument,
    output: Output,
) -> Result<()> {
    let lost = "the token was made and is lost; revoke it and make another";
    let token = Zeroizing::new(secret.expose_text());
    if let Some(path) = out {
        write_private(path, &token).context(lost)?;
        // For people, what was asked for is not said again.
        return table::print(output, &document, |_| String::new());
    }
    let mut shown = Zeroizing::new(Vec::with_capacity(MOST_SHOWN));
    match output {
        Output::Table => shown.extend_from_slice(token.as_bytes()),
        Output::Json => {
            let made = Made { document, token: &token };
            serde_json::to_writer_pretty(&mut *shown, &made).context(lost)?;
        }
    }
    table::deliver(&[shown.as_slice(), b"\n"]).context("standard output").context(lost)
}

fn list_table(list: &TokenList) -> String {
    let rows: Vec<Vec<String>> = list
        .tokens
        .iter()
        .map(|token| {
            let grants: Vec<_> = token
                .grants
                .iter()
                .map(|grant| format!("{} on {}", grant.role, grant.keysets))
                .collect();
            vec![
                token.id.clone(),
                token.principal.clone(),
                grants.join(", "),
                token.expires_at.clone(),
            ]
        })
        .collect();
    table::columns(&["TOKEN", "PRINCIPAL", "MAY ACT AS", "EXPIRES"], &rows)
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Terminator => Self::Terminator,
            RoleArg::Distribution => Self::Distribution,
            RoleArg::Operator => Self::Operator,
            RoleArg::Auditor => Self::Auditor,
            RoleArg::Manager => Self::Manager,
        }
    }
}
