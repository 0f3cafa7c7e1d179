//! Word of commits, as every commit sends it. On a connection of its own, which is opened when
//! somebody first waits; whatever was sent while there was none is lost, and that is said.

use std::time::Duration;

use sqlx::PgPool;
use sqlx::postgres::PgListener;
use stek_core::id::Revision;
use tokio::sync::Mutex;

use super::REVISION_CHANNEL;
use crate::StoreError;
use crate::sql::{bounded, reading};

#[derive(Default)]
pub(super) struct Listener(Mutex<Option<PgListener>>);

impl Listener {
    /// See [`crate::KeyStore::notified`].
    pub(super) async fn notified(
        &self,
        pool: &PgPool,
        time_out: Duration,
    ) -> Result<Option<Revision>, StoreError> {
        let mut held = self.0.lock().await;
        let Some(listener) = held.as_mut() else {
            *held = Some(bounded(time_out, listen(pool)).await?);
            return Ok(None);
        };
        match listener.try_recv().await {
            Ok(Some(word)) => Ok(word.payload().parse().ok().map(Revision::new)),
            // However it was lost, the next call opens another, or says why it cannot.
            Ok(None) | Err(_) => {
                *held = None;
                Ok(None)
            }
        }
    }

    /// Gives the connection back, unless somebody waits on it, who will.
    pub(super) fn close(&self) {
        if let Ok(mut held) = self.0.try_lock() {
            *held = None;
        }
    }
}

async fn listen(pool: &PgPool) -> Result<PgListener, StoreError> {
    let mut listener = PgListener::connect_with(pool).await.map_err(reading("notifications"))?;
    listener.listen(REVISION_CHANNEL).await.map_err(reading("notifications"))?;
    Ok(listener)
}
