//! Sessions kept in the memory of this process: for a single server, and for tests.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::{LookUpError, PutError, SessionBackend, SessionKey};

/// A bounded number of sealed sessions, first in, first out.
///
/// The oldest goes when another one would be too many. Nothing goes by time: a value is sealed, so
/// it opens only for its lifetime, and at no time once its key has been erased. At most `capacity`
/// times 16 KiB are held; without client certificates a session takes some 400 bytes.
///
/// It is no [`SharedBackend`](super::SharedBackend), so it cannot carry 0-RTT: another server, or
/// this one after a restart with the same keys, would know nothing of what was taken.
pub struct MemoryBackend {
    capacity: NonZeroUsize,
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    values: HashMap<SessionKey, (u64, Vec<u8>)>,
    /// The keys by the order in which they came.
    order: BTreeMap<u64, SessionKey>,
    next: u64,
}

impl MemoryBackend {
    /// Room for `capacity` sessions; TLS 1.3 servers store two for each handshake.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { capacity, sessions: Mutex::default() }
    }

    /// How many sessions are kept.
    pub fn len(&self) -> usize {
        self.lock().values.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionBackend for MemoryBackend {
    fn put(&self, key: &SessionKey, value: Vec<u8>, _lifetime: Duration) -> Result<(), PutError> {
        let mut sessions = self.lock();
        sessions.remove(key);
        while sessions.values.len() >= self.capacity.get() {
            sessions.remove_oldest();
        }
        sessions.add(*key, value);
        Ok(())
    }

    fn take(&self, key: &SessionKey) -> Result<Option<Vec<u8>>, LookUpError> {
        Ok(self.lock().remove(key))
    }
}

impl Sessions {
    fn add(&mut self, key: SessionKey, value: Vec<u8>) {
        let position = self.next;
        self.next += 1;
        self.values.insert(key, (position, value));
        self.order.insert(position, key);
    }

    fn remove(&mut self, key: &SessionKey) -> Option<Vec<u8>> {
        let (position, value) = self.values.remove(key)?;
        self.order.remove(&position);
        Some(value)
    }

    fn remove_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_first() {
            self.values.remove(&key);
        }
    }
}

impl fmt::Debug for MemoryBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBackend").field("len", &self.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u8) -> SessionKey {
        SessionKey::from_bytes([number; SessionKey::LEN])
    }

    fn backend(capacity: usize) -> MemoryBackend {
        MemoryBackend::new(NonZeroUsize::new(capacity).unwrap())
    }

    fn put(backend: &MemoryBackend, number: u8) {
        backend.put(&key(number), vec![number], Duration::from_secs(1)).unwrap();
    }

    #[test]
    fn a_value_is_taken_once() {
        let backend = backend(2);
        put(&backend, 1);
        assert_eq!(backend.take(&key(2)), Ok(None));
        assert_eq!(backend.take(&key(1)), Ok(Some(vec![1])));
        assert_eq!(backend.take(&key(1)), Ok(None));
    }

    #[test]
    fn the_oldest_makes_room() {
        let backend = backend(2);
        for number in 1..=3 {
            put(&backend, number);
        }
        assert_eq!(backend.len(), 2);
        assert_eq!(backend.take(&key(1)), Ok(None));
        // What was taken makes room too, and what is put again counts as new.
        put(&backend, 2);
        put(&backend, 4);
        assert_eq!(backend.take(&key(3)), Ok(None));
        put(&backend, 5);
        assert_eq!(backend.take(&key(2)), Ok(None));
        assert_eq!(
            (backend.take(&key(4)), backend.take(&key(5))),
            (Ok(Some(vec![4])), Ok(Some(vec![5])))
        );
        assert!(backend.is_empty() && backend.lock().order.is_empty());
    }
}
