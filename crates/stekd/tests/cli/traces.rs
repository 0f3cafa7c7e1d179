//! Roles as processes send their spans to a real receiver of OTLP over HTTP, and go on without one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use stek_clock::{Clock, SystemClock};

use crate::process::{PATIENCE, said, status, stekd, terminate};
use crate::site::{LISTEN, Role, Site, reach};

/// What a collector was sent.
struct Delivery {
    path: String,
    body: Vec<u8>,
}

/// One that takes everything.
struct Collector {
    address: String,
    deliveries: Receiver<Delivery>,
    spans: Vec<(String, Span)>,
    bodies: Vec<u8>,
}

impl Collector {
    fn start() -> Self {
        Self::start_with("http", serve)
    }

    /// One that is `localhost` by the certificate in `tls`.
    fn start_tls(tls: &Path) -> Self {
        let chain = CertificateDer::pem_file_iter(tls.join("server.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(tls.join("server.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.collect::<Result<_, _>>().unwrap(), key)
            .unwrap();
        let config = Arc::new(config);
        Self::start_with("https", move |stream, deliveries| {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            serve(StreamOwned::new(connection, stream), deliveries);
        })
    }

    fn start_with(
        scheme: &str,
        serve: impl Fn(TcpStream, &Sender<Delivery>) + Clone + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("{scheme}://localhost:{}", listener.local_addr().unwrap().port());
        let (sender, deliveries) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, sender) = (serve.clone(), sender.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &sender));
            }
        });
        Self { address, deliveries, spans: Vec::new(), bodies: Vec::new() }
    }

    /// Waits until a span of `service` is there that is as `wanted`.
    fn span(&mut self, service: &str, wanted: impl Fn(&Span) -> bool) -> Span {
        loop {
            let fits = |(of, span): &&(String, Span)| of == service && wanted(span);
            if let Some((_, span)) = self.spans.iter().find(fits) {
                return span.clone();
            }
            let delivery = self.deliveries.recv_timeout(PATIENCE).expect("a span as wanted");
            assert_eq!(delivery.path, "/v1/traces");
            let request = ExportTraceServiceRequest::decode(delivery.body.as_slice()).unwrap();
            self.bodies.extend_from_slice(&delivery.body);
            for of_resource in request.resource_spans {
                let service = text(&of_resource.resource.unwrap().attributes, "service.name");
                let scopes = of_resource.scope_spans.into_iter();
                let spans = scopes.flat_map(|scope| scope.spans);
                self.spans.extend(spans.map(|span| (service.clone(), span)));
            }
        }
    }
}

/// Reads requests of HTTP/1.1 with a length, and answers each with an empty 200.
fn serve(stream: impl Read + Write, deliveries: &Sender<Delivery>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 0 {
        let path = line.split(' ').nth(1).unwrap().to_owned();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        line.clear();
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").unwrap();
        if deliveries.send(Delivery { path, body }).is_err() {
            return;
        }
    }
}

/// The attribute `key` as text; empty if there is none.
fn text(attributes: &[KeyValue], key: &str) -> String {
    let found = attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}").replace("None", ""),
    }
}

/// The role `name` with `environment`.
fn role(name: &str, config: &Path, environment: &[(&str, &str)]) -> Role {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stekd"));
    command.args(["--log-format", "json", name, "--config"]).arg(config);
    Role::spawn(command.envs(environment.iter().copied()))
}

/// A manager's folder with a keyset's token for each role, on SQLite.
fn site(traces: &str) -> Site {
    let site = Site::with_database("sqlite:stek.db");
    let config = std::fs::read_to_string(site.path("manager.toml")).unwrap();
    site.write("manager.toml", &format!("{config}{traces}"));
    site
}

