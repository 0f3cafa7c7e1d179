//! One connection to Redis, made again whenever it breaks. A look-up never makes one itself: its
//! deadline would cut every attempt short where Redis is far.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::sync::watch;

/// Longest attempt to connect, unless a look-up may take longer.
const CONNECT: Duration = Duration::from_secs(1);
/// Pause between attempts: shorter than any sensible span of the breaker, so that there is a
/// connection when it probes.
const PAUSE: Duration = Duration::from_millis(100);

/// A connection that several users share. Clones are of the same.
#[derive(Clone)]
pub(super) struct Link {
    state: watch::Receiver<State>,
    /// The newest generation that somebody found broken.
    broken: Arc<watch::Sender<u64>>,
}

#[derive(Clone)]
enum State {
    Connecting,
    Up(Connection),
    Down,
}

/// A connection and which one it is.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    generation: u64,
}

/// The last attempt to connect failed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Down;

impl Link {
    /// Connects to the server of `client` and stays so until all clones are gone. Look-ups may take
    /// as long as `deadline`.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub(super) fn start(client: Client, deadline: Duration) -> Self {
        let (states, state) = watch::channel(State::Connecting);
        let (broken, found_broken) = watch::channel(0);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT.max(deadline)))
            // Time is limited by whoever waits for an answer.
            .set_response_timeout(None);
        tokio::spawn(keep_connected(client, config, states, found_broken));
        Self { state, broken: Arc::new(broken) }
    }

    /// The connection, after waiting for the first attempt if need be.
    ///
    /// # Errors
    /// [`Down`] if the last attempt failed; others follow.
    pub(super) async fn connection(&mut self) -> Result<Connection, Down> {
        let settled = self.state.wait_for(|state| !matches!(state, State::Connecting)).await;
        match settled.as_deref() {
            Ok(State::Up(connection)) => Ok(connection.clone()),
            Ok(State::Connecting | State::Down) | Err(_) => Err(Down),
        }
    }

    /// Has the connection replaced, unless it was already.
    pub(super) fn replace(&self, connection: &Connection) {
        self.broken.send_if_modified(|broken| {
            let newer = connection.generation > *broken;
            *broken = connection.generation.max(*broken);
            newer
        });
    }
}

/// Returns when nobody uses the link any more.
async fn keep_connected(
    client: Client,
    config: AsyncConnectionConfig,
    states: watch::Sender<State>,
    mut found_broken: watch::Receiver<u64>,
) {
    for generation in 1.. {
        let redis = loop {
            let attempt = client.get_multiplexed_async_connection_with_config(&config);
            tokio::select! {
                connected = attempt => match connected {
                    Ok(redis) => break redis,
                    Err(_) => states.send_replace(State::Down),
                },
                () = states.closed() => return,
            };
            tokio::select! {
                () = tokio::time::sleep(PAUSE) => {}
                () = states.closed() => return,
            }
        };
        states.send_replace(State::Up(Connection { redis, generation }));
        if found_broken.wait_for(|broken| *broken >= generation).await.is_err() {
            return;
        }
        states.send_replace(State::Connecting);
    }
}
