//! Numbers that handshakes on different cores do not take turns at: each thread adds to its own, and
//! whoever collects sums them up.
//!
//! A number that all threads add to is passed from core to core, which costs about as much as a
//! good part of sealing a ticket.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::CachePadded;
use thread_local::ThreadLocal;

/// `N` numbers that only grow.
pub(super) struct PerThread<const N: usize> {
    /// Of each thread; those of one that has ended are taken over by another, as they are.
    own: ThreadLocal<CachePadded<[AtomicU64; N]>>,
}

impl<const N: usize> PerThread<N> {
    /// All zero.
    pub(super) fn new() -> Self {
        Self { own: ThreadLocal::new() }
    }

    /// Adds to one or several: `more` to each number `at`.
    pub(super) fn add<const M: usize>(&self, added: [(usize, u64); M]) {
        let own = self.own.get_or(|| CachePadded::new([const { AtomicU64::new(0) }; N]));
        for (at, more) in added {
            // Nobody else writes it.
            let before = own[at].load(Ordering::Relaxed);
            own[at].store(before.wrapping_add(more), Ordering::Relaxed);
        }
    }

    /// The number `at`, over all threads.
    pub(super) fn sum(&self, at: usize) -> u64 {
        self.own.iter().map(|own| own[at].load(Ordering::Relaxed)).sum()
    }
}
