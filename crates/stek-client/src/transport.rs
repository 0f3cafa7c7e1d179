//! One request and its answer: no more bytes than allowed, no longer than allowed. What an answer
//! means for the keys is decided by others.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT, AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use stek_clock::Clock;
use stek_core::access::TokenSecret;
use stek_core::id::ContentTag;
use stek_core::time::Seconds;
use stek_wire::headers::{
    STEK_CLOCK_OFFSET, STEK_INSTANCE, STEK_READ_AGE, STEK_TIME, format_clock_offset,
    parse_read_age, parse_stek_time,
};
use stek_wire::problem::{MAX_PROBLEM_BYTES, ProblemDocument};
use stek_wire::{MEDIA_TYPE, SecretBytes, tag};

use crate::config::{ANSWER_MARGIN, ClientConfig, MAX_BUNDLE_BODY_BYTES};
use crate::follower::StartError;
use crate::http::Http;
use crate::reader::Reader;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::token::{TokenError, authorization, read_token};
use crate::upstream::Upstream;

/// RFC 7240, section 2.
const PREFER: HeaderName = HeaderName::from_static("prefer");

/// What is asked.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) upstream: Upstream,
    /// What is installed, unless everything is wanted.
    pub(crate) installed: Option<ContentTag>,
    /// How long the server may hold the request while nothing changes.
    pub(crate) wait: Seconds,
    /// By which the request is found in the server's log.
    pub(crate) request_id: RequestId,
    /// How far our wall clock is ahead of fleet time, in milliseconds, once that has been told.
    pub(crate) clock_offset_millis: Option<i64>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Content, not yet looked at.
    Changed { tag: ContentTag, body: SecretBytes, told: Told },
    /// What is installed is what there is.
    NotModified { told: Told },
    /// The server has not got as far as what is installed.
    Behind,
    /// The server does not want to.
    Refused { status: u16, problem: ProblemDocument },
    /// The server cannot now.
    Busy { retry_after: Option<Seconds> },
    /// No answer.
    Unreachable(Unreachable),
    /// An answer against the contract.
    Invalid(Invalid),
}

/// What a good answer told beside the content, and the boot time at which it came.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    fleet_millis: Option<u64>,
    read_age: Option<Duration>,
    boot: Duration,
}

impl Told {
    fn new(headers: &HeaderMap, boot: Duration) -> Self {
        let text = |name| text(headers, &HeaderName::from_static(name));
        let fleet_millis = text(STEK_TIME).and_then(parse_stek_time);
        Self { fleet_millis, read_age: text(STEK_READ_AGE).and_then(parse_read_age), boot }
    }

    /// Fleet time in milliseconds, carried on to a later boot time.
    pub(crate) fn fleet_millis_at(self, boot: Duration) -> Option<u64> {
        let passed = u64::try_from(boot.saturating_sub(self.boot).as_millis()).unwrap_or(u64::MAX);
        self.fleet_millis.map(|millis| millis.saturating_add(passed))
    }

    /// How long before that boot time the server's database was read.
    pub(crate) fn read_age_at(self, boot: Duration) -> Option<Duration> {
        self.read_age.map(|age| age + boot.saturating_sub(self.boot))
    }
}

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreachable {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("no connection")]
    Connect(#[source] reqwest::Error),
    #[error("the connection broke")]
    Broken(#[source] reqwest::Error),
}

impl From<reqwest::Error> for Unreachable {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if error.is_connect() { Self::Connect(error) } else { Self::Broken(error) }
    }
}

/// How an answer breaks the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Invalid {
    #[error("answer has more than {0} bytes")]
    TooLong(usize),
    #[error("answer has no entity tag <incarnation>.<revision>.<digest>")]
    NoTag,
    #[error("answer says that something else is unchanged than what was asked for")]
    OtherUnchanged,
}

/// Asks for one path.
pub(crate) struct Transport {
    http: Http,
    path: String,
    token: Option<TokenFile>,
    instance: HeaderValue,
    max_body: usize,
    clock: Arc<dyn Clock>,
}

