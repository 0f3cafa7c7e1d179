//! The last good content, published to whoever uses it. Two writers touch it, the poller and the
//! eraser; each reads and replaces it in one piece.

use std::sync::{Arc, Mutex, PoisonError};

use stek_core::time::Timestamp;
use tokio::sync::watch;

use crate::content::Content;

pub(crate) struct Installed<C> {
    sender: watch::Sender<Option<Arc<C>>>,
    writing: Mutex<()>,
}

impl<C: Content> Installed<C> {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { sender: watch::Sender::new(None), writing: Mutex::new(()) }
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Option<Arc<C>>> {
        self.sender.subscribe()
    }

    pub(crate) fn current(&self) -> Option<Arc<C>> {
        self.sender.borrow().clone()
    }

    /// Publishes what `next` makes of what is installed, and gives it back; nothing changes if
    /// `next` fails.
    pub(crate) fn replace<E>(
        &self,
        next: impl FnOnce(Option<&C>) -> Result<C, E>,
    ) -> Result<Arc<C>, E> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current();
        let content = Arc::new(next(current.as_deref())?);
        drop(current);
        self.sender.send_replace(Some(Arc::clone(&content)));
        Ok(content)
    }

    /// Publishes the content without the keys whose time has come, if there are such.
    pub(crate) fn erase(&self, now: Timestamp) -> Option<Arc<C>> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.current()?;
        if current.next_erasure().is_none_or(|due| due > now) {
            return None;
        }
        let thinner = Arc::new(current.erased_at(now));
        drop(current);
        self.sender.send_replace(Some(Arc::clone(&thinner)));
        Some(thinner)
    }
}
