use std::io;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::task::{Context, Poll};

use axum::Router;
use axum::routing::get;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::DropGuard;

use super::*;
use crate::Plaintext;
use crate::testing::{self, BRIEF, FAR, Running, rest, send, soon};

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
const EMFILE: i32 = 24;

/// A listener that fails as told before it gives what a real one has.
struct Failing {
    errors: Mutex<Vec<io::Error>>,
    listener: TcpListener,
}

impl Accept for Failing {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        match self.errors.lock().unwrap().pop() {
            Some(error) => Poll::Ready(Err(error)),
            None => self.listener.poll_accept(cx),
        }
    }
}

async fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

#[tokio::test]
async fn accept_errors_do_not_end_the_loop() {
    let listener = loopback().await;
    let addr = listener.local_addr().unwrap();
    let errors = vec![
        io::Error::from_raw_os_error(EMFILE),
        io::ErrorKind::ConnectionAborted.into(),
        io::Error::from_raw_os_error(EMFILE),
    ];
    let failing = Failing { errors: Mutex::new(errors), listener };
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(serve_from(
        failing,
        Transport::Plain(Plaintext::LoopbackOnly),
        Limits::default(),
        Router::new().route("/", get(|| async { "hello" })).into(),
        shutdown.clone(),
    ));
    let mut stream = soon(TcpStream::connect(addr)).await.unwrap();
    assert_eq!(testing::get(&mut stream, "/").await.1, "hello");
    shutdown.cancel();
    assert_eq!(soon(task).await.unwrap(), Drained { dropped: 0 });
}

#[tokio::test]
async fn a_client_beyond_the_limit_is_told_to_come_back() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let router = Router::new().route("/", get(|| async { "hello" }));
    let server = Running::plain(limits, router).await;
    let mut first = server.connect().await;
    assert_eq!(testing::get(&mut first, "/").await.1, "hello");
    let mut second = server.connect().await;
    let (head, body) = testing::get(&mut second, "/").await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    for line in ["retry-after: 5", "content-type: application/problem+json", "x-request-id: "] {
        assert!(head.contains(&format!("\r\n{line}")), "{line}: {head}");
    }
    assert!(body.contains("urn:stekd:problem:unavailable"), "{body}");
    assert_eq!(rest(&mut second).await, "", "and its connection is closed");
    assert_eq!(testing::get(&mut first, "/").await.1, "hello", "others are not held up");
    drop(first);
    // The server hears of it in its own time; each attempt before is told to come back.
    let served = async {
        loop {
            let mut third = server.connect().await;
            if testing::get(&mut third, "/").await.1 == "hello" {
                return;
            }
        }
    };
    soon(served).await;
    assert_eq!(server.drain().await.dropped, 0);
}

