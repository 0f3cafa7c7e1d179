use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

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
        Router::new().route("/", get(|| async { "hello" })),
        shutdown.clone(),
    ));
    let mut stream = soon(TcpStream::connect(addr)).await.unwrap();
    assert_eq!(testing::get(&mut stream, "/").await.1, "hello");
    shutdown.cancel();
    assert_eq!(soon(task).await.unwrap(), Drained { dropped: 0 });
}

#[tokio::test]
async fn without_a_free_slot_nothing_is_accepted() {
    let listener = loopback().await;
    let addr = listener.local_addr().unwrap();
    let _clients =
        [TcpStream::connect(addr).await.unwrap(), TcpStream::connect(addr).await.unwrap()];
    let (started, mut running) = mpsc::unbounded_channel();
    let start = |_, addr: SocketAddr, slot| started.send((addr, slot)).unwrap();
    let mut accepting = pin!(accept_all(&listener, Slots::new(1), start));

    let first = tokio::select! {
        () = &mut accepting => unreachable!(),
        first = running.recv() => first.unwrap(),
    };
    // The other client is in the kernel's queue, and would be taken by the very next poll.
    assert!(std::future::poll_fn(|cx| Poll::Ready(accepting.as_mut().poll(cx).is_pending())).await);
    assert!(running.try_recv().is_err());

    drop(first.1);
    let second = tokio::select! {
        () = &mut accepting => unreachable!(),
        second = soon(running.recv()) => second.unwrap(),
    };
    assert_ne!(first.0, second.0);
}

#[tokio::test]
async fn a_client_beyond_the_limit_is_served_when_another_leaves() {
    let limits = Limits { max_connections: 1, ..Limits::default() };
    let server = Running::plain(limits, Router::new().route("/", get(|| async { "hello" }))).await;
    let mut first = server.connect().await;
    assert_eq!(testing::get(&mut first, "/").await.1, "hello");
    let mut second = server.connect().await;
    send(&mut second, REQUEST).await;
    assert_eq!(testing::get(&mut first, "/").await.1, "hello");
    let mut byte = [0];
    assert_eq!(second.try_read(&mut byte).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(first);
    assert_eq!(testing::response(&mut second).await.1, "hello");
}

#[test]
fn the_limit_is_reported_once_until_there_is_room_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut slots = Slots::new(16);
        let mut held = Vec::new();
        for _ in 0..16 {
            held.push(slots.take().await);
        }
        assert!(!slots.warned);
        assert!(soon_pending(slots.take()).await);
        assert!(slots.warned);
        held.truncate(14);
        held.push(slots.take().await);
        assert!(slots.warned, "two free slots are not room");
        held.truncate(13);
        held.push(slots.take().await);
        assert!(!slots.warned);
    });
}

async fn soon_pending<F: Future>(future: F) -> bool {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_pending())).await
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
async fn a_hanging_request_is_dropped_at_the_end_of_the_drain() {
    let (router, mut requests, dropped) = hanging();
    let limits = Limits { drain_timeout: BRIEF, ..Limits::default() };
    let server = Running::plain(limits, router).await;
    let addr = server.addr;
    let mut stream = server.connect().await;
    send(&mut stream, REQUEST).await;
    soon(requests.recv()).await.unwrap();

    assert!(!dropped.is_cancelled());
    let started = tokio::time::Instant::now();
    assert_eq!(server.drain().await, Drained { dropped: 1 });
    assert!(started.elapsed() < ABORT_GRACE, "the handler was left to itself");
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
