//! Word of commits, as every commit sends it. On a connection of its own, which is opened when
//! somebody first waits; whatever was sent while there was none is lost, and that is said. One that
//! has been silent is asked whether it is alive, for nothing else would tell that its peer is gone.

use std::time::Duration;

use sqlx::postgres::PgListener;
use sqlx::{Executor, PgPool};
use stek_core::id::Revision;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::REVISION_CHANNEL;
use crate::StoreError;
use crate::sql::{bounded, reading};

/// After how many time-outs of silence the connection is asked whether it is alive: half a minute.
const SILENT_TIME_OUTS: u32 = 3;

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
        loop {
            match timeout(time_out * SILENT_TIME_OUTS, listener.try_recv()).await {
                Ok(Ok(Some(word))) => return Ok(word.payload().parse().ok().map(Revision::new)),
                Err(_) if bounded(time_out, answer(listener)).await.is_ok() => {}
                // However it was lost, the next call opens another, or says why it cannot.
                Ok(Ok(None) | Err(_)) | Err(_) => {
                    *held = None;
                    return Ok(None);
                }
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

async fn answer(listener: &mut PgListener) -> Result<(), StoreError> {
    listener.execute("SELECT 1").await.map(drop).map_err(reading("notifications"))
}
