//! Answers at once, or, for a script that names what it shows, when that is no longer right: when
//! something has changed, or when so much time has passed that the picture is off.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::IF_NONE_MATCH;
use stek_core::time::Timestamp;
use stek_http::prefer;

use crate::page::view::View;
use crate::page::viewer::Viewer;
use crate::page::{Asked, LONGEST_WAIT, Missing, Page, html};

/// How often what is shown is compared while somebody waits: for what no message announces.
const LOOK: Duration = Duration::from_secs(2);

/// What a script shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shown {
    signature: u64,
    /// When it should be drawn anew.
    refresh_at: Timestamp,
}

impl Shown {
    fn of(view: &View) -> Self {
        Self { signature: view.signature(), refresh_at: view.refresh_at() }
    }

    fn tag(self) -> String {
        format!("{:016x}.{}", self.signature, self.refresh_at.as_unix())
    }

    fn parse(text: &str) -> Option<Self> {
        let (signature, refresh_at) = text.trim().trim_matches('"').split_once('.')?;
        let signature = u64::from_str_radix(signature, 16).ok()?;
        let refresh_at = Timestamp::from_unix(refresh_at.parse().ok()?);
        Some(Self { signature, refresh_at })
    }

    /// Whether `view` is what is shown, for now.
    fn holds(self, view: &View) -> bool {
        self.signature == view.signature() && view.head.now < self.refresh_at
    }
}

/// The page that was asked for, now or when it differs from the one that is shown.
pub(super) async fn answer(
    page: &Arc<Page>,
    mut viewer: Viewer,
    asked: Asked,
    request: Request,
) -> Response {
    let (mut parts, _) = request.into_parts();
    let waits = waits(&parts.headers);
    let permit = waits.and_then(|_| page.waiting.try_acquire().ok());
    if let Some((shown, span)) = waits.filter(|_| permit.is_some()) {
        let until = page.operations.engine().clock().boot() + span;
        if let Err(missing) = wait(page, &viewer, &asked, shown, until).await {
            return missing.into_response();
        }
        // Tokens end and grants are taken away while a page waits.
        viewer = match Viewer::from_request_parts(&mut parts, page).await {
            Ok(viewer) => viewer,
            Err(response) => return response,
        };
    }
    match page.view(&viewer, &asked).await {
        Ok(view) => html::page(&view, &Shown::of(&view).tag()).into_response(),
        Err(missing) => missing.into_response(),
    }
}

/// Returns when what is shown no longer holds, and at `until`, by boot time, at the latest.
async fn wait(
    page: &Page,
    viewer: &Viewer,
    asked: &Asked,
    shown: Shown,
    until: Duration,
) -> Result<(), Missing> {
    let clock = page.operations.engine().clock();
    loop {
        // Before looking, so that no change falls between the look and the wait.
        let mut feed = page.operations.feeds();
        let view = page.view(viewer, asked).await?;
        let over = clock.boot() >= until || page.shutdown.is_cancelled();
        if over || !shown.holds(&view) {
            return Ok(());
        }
        tokio::select! {
            () = page.shutdown.cancelled() => {}
            () = clock.sleep_until((clock.boot() + LOOK).min(until)) => {}
            _ = feed.changed() => {}
        }
    }
}

/// What is shown and how long to wait, if the request says both.
fn waits(headers: &HeaderMap) -> Option<(Shown, Duration)> {
    let longest = u32::try_from(LONGEST_WAIT.as_secs()).unwrap_or(u32::MAX);
    let wait = prefer::wait_seconds(headers, longest)?;
    let shown = headers.get(IF_NONE_MATCH)?.to_str().ok().and_then(Shown::parse)?;
    Some((shown, Duration::from_secs(wait.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_read_what_they_write() {
        let shown = Shown { signature: 0xab, refresh_at: Timestamp::from_unix(1_790_000_000) };
        assert_eq!(shown.tag(), "00000000000000ab.1790000000");
        assert_eq!(Shown::parse(&format!("\"{}\"", shown.tag())), Some(shown));
        for text in ["", "ab", "ab.", ".1", "xy.1", "ab.-1", "*"] {
            assert_eq!(Shown::parse(text), None, "{text}");
        }
    }
}
