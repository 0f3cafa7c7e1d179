use std::sync::Arc;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::extract::rejection::BytesRejection;
use axum::routing::{get, post};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use rustls::version::{TLS12, TLS13};
use stek_core::name::PrincipalName;
use stek_core::principal::Principals;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::testing::{self, AMPLE, BRIEF, FAR, Identity, Running, rest, send, soon};
use crate::{Plaintext, TlsFiles};

/// Limits of which none is reached in a test.
fn unreached() -> Limits {
    Limits {
        handshake_timeout: FAR,
        header_read_timeout: FAR,
        body_read_timeout: FAR,
        idle_timeout: FAR,
        keep_alive_interval: FAR,
        keep_alive_timeout: FAR,
        ..Limits::default()
    }
}

fn router() -> Router {
    async fn length(body: Result<Bytes, BytesRejection>) -> Result<String, Problem> {
        Ok(body?.len().to_string())
    }
    async fn panics() -> &'static str {
        panic!("on purpose")
    }
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/peer", get(|Extension(peer): Extension<Peer>| async move { format!("{peer:?}") }))
        .route("/headers", get(|headers: HeaderMap| async move { format!("{headers:?}") }))
        .route("/length", post(length))
        .route("/length-of-six", post(length).layer(DefaultBodyLimit::max(6)))
        .route("/panic", get(panics))
        .route("/hang", get(std::future::pending::<()>))
        .route("/long", get(|| async { "x".repeat(16 << 20) }))
        .route("/proved", get(proved))
}

async fn proved(request: axum::extract::Request) -> &'static str {
    let who = Principals::from(PrincipalName::try_new("token:edge").unwrap());
    Standing::admit(request.extensions(), &who).unwrap();
    "hello"
}

type Http2 = http2::SendRequest<Empty<Bytes>>;

async fn http2_over<I>(io: I) -> (Http2, tokio::task::JoinHandle<hyper::Result<()>>)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (client, connection) =
        soon(http2::handshake(TokioExecutor::new(), TokioIo::new(io))).await.unwrap();
    (client, tokio::spawn(connection))
}

async fn get_http2(client: &mut Http2, path: &str) -> (StatusCode, String) {
    try_http2(client, path).await.unwrap()
}

async fn try_http2(client: &mut Http2, path: &str) -> hyper::Result<(StatusCode, String)> {
    let request = Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap();
    let response = soon(client.send_request(request)).await?;
    let status = response.status();
    let body = soon(response.into_body().collect()).await?.to_bytes();
    Ok((status, String::from_utf8(body.to_vec()).unwrap()))
}

/// As [`testing::answered`], over HTTP/2.
async fn answered_http2(
    server: &Running,
    path: &str,
) -> (Http2, tokio::task::JoinHandle<hyper::Result<()>>) {
    let attempts = async {
        loop {
            let (mut client, connection) = http2_over(server.connect().await).await;
            if try_http2(&mut client, path).await.is_ok() {
                return (client, connection);
            }
        }
    };
    soon(attempts).await
}

#[tokio::test]
async fn tls_serves_both_versions_of_http_and_hands_out_no_tickets() {
    let identity = Identity::new();
    let server = Running::tls(&identity, unreached(), router()).await;

    let mut stream = server.connect_tls(identity.client(&[&TLS13], "http/1.1")).await.unwrap();
    let local = stream.get_ref().0.local_addr().unwrap();
    let (_, body) = testing::get(&mut stream, "/peer").await;
    assert_eq!(body, format!("{:?}", Peer { addr: local, channel: Channel::Tls(None) }));
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(stream.get_ref().1.tls13_tickets_received(), 0);

    let stream = server.connect_tls(identity.client(&[&TLS13], "h2")).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut client, _connection) = http2_over(stream).await;
    assert_eq!(get_http2(&mut client, "/").await, (StatusCode::OK, "hello".into()));
}

