//! Follows a keyset of the fleet and keeps every ticketer made here supplied with its keys. How
//! bundles are fetched and what is accepted is the client's.

use std::sync::Arc;

use prometheus::Registry;
use rustls::ServerConfig;
use stek_client::{ClientConfig, KeysetFollower, StartError, Status, Stopped};
use stek_clock::{Clock, FleetClock, SystemClock};
use stek_core::derive::Use;
use stek_core::name::KeysetName;
use stek_core::scope::Scope;

use crate::acceptor::Acceptor;
use crate::builder::{BuildError, ServerBuilder, check_capped};
use crate::installer::Installer;
use crate::metrics::TicketMetrics;
use crate::metrics::ages::KeyMetrics;
use crate::resumption::Resumption;
use crate::rules::ResumeClientAuth;
use crate::ticketer::{UnboundedTicketer, UnfitScope, check_scope};

/// A keyset that this process follows, and the source of its ticketers.
///
/// Keep it for as long as the servers run: when it is dropped, polling ends and the keys of all
/// its ticketers are erased, so that every handshake is a full one from then on. If servers are left
/// that is logged as a warning; [`Fleet::shutdown`] does the same on purpose.
#[derive(Debug)]
#[must_use = "when it is dropped the keys of its ticketers are erased"]
pub struct Fleet {
    installer: Installer,
    follower: KeysetFollower,
    metrics: TicketMetrics,
    keys: KeyMetrics,
}

/// Why a keyset is not followed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FleetError {
    /// The registry has them for this keyset already.
    #[error("ticket metrics cannot be registered")]
    Metrics(#[source] prometheus::Error),
    /// The poller did not start.
    #[error("keyset cannot be followed")]
    Start(#[source] StartError),
}

impl Fleet {
    /// Begins to follow `keyset` as `config` says, and returns without waiting for keys. Metrics of
    /// the poller and of tickets go to `registry`, labelled with the keyset.
    ///
    /// # Errors
    /// [`FleetError`] if the registry has them already or the poller does not start. That no server
    /// answers is no error: it is tried until one does.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect(
        config: &ClientConfig,
        keyset: KeysetName,
        registry: &Registry,
    ) -> Result<Self, FleetError> {
        Self::connect_with_clock(config, keyset, Arc::new(SystemClock), registry)
    }

    /// The same on another clock than the machine's, for tests and simulations.
    ///
    /// # Errors
    /// As [`Fleet::connect`].
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn connect_with_clock(
        config: &ClientConfig,
        keyset: KeysetName,
        clock: Arc<dyn Clock>,
        registry: &Registry,
    ) -> Result<Self, FleetError> {
        let metrics = TicketMetrics::register(registry, &keyset).map_err(FleetError::Metrics)?;
        let label = keyset.clone();
        let follower =
            KeysetFollower::start(config, keyset, clock, registry).map_err(FleetError::Start)?;
        let installer = Installer::start(follower.bundles(), follower.fleet());
        let (newest, fleet) = (installer.newest(), follower.fleet());
        let keys =
            KeyMetrics::register(registry, &label, newest, fleet).map_err(FleetError::Metrics)?;
        Ok(Self { installer, follower, metrics, keys })
    }

    /// Returns when the first keys are here and every ticketer made until then has them. That may
    /// be never, so bound the wait; or do not wait at all, for without keys handshakes are full.
    ///
    /// # Errors
    /// [`Stopped`] if the poller was stopped and no keys will come.
    pub async fn ready(&self) -> Result<(), Stopped> {
        self.follower.ready().await?;
        self.installer.install();
        Ok(())
    }

    /// A server of the fleet; its tickets stay among servers of the same `label`, which must say the
    /// same of everything else that decides who is let in. It has the keys of this moment and gets
    /// all later ones.
    pub fn server(&self, label: &str) -> ServerBuilder<'_> {
        ServerBuilder::with_keys(label, self.metrics.clone(), |usage, scope| {
            self.installer.keys_for(usage, scope)
        })
    }

    /// A server of a configuration that was made elsewhere, of which nothing can check that it
    /// demands of clients what `scope` says: see [`Acceptor::with_unchecked_client_auth`].
    ///
    /// # Errors
    /// [`BuildError::Unbounded`] if the scope does not cap chains.
    pub fn server_with_unchecked_client_auth(
        &self,
        config: ServerConfig,
        scope: &Scope,
        resumption: Resumption,
        resume_client_auth: ResumeClientAuth,
    ) -> Result<Acceptor, BuildError> {
        check_capped(scope)?;
        let keys = self.installer.keys_for(resumption.usage(), scope);
        let metrics = self.metrics.clone();
        Acceptor::with_unchecked_client_auth(config, keys, metrics, resumption, resume_client_auth)
    }

    /// A ticketer for `scope` that has the keys of this moment and gets all later ones. Give it to a
    /// configuration by [`UnboundedTicketer::use_in`], which also takes all else away by which
    /// servers of that resume.
    ///
    /// # Errors
    /// [`UnfitScope`] if the scope caps chains of resumption or asks certificates of clients.
    pub fn unbounded_ticketer(&self, scope: &Scope) -> Result<UnboundedTicketer, UnfitScope> {
        check_scope(scope)?;
        let keys = self.installer.keys_for(Use::Ticket, scope);
        UnboundedTicketer::try_new(keys, self.metrics.clone())
    }

    /// The counters that `registry` was given, for a backend that counts too: `RedisBackend`.
    pub fn metrics(&self) -> TicketMetrics {
        self.metrics.clone()
    }

    /// How polling fares.
    pub fn status(&self) -> Status {
        self.follower.status()
    }

    /// Fleet time as this process knows it.
    pub fn clock(&self) -> Arc<FleetClock> {
        self.follower.fleet()
    }

    /// Erases the keys of all ticketers and returns when the poller has ended.
    pub async fn shutdown(self) {
        self.installer.end();
        drop(self.keys);
        self.follower.shutdown().await;
    }
}
