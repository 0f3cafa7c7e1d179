//! What the tests of a follower stand on: a clock that jumps over pauses, servers whose every answer
//! the test gives, and bundles. Nothing here sleeps; time-outs only end a test that hangs.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod clock;
pub mod log;
pub mod material;
pub mod server;

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use stek_client::{ClientConfig, ClientOptions, FeedFollower, KeysetFollower};
use stek_clock::Clock;
use stek_core::name::{InstanceName, KeysetName};
use stek_core::time::Seconds;
use tokio::sync::{mpsc, watch};

use self::clock::TestClock;
use self::server::{Asked, Reply, Server};

/// Longest that a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A clock, servers and a registry.
pub struct Bench {
    pub clock: Arc<TestClock>,
    pub registry: Registry,
    pub servers: Vec<Server>,
    asked: mpsc::UnboundedReceiver<Asked>,
    sender: mpsc::UnboundedSender<Asked>,
}

impl Bench {
    /// With `count` plain servers on loopback.
    pub async fn new(count: usize) -> Self {
        let (sender, asked) = mpsc::unbounded_channel();
        let clock = Arc::new(TestClock::new());
        let mut servers = vec![];
        for index in 0..count {
            servers.push(Server::start(index, Arc::clone(&clock), sender.clone(), None).await);
        }
        Self { clock, registry: Registry::new(), servers, asked, sender }
    }

    /// With one server that speaks TLS.
    pub async fn with_tls(config: rustls::ServerConfig) -> Self {
        let mut bench = Self::new(0).await;
        let (clock, sender) = (Arc::clone(&bench.clock), bench.sender.clone());
        bench.servers.push(Server::start(0, clock, sender, Some(config)).await);
        bench
    }

    pub fn options(&self) -> ClientOptions {
        ClientOptions {
            upstreams: self.servers.iter().map(|server| server.url.clone()).collect(),
            roots: vec![],
            token: None,
            certificate: None,
            wait: None,
            max_body_bytes: None,
            instance: InstanceName::try_new("edge-7").unwrap(),
        }
    }

    pub fn follow(&self, options: &ClientOptions) -> KeysetFollower {
        let config = ClientConfig::try_new(options).unwrap();
        let keyset = KeysetName::try_new("main").unwrap();
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        KeysetFollower::start(&config, keyset, clock, &self.registry).unwrap()
    }

    pub fn follow_feed(&self, options: &ClientOptions) -> FeedFollower {
        let config = ClientConfig::try_new(options).unwrap();
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        FeedFollower::start(&config, clock, &self.registry).unwrap()
    }

    /// The next request to any server; jumps over the pause before it.
    pub async fn next(&mut self) -> Asked {
        let jumping = async {
            loop {
                self.clock.skip_pause().await;
            }
        };
        let next = async {
            tokio::select! {
                biased;
                asked = self.asked.recv() => asked.unwrap(),
                () = jumping => unreachable!(),
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("no request came")
    }

    /// The next request to any server, without a pause before it.
    pub async fn arrives(&mut self) -> Asked {
        let asked = tokio::time::timeout(PATIENCE, self.asked.recv()).await;
        asked.expect("no request came").unwrap()
    }

    /// Answers one request and gives the next.
    pub async fn after(&mut self, asked: Asked, reply: Reply) -> Asked {
        asked.answer(reply);
        self.next().await
    }

    /// Whether a request has come that was not looked at.
    pub fn has_request(&mut self) -> bool {
        !self.asked.is_empty()
    }

    /// Returns once a series has this value.
    pub async fn metric_is(&self, name: &str, label: &str, value: f64) {
        let wait = async {
            while self.metric(name, label) != value {
                tokio::task::yield_now().await;
            }
        };
        let is = tokio::time::timeout(PATIENCE, wait).await;
        is.unwrap_or_else(|_| panic!("{name} {label} is {}", self.metric(name, label)));
    }

    /// The value of a series with this label value, or of the only one if `label` is empty.
    pub fn metric(&self, name: &str, label: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name).expect("no such metric");
        let metrics = family.get_metric();
        let has_label = |metric: &&prometheus::proto::Metric| {
            label.is_empty() || metric.get_label().iter().any(|pair| pair.value() == label)
        };
        let metric = metrics.iter().find(has_label).expect("no such label");
        metric.get_counter().get_value() + metric.get_gauge().get_value()
    }
}

/// Returns once what is published fits.
pub async fn until<T: Clone>(
    receiver: &mut watch::Receiver<Option<Arc<T>>>,
    fits: impl Fn(&T) -> bool,
) -> Arc<T> {
    let wait = receiver.wait_for(|content| content.as_ref().is_some_and(|content| fits(content)));
    let content = tokio::time::timeout(PATIENCE, wait).await.expect("never published").unwrap();
    Arc::clone(content.as_ref().unwrap())
}

/// Plain polling.
pub fn no_wait(options: ClientOptions) -> ClientOptions {
    ClientOptions { wait: Some(Seconds::ZERO), ..options }
}