#[test]
fn spans_of_passes_polls_and_requests_arrive_without_a_secret() {
    let mut collector = Collector::start();
    let endpoint = collector.address.clone();
    let soon = ("OTEL_BSP_SCHEDULE_DELAY", "50");
    let site = site(&format!("[traces]\nendpoint = \"{endpoint}\"\n"));
    let mut manager = role("manager", &site.path("manager.toml"), &[soon]);
    let admin = manager.port("admin");
    site.profile("operator", &admin);
    site.stekd("keyset create main --profile DIR/operator.toml");

    // The others are told by the environment, each in another way.
    let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str());
    let config = format!("{}{LISTEN}", reach(&[&admin], "distribution-token"));
    let config = site.write("distribution.toml", &config);
    let mut distribution = role("distribution", &config, &[soon, all]);
    let bundles = distribution.port("distribution");
    let config = format!("keyset = \"main\"\n{}{LISTEN}", reach(&[&bundles], "terminator-token"));
    let config = site.write("terminator.toml", &config);
    let traces = format!("{endpoint}/v1/traces");
    // Nothing is sent before the end.
    let at_the_end = ("OTEL_BSP_SCHEDULE_DELAY", "3600000");
    let named = ("OTEL_SERVICE_NAME", "edge");
    let traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", traces.as_str());
    let mut terminator = role("terminator", &config, &[at_the_end, named, traces]);
    terminator.logs("installed");

    let is = |key: &'static str, value: &'static str| {
        move |span: &Span| text(&span.attributes, key) == value
    };
    let pass = collector.span("stekd-manager", |span| span.name == "pass");
    assert_eq!(text(&pass.attributes, "outcome"), "succeeded");
    let created = collector.span("stekd-manager", is("http.request.method", "POST"));
    assert_eq!(
        (created.name.as_str(), created.kind()),
        ("POST /admin/v1/keysets", SpanKind::Server)
    );
    assert_eq!(text(&created.attributes, "http.response.status_code"), "201");
    assert_eq!(text(&created.attributes, "listener"), "admin");
    let feed = collector.span("stekd-distribution", is("outcome", "changed"));
    assert_eq!((feed.name.as_str(), feed.kind()), ("poll", SpanKind::Client));

    terminate(&mut terminator.process);
    let poll = collector.span("edge", is("outcome", "changed"));
    assert_eq!(text(&poll.attributes, "keyset"), "main");
    // Both ends of a request have its name.
    let request = text(&poll.attributes, "request_id");
    assert_eq!(request.len(), 16);
    let served = collector.span("stekd-distribution", |span| {
        text(&span.attributes, "request_id") == request && span.kind() == SpanKind::Server
    });
    assert_eq!(served.name, "GET /v1/keysets/{keyset}");
    terminate(&mut distribution.process);
    terminate(&mut manager.process);

    for token in ["operator", "distribution", "terminator"] {
        let secret = std::fs::read_to_string(site.path(&format!("{token}-token"))).unwrap();
        let secret = secret.trim().trim_start_matches("stek_").as_bytes();
        let told = collector.bodies.windows(secret.len()).any(|bytes| bytes == secret);
        assert!(!told, "the token of {token} was exported");
    }
    let known = [
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "keyset",
        "listener",
        "outcome",
        "request_id",
        "upstream",
    ];
    for (_, span) in &collector.spans {
        for KeyValue { key, .. } in &span.attributes {
            assert!(known.contains(&key.as_str()), "{} has {key}", span.name);
        }
        assert!(span.events.is_empty(), "log lines are not exported");
    }
}

#[test]
fn a_collector_that_is_silent_or_gone_holds_nobody_up_and_is_told_of_once() {
    // One accepts and never answers, the other is not there.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    for address in [silent_address.as_str(), "127.0.0.1:1"] {
        let site = site(&format!("[traces]\nendpoint = \"http://{address}\"\n"));
        let soon = [("OTEL_BSP_SCHEDULE_DELAY", "20")];
        let mut manager = role("manager", &site.path("manager.toml"), &soon);
        site.profile("operator", &manager.port("admin"));
        // Passes and requests go on.
        site.stekd("keyset create main --profile DIR/operator.toml");
        site.stekd("keyset create other --profile DIR/operator.toml");
        let begun = SystemClock.boot();
        terminate(&mut manager.process);
        assert!(
            SystemClock.boot() - begun < PATIENCE / 2,
            "it ends without waiting for the collector"
        );
        let all = manager.all();
        let told = all.iter().filter(|line| line.contains("not exported")).count();
        assert_eq!(told, 1, "it is said, and once: {all:#?}");
    }
}

#[test]
fn spans_travel_over_tls_to_a_collector_of_the_authority_that_is_named() {
    let soon = [("OTEL_BSP_SCHEDULE_DELAY", "20")];
    let site = site("");
    let mut collector = Collector::start_tls(&site.path("tls"));
    let config = std::fs::read_to_string(site.path("manager.toml")).unwrap();
    let traces = format!("{config}[traces]\nendpoint = \"{}\"\n", collector.address);
    let trusted = format!("{traces}roots_files = [\"tls/ca.pem\"]\n");
    let mut manager = role("manager", &site.write("trusted.toml", &trusted), &soon);
    let pass = collector.span("stekd-manager", |span| span.name == "pass");
    assert_eq!(text(&pass.attributes, "outcome"), "succeeded");
    terminate(&mut manager.process);

    // Neither another authority nor those of the system will do.
    site.stekd("dev-ca DIR/other --name localhost");
    let other = format!("{traces}roots_files = [\"other/ca.pem\"]\n");
    for config in [other, traces.clone()] {
        while collector.deliveries.try_recv().is_ok() {}
        let mut manager = role("manager", &site.write("untrusted.toml", &config), &soon);
        let told = manager.log_line("not exported");
        assert!(told.contains("certificate"), "{told}");
        terminate(&mut manager.process);
        assert!(collector.deliveries.try_recv().is_err(), "nothing reaches a stranger");
    }

    site.write("junk", "no certificate\n");
    for (file, problem) in [
        ("junk", "it holds no certificate"),
        ("absent", "I/O error: No such file or directory (os error 2)"),
    ] {
        let config = site.write("bad.toml", &format!("{traces}roots_files = [\"{file}\"]\n"));
        let output = stekd(&["manager", "--config", config.to_str().unwrap()]);
        assert_eq!(status(&output), 64, "{}", said(&output));
        let named = format!("traces.roots_files: {}: {problem}", site.path(file).display());
        assert!(said(&output).contains(&named), "{}", said(&output));
    }
}

#[test]
fn a_collector_that_is_not_allowed_is_named() {
    let site = site("[traces]\nendpoint = \"collector:4318\"\n");
    let config = site.path("manager.toml");
    let output = stekd(&["manager", "--config", config.to_str().unwrap()]);
    assert_eq!(status(&output), 64);
    let said = said(&output);
    assert!(said.contains("traces.endpoint is collector:4318, allowed is http://"), "{said}");
}
