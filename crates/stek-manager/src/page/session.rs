//! Sessions of browsers, which cannot send bearer tokens by themselves. A session is a random
//! number in a cookie, and in memory the token it was begun with: it ends with that token, with its
//! time, with the process, or when somebody signs out. It allows to look and nothing else.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::header::COOKIE;
use http::{HeaderMap, HeaderValue};
use stek_core::access::{TokenHash, TokenSecret};
use stek_core::id::KeyId;
use stek_custody::random::{RandomError, RandomSource};

/// How long a session may last.
pub(crate) const LONGEST: Duration = Duration::from_secs(12 * 60 * 60);

/// How long a session may rest between two requests.
const LONGEST_REST: Duration = Duration::from_secs(30 * 60);

/// The most sessions at once; a further one ends the one that has rested longest.
const MOST: usize = 256;

/// The prefix makes browsers refuse it from other hosts, for other paths and without TLS.
const COOKIE_NAME: &str = "__Host-stek-status";

#[derive(Debug, Clone, Copy)]
struct Session {
    token: KeyId,
    begun: Duration,
    used: Duration,
}

impl Session {
    fn lives(&self, boot: Duration) -> bool {
        boot.saturating_sub(self.begun) < LONGEST && boot.saturating_sub(self.used) < LONGEST_REST
    }
}

/// The sessions of this process. Times are boot times.
#[derive(Debug, Default)]
pub(crate) struct Sessions(Mutex<HashMap<TokenHash, Session>>);

impl Sessions {
    /// Begins a session for the holder of `token`; returns its cookie.
    ///
    /// # Errors
    /// If there is no randomness.
    pub(crate) fn begin(
        &self,
        token: KeyId,
        random: &dyn RandomSource,
        boot: Duration,
    ) -> Result<HeaderValue, RandomError> {
        let mut bytes = [0; 32];
        random.fill(&mut bytes)?;
        let secret = TokenSecret::take_from(&mut bytes);
        let mut sessions = self.lock();
        sessions.retain(|_, session| session.lives(boot));
        if sessions.len() >= MOST {
            let longest = sessions.iter().min_by_key(|(_, session)| session.used);
            if let Some(hash) = longest.map(|(hash, _)| *hash) {
                sessions.remove(&hash);
            }
        }
        sessions.insert(secret.hash(), Session { token, begun: boot, used: boot });
        Ok(cookie(&secret.expose_text(), LONGEST))
    }

    /// The token with which the session of this request was begun, if it lives.
    pub(crate) fn token(&self, headers: &HeaderMap, boot: Duration) -> Option<KeyId> {
        let hash = named(headers)?.hash();
        let mut sessions = self.lock();
        let session = sessions.get_mut(&hash)?;
        if !session.lives(boot) {
            sessions.remove(&hash);
            return None;
        }
        session.used = boot;
        Some(session.token)
    }

    /// Ends the session of this request; returns the cookie that takes its cookie away.
    pub(crate) fn end(&self, headers: &HeaderMap) -> HeaderValue {
        if let Some(secret) = named(headers) {
            self.lock().remove(&secret.hash());
        }
        cookie("", Duration::ZERO)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TokenHash, Session>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session that a request names.
fn named(headers: &HeaderMap) -> Option<TokenSecret> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(name, _)| name.trim() == COOKIE_NAME)?;
    TokenSecret::parse(value.trim())
}

fn cookie(value: &str, life: Duration) -> HeaderValue {
    let life = life.as_secs();
    let text =
        format!("{COOKIE_NAME}={value}; Path=/; Max-Age={life}; Secure; HttpOnly; SameSite=Strict");
    // Digits and letters only, so it is always a header.
    let mut value = HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use stek_custody::random::SystemRandom;

    const HOUR: Duration = Duration::from_secs(3600);

    fn token(number: u8) -> KeyId {
        KeyId::from_bytes([number; 16])
    }

    /// A request that sends back what `cookie` set, among others.
    fn request(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().unwrap().split(';').next().unwrap();
        let line = format!("theme=dark; {pair}; other=1");
        HeaderMap::from_iter([(COOKIE, line.parse().unwrap())])
    }

    #[test]
    fn a_session_is_its_token_until_it_ends() {
        let sessions = Sessions::default();
        let cookie = sessions.begin(token(1), &SystemRandom, HOUR).unwrap();
        assert_eq!(sessions.token(&request(&cookie), HOUR), Some(token(1)));
        assert_eq!(sessions.token(&HeaderMap::new(), HOUR), None);
        let other = Sessions::default().begin(token(1), &SystemRandom, HOUR).unwrap();
        assert_eq!(sessions.token(&request(&other), HOUR), None);
        let gone = sessions.end(&request(&cookie));
        assert!(gone.to_str().unwrap().contains("Max-Age=0;"));
        assert_eq!(sessions.token(&request(&cookie), HOUR), None);
    }

    #[test]
    fn the_cookie_goes_nowhere_else() {
        let cookie = Sessions::default().begin(token(1), &SystemRandom, HOUR).unwrap();
        let text = cookie.to_str().unwrap();
        assert!(text.starts_with("__Host-"), "{text}");
        for attribute in ["Path=/", "Secure", "HttpOnly", "SameSite=Strict", "Max-Age=43200"] {
            assert!(text.split("; ").any(|part| part == attribute), "{attribute}: {text}");
        }
        assert!(!text.contains("Domain"), "{text}");
        assert_eq!(format!("{cookie:?}"), "Sensitive");
    }

    #[test]
    fn a_session_ends_by_rest_and_by_age() {
        let sessions = Sessions::default();
        let cookie = request(&sessions.begin(token(1), &SystemRandom, HOUR).unwrap());
        assert_eq!(sessions.token(&cookie, HOUR + LONGEST_REST), None, "rested too long");
        let cookie = request(&sessions.begin(token(1), &SystemRandom, HOUR).unwrap());
        let mut boot = HOUR;
        while boot + LONGEST_REST / 2 < HOUR + LONGEST {
            boot += LONGEST_REST / 2;
            assert!(sessions.token(&cookie, boot).is_some(), "{boot:?}");
        }
        assert_eq!(sessions.token(&cookie, HOUR + LONGEST), None, "too old");
    }

    #[test]
    fn the_one_that_rested_longest_makes_room() {
        let sessions = Sessions::default();
        let mut boot = HOUR;
        let mut begin = |number| {
            boot += Duration::from_millis(1);
            request(&sessions.begin(token(number), &SystemRandom, boot).unwrap())
        };
        let (first, second) = (begin(1), begin(2));
        let others: Vec<_> = (2..MOST).map(|_| begin(3)).collect();
        let later = HOUR + Duration::from_secs(1);
        assert!(sessions.token(&first, later).is_some(), "all fit");
        let boot = later + Duration::from_secs(1);
        sessions.begin(token(4), &SystemRandom, boot).unwrap();
        assert_eq!(sessions.lock().len(), MOST);
        assert_eq!(sessions.token(&second, boot), None);
        assert!(sessions.token(&first, boot).is_some());
        assert!(others.iter().all(|cookie| sessions.token(cookie, boot).is_some()));
    }
}
