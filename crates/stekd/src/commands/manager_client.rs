//! How commands reach the manager: the profile, the request, and its refusal in the manager's own
//! words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::Method;
use serde::de::DeserializeOwned;
use stek_client::{RequestId, Upstream, X_REQUEST_ID};
use stek_core::access::TokenSecret;
use stek_wire::problem::ProblemDocument;
use zeroize::Zeroizing;

use crate::Refused;
use crate::config::{self, Profile};
use crate::roles::distribution::instance_name;
use crate::roles::reach::Reach;

/// How long an answer may take.
const TIME_OUT: Duration = Duration::from_secs(30);

/// How often a manager that cannot answer for now is asked again.
const RETRIES: usize = 3;

/// The longest pause before that.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Where `stekd dev` writes the profile.
const DEFAULT_PROFILE: &str = "stekd-dev/operator.toml";

/// A connection to one manager.
pub(crate) struct ManagerClient {
    client: reqwest::Client,
    server: String,
    token: Option<TokenSecret>,
}

impl ManagerClient {
    /// Reads the profile and the files that it names.
    pub(crate) fn new(profile: Option<&PathBuf>) -> Result<Self> {
        let default = PathBuf::from(DEFAULT_PROFILE);
        let path = match profile {
            Some(path) => path,
            None if default.exists() => &default,
            None => {
                let need = format!(
                    "no profile: name one with --profile or STEKD_PROFILE, or run `stekd dev` here \
                     ({DEFAULT_PROFILE} is looked for)"
                );
                return Err(Refused(need).into());
            }
        };
        let profile: Profile = config::read(path)?;
        let checked = Reach::profile(&profile, path).check(instance_name(Some("stekd"))?)?;
        let token = profile.token_file.as_deref().map(read_token).transpose()?;
        let client = stek_client::http_client(&checked)?;
        let server = profile.server.trim_end_matches('/').to_owned();
        Ok(Self { client, server, token })
    }

    /// The same way to another server, which must be one that a poller would ask.
    pub(crate) fn at(&self, server: &str) -> Result<Self> {
        let server = Upstream::try_new(server)?.to_string();
        let again = |token: &TokenSecret| TokenSecret::parse(&token.expose_text());
        let token = self.token.as_ref().and_then(again);
        Ok(Self { client: self.client.clone(), server, token })
    }

    /// Asks and reads the answer; the body of `T` may be empty if `T` reads `null`.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<String>,
    ) -> Result<T> {
        let name = RequestId::new();
        let mut response = self.send(&method, path, body.as_deref(), name).await?;
        for _ in 0..RETRIES {
            // 503 says that nothing was done: the manager starts, or cannot reach its database.
            let Some(pause) = retry_after(&response) else { break };
            tokio::time::sleep(pause).await;
            response = self.send(&method, path, body.as_deref(), name).await?;
        }
        let status = response.status();
        let body = response.bytes().await.context("the answer broke off")?;
        if status == reqwest::StatusCode::NOT_FOUND {
            bail!("not found, or not granted (request {name})");
        }
        if !status.is_success() {
            bail!("{} (request {name})", ProblemDocument::read(&body));
        }
        let body: &[u8] = if body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(body).context("the manager's answer cannot be read")
    }

    async fn send(
        &self,
        method: &Method,
        path: &str,
        body: Option<&str>,
        name: RequestId,
    ) -> Result<reqwest::Response> {
        let url = format!("{}{path}", self.server);
        let request = self.client.request(method.clone(), &url).timeout(TIME_OUT);
        let request = request.header(X_REQUEST_ID, name.to_string());
        let mut request = match &self.token {
            Some(token) => request.bearer_auth(token.expose_text()),
            None => request,
        };
        if let Some(body) = body {
            request = request.header("content-type", stek_wire::MEDIA_TYPE).body(body.to_owned());
        }
        request.send().await.with_context(|| format!("{} does not answer", self.server))
    }
}

pub(crate) fn read_token(path: &Path) -> Result<TokenSecret> {
    let text = std::fs::read_to_string(path).map(Zeroizing::new);
    let text = text.with_context(|| format!("token file {}", path.display()))?;
    TokenSecret::parse(text.trim_end())
        .with_context(|| format!("token file {} holds no token", path.display()))
}

/// How long to wait before asking again, if the answer says that this may help.
fn retry_after(response: &reqwest::Response) -> Option<Duration> {
    if response.status() != reqwest::StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let seconds = response.headers().get("retry-after")?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds).min(LONGEST_PAUSE))
}
