//! Whom to ask: which addresses are allowed, and which comes next when one fails or is stale. The
//! first in the list is preferred at the start; after that, whoever answers is kept.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use reqwest::Url;

use crate::config::ConfigError;

const ALLOWED: &str = "https://host[:port], or http://host[:port] for 127.0.0.0/8, [::1] and \
                       localhost, without path, query or credentials";

/// The address of a server that is asked, such as `https://stek.example.org:8443`.
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream(Url);

impl Upstream {
    /// Reads an address: `https`, or `http` for a loopback host, with nothing after host and port.
    ///
    /// # Errors
    /// [`ConfigError::Value`] with what is allowed. Credentials in the address are not repeated.
    pub fn try_new(text: &str) -> Result<Self, ConfigError> {
        let error = || {
            let value = if text.contains('@') { "a URL with credentials" } else { text };
            ConfigError::value("upstreams", value, ALLOWED)
        };
        let url = Url::parse(text).map_err(|_| error())?;
        let host = url.host_str().ok_or_else(error)?;
        let scheme_fits = match url.scheme() {
            "https" => true,
            "http" => is_loopback(host),
            _ => false,
        };
        let bare = url.path() == "/"
            && url.query().is_none()
            && url.fragment().is_none()
            && url.username().is_empty()
            && url.password().is_none();
        if scheme_fits && bare { Ok(Self(url)) } else { Err(error()) }
    }

    /// Whether it is asked over TLS.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// The address of `path`, which begins with a slash.
    pub(crate) fn join(&self, path: &str) -> Url {
        let mut url = self.0.clone();
        url.set_path(path);
        url
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The upstreams in turn.
#[derive(Debug)]
pub(crate) struct Upstreams {
    list: Vec<Slot>,
    current: usize,
    /// While others are asked because one is stale: that one.
    home: Option<usize>,
}

/// What an upstream has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// What the database held not long ago, or nobody knows.
    Fresh,
    /// What it held long ago.
    Stale,
}

/// Whether there is another to be asked for something fresher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Search {
    /// The current one.
    On,
    /// All have been asked; the current one is the one with which it began.
    Over,
}

#[derive(Debug)]
struct Slot {
    upstream: Upstream,
    /// Boot time before which it asked not to be asked.
    not_before: Duration,
    /// Why it failed last, if it has not answered well since; so that each cause is logged once.
    failing: Option<String>,
    freshness: Freshness,
    /// In how many searches in a row it failed.
    failed_searches: u32,
    /// Boot time before which no search asks it. Who looks for one that answers at all does.
    passed_over_until: Duration,
}

impl Upstreams {
    pub(crate) fn new(list: Vec<Upstream>) -> Self {
        let slot = |upstream| Slot {
            upstream,
            not_before: Duration::ZERO,
            failing: None,
            freshness: Freshness::Fresh,
            failed_searches: 0,
            passed_over_until: Duration::ZERO,
        };
        Self { list: list.into_iter().map(slot).collect(), current: 0, home: None }
    }

    /// The one to ask now.
    pub(crate) fn current(&self) -> &Upstream {
        &self.list[self.current].upstream
    }

    /// Notes that the current one failed by `cause`, and whether that is news.
    pub(crate) fn note_failure(&mut self, cause: &str) -> bool {
        let failing = &mut self.list[self.current].failing;
        let is_news = failing.as_deref() != Some(cause);
        *failing = Some(cause.to_owned());
        is_news
    }

    /// Notes that the current one answered well, and whether that is news.
    pub(crate) fn note_success(&mut self) -> bool {
        self.list[self.current].failed_searches = 0;
        self.list[self.current].failing.take().is_some()
    }

    /// Notes what the current one has, and whether that is news. With a fresh one a search ends.
    pub(crate) fn note_freshness(&mut self, freshness: Freshness) -> bool {
        if freshness == Freshness::Fresh {
            self.home = None;
        }
        let held = &mut self.list[self.current].freshness;
        std::mem::replace(held, freshness) != freshness
    }

    /// Whether a fresher one than that with which the search began is looked for.
    pub(crate) fn is_seeking(&self) -> bool {
        self.home.is_some()
    }

    /// Turns to the next one that may be asked at this boot time, or after all of them back to the
    /// one with which the search began.
    pub(crate) fn seek(&mut self, now: Duration) -> Search {
        let home = *self.home.get_or_insert(self.current);
        let count = self.list.len();
        let mut in_turn = (1..=count).map(|step| (self.current + step) % count);
        let may_be_asked = |slot: &Slot| slot.not_before.max(slot.passed_over_until) <= now;
        let next = in_turn.find(|index| *index == home || may_be_asked(&self.list[*index]));
        self.current = next.unwrap_or(home);
        if self.current != home {
            return Search::On;
        }
        self.home = None;
        Search::Over
    }

    /// The current one failed in a search: the next ones pass it over for as long as `span` says,
    /// which is given how many failed in a row before.
    pub(crate) fn pass_over(&mut self, now: Duration, span: impl FnOnce(u32) -> Duration) {
        let slot = &mut self.list[self.current];
        slot.passed_over_until = now + span(slot.failed_searches);
        slot.failed_searches = slot.failed_searches.saturating_add(1);
    }