#[tokio::test]
async fn over_tls_too_a_client_beyond_the_limit_is_told_to_come_back() {
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let identity = testing::Identity::new();
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let server = Running::tls(&identity, limits, Router::new()).await;
    let config = |alpn| identity.client(&[&rustls::version::TLS13], alpn);
    let _first = server.connect_tls(config("h2")).await.unwrap();
    let mut second = server.connect_tls(config("http/1.1")).await.unwrap();
    let (head, _) = testing::get(&mut second, "/").await;
    assert!(head.starts_with("http/1.1 503 ") && head.contains("retry-after"), "{head}");
    assert_eq!(rest(&mut second).await, "");

    let io = TokioIo::new(server.connect_tls(config("h2")).await.unwrap());
    let (mut client, connection) = soon(http2::handshake(TokioExecutor::new(), io)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("https://localhost/").body(String::new()).unwrap();
    let response = soon(client.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 503);
    assert!(response.headers().contains_key("retry-after"));
    soon(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn those_who_say_nothing_do_not_keep_others_from_being_told() {
    let limits = Limits { max_connections: 1, handshake_timeout: BRIEF, ..Limits::default() };
    // Who is refused would not keep a seat.
    let router = Router::new().route("/", get(|| async { "hello" }));
    let server = Running::plain(limits, router).await;
    let mut first = server.connect().await;
    testing::get(&mut first, "/").await;
    let mut silent = Vec::new();
    for _ in 0..TURNED_AWAY_AT_ONCE {
        silent.push(server.connect().await);
    }
    for mut stream in silent {
        assert_eq!(rest(&mut stream).await, "", "let go soon");
    }
    let (_, (head, _)) = testing::answered(&server, "/").await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
}

#[test]
fn there_are_seats_then_a_threshold_and_then_nothing() {
    let mut slots = Slots::new(16);
    let mut held: Vec<_> = (0..16).map(|_| slots.place()).collect();
    assert!(held.iter().all(|place| matches!(place, Some(Place::Seat(_)))));
    assert!(!slots.warned);
    let waiting: Vec<_> = (0..TURNED_AWAY_AT_ONCE).map(|_| slots.place()).collect();
    assert!(waiting.iter().all(|place| matches!(place, Some(Place::Threshold(_)))));
    assert!(slots.warned, "the limit is reported");
    assert!(slots.place().is_none());
    held.truncate(14);
    held.push(slots.place());
    assert!(slots.warned, "two free seats are not room");
    held.truncate(13);
    held.push(slots.place());
    assert!(!slots.warned, "it will be reported again");
}

/// A route that never answers, tells when it is asked, and cancels a token when it is dropped.
fn hanging() -> (Router, mpsc::UnboundedReceiver<()>, CancellationToken) {
    let (asked, requests) = mpsc::unbounded_channel();
    let dropped = CancellationToken::new();
    let token = dropped.clone();
    let handler = move || {
        let guard: DropGuard = token.clone().drop_guard();
        asked.send(()).unwrap();
        async move {
            let _guard = guard;
            std::future::pending::<&'static str>().await
        }
    };
    (Router::new().route("/", get(handler)), requests, dropped)
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_shed() {
    let (router, mut requests, dropped) = hanging();
    let limits = Limits {
        max_connections: 1,
        header_read_timeout: FAR,
        idle_timeout: FAR,
        ..Limits::default()
    };
    let server = Running::plain(limits, router).await;
    // In the middle of a head: nothing that it waits for can come.
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nhost: loc").await;
    soon(tokio::io::AsyncWriteExt::shutdown(&mut stream)).await.unwrap();
    let _ = rest(&mut stream).await;
    assert!(requests.try_recv().is_err(), "it was no request");
    // During a long-poll: nobody will read the answer.
    let mut stream = loop {
        let mut stream = server.connect().await;
        send(&mut stream, REQUEST).await;
        tokio::select! {
            request = requests.recv() => { request.unwrap(); break stream }
            // The place of the one before is not free yet.
            _ = testing::response(&mut stream) => {}
        }
    };
    assert!(!dropped.is_cancelled());
    soon(tokio::io::AsyncWriteExt::shutdown(&mut stream)).await.unwrap();
    soon(dropped.cancelled()).await;
    assert_eq!(rest(&mut stream).await, "");
    assert_eq!(server.drain().await, Drained { dropped: 0 });
}

#[tokio::test]
async fn a_hanging_request_is_dropped_at_the_end_of_the_drain() {
    let (router, mut requests, dropped) = hanging();
    let limits = Limits { drain_timeout: BRIEF, ..Limits::default() };
    let server = Running::plain(limits, router).await;
    let addr = server.addr;
    let mut stream = server.connect().await;
    send(&mut stream, REQUEST).await;
    soon(requests.recv()).await.unwrap();

    assert!(!dropped.is_cancelled());
    assert_eq!(server.drain().await, Drained { dropped: 1 });
    assert!(dropped.is_cancelled(), "the handler is still at work");
    assert_eq!(rest(&mut stream).await, "");
    assert!(TcpStream::connect(addr).await.is_err(), "the port is still open");
}

#[tokio::test]
async fn hanging_http2_streams_are_dropped_at_the_end_of_the_drain() {
    use hyper::client::conn::http2;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let (router, mut requests, dropped) = hanging();
    let limits = Limits { drain_timeout: BRIEF, ..Limits::default() };
    let server = Running::plain(limits, router).await;
    let io = TokioIo::new(server.connect().await);
    let (mut client, connection) = soon(http2::handshake(TokioExecutor::new(), io)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://localhost/").body(String::new()).unwrap();
    let answer = tokio::spawn(client.send_request(request));
    soon(requests.recv()).await.unwrap();

    assert_eq!(server.drain().await, Drained { dropped: 1 });
    assert!(dropped.is_cancelled(), "the handler is still at work");
    assert!(soon(answer).await.unwrap().is_err());
    let _ = soon(connection).await.unwrap();
}

#[tokio::test]
async fn requests_in_flight_are_answered_and_the_rest_is_closed() {
    let shutdown = CancellationToken::new();
    let draining = shutdown.clone();
    let (asked, mut requests) = mpsc::unbounded_channel();
    let long_poll = move || {
        asked.send(()).unwrap();
        let draining = draining.clone();
        async move {
            draining.cancelled().await;
            "drained"
        }
    };
    let router = Router::new().route("/", get(long_poll)).route("/now", get(|| async { "hello" }));
    let limits = Limits {
        drain_timeout: FAR,
        header_read_timeout: FAR,
        idle_timeout: FAR,
        ..Limits::default()
    };
    let transport = Transport::Plain(Plaintext::LoopbackOnly);
    let server = Running::start_with(transport, limits, router, shutdown).await;
    let mut silent = server.connect().await;
    let mut resting = server.connect().await;
    assert_eq!(testing::get(&mut resting, "/now").await.1, "hello");
    let mut busy = server.connect().await;
    send(&mut busy, REQUEST).await;
    soon(requests.recv()).await.unwrap();

    assert_eq!(server.drain().await, Drained { dropped: 0 });
    assert_eq!(testing::response(&mut busy).await.1, "drained");
    for stream in [&mut busy, &mut resting, &mut silent] {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test]
async fn a_handshake_does_not_hold_up_the_drain() {
    let identity = testing::Identity::new();
    let limits = Limits { handshake_timeout: FAR, drain_timeout: FAR, ..Limits::default() };
    let server = Running::tls(&identity, limits, Router::new()).await;
    let mut stream = server.connect().await;
    send(&mut stream, "\x16\x03\x01").await;
    // Accepted later: once this one has shaken hands, the other is in its handshake.
    let config = identity.client(&[&rustls::version::TLS13], "h2");
    drop(server.connect_tls(config).await.unwrap());
    assert_eq!(server.drain().await, Drained { dropped: 0 });
    assert_eq!(rest(&mut stream).await, "");
}

#[tokio::test]
async fn a_dropped_server_leaves_nothing_at_work() {
    let (router, mut requests, dropped) = hanging();
    let transport = Transport::Plain(Plaintext::LoopbackOnly);
    let server =
        Server::bind(([127, 0, 0, 1], 0).into(), transport, Limits::default()).await.unwrap();
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    send(&mut stream, REQUEST).await;
    tokio::select! {
        _ = server.serve(router, CancellationToken::new()) => unreachable!(),
        request = soon(requests.recv()) => request.unwrap(),
    }
    soon(dropped.cancelled()).await;
}
