//! Long-polls over real connections, in both versions of HTTP.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use stek_core::access::Role;
use stek_http::{Limits, Plaintext, Server, Transport};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::fixture::{Ask, Replica, access, bundle, eventually, settle, soon, state};

const GRANTS: [(u8, Role, &str); 1] = [(1, Role::Terminator, "main")];
const WAITING: &str = "stek_distribution_waiting_requests";

/// A replica that listens, with one revision of `main` out.
struct Listening {
    replica: Replica,
    address: std::net::SocketAddr,
    /// Ends the server when it is dropped.
    _shutdown: tokio_util::sync::DropGuard,
}

impl Listening {
    async fn with(limits: Limits) -> Self {
        let replica = Replica::with(state(&[bundle("main", 5, 1)], access(&GRANTS))).await;
        let transport = Transport::Plain(Plaintext::LoopbackOnly);
        let server = Server::bind(([127, 0, 0, 1], 0).into(), transport, limits).await.unwrap();
        let (address, shutdown) = (server.local_addr(), CancellationToken::new());
        tokio::spawn(server.serve(replica.routes.clone(), shutdown.clone()));
        Self { replica, address, _shutdown: shutdown.drop_guard() }
    }

    async fn connect(&self) -> TokioIo<TcpStream> {
        TokioIo::new(soon(TcpStream::connect(self.address)).await.unwrap())
    }

    async fn http2(&self) -> http2::SendRequest<Body> {
        let io = self.connect().await;
        let (client, connection) = soon(http2::handshake(TokioExecutor::new(), io)).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A connection on which somebody has been told that nothing may be served, and its end. Some may
    /// end before that, where the machine is busy.
    async fn refused_once(
        &self,
        token: u8,
    ) -> (http1::SendRequest<Body>, JoinHandle<hyper::Result<()>>) {
        let attempts = async {
            loop {
                let (mut client, connection) =
                    http1::handshake(self.connect().await).await.unwrap();
                let ended = tokio::spawn(connection);
                let request = Ask::keyset("main", token).request();
                if let Ok(answer) = client.send_request(request).await {
                    assert_eq!(answer.status(), 503);
                    answer.into_body().collect().await.unwrap();
                    return (client, ended);
                }
            }
        };
        soon(attempts).await
    }

    async fn put_out_more(&self) {
        self.replica.put_out(state(&[bundle("main", 9, 3)], access(&GRANTS))).await;
    }
}

/// Terminator 1, which has what is out and waits for more.
fn waiting() -> http::Request<Body> {
    let ask = Ask::keyset("main", 1).has(bundle("main", 5, 1).tag()).waits(55);
    let mut request = ask.request();
    let path = request.uri().path().to_owned();
    *request.uri_mut() = format!("http://localhost{path}").parse().unwrap();
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    request
}

#[tokio::test]
async fn one_change_wakes_long_polls_over_http_1_and_over_http_2() {
    let listening = Listening::with(Limits::default()).await;
    let (mut first, connection) = soon(http1::handshake(listening.connect().await)).await.unwrap();
    tokio::spawn(connection);
    let mut second = listening.http2().await;
    let polls = [
        tokio::spawn(first.send_request(waiting())),
        tokio::spawn(second.send_request(waiting())),
        tokio::spawn(second.send_request(waiting())),
    ];
    eventually(|| listening.replica.metric(WAITING) == 3.0).await;
    settle().await;
    assert!(polls.iter().all(|poll| !poll.is_finished()), "nothing has changed yet");
    listening.put_out_more().await;
    let versions = [http::Version::HTTP_11, http::Version::HTTP_2, http::Version::HTTP_2];
    for (poll, version) in polls.into_iter().zip(versions) {
        let response = soon(poll).await.unwrap().unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (200, version));
    }
    assert_eq!(listening.replica.metric(WAITING), 0.0);
}

#[tokio::test]
async fn long_polls_of_one_http_2_connection_are_bounded() {
    const STREAMS: usize = 4;
    let limits = Limits { max_concurrent_streams: STREAMS, ..Limits::default() };
    let listening = Listening::with(limits).await;
    let mut client = listening.http2().await;
    // The server's limit is known once it has answered.
    let once = Ask::keyset("main", 1).request().headers().clone();
    let mut asked = waiting();
    *asked.headers_mut() = once;
    assert_eq!(soon(client.send_request(asked)).await.unwrap().status(), 200);
    let polls: Vec<_> =
        (0..2 * STREAMS).map(|_| tokio::spawn(client.send_request(waiting()))).collect();
    eventually(|| listening.replica.metric(WAITING) == STREAMS as f64).await;
    settle().await;
    assert_eq!(listening.replica.metric(WAITING), STREAMS as f64, "the others wait outside");
    // Another connection has streams of its own.
    let other = tokio::spawn(listening.http2().await.send_request(waiting()));
    eventually(|| listening.replica.metric(WAITING) == (STREAMS + 1) as f64).await;
    listening.put_out_more().await;
    for poll in polls.into_iter().chain([other]) {
        assert_eq!(soon(poll).await.unwrap().unwrap().status(), 200, "each has its turn");
    }
}

/// Else all would come anew, with a handshake each, just when there is something to serve again.
#[tokio::test]
async fn who_is_known_keeps_his_connection_while_nothing_may_be_served() {
    let limits = Limits { header_read_timeout: Duration::from_millis(500), ..Limits::default() };
    let listening = Listening::with(limits).await;
    listening.replica.advance(24 * 3600);
    let (mut known, _stays) = listening.refused_once(1).await;
    // A stranger who comes later goes first.
    let (_stranger, ended) = listening.refused_once(9).await;
    let _ = soon(ended).await.unwrap();
    let answer = soon(known.send_request(Ask::keyset("main", 1).request())).await.unwrap();
    assert_eq!(answer.status(), 503);
}
