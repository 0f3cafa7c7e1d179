//! Where the nonce of each ticket comes from. That it never repeats rests on the source alone: 24
//! random bytes may be drawn 2⁸⁰ times under one key, a counter or a copied state may not.

mod pool;

use std::time::Duration;

use stek_core::xaes::NONCE_LEN;

pub use pool::PooledNonces;

/// A source of nonces.
pub trait NonceSource: Send + Sync {
    /// Draws the nonce of one ticket; never gives one twice. `boot` is the time since boot, now: a
    /// source that keeps a state may mix it in, so that copies of the state do not agree.
    ///
    /// # Errors
    /// [`NoRandomness`] if there is none to be had; then no ticket is sealed.
    fn draw(&self, boot: Duration) -> Result<[u8; NONCE_LEN], NoRandomness>;
}

/// The operating system's random source, asked anew for every ticket. Nothing is kept in the
/// process, so a fork or a copied machine has no state to repeat; [`PooledNonces`] is faster.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemNonces;

impl NonceSource for SystemNonces {
    fn draw(&self, _boot: Duration) -> Result<[u8; NONCE_LEN], NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| NoRandomness)?;
        Ok(nonce)
    }
}

/// No random bytes could be drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no random bytes could be drawn")]
pub struct NoRandomness;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn threads_draw_no_nonce_twice() {
        let draw =
            || (0..5_000).map(|_| SystemNonces.draw(Duration::ZERO).unwrap()).collect::<Vec<_>>();
        let all: Vec<_> = std::thread::scope(|threads| {
            let drawing: Vec<_> = (0..4).map(|_| threads.spawn(draw)).collect();
            drawing.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 20_000);
    }
}
