//! How often tokens are refused at the form: a few a minute from one address, so that guessing makes
//! no noise and no work. Tokens are too long to be guessed anyway.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Refusals within [`PERIOD`] after which an address has to wait.
pub(crate) const MOST: u32 = 10;

/// How long refusals count.
pub(crate) const PERIOD: Duration = Duration::from_secs(60);

/// The most addresses that are remembered; with more, the one that was refused first is forgotten.
const MOST_ADDRESSES: usize = 1024;

#[derive(Debug, Clone, Copy)]
struct Refused {
    since: Duration,
    times: u32,
}

/// Refusals by address. Times are boot times.
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<IpAddr, Refused>>);

impl Attempts {
    /// Whether `address` may try now.
    pub(crate) fn may_try(&self, address: IpAddr, boot: Duration) -> bool {
        let refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = refused.get(&one_of(address));
        counted.is_none_or(|one| one.times < MOST || boot.saturating_sub(one.since) >= PERIOD)
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, address: IpAddr, boot: Duration) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|_, one| boot.saturating_sub(one.since) < PERIOD);
        let address = one_of(address);
        if refused.len() >= MOST_ADDRESSES && !refused.contains_key(&address) {
            let oldest =
                refused.iter().min_by_key(|(_, one)| one.since).map(|(address, _)| *address);
            oldest.and_then(|address| refused.remove(&address));
        }
        let one = refused.entry(address).or_insert(Refused { since: boot, times: 0 });
        one.times = one.times.saturating_add(1);
    }
}

/// The address, or the network of one subscriber: whoever has an IPv6 address has 2⁶⁴ of them.
fn one_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_waits_after_its_refusals_and_no_other_does() {
        let attempts = Attempts::default();
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let boot = Duration::from_secs(100);
        for _ in 0..MOST {
            assert!(attempts.may_try(one, boot));
            attempts.refused(one, boot);
        }
        assert!(!attempts.may_try(one, boot + PERIOD - Duration::from_millis(1)));
        assert!(!attempts.may_try(address("::ffff:192.0.2.1"), boot));
        assert!(attempts.may_try(other, boot));
        assert!(attempts.may_try(one, boot + PERIOD));
    }

    #[test]
    fn a_subscriber_counts_once_and_memory_is_bounded() {
        let attempts = Attempts::default();
        let boot = Duration::from_secs(100);
        for host in 0..MOST {
            attempts.refused(address(&format!("2001:db8::{host:x}")), boot);
        }
        assert!(!attempts.may_try(address("2001:db8::ffff"), boot));
        for network in 0..5000_u32 {
            attempts.refused(IpAddr::V4(network.into()), boot + Duration::from_millis(1));
        }
        assert!(attempts.0.lock().unwrap().len() <= MOST_ADDRESSES);
    }
}
