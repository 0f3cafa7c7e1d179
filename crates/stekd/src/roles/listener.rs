//! The listeners of a role: one for its interface, one for metrics and health.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use axum::Router;
use prometheus::Registry;
use stek_http::health::{self, Readiness};
use stek_http::{
    Limits, Plaintext, Server, TlsFiles, TlsPaths, Transport, metrics, problem, signals,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Refused;
use crate::config::ListenSection;

/// A listener's section, checked: its files were read and its address is allowed. Nothing listens
/// yet.
pub(crate) struct Prepared {
    address: SocketAddr,
    tls: Option<Arc<TlsFiles>>,
}

impl Prepared {
    /// Checks `section`.
    pub(crate) fn new(section: &ListenSection) -> Result<Self> {
        let tls = match (&section.certificate_file, &section.private_key_file) {
            (Some(certificate), Some(key)) => {
                let paths =
                    TlsPaths { certificate_chain: certificate.clone(), private_key: key.clone() };
                let files = TlsFiles::load(paths)
                    .map_err(|error| Refused(format!("listen: {:#}", anyhow::Error::new(error))))?;
                Some(Arc::new(files))
            }
            (None, None) => None,
            _ => {
                let need = "listen: certificate_file and private_key_file go together";
                return Err(Refused(need.into()).into());
            }
        };
        let address = section.address;
        if tls.is_none() && !address.ip().is_loopback() {
            let need = format!(
                "listen.address is {address}, allowed without certificate_file and \
                 private_key_file are loopback addresses"
            );
            return Err(Refused(need).into());
        }
        Ok(Self { address, tls })
    }
}

/// The listeners of one process and what they have in common.
pub(crate) struct Listeners {
    registry: Registry,
    http: metrics::HttpMetrics,
    tls: Vec<Arc<TlsFiles>>,
    serving: JoinSet<()>,
    shutdown: CancellationToken,
}

impl Listeners {
    /// No listener yet; all stop with `shutdown`.
    pub(crate) fn new(registry: Registry, shutdown: CancellationToken) -> Result<Self> {
        let http = metrics::HttpMetrics::register(&registry)?;
        Ok(Self { registry, http, tls: Vec::new(), serving: JoinSet::new(), shutdown })
    }

    /// Serves `router` as the role's interface `name`; returns where.
    pub(crate) async fn interface(
        &mut self,
        name: &'static str,
        prepared: Prepared,
        router: Router,
    ) -> Result<SocketAddr> {
        let transport = match prepared.tls {
            Some(files) => {
                self.tls.push(Arc::clone(&files));
                Transport::Tls(files)
            }
            None => Transport::Plain(Plaintext::LoopbackOnly),
        };
        let router = self.http.observe(name, problem::with_fallbacks(router));
        self.serve(name, prepared.address, transport, router).await
    }

    /// Serves metrics and health; returns where. There is nothing secret there and nothing to
    /// change, so plain HTTP is allowed anywhere.
    pub(crate) async fn metrics(
        &mut self,
        address: SocketAddr,
        readiness: Arc<dyn Readiness>,
    ) -> Result<SocketAddr> {
        let routes = health::router(readiness).merge(metrics::router(self.registry.clone()));
        let router = self.http.observe("metrics", problem::with_fallbacks(routes));
        let transport = Transport::Plain(Plaintext::AnywhereInsecure);
        self.serve("metrics", address, transport, router).await
    }

    async fn serve(
        &mut self,
        name: &'static str,
        address: SocketAddr,
        transport: Transport,
        router: Router,
    ) -> Result<SocketAddr> {
        let server = Server::bind(address, transport, Limits::default())
            .await
            .with_context(|| format!("listener {name}"))?;
        let local = server.local_addr();
        tracing::info!(listener = name, address = %local, "listening");
        let shutdown = self.shutdown.clone();
        self.serving.spawn(async move {
            let drained = server.serve(router, shutdown).await;
            if drained.dropped > 0 {
                let dropped = drained.dropped;
                tracing::warn!(listener = name, dropped, "connections were cut at the end");
            }
        });
        Ok(local)
    }

    /// Installs the signal handlers, then serves until shutdown and drains.
    pub(crate) async fn run(mut self) -> Result<()> {
        let tls = std::mem::take(&mut self.tls);
        let reload = move || {
            for files in &tls {
                match files.reload() {
                    Ok(()) => tracing::info!("certificates reloaded"),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(error, "certificates not reloaded; the old ones serve on");
                    }
                }
            }
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
