//! When a listener takes what its TLS files hold: at once on SIGHUP, and by looking every few seconds.
//! A half-replaced pair is left alone, and said once.

use std::sync::Arc;
use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use tokio::time::{MissedTickBehavior, interval};

use super::{Look, TlsFiles};
use crate::metrics::MetricsError;

/// Time between two looks at the files unless a test is in a hurry. New ones are in force after two.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Metrics of the certificates of all listeners of a process. Clones share them.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    not_after: IntGaugeVec,
    reloads: IntCounterVec,
}

impl TlsMetrics {
    /// Registers `stek_tls_certificate_not_after_seconds` and `stek_tls_reloads_total`.
    ///
    /// # Errors
    ///
    /// [`MetricsError::Register`] if the registry has them already.
    pub fn register(registry: &Registry) -> Result<Self, MetricsError> {
        let not_after = IntGaugeVec::new(
            Opts::new(
                "stek_tls_certificate_not_after_seconds",
                "Unix time at which the certificate of a listener ends",
            ),
            &["listener"],
        )
        .map_err(MetricsError::Register)?;
        let reloads = IntCounterVec::new(
            Opts::new(
                "stek_tls_reloads_total",
                "Changed TLS files that were taken, or refused while the old ones serve on",
            ),
            &["listener", "outcome"],
        )
        .map_err(MetricsError::Register)?;
        registry.register(Box::new(not_after.clone())).map_err(MetricsError::Register)?;
        registry.register(Box::new(reloads.clone())).map_err(MetricsError::Register)?;
        Ok(Self { not_after, reloads })
    }
}

/// The TLS files of one listener, as they are exchanged. Clones are of the same.
#[derive(Debug, Clone)]
pub struct TlsReload {
    files: Arc<TlsFiles>,
    listener: &'static str,
    metrics: TlsMetrics,
}

impl TlsReload {
    /// Shows the files in force under the label `listener`.
    pub fn new(files: Arc<TlsFiles>, listener: &'static str, metrics: TlsMetrics) -> Self {
        let this = Self { files, listener, metrics };
        for outcome in ["taken", "refused"] {
            this.metrics.reloads.with_label_values(&[listener, outcome]);
        }
        this.show();
        this
    }

    /// Takes what the files hold, as on SIGHUP. Blocks on the file system.
    pub fn now(&self) {
        match self.files.reload() {
            Ok(()) => self.tell(&Look::Taken),
            Err(error) => self.tell(&Look::Refused(error)),
        }
    }

    /// Looks at the files as often as that, for ever, and takes what two looks in a row found.
    pub async fn watch(self, every: Duration) {
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let files = Arc::clone(&self.files);
            if let Ok(look) = tokio::task::spawn_blocking(move || files.look()).await {
                self.tell(&look);
            }
        }
    }

    fn tell(&self, look: &Look) {
        let listener = self.listener;
        let outcome = match look {
            Look::Same => return,
            Look::Taken => {
                tracing::info!(listener, "certificates reloaded");
                "taken"
            }
            Look::Refused(error) => {
                let error = error as &dyn std::error::Error;
                tracing::error!(
                    listener,
                    error,
                    "certificates not reloaded; the old ones serve on"
                );
                "refused"
            }
        };
        self.metrics.reloads.with_label_values(&[listener, outcome]).inc();
        self.show();
    }

    fn show(&self) {
        let seconds = self.files.not_after().map_or(0, |end| end.as_unix());
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.metrics.not_after.with_label_values(&[self.listener]).set(seconds);
    }
}