#[tokio::test]
async fn a_request_keeps_its_name() {
    let router = crate::problem::with_fallbacks(router());
    let server = Running::plain(unreached(), router).await;
    let mut stream = server.connect().await;
    send(&mut stream, "GET /nowhere HTTP/1.1\r\nhost: x\r\nx-request-id: edge-1.7\r\n\r\n").await;
    let (head, body) = soon(testing::response(&mut stream)).await;
    assert!(head.contains("x-request-id: edge-1.7\r\n"), "{head}");
    assert!(body.contains("\"instance\":\"urn:stekd:request:edge-1.7\""), "{body}");
    // What is not allowed is not repeated.
    let mut stream = server.connect().await;
    send(&mut stream, "GET /panic HTTP/1.1\r\nhost: x\r\nx-request-id: a b\r\n\r\n").await;
    let (head, body) = soon(testing::response(&mut stream)).await;
    let name = head.split("x-request-id: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert_eq!(name.len(), 16, "{head}");
    assert!(body.contains(&format!("urn:stekd:request:{name}")), "{body}");
}

#[tokio::test]
async fn tls_1_2_and_unknown_protocols_are_refused() {
    let identity = Identity::new();
    let server = Running::tls(&identity, unreached(), router()).await;
    let alert = |error: std::io::Error| match error.get_ref().unwrap().downcast_ref() {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("{other:?}"),
    };
    let error = server.connect_tls(identity.client(&[&TLS12], "h2")).await.unwrap_err();
    assert_eq!(alert(error), rustls::AlertDescription::ProtocolVersion);
    let error = server.connect_tls(identity.client(&[&TLS13], "h3")).await.unwrap_err();
    assert_eq!(alert(error), rustls::AlertDescription::NoApplicationProtocol);
    server.connect_tls(identity.client(&[&TLS12, &TLS13], "h2")).await.unwrap();
}

#[tokio::test]
async fn reloaded_files_are_used_by_new_connections_and_leave_old_ones_alone() {
    let (identity, next) = (Identity::new(), Identity::new());
    let files = Arc::new(TlsFiles::load(identity.paths()).unwrap());
    let server = Running::start(Transport::Tls(files.clone()), unreached(), router()).await;
    let mut old = server.connect_tls(identity.client(&[&TLS13], "http/1.1")).await.unwrap();

    identity.write_certificate(&next);
    identity.write_key(&next);
    files.reload().unwrap();

    server.connect_tls(identity.client(&[&TLS13], "http/1.1")).await.unwrap_err();
    let mut new = server.connect_tls(next.client(&[&TLS13], "http/1.1")).await.unwrap();
    assert_eq!(testing::get(&mut new, "/").await.1, "hello");
    assert_eq!(testing::get(&mut old, "/").await.1, "hello");
}

#[tokio::test]
async fn plain_http_serves_both_versions_and_says_that_it_is_plain() {
    let server = Running::plain(unreached(), router()).await;
    let mut stream = server.connect().await;
    let addr = stream.local_addr().unwrap();
    let (_, body) = testing::get(&mut stream, "/peer").await;
    assert_eq!(body, format!("{:?}", Peer { addr, channel: Channel::Plain }));
    let (mut client, _connection) = http2_over(server.connect().await).await;
    assert_eq!(get_http2(&mut client, "/").await, (StatusCode::OK, "hello".into()));
}

#[tokio::test]
async fn a_slow_handshake_is_shed() {
    let identity = Identity::new();
    let limits = Limits { handshake_timeout: BRIEF, ..unreached() };
    let server = Running::tls(&identity, limits, router()).await;
    for first_bytes in [&b""[..], b"\x16\x03\x01"] {
        let mut stream = server.connect().await;
        send(&mut stream, first_bytes).await;
        assert_eq!(rest(&mut stream).await, "");
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

#[tokio::test]
async fn a_client_that_sends_no_whole_request_is_shed() {
    let limits = Limits { header_read_timeout: BRIEF, ..unreached() };
    let server = Running::plain(limits, router()).await;
    for first_bytes in [
        &b""[..],
        b"GET / HTTP/1.1\r\nhost: loc",
        &PREFACE[..10],
        PREFACE,
        &[PREFACE, EMPTY_SETTINGS].concat(),
    ] {
        let mut stream = server.connect().await;
        send(&mut stream, first_bytes).await;
        rest(&mut stream).await;
    }
}

#[tokio::test]
async fn a_connection_at_rest_is_closed() {
    let limits = Limits { header_read_timeout: BRIEF, ..unreached() };
    let server = Running::plain(limits, router()).await;
    let (mut stream, (_, body)) = testing::answered(&server, "/").await;
    assert_eq!(body, "hello");
    assert_eq!(rest(&mut stream).await, "");

    let limits = Limits { idle_timeout: AMPLE, ..unreached() };
    let server = Running::plain(limits, router()).await;
    let (mut client, connection) = http2_over(server.connect().await).await;
    assert_eq!(get_http2(&mut client, "/").await.1, "hello");
    soon(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_has_proven_who_he_is_may_rest_for_longer() {
    let limits = Limits { header_read_timeout: AMPLE, ..unreached() };
    let server = Running::plain(limits, router()).await;
    let (mut known, _) = testing::answered(&server, "/proved").await;
    let (mut known_too, _stays) = answered_http2(&server, "/proved").await;
    // Strangers who come later go first, also if they have begun to ask for more.
    for more in ["", "GET / HTTP/1.1\r\nhost: loc"] {
        let (mut stranger, _) = testing::answered(&server, "/").await;
        // It may have gone by now.
        let _ = stranger.write_all(more.as_bytes()).await;
        assert_eq!(rest(&mut stranger).await, "");
    }
    let (_stranger, connection) = answered_http2(&server, "/").await;
    let _ = soon(connection).await.unwrap();
    assert_eq!(testing::get(&mut known, "/").await.1, "hello");
    assert_eq!(get_http2(&mut known_too, "/").await.1, "hello");
}

#[tokio::test]
async fn who_has_proven_who_he_is_rests_for_the_idle_time_and_no_longer() {
    let limits = Limits { idle_timeout: BRIEF, ..unreached() };
    let server = Running::plain(limits, router()).await;
    for more in ["", "GET / HTTP/1.1\r\nhost: loc"] {
        let (mut known, _) = testing::answered(&server, "/proved").await;
        // It may have gone by now.
        let _ = known.write_all(more.as_bytes()).await;
        assert_eq!(rest(&mut known).await, "");
    }
}

#[tokio::test]
async fn a_connection_that_does_not_finish_when_told_is_dropped() {
    let connections = Connections::new(
        Transport::Plain(Plaintext::LoopbackOnly),
        Limits { idle_timeout: BRIEF, ..unreached() },
        router().into(),
        Tasks::default(),
        CancellationToken::new(),
    );
    let (mut client, io) = tokio::io::duplex(64);
    send(&mut client, "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let peer = Peer { addr: ([127, 0, 0, 1], 1).into(), channel: Channel::Plain };
    // The answer does not fit into the pipe, and the client does not read it.
    soon(connections.attend(connections.begin_plain(io, peer))).await;
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn a_response_that_is_not_read_ends_its_connection_whatever_else_goes_on_there() {
    let limits = Limits { idle_timeout: AMPLE, ..unreached() };
    let server = Running::plain(limits, router()).await;
    let (mut client, connection) = http2_over(server.connect().await).await;
    let request = |path: &str| {
        Request::get(format!("https://localhost{path}")).body(Empty::<Bytes>::new()).unwrap()
    };
    let hangs = tokio::spawn(client.send_request(request("/hang")));
    let unread = soon(client.send_request(request("/long"))).await.unwrap();
    assert_eq!(unread.headers()["content-length"], (16 << 20).to_string());
    let _ = soon(connection).await.unwrap();
    soon(hangs).await.unwrap().unwrap_err();
    drop(unread);
}

#[tokio::test]
async fn a_long_response_arrives_whole() {
    let server = Running::plain(unreached(), router()).await;
    let (mut client, _connection) = http2_over(server.connect().await).await;
    assert_eq!(get_http2(&mut client, "/long").await.1.len(), 16 << 20);
    let mut stream = server.connect().await;
    let (head, body) = testing::get(&mut stream, "/long").await;
    assert!(head.contains("content-length: 16777216\r\n"), "{head}");
    assert_eq!(body.len(), 16 << 20);
    assert_eq!(testing::get(&mut stream, "/").await.1, "hello");
}

#[tokio::test]
async fn a_stranger_who_is_refused_loses_the_connection_and_others_do_not() {
    let limits = Limits { handshake_timeout: AMPLE, ..unreached() };
    let server = Running::plain(limits, crate::problem::with_fallbacks(router())).await;
    let mut stream = server.connect().await;
    let (head, _) = testing::get(&mut stream, "/nowhere").await;
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert_eq!(rest(&mut stream).await, "");
    let mut stream = server.connect().await;
    for path in ["/proved", "/nowhere", "/"] {
        testing::get(&mut stream, path).await;
    }

    let (mut known, _stays) = http2_over(server.connect().await).await;
    get_http2(&mut known, "/proved").await;
    assert_eq!(get_http2(&mut known, "/nowhere").await.0, StatusCode::NOT_FOUND);
    let (mut client, connection) = http2_over(server.connect().await).await;
    assert_eq!(get_http2(&mut client, "/nowhere").await.0, StatusCode::NOT_FOUND);
    soon(connection).await.unwrap().unwrap();

    // Nor does it help to have something else under way.
    let (mut client, connection) = http2_over(server.connect().await).await;
    let request = Request::get("https://localhost/hang").body(Empty::new()).unwrap();
    let hangs = tokio::spawn(client.send_request(request));
    assert_eq!(get_http2(&mut client, "/nowhere").await.0, StatusCode::NOT_FOUND);
    let _ = soon(connection).await.unwrap();
    soon(hangs).await.unwrap().unwrap_err();
    assert_eq!(get_http2(&mut known, "/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_request_in_flight_is_not_idle() {
    let limits = Limits { idle_timeout: AMPLE, header_read_timeout: AMPLE, ..unreached() };
    let router = Router::new().route(
        "/",
        get(|| async {
            tokio::time::sleep(AMPLE * 2).await;
            "hello"
        }),
    );
    let server = Running::plain(limits, router).await;
    assert_eq!(testing::get(&mut server.connect().await, "/").await.1, "hello");
    let (mut client, _connection) = http2_over(server.connect().await).await;
    assert_eq!(get_http2(&mut client, "/").await.1, "hello");
}

#[tokio::test]
async fn a_peer_that_does_not_answer_pings_is_dropped() {
    let limits = Limits { keep_alive_interval: BRIEF, keep_alive_timeout: BRIEF, ..unreached() };
    let server = Running::plain(limits, router()).await;
    let mut stream = server.connect().await;
    send(&mut stream, [PREFACE, EMPTY_SETTINGS].concat()).await;
    rest(&mut stream).await;
}

#[tokio::test]
async fn a_body_over_the_limit_or_too_slow_is_refused() {
    let limits = Limits { max_body_bytes: 4, body_read_timeout: BRIEF, ..unreached() };
    let server = Running::plain(limits, router()).await;
    for (path, length, body, expected) in [
        ("/length", 4, "1234", "200"),
        ("/length", 5, "12345", "413"),
        ("/length", 4, "123", "408"),
        ("/length", 4, "", "408"),
        // A route has a limit of its own.
        ("/length-of-six", 6, "123456", "200"),
        ("/length-of-six", 7, "1234567", "413"),
    ] {
        let mut stream = server.connect().await;
        send(
            &mut stream,
            format!("POST {path} HTTP/1.1\r\nhost: l\r\ncontent-length: {length}\r\n\r\n{body}"),
        )
        .await;
        let (head, _) = testing::response(&mut stream).await;
        assert!(head.starts_with(&format!("http/1.1 {expected} ")), "{head}");
    }
}

#[tokio::test]
async fn a_head_over_the_limit_is_refused() {
    let limits = Limits { max_header_bytes: 8 * 1024, ..unreached() };
    let server = Running::plain(limits, router()).await;
    for (length, expected) in [(7_000, "200"), (9_000, "431")] {
        let mut stream = server.connect().await;
        let filler = "x".repeat(length);
        send(&mut stream, format!("GET / HTTP/1.1\r\nhost: l\r\nx-fill: {filler}\r\n\r\n")).await;
        let (head, _) = testing::response(&mut stream).await;
        assert!(head.starts_with(&format!("http/1.1 {expected} ")), "{head}");
    }
}

#[tokio::test]
async fn a_panic_costs_its_own_request_only() {
    let server = Running::plain(unreached(), router()).await;
    let mut stream = server.connect().await;
    let (head, body) = testing::get(&mut stream, "/panic").await;
    assert!(head.starts_with("http/1.1 500 "), "{head}");
    assert!(!body.contains("on purpose"), "{body}");
    assert_eq!(testing::get(&mut stream, "/").await.1, "hello");
}

#[tokio::test]
async fn credentials_do_not_show_when_headers_are_printed() {
    let server = Running::plain(unreached(), router()).await;
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "GET /headers HTTP/1.1\r\nhost: l\r\nauthorization: Bearer canary\r\nAuthorization: canary\r\n\r\n",
    )
    .await;
    let (_, body) = testing::response(&mut stream).await;
    assert!(body.contains("authorization") && !body.contains("canary"), "{body}");
}

#[tokio::test]
async fn a_plain_request_on_a_tls_listener_gets_no_answer() {
    let identity = Identity::new();
    let server = Running::tls(&identity, unreached(), router()).await;
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: l\r\n\r\n").await;
    assert!(!rest(&mut stream).await.contains("HTTP/"));
}
