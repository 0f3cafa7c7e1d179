//! `stekd healthcheck`: asks `/readyz`, for images that have no HTTP client of their own, and for
//! whoever has just started a role.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::HealthcheckArgs;

/// How long an answer may take.
const TIME_OUT: Duration = Duration::from_secs(5);

/// How long to rest before a role is asked again that is not ready.
const REST: Duration = Duration::from_millis(200);

/// Ends well if the role is ready, or is so in time.
pub(crate) async fn run(asked: &HealthcheckArgs) -> Result<()> {
    let client = client()?;
    let mut waited = std::pin::pin!(tokio::time::sleep(Duration::from_secs(asked.wait.as_secs())));
    loop {
        let Err(failure) = ask(&client, &asked.address).await else { return Ok(()) };
        tokio::select! {
            biased;
            () = &mut waited => return Err(failure),
            () = tokio::time::sleep(REST) => {}
        }
    }
}

fn client() -> Result<reqwest::Client> {
    // Plain HTTP is all that is asked here, so no authority is needed, and images have none.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy();
    Ok(client.timeout(TIME_OUT).build()?)
}

async fn ask(client: &reqwest::Client, address: &str) -> Result<()> {
    let response = client
        .get(format!("http://{address}/readyz"))
        .send()
        .await
        .with_context(|| format!("{address} does not answer"))?;
    if response.status().is_success() {
        return Ok(());
    }
    let body = response.bytes().await.unwrap_or_default();
    let detail: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let failed =
        detail["checks"].as_array().into_iter().flatten().filter(|check| check["ok"] == false);
    let why: Vec<_> = failed
        .map(|check| format!("{}: {}", plain(&check["name"]), plain(&check["detail"])))
        .collect();
    bail!("{} is not ready: {}", address, why.join("; "))
}

fn plain(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or("?")
}
