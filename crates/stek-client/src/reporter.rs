//! Reports to every upstream who holds what, as a replica counts it. Decides when to try again;
//! what is counted, and how often, is decided by whoever counts. A report replaces the one before,
//! so none is kept for later.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, Opts, Registry};
use reqwest::StatusCode;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use stek_clock::Clock;
use stek_core::access::TokenSecret;
use stek_core::check_in::Census;
use stek_wire::check_ins::{PATH, encode_check_ins};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::ClientConfig;
use crate::follower::StartError;
use crate::http::Http;
use crate::jitter::Jitter;
use crate::token::{authorization, read_token};
use crate::transport::chain;
use crate::upstream::Upstream;

/// How long one report may take; the next one is due by then.
const TIME_OUT: Duration = Duration::from_secs(5);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after the first.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Sends each count to every upstream until it is dropped: whoever of them decides about a keyset
/// must know of all replicas.
pub struct CheckInReporter {
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl CheckInReporter {
    /// Begins to report `counts` on the current Tokio run time.
    ///
    /// # Errors
    /// [`StartError`] by cause. That nobody can be reached is none.
    ///
    /// # Panics
    /// Outside a Tokio run time.
    pub fn start(
        config: &ClientConfig,
        counts: &watch::Receiver<Arc<Census>>,
        clock: &Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, StartError> {
        let opts = Opts::new("stek_client_reports_total", "Reports of who holds what, by outcome.");
        let outcomes = IntCounterVec::new(opts, &["outcome"]).map_err(StartError::Metrics)?;
        registry.register(Box::new(outcomes.clone())).map_err(StartError::Metrics)?;
        for outcome in [SENT, FAILED] {
            outcomes.with_label_values(&[outcome]);
        }
        let (cancel, mut tasks) = (CancellationToken::new(), JoinSet::new());
        for upstream in config.upstreams() {
            let line = Line {
                http: Http::try_new(config)?,
                upstream: upstream.clone(),
                token_file: config.token().map(ToOwned::to_owned),
                token: None,
                clock: Arc::clone(clock),
                jitter: Jitter::from_os().map_err(StartError::Random)?,
                outcomes: outcomes.clone(),
                failing: None,
            };
            let (cancel, counts) = (cancel.clone(), counts.clone());
            tasks.spawn(async move {
                cancel.run_until_cancelled(line.run(counts)).await;
            });
        }
        Ok(Self { cancel, tasks })
    }

    /// Stops and waits until the tasks have ended, which is at once.
    pub async fn shutdown(mut self) {
        self.cancel.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "reporter failed");
            }
        }
    }
}

impl Drop for CheckInReporter {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// The outcomes that reports are counted by.
const SENT: &str = "sent";
const FAILED: &str = "failed";

/// The way to one upstream.
struct Line {
    http: Http,
    upstream: Upstream,
    token_file: Option<PathBuf>,
    /// Read again after every failure.
    token: Option<TokenSecret>,
    clock: Arc<dyn Clock>,
    jitter: Jitter,
    outcomes: IntCounterVec,
    /// Why the last report was not taken; so that each cause is logged once.
    failing: Option<String>,
}

/// Why a report was not taken.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error("no answer within {TIME_OUT:?}")]
    TimedOut,
    #[error("no answer")]
    Unreachable(#[source] reqwest::Error),
    #[error("status {0}")]
    Refused(StatusCode),
}

impl Line {
    async fn run(mut self, mut counts: watch::Receiver<Arc<Census>>) {
        let mut failures = 0_u32;
        loop {
            let census = counts.borrow_and_update().clone();
            if census.replicas.is_empty() {
                // Nobody to speak of is said by silence.
                if counts.changed().await.is_err() {
                    return;
                }
                continue;
            }
            match self.send(&census).await {
                Ok(()) => {
                    failures = 0;
                    self.note(None);
                    if counts.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.token = None;
                    self.note(Some(chain(&error)));
                    let ceiling = FIRST_PAUSE.saturating_mul(1 << failures.min(8));
                    failures = failures.saturating_add(1);
                    let pause = self.jitter.up_to(ceiling.min(LONGEST_PAUSE));
                    self.clock.sleep(pause).await;
                }
            }
        }
    }

    async fn send(&mut self, census: &Census) -> Result<(), SendError> {
        self.http.renew(&*self.clock).await;
        if self.token.is_none() {
            self.read_token().await;
        }
        let body = encode_check_ins(census).as_slice().to_vec();
        let mut request = self
            .http
            .client()
            .post(self.upstream.join(PATH))
            .header(CONTENT_TYPE, stek_wire::MEDIA_TYPE)
            .body(body);
        if let Some(value) = self.token.as_ref().and_then(authorization) {
            request = request.header(AUTHORIZATION, value);
        }
        let answer = tokio::select! {
            answer = request.send() => answer,
            () = self.clock.sleep(TIME_OUT) => return Err(SendError::TimedOut),
        };
        let status = answer.map_err(|error| SendError::Unreachable(error.without_url()))?.status();
        if status.is_success() { Ok(()) } else { Err(SendError::Refused(status)) }
    }

    async fn read_token(&mut self) {
        let Some(path) = self.token_file.clone() else { return };
        let read = tokio::task::spawn_blocking(move || read_token(&path)).await;
        // Without one the upstream refuses, and that is logged.
        self.token = read.ok().and_then(Result::ok);
    }

    fn note(&mut self, failure: Option<String>) {
        let outcome = if failure.is_none() { SENT } else { FAILED };
        self.outcomes.with_label_values(&[outcome]).inc();
        let upstream = &self.upstream;
        match &failure {
            Some(cause) if self.failing != failure => {
                tracing::warn!(%upstream, cause, "who holds what is not reported");
            }
            None if self.failing.is_some() => {
                tracing::info!(%upstream, "who holds what is reported again");
            }
            _ => {}
        }
        self.failing = failure;
    }
}
