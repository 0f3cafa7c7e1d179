//! The listeners of a role: one for its interface, one for metrics and health.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use prometheus::Registry;
use stek_http::health::{self, Readiness};
use stek_http::{
    LOOK_EVERY, Limits, Plaintext, Routes, Server, TlsFiles, TlsMetrics, TlsPaths, TlsReload,
    Transport, metrics, problem, signals,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::ListenSection;
use crate::roles::descriptors;

/// A listener's section, checked: its files were read and its address is allowed. Nothing listens
/// yet.
pub(crate) struct Prepared {
    address: SocketAddr,
    tls: Option<Arc<TlsFiles>>,
    plaintext: Plaintext,
    limits: Limits,
}

impl Prepared {
    /// Checks `section`.
    pub(crate) fn new(section: &ListenSection) -> Result<Self> {
        let tls = match (&section.certificate_file, &section.private_key_file) {
            (Some(certificate), Some(key)) => {
                let paths = TlsPaths {
                    certificate_chain: certificate.clone(),
                    private_key: key.clone(),
                    client_authorities: section.client_ca_file.clone(),
                };
                let files = TlsFiles::load(paths)
                    .map_err(|error| Refused(format!("listen: {:#}", anyhow::Error::new(error))))?;
                Some(Arc::new(files))
            }
            (None, None) if section.client_ca_file.is_none() => None,
            (None, None) => {
                let need = "listen: client_ca_file needs certificate_file and private_key_file";
                return Err(Refused(need.into()).into());
            }
            _ => {
                let need = "listen: certificate_file and private_key_file go together";
                return Err(Refused(need.into()).into());
            }
        };
        let (address, limits) = (section.address, section.limits.to_limits()?);
        let plaintext = if section.insecure_plain_http_anywhere {
            Plaintext::AnywhereInsecure
        } else {
            Plaintext::LoopbackOnly
        };
        let on_loopback = address.ip().to_canonical().is_loopback();
        if tls.is_none() && !on_loopback {
            if plaintext == Plaintext::LoopbackOnly {
                let need = format!(
                    "listen.address is {address}, allowed without certificate_file and \
                     private_key_file are loopback addresses, unless \
                     insecure_plain_http_anywhere is true"
                );
                return Err(Refused(need).into());
            }
            tracing::warn!(%address, "plain http: whoever is on the path reads keys and tokens");
        }
        Ok(Self { address, tls, plaintext, limits })
    }

    /// Its certificate, unless it speaks plain HTTP.
    pub(crate) fn tls(&self) -> Option<Arc<TlsFiles>> {
        self.tls.clone()
    }
}

/// The listeners of one process and what they have in common.
pub(crate) struct Listeners {
    registry: Registry,
    http: metrics::HttpMetrics,
    tls: Vec<TlsReload>,
    certificates: TlsMetrics,
    serving: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Listeners {
    /// No listener yet; all stop with `shutdown`.
    pub(crate) fn new(registry: Registry, shutdown: CancellationToken) -> Result<Self> {
        let http = metrics::HttpMetrics::register(&registry)?;
        let certificates = TlsMetrics::register(&registry)?;
        let (tls, serving) = (Vec::new(), JoinSet::new());
        Ok(Self { registry, http, tls, certificates, serving, shutdown })
    }

    /// Serves `routes` as the role's interface `name`; returns where.
    pub(crate) async fn interface(
        &mut self,
        name: &'static str,
        mut prepared: Prepared,
        routes: Routes,
    ) -> Result<SocketAddr> {
        descriptors::make_room(&mut prepared.limits);
        let transport = match prepared.tls {
            Some(files) => {
                let reload = TlsReload::new(Arc::clone(&files), name, self.certificates.clone());
                self.tls.push(reload.clone());
                let shutdown = self.shutdown.clone();
                self.serving.spawn(async move {
                    shutdown.run_until_cancelled(reload.watch(LOOK_EVERY)).await;
                });
                Transport::Tls(files)
            }
            None => Transport::Plain(prepared.plaintext),
        };
        let routes = self.http.observe(name, routes.with_fallbacks());
        self.serve(name, prepared.address, transport, prepared.limits, routes).await
    }

    /// Serves metrics and health; returns where. There is nothing secret there and nothing to
    /// change, so plain HTTP is allowed anywhere.
    pub(crate) async fn metrics(
        &mut self,
        address: SocketAddr,
        readiness: Arc<dyn Readiness>,
    ) -> Result<SocketAddr> {
        let routes = health::router(readiness).merge(metrics::router(self.registry.clone()));
        let routes = self.http.observe("metrics", problem::with_fallbacks(routes));
        let transport = Transport::Plain(Plaintext::AnywhereInsecure);
        let limits = descriptors::metrics_limits();
        self.serve("metrics", address, transport, limits, routes).await
    }

    async fn serve(
        &mut self,
        name: &'static str,
        address: SocketAddr,
        transport: Transport,
        limits: Limits,
        routes: Routes,
    ) -> Result<SocketAddr> {
        let server = Server::bind(address, transport, limits)
            .await
            .with_context(|| format!("listener {name}"))?;
        let local = server.local_addr();
        tracing::info!(listener = name, address = %local, "listening");
        let shutdown = self.shutdown.clone();
        self.serving.spawn(async move {
            let drained = server.serve(routes, shutdown).await;
            if drained.dropped > 0 {
                let dropped = drained.dropped;
                tracing::warn!(listener = name, dropped, "connections were cut at the end");
            }
        });
        Ok(local)
    }

    /// What else has to end before the process does; `task` ends after the shutdown.
    pub(crate) fn also(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.serving.spawn(task);
    }

    /// Installs the signal handlers, then serves until shutdown and drains.
    pub(crate) async fn run(mut self) -> Result<()> {
        let tls = std::mem::take(&mut self.tls);
        let reload = move || {
            tls.iter().for_each(TlsReload::now);
        };
        let signals = signals::shutdown_signal(self.shutdown.clone(), reload)?;
        self.stopped().await;
        signals.abort();
        Ok(())
    }

    /// Serves until shutdown and drains, without looking for signals.
    pub(crate) async fn stopped(&mut self) {
        while let Some(ended) = self.serving.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "a listener ended");
            }
        }
    }
}

/// A registry with what every role shows: which program this is.
pub(crate) fn registry() -> Result<Registry> {
    let registry = Registry::new();
    let opts = prometheus::Opts::new("stek_build_info", "The program that runs; always 1.")
        .const_label("version", env!("CARGO_PKG_VERSION"));
    let build = prometheus::IntGauge::with_opts(opts)?;
    build.set(1);
    registry.register(Box::new(build))?;
    Ok(registry)
}