    /// The current one is not to be asked before this boot time.
    pub(crate) fn hold_off(&mut self, not_before: Duration) {
        self.list[self.current].not_before = not_before;
    }

    /// Turns to the next one that may be asked soonest, and says from which boot time on.
    pub(crate) fn rotate(&mut self, now: Duration) -> Duration {
        let count = self.list.len();
        let in_turn = (1..=count).map(|step| (self.current + step) % count);
        let soonest = in_turn.min_by_key(|index| self.list[*index].not_before.max(now));
        self.current = soonest.unwrap_or(self.current);
        self.list[self.current].not_before.max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_anywhere_and_http_at_home() {
        for (text, shown) in [
            ("https://stek.example.org", "https://stek.example.org"),
            ("https://stek.example.org:8443/", "https://stek.example.org:8443"),
            ("https://192.0.2.7", "https://192.0.2.7"),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://127.9.9.9", "http://127.9.9.9"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://localhost:8080", "http://localhost:8080"),
        ] {
            assert_eq!(Upstream::try_new(text).unwrap().to_string(), shown);
        }
        for bad in [
            "",
            "stek.example.org",
            "http://stek.example.org",
            "http://192.0.2.7",
            "http://0.0.0.0",
            "http://[::]",
            "http://localhost.example.org",
            "http://127.0.0.1.example.org",
            "https://host/path",
            "https://host?query",
            "https://host#fragment",
            "ftp://localhost",
            "unix:///run/stek.sock",
        ] {
            let error = Upstream::try_new(bad).unwrap_err().to_string();
            assert!(error.contains("upstreams") && error.contains("https://host"), "{error}");
            assert!(error.contains(bad), "{error}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_refused_and_not_repeated() {
        let error = Upstream::try_new("https://user:canary@host").unwrap_err();
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    fn upstreams(count: usize) -> Upstreams {
        let upstream = |n| Upstream::try_new(&format!("https://u{n}")).unwrap();
        Upstreams::new((0..count).map(upstream).collect())
    }

    #[test]
    fn each_gets_its_turn() {
        let mut upstreams = upstreams(3);
        let mut seen = vec![upstreams.current().to_string()];
        for _ in 0..3 {
            assert_eq!(upstreams.rotate(Duration::from_secs(9)), Duration::from_secs(9));
            seen.push(upstreams.current().to_string());
        }
        assert_eq!(seen, ["https://u0", "https://u1", "https://u2", "https://u0"]);
    }

    #[test]
    fn one_that_asked_for_time_gets_it_if_another_can_be_asked() {
        let second = Duration::from_secs;
        let mut two = upstreams(2);
        two.hold_off(second(20));
        assert_eq!(two.rotate(second(10)), second(10));
        assert_eq!(two.rotate(second(10)), second(10), "u0 is passed over");
        assert_eq!(two.current().to_string(), "https://u1");
        two.hold_off(second(30));
        assert_eq!(two.rotate(second(10)), second(20), "the sooner of the two");
        assert_eq!(two.current().to_string(), "https://u0");
        let mut one = upstreams(1);
        one.hold_off(second(20));
        assert_eq!(one.rotate(second(10)), second(20));
    }

    #[test]
    fn a_search_asks_each_once_and_ends_at_home_or_with_a_fresh_one() {
        let second = Duration::from_secs;
        let mut three = upstreams(3);
        let seek = |three: &mut Upstreams, now| {
            let search = three.seek(second(now));
            (search, three.current().to_string())
        };
        for _ in 0..2 {
            assert_eq!(seek(&mut three, 0), (Search::On, "https://u1".into()));
            assert_eq!(seek(&mut three, 0), (Search::On, "https://u2".into()));
            assert!(three.is_seeking());
            assert_eq!(seek(&mut three, 0), (Search::Over, "https://u0".into()));
            assert!(!three.is_seeking());
        }
        three.rotate(second(0));
        three.hold_off(second(20));
        three.rotate(second(0));
        assert_eq!(seek(&mut three, 10), (Search::On, "https://u0".into()), "from u2");
        three.note_freshness(Freshness::Fresh);
        assert!(!three.is_seeking());
        assert_eq!(seek(&mut three, 10), (Search::On, "https://u2".into()), "u1 asked for time");
        assert_eq!(seek(&mut upstreams(1), 0), (Search::Over, "https://u0".into()));
    }

    #[test]
    fn freshness_is_news_when_it_changes() {
        let mut one = upstreams(1);
        assert!(!one.note_freshness(Freshness::Fresh));
        assert!(one.note_freshness(Freshness::Stale));
        assert!(!one.note_freshness(Freshness::Stale));
        assert!(one.note_freshness(Freshness::Fresh));
    }

    #[test]
    fn a_cause_is_news_once_for_each_upstream() {
        let mut two = upstreams(2);
        assert!(two.note_failure("busy"));
        assert!(!two.note_failure("busy"));
        assert!(two.note_failure("unreachable"));
        two.rotate(Duration::ZERO);
        assert!(!two.note_success());
        assert!(two.note_failure("unreachable"));
        assert!(two.note_success());
        assert!(!two.note_success());
    }
}
