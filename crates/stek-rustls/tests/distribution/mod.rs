//! A server of bundles on loopback, for tests that fetch them.

#![allow(dead_code, unreachable_pub, reason = "no test uses all of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use std::sync::Arc;
use std::time::Duration;

use stek_core::bundle::Bundle;
use stek_core::id::ContentTag;
use stek_wire::bundle::encode_bundle;
use stek_wire::tag::{IfNoneMatch, format_etag};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::fixture::START;

/// What is sent: a document, under the tag that it has.
struct Offer {
    tag: ContentTag,
    body: Vec<u8>,
}

/// A server of bundles on loopback. Holds every poll until there is something else than what the
/// asker has installed.
pub struct Distribution {
    pub url: String,
    bundles: watch::Sender<Option<Arc<Offer>>>,
    installed: watch::Receiver<Option<ContentTag>>,
}

impl Distribution {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (checked_in, installed) = watch::channel(None);
        let bundles = watch::Sender::new(None);
        let sent = bundles.subscribe();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(answer(stream, sent.clone(), checked_in.clone()));
            }
        });
        Self { url, bundles, installed }
    }

    /// Sends `bundle` to whoever asks.
    pub fn offer(&self, bundle: &Bundle) {
        self.offer_document(bundle.tag(), encode_bundle(bundle).as_slice().to_vec());
    }

    /// Sends a document that need not be a bundle.
    pub fn offer_document(&self, tag: ContentTag, body: Vec<u8>) {
        self.bundles.send_replace(Some(Arc::new(Offer { tag, body })));
    }

    /// Sends `bundle` and returns when a poll has named it as installed.
    pub async fn publish(&mut self, bundle: Bundle) {
        let tag = bundle.tag();
        self.offer(&bundle);
        let checked_in = self.installed.wait_for(|installed| *installed == Some(tag));
        tokio::time::timeout(Duration::from_secs(60), checked_in).await.unwrap().unwrap();
    }
}

async fn answer(
    mut stream: TcpStream,
    mut bundles: watch::Receiver<Option<Arc<Offer>>>,
    checked_in: watch::Sender<Option<ContentTag>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    assert!(head.starts_with("GET /v1/keysets/web HTTP/1.1\r\n"), "{head}");
    let installed = head
        .lines()
        .find_map(|line| line.strip_prefix("if-none-match: "))
        .and_then(|value| IfNoneMatch::parse(value)?.installed());
    checked_in.send_replace(installed);
    let is_other = |offer: &Option<Arc<Offer>>| {
        offer.as_ref().is_some_and(|offer| Some(offer.tag) != installed)
    };
    let Ok(offer) = bundles.wait_for(is_other).await.map(|offer| offer.clone()) else { return };
    let offer = offer.unwrap();
    let body = &offer.body;
    let head = format!(
        "HTTP/1.1 200 OK\r\netag: {}\r\nstek-time: {}\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n",
        format_etag(offer.tag),
        START * 1000,
        body.len(),
    );
    // The asker may have gone.
    let _ = stream.write_all(&[head.as_bytes(), body.as_slice()].concat()).await;
}
