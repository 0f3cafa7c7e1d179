//! Spans over OTLP/HTTP. They wait in a queue of bounded length for a thread of their own, so that
//! neither a pass nor a request waits for the collector; what does not fit is dropped. What stands
//! in a span is decided where it is made, and that is never a secret.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use opentelemetry::trace::{SpanKind, Status, TracerProvider};
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{Protocol, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::resource::{EnvResourceDetector, TelemetryResourceDetector};
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::runtime::Handle;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, filter_fn};

use super::{Destination, SpanLayer};
use crate::Refused;
use crate::roles::distribution::instance_name;

/// How long one delivery may take, with what is tried again.
const TIME_OUT: Duration = Duration::from_secs(10);
/// How long what is left may take at the end.
const FLUSH: Duration = Duration::from_secs(3);
/// How much of an answer is read, in bytes.
const MAX_ANSWER: usize = 64 * 1024;
/// What our spans say of themselves, and how OpenTelemetry calls it.
const CONVENTIONS: [(&str, &str); 3] = [
    ("method", "http.request.method"),
    ("route", "http.route"),
    ("status", "http.response.status_code"),
];
/// Outcomes of passes and polls that are no errors.
const GOOD: [&str; 3] = ["succeeded", "changed", "not-modified"];

/// An export that runs.
pub(super) struct Export {
    provider: SdkTracerProvider,
    failing: Arc<AtomicBool>,
}

impl Export {
    pub(super) fn begin(service: &'static str, to: &Destination, runtime: &Handle) -> Result<Self> {
        let failing = Arc::<AtomicBool>::default();
        let sender = Sender {
            http: http_client(to)?,
            runtime: runtime.clone(),
            collector: to.url.origin().ascii_serialization(),
            failing: Arc::clone(&failing),
        };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_http_client(sender)
            .with_endpoint(to.url.as_str())
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(TIME_OUT)
            .build()
            .map_err(|error| Refused(format!("{}: {error}", to.named_by)))?;
        let provider = SdkTracerProvider::builder()
            .with_resource(resource(service)?)
            .with_batch_exporter(Conventional(exporter));
        Ok(Self { provider: provider.build(), failing })
    }

    /// Takes the spans of our crates, those for tracing alone included, and no log line.
    pub(super) fn layer(&self) -> SpanLayer {
        let ours =
            filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("stek"))
                .with_max_level_hint(LevelFilter::DEBUG);
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("stekd"))
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_level(false)
            .with_target(false)
            .with_filter(ours)
            .boxed()
    }

    pub(super) fn flush(self) {
        let flushed = self.provider.shutdown_with_timeout(FLUSH);
        if let (Err(error), false) = (flushed, self.failing.load(Ordering::Relaxed)) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Whose spans these are. The environment may say it better.
fn resource(service: &'static str) -> Result<Resource> {
    let ours = [
        KeyValue::new("service.name", service),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance_name(None)?.to_string()),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(ours)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    Ok(match std::env::var("OTEL_SERVICE_NAME") {
        Ok(name) if !name.is_empty() => resource.with_service_name(name),
        _ => resource,
    }
    .build())
}

/// Gives spans the kinds, names and keys that OpenTelemetry has for what they show. Our log lines
/// have the shorter ones.
#[derive(Debug)]
struct Conventional<E>(E);

impl<E: SpanExporter> SpanExporter for Conventional<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        batch.iter_mut().for_each(conventional);
        self.0.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn shutdown(&self) -> OTelSdkResult {
        self.0.shutdown()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

fn conventional(span: &mut SpanData) {
    let value = |key: &str| {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
        Some(found.value.to_string())
    };
    span.span_kind = match span.name.as_ref() {
        "request" => SpanKind::Server,
        "poll" => SpanKind::Client,
        _ => SpanKind::Internal,
    };
    let failed = match (value("outcome"), value("status")) {
        (Some(outcome), _) => !GOOD.contains(&outcome.as_str()),
        (None, Some(status)) => status.starts_with('5'),
        (None, None) => false,
    };
    if failed {
        span.status = Status::error("");
    }
    if let (Some(method), Some(route)) = (value("method"), value("route")) {
        span.name = format!("{method} {route}").into();
    }
    for attribute in &mut span.attributes {
        if let Some((_, theirs)) =
            CONVENTIONS.iter().find(|(ours, _)| *ours == attribute.key.as_str())
        {
            attribute.key = Key::from_static_str(theirs);
        }
    }
}

/// Sends by the HTTP client and the TLS stack that the program has anyway.
#[derive(Debug)]
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
    /// Without a path: there may be a key in it.
    collector: String,
    /// Whether that was said.
    failing: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The thread that asks belongs to no run time.
        let sending = self.runtime.spawn(exchange(self.http.clone(), request));
        // If that is cancelled, the program has ended, and what is lost was said.
        let sent = sending.await?;
        let problem = match &sent {
            Ok(response) if response.status().is_success() => None,
            Ok(response) => Some(format!("status {}", response.status().as_u16())),
            Err(error) => Some(format!("{error:#}")),
        };
        let collector = &self.collector;
        let failed_before = self.failing.swap(problem.is_some(), Ordering::Relaxed);
        match (problem, failed_before) {
            (Some(cause), false) => {
                tracing::warn!(collector, cause, "spans are not exported, and dropped");
            }
            (None, true) => tracing::info!(collector, "spans are exported again"),
            _ => {}
        }
        sent.map_err(HttpError::from)
    }
}

async fn exchange(http: reqwest::Client, request: Request<Bytes>) -> Result<Response<Bytes>> {
    let bare = reqwest::Error::without_url;
    let mut answer = http.execute(request.try_into().map_err(bare)?).await.map_err(bare)?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = answer.status();
    *response.headers_mut() = answer.headers().clone();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(bare)? {
        if body.len() + chunk.len() > MAX_ANSWER {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    *response.body_mut() = body.into();
    Ok(response)
}

fn http_client(to: &Destination) -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("traces")?
        .with_root_certificates(roots(to)?)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .user_agent(concat!("stekd/", env!("CARGO_PKG_VERSION")))
        .timeout(TIME_OUT)
        .build()
        .context("traces: the HTTP client")
}

fn roots(to: &Destination) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if to.url.scheme() == "http" {
        return Ok(roots);
    }
    if to.roots_files.is_empty() {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for file in &to.roots_files {
        let refused = |error: &dyn std::fmt::Display| {
            Refused(format!("traces.roots_files: {}: {error}", file.display()))
        };
        let read = CertificateDer::pem_file_iter(file).map_err(|error| refused(&error))?;
        let before = roots.len();
        for certificate in read {
            roots.add(certificate.map_err(|e| refused(&e))?).map_err(|e| refused(&e))?;
        }
        if roots.len() == before {
            return Err(refused(&"it holds no certificate").into());
        }
    }
    if roots.is_empty() {
        let need = "no certificate authority to trust is on this system: name a file in traces.roots_files";
        return Err(Refused(format!("{}: {need}", to.named_by)).into());
    }
    Ok(roots)
}
