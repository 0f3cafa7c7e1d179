//! Nonces from a pool of kernel randomness per thread. Decides when a pool is filled and what is
//! thrown away; which bytes are random is the kernel's.

use std::cell::RefCell;
use std::time::Duration;

use stek_core::xaes::NONCE_LEN;
use zeroize::Zeroizing;

use super::{NoRandomness, NonceSource, SystemNonces};

/// How many nonces one call of the kernel brings, 3 KiB. More would not be cheaper: the kernel's time
/// goes by the byte from here on, and the thread that fills waits for it.
pub(super) const CAPACITY: usize = 128;

/// Where the boot time is mixed in: the last eight bytes.
const MIXED_AT: usize = NONCE_LEN - size_of::<u64>();

/// The operating system's random source, asked for several nonces at a time and for each thread on
/// its own, so that no thread waits for another.
///
/// A call of the kernel costs as much as sealing a short ticket, unless C library and kernel answer
/// it in the process (glibc from 2.41 on Linux 6.11 or later); then a pool gains little and loses
/// nothing, and nothing can be asked about which it is. So there is a pool always.
///
/// What a copied pool could repeat is prevented twice:
/// - a child of `fork` throws away what it has inherited, at its first draw;
/// - the nanoseconds since boot are mixed into the last bytes of each nonce, so that copies that
///   nobody notices (a cloned machine, a `clone` that bypasses the C library) agree only if they
///   draw in the same nanosecond of their boot time.
///
/// Consumed bytes are erased.
#[derive(Debug, Clone, Copy, Default)]
pub struct PooledNonces;

thread_local! {
    static POOL: RefCell<Option<Pool<forkguard::Guard>>> = const { RefCell::new(None) };
}

impl NonceSource for PooledNonces {
    fn draw(&self, boot: Duration) -> Result<[u8; NONCE_LEN], NoRandomness> {
        let from_pool = POOL.try_with(|pool| {
            let mut pool = pool.try_borrow_mut().ok()?;
            let pool = pool.get_or_insert_with(|| Pool::new(forkguard::new()));
            Some(pool.draw(boot, fill_from_kernel))
        });
        // A thread that is ending has no pool any more.
        from_pool.ok().flatten().unwrap_or_else(|| SystemNonces.draw(boot))
    }
}

pub(super) fn fill_from_kernel(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    getrandom::fill(bytes).map_err(|_| NoRandomness)
}

/// Says whether this is another process than at the last call.
pub(super) trait ForkDetector {
    fn forked(&mut self) -> bool;
}

impl ForkDetector for forkguard::Guard {
    fn forked(&mut self) -> bool {
        self.detected_fork()
    }
}

/// Random bytes of one thread, each to be used once.
pub(super) struct Pool<D> {
    nonces: Box<Zeroizing<[[u8; NONCE_LEN]; CAPACITY]>>,
    /// The first so many have not been drawn yet.
    left: usize,
    detector: D,
}

impl<D: ForkDetector> Pool<D> {
    /// An empty pool.
    pub(super) fn new(detector: D) -> Self {
        let nonces = Box::new(Zeroizing::new([[0; NONCE_LEN]; CAPACITY]));
        Self { nonces, left: 0, detector }
    }

    /// Draws a nonce at boot time `boot`; asks `fill` if there is none left.
    pub(super) fn draw(
        &mut self,
        boot: Duration,
        fill: impl FnOnce(&mut [u8]) -> Result<(), NoRandomness>,
    ) -> Result<[u8; NONCE_LEN], NoRandomness> {
        if self.detector.forked() {
            self.left = 0;
        }
        if self.left == 0 {
            fill(self.nonces.as_flattened_mut())?;
            self.left = CAPACITY;
        }
        self.left -= 1;
        let mut nonce = std::mem::take(&mut self.nonces[self.left]);
        mix(&mut nonce, boot);
        Ok(nonce)
    }
}

/// Adds `boot` to random bytes, which stay as random as they are.
fn mix(nonce: &mut [u8; NONCE_LEN], boot: Duration) {
    // Enough for 584 years; beyond them the low bits still differ.
    #[allow(clippy::cast_possible_truncation, reason = "the low bits are wanted")]
    let nanos = boot.as_nanos() as u64;
    for (byte, mixed) in nonce[MIXED_AT..].iter_mut().zip(nanos.to_be_bytes()) {
        *byte ^= mixed;
    }
}

#[cfg(test)]
mod tests;
