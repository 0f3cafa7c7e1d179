//! The other managers over TLS: asks one after another for the ratchet's state.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use stek_client::ClientConfig;
use stek_core::wrapped::Epoch;
use stek_custody::share::{JoinRequest, SealedState};
use stek_manager::{PeerError, Peers};
use stek_wire::admin::{JoinDocument, StateDocument};
use stek_wire::problem::{MAX_PROBLEM_BYTES, ProblemDocument};

use crate::commands::manager_client::read_token;
use crate::config::PeersSection;
use crate::roles::distribution::instance_name;
use crate::roles::reach::Reach;

/// How long one peer may take.
const TIME_OUT: Duration = Duration::from_secs(10);

/// The managers of `[peers]`.
pub(crate) struct HttpPeers {
    config: ClientConfig,
    urls: Vec<String>,
}

impl HttpPeers {
    /// Checks the section and reads its files.
    pub(crate) fn new(section: &PeersSection) -> Result<Self> {
        let config = Reach::peers(section).check(instance_name(Some("stekd"))?)?;
        let urls = section.urls.iter().map(|url| url.trim_end_matches('/').to_owned()).collect();
        Ok(Self { config, urls })
    }

    async fn ask_one(&self, url: &str, request: &JoinRequest) -> Result<SealedState> {
        // Joining is rare: files are read anew, so that it is done with what is in them by now.
        let client = stek_client::http_client(&self.config)?;
        let token = self.config.token().map(read_token).transpose()?;
        let (replica, seed) = (request.replica.to_string(), request.seed.to_string());
        let body = JoinDocument::new(replica, seed, &request.challenge).encode();
        let mut request = client.post(format!("{url}/admin/v1/ratchet/join")).timeout(TIME_OUT);
        if let Some(token) = &token {
            request = request.bearer_auth(token.expose_text());
        }
        let mut response = request
            .header("content-type", stek_wire::MEDIA_TYPE)
            .body(body)
            .send()
            .await
            .map_err(reqwest::Error::without_url)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            if answer.len() + chunk.len() > MAX_PROBLEM_BYTES.max(StateDocument::MAX_BYTES) {
                bail!("the answer is too long");
            }
            answer.extend_from_slice(&chunk);
        }
        if !response.status().is_success() {
            bail!("{}", ProblemDocument::read(&answer));
        }
        let state: StateDocument =
            serde_json::from_slice(&answer).context("the answer cannot be read")?;
        let ciphertext = state.sealed().context("the answer holds no state")?;
        Ok(SealedState { epoch: Epoch::new(state.epoch), ciphertext })
    }
}

#[async_trait]
impl Peers for HttpPeers {
    async fn ask(&self, request: &JoinRequest) -> Result<SealedState, PeerError> {
        let mut why = Vec::with_capacity(self.urls.len());
        for url in &self.urls {
            match self.ask_one(url, request).await {
                Ok(state) => return Ok(state),
                Err(error) => why.push(format!("{url}: {error:#}")),
            }
        }
        Err(PeerError::Refused(why.join("; ").into()))
    }
}