struct TokenFile {
    path: PathBuf,
    reader: Reader<Result<TokenSecret, TokenError>>,
    read: Option<TokenSecret>,
    /// Whether the file could not be read the last time; said once.
    unreadable: bool,
}

impl Transport {
    /// A transport for `path`, taking at most `default_max_body` bytes unless configured.
    pub(crate) fn try_new(
        config: &ClientConfig,
        path: String,
        default_max_body: usize,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, StartError> {
        Ok(Self {
            http: Http::try_new(config)?,
            path,
            token: config.token().map(|path| TokenFile {
                path: path.to_owned(),
                reader: Reader::new("token"),
                read: None,
                unreadable: false,
            }),
            instance: HeaderValue::from_str(config.instance().as_str())
                .map_err(StartError::Instance)?,
            max_body: config.max_body_bytes().unwrap_or(default_max_body),
            clock,
        })
    }

    /// Asks, and asks once more if the token was refused and its file holds another by now.
    pub(crate) async fn fetch(&mut self, ask: &Ask) -> Answer {
        self.http.renew(&*self.clock).await;
        if self.token.as_ref().is_some_and(|token| token.read.is_none()) {
            self.reread_token().await;
        }
        let answer = self.exchange(ask).await;
        let is_refused =
            matches!(answer, Answer::Refused { status, .. } if status == StatusCode::UNAUTHORIZED);
        if is_refused && self.reread_token().await { self.exchange(ask).await } else { answer }
    }

    /// Whether there is another token than before.
    async fn reread_token(&mut self) -> bool {
        let Some(token) = &mut self.token else { return false };
        let path = token.path.clone();
        let fresh = match token.reader.read(&*self.clock, move || read_token(&path)).await {
            Some(Ok(fresh)) => fresh,
            Some(Err(error)) => {
                if !std::mem::replace(&mut token.unreadable, true) {
                    tracing::warn!(error = %chain(&error), "token not read again");
                }
                return false;
            }
            None => return false,
        };
        let is_other = token.read.as_ref().is_none_or(|old| old.hash() != fresh.hash());
        token.unreadable = false;
        token.read = Some(fresh);
        is_other
    }

    /// The longest time in which a fetch ends: two exchanges, if a token is read again between.
    pub(crate) fn longest(&self, ask: &Ask) -> Duration {
        2 * (head_limit(ask) + body_margin(self.max_body))
    }

    async fn exchange(&self, ask: &Ask) -> Answer {
        let head_limit = head_limit(ask);
        let started = self.clock.boot();
        let response = tokio::select! {
            response = self.request(ask).send() => response,
            () = self.clock.sleep_until(started + head_limit) => {
                return Answer::Unreachable(Unreachable::TimedOut(head_limit));
            }
        };
        let response = match response {
            Ok(response) => response,
            Err(error) => return Answer::Unreachable(error.into()),
        };
        let limit = head_limit + body_margin(self.max_body);
        tokio::select! {
            answer = self.classify(ask, response) => answer.unwrap_or_else(|failed| failed),
            () = self.clock.sleep_until(started + limit) => {
                Answer::Unreachable(Unreachable::TimedOut(limit))
            }
        }
    }

    fn request(&self, ask: &Ask) -> reqwest::RequestBuilder {
        let mut request = self
            .http
            .client()
            .get(ask.upstream.join(&self.path))
            .header(ACCEPT, MEDIA_TYPE)
            .header(STEK_INSTANCE, self.instance.clone())
            .header(X_REQUEST_ID, ask.request_id.to_string());
        let token = self.token.as_ref().and_then(|token| token.read.as_ref());
        if let Some(value) = token.and_then(authorization) {
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(installed) = ask.installed {
            request = request.header(IF_NONE_MATCH, tag::format_etag(installed));
        }
        if let Some(millis) = ask.clock_offset_millis {
            request = request.header(STEK_CLOCK_OFFSET, format_clock_offset(millis));
        }
        if ask.wait > Seconds::ZERO {
            request = request.header(PREFER, format!("wait={}", ask.wait.as_secs()));
        }
        request
    }

    async fn classify(&self, ask: &Ask, response: Response) -> Result<Answer, Answer> {
        let headers = response.headers();
        let etag = text(headers, &ETAG).and_then(tag::parse_etag);
        let told = Told::new(headers, self.clock.boot());
        match response.status() {
            StatusCode::OK => {
                let tag = etag.ok_or(Answer::Invalid(Invalid::NoTag))?;
                let body = read_body(response, self.max_body).await?;
                Ok(Answer::Changed { tag, body, told })
            }
            // A 304 names what is unchanged (RFC 9110, section 15.4.5), if a proxy left it there.
            // An upstream that has not got as far as we have names what it has.
            StatusCode::NOT_MODIFIED => match (ask.installed, etag) {
                (Some(installed), etag) if etag.is_none_or(|tag| tag == installed) => {
                    Ok(Answer::NotModified { told })
                }
                (Some(installed), Some(tag)) if is_older(tag, installed) => Ok(Answer::Behind),
                _ => Err(Answer::Invalid(Invalid::OtherUnchanged)),
            },
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let seconds = text(headers, &RETRY_AFTER).and_then(|value| value.parse().ok());
                Ok(Answer::Busy { retry_after: seconds.map(Seconds::new) })
            }
            status => {
                let problem = match read_body(response, MAX_PROBLEM_BYTES).await {
                    Ok(body) => ProblemDocument::read(body.as_slice()),
                    Err(_) => ProblemDocument::default(),
                };
                Ok(Answer::Refused { status: status.as_u16(), problem })
            }
        }
    }
}

/// Whether `tag` comes before `installed`, in its lineage or by an earlier one.
fn is_older(tag: ContentTag, installed: ContentTag) -> bool {
    (tag.incarnation, tag.revision) < (installed.incarnation, installed.revision)
}

/// How long the head of an answer may take.
fn head_limit(ask: &Ask) -> Duration {
    ask.wait.to_std() + ANSWER_MARGIN
}

/// What an answer longer than a bundle may take beyond the margin: a second per MiB.
fn body_margin(max_body: usize) -> Duration {
    let mebibytes = max_body.saturating_sub(MAX_BUNDLE_BODY_BYTES).div_ceil(1024 * 1024);
    Duration::from_secs(u64::try_from(mebibytes).unwrap_or(0))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

async fn read_body(mut response: Response, limit: usize) -> Result<SecretBytes, Answer> {
    let too_long = || Answer::Invalid(Invalid::TooLong(limit));
    let announced = usize::try_from(response.content_length().unwrap_or(0)).unwrap_or(usize::MAX);
    if announced > limit {
        return Err(too_long());
    }
    let mut body = SecretBytes::with_capacity(announced);
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(body),
            Ok(Some(chunk)) if chunk.len() > limit - body.len() => return Err(too_long()),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Err(error) => return Err(Answer::Unreachable(error.into())),
        }
    }
}

/// An error and what it came from, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        line.push_str(": ");
        line.push_str(&cause.to_string());
        source = cause.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_told_goes_on_with_boot_time() {
        let (second, milli) = (Duration::from_secs, Duration::from_millis);
        let told = Told { fleet_millis: Some(5_000), read_age: Some(second(3)), boot: second(10) };
        assert_eq!(told.fleet_millis_at(milli(10_250)), Some(5_250));
        assert_eq!(told.read_age_at(milli(10_250)), Some(milli(3_250)));
        assert_eq!(told.fleet_millis_at(second(9)), Some(5_000));
    }

    #[test]
    fn a_longer_body_may_take_longer() {
        assert_eq!(body_margin(1024), Duration::ZERO);
        assert_eq!(body_margin(MAX_BUNDLE_BODY_BYTES), Duration::ZERO);
        assert_eq!(body_margin(128 * 1024 * 1024), Duration::from_secs(120));
    }
}
