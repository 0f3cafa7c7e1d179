//! How much of a listener one principal may take: requests by a token bucket, and long-polls. Memory
//! is bounded whoever asks; who asks has been proven before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use stek_core::name::PrincipalName;
use tokio::time::Instant;

use crate::Limits;

/// The most principals that are told apart: more than terminators of a fleet with one name each.
/// An account is under 700 bytes, so all take under 12 MiB. Those beyond share one account.
const MAX_ACCOUNTS: usize = 16_384;

/// How soon to look again for accounts that can be forgotten after a look that found few.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// How soon to ask again when too many wait.
const WAIT_RETRY: Duration = Duration::from_secs(5);

/// What the principals of one listener have taken.
#[derive(Debug)]
pub(crate) struct Quotas {
    per_request: Duration,
    /// How far ahead of the even pace a principal may be.
    slack: Duration,
    max_waiting: usize,
    started: Instant,
    accounts: Mutex<Accounts>,
}

/// What one principal has taken. One that is even and does not wait need not be remembered.
#[derive(Debug, Default)]
struct Account {
    /// When the next request would come at an even pace (the generic cell rate algorithm of ATM
    /// Forum TM 4.1, which is a token bucket in one number), since the start.
    due: Duration,
    waiting: usize,
}

#[derive(Debug, Default)]
struct Accounts {
    known: HashMap<PrincipalName, Account>,
    /// Of all those for whom there was no room.
    others: Account,
    swept: Duration,
}

impl Quotas {
    pub(crate) fn new(limits: &Limits) -> Self {
        let per_request = Duration::from_secs(1) / limits.requests_per_second;
        Self {
            per_request,
            slack: per_request * (limits.request_burst - 1),
            max_waiting: limits.max_waiting,
            started: Instant::now(),
            accounts: Mutex::default(),
        }
    }

    /// Counts a request; else how long to wait before the next.
    pub(crate) fn request(&self, who: &PrincipalName) -> Result<(), Duration> {
        let now = self.started.elapsed();
        self.with(who, now, |account, _| {
            let due = account.due.max(now);
            let ahead = due - now;
            if ahead > self.slack {
                return Err(ahead - self.slack);
            }
            account.due = due + self.per_request;
            Ok(())
        })
    }

    /// Counts one who waits; else how long to wait before the next.
    pub(crate) fn wait(self: &Arc<Self>, who: &PrincipalName) -> Result<Waiting, Duration> {
        let is_known = self.with(who, self.started.elapsed(), |account, is_known| {
            if account.waiting >= self.max_waiting {
                return Err(WAIT_RETRY);
            }
            account.waiting += 1;
            Ok(is_known)
        })?;
        Ok(Waiting(Some((Arc::clone(self), is_known.then(|| who.clone())))))
    }

    fn done_waiting(&self, who: Option<&PrincipalName>) {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        // An account of somebody who waits is not forgotten.
        let account = match who {
            Some(name) => accounts.known.get_mut(name),
            None => Some(&mut accounts.others),
        };
        if let Some(account) = account {
            account.waiting = account.waiting.saturating_sub(1);
        }
    }

    /// Looks at the account of `who`, and whether it is one of its own.
    fn with<T>(
        &self,
        who: &PrincipalName,
        now: Duration,
        look: impl FnOnce(&mut Account, bool) -> T,
    ) -> T {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(account) = accounts.known.get_mut(who) {
            return look(account, true);
        }
        if accounts.known.len() >= MAX_ACCOUNTS && now >= accounts.swept + SWEEP_PAUSE {
            accounts.swept = now;
            accounts.known.retain(|_, account| account.waiting > 0 || account.due > now);
        }
        if accounts.known.len() >= MAX_ACCOUNTS {
            return look(&mut accounts.others, false);
        }
        look(accounts.known.entry(who.clone()).or_default(), true)
    }
}

/// One request that waits, counted while this is held.
#[derive(Debug)]
pub struct Waiting(Option<(Arc<Quotas>, Option<PrincipalName>)>);

impl Waiting {
    pub(crate) fn uncounted() -> Self {
        Self(None)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((quotas, who)) = &self.0 {
            quotas.done_waiting(who.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quotas(requests_per_second: u32, request_burst: u32, max_waiting: usize) -> Arc<Quotas> {
        let limits =
            Limits { requests_per_second, request_burst, max_waiting, ..Limits::default() };
        Arc::new(Quotas::new(&limits))
    }

    fn name(text: &str) -> PrincipalName {
        PrincipalName::try_new(text).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_and_then_an_even_pace() {
        let quotas = quotas(10, 5, 1);
        let who = name("token:edge");
        assert!((0..5).all(|_| quotas.request(&who).is_ok()));
        assert_eq!(quotas.request(&who), Err(Duration::from_millis(100)));
        assert_eq!(quotas.request(&name("token:other")), Ok(()), "others are not held up");
        tokio::time::advance(Duration::from_millis(250)).await;
        assert!((0..2).all(|_| quotas.request(&who).is_ok()));
        assert_eq!(quotas.request(&who), Err(Duration::from_millis(50)));
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert!((0..5).all(|_| quotas.request(&who).is_ok()));
        assert!(quotas.request(&who).is_err(), "what was not used does not pile up");
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_wait_are_counted_until_they_go() {
        let quotas = quotas(1, 1, 2);
        let who = name("token:edge");
        let (first, second) = (quotas.wait(&who).unwrap(), quotas.wait(&who).unwrap());
        assert_eq!(quotas.wait(&who).unwrap_err(), WAIT_RETRY);
        quotas.wait(&name("token:other")).unwrap();
        drop(first);
        let third = quotas.wait(&who).unwrap();
        quotas.wait(&who).unwrap_err();
        drop((second, third));
    }

    #[tokio::test(start_paused = true)]
    async fn accounts_are_bounded_and_those_in_use_are_kept() {
        let quotas = quotas(1, 2, 1);
        let seated = name("seated");
        let seat = quotas.wait(&seated).unwrap();
        for number in 1..MAX_ACCOUNTS {
            assert_eq!(quotas.request(&name(&format!("n{number}"))), Ok(()));
        }
        // No room, and nobody to forget: these share what one would have.
        for (who, expected) in [("a", true), ("b", true), ("c", false)] {
            assert_eq!(quotas.request(&name(who)).is_ok(), expected, "{who}");
        }
        let shared = quotas.wait(&name("a")).unwrap();
        quotas.wait(&name("b")).unwrap_err();
        drop(shared);
        quotas.wait(&name("b")).unwrap();
        assert_eq!(quotas.accounts.lock().unwrap().known.len(), MAX_ACCOUNTS);
        // All but the one who waits are even again and are forgotten.
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(quotas.request(&name("c")), Ok(()));
        assert_eq!(quotas.accounts.lock().unwrap().known.len(), 2);
        quotas.wait(&seated).unwrap_err();
        drop(seat);
        quotas.wait(&seated).unwrap();
    }
}
