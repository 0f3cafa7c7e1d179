//! Follows a keyset or the feed of all keysets: ask, verify, keep the last good, erase on time.
//! What is then done with the keys, and who may have them, is decided elsewhere.
//!
//! [`KeysetFollower`] is for whoever seals and opens tickets, [`FeedFollower`] for whoever serves
//! keysets on. Both ask one upstream after another over TLS 1.3 under pinned roots, long-poll it,
//! and publish what they accepted. Nothing that fails takes a key away before its `destroy_at`; at
//! that instant a running follower takes it out of what it publishes. Whoever keeps an `Arc` of what
//! was published before keeps the keys in it.
//!
//! Secrets are wiped where this crate holds them. The buffers of the HTTP and TLS libraries through
//! which an answer came are freed without being wiped; a process that minds gives itself an
//! allocator that wipes what it frees.

mod backoff;
mod certificate;
mod config;
mod content;
mod erase;
mod feed;
mod follower;
mod http;
mod installed;
mod jitter;
mod keyset;
mod metrics;
mod poll;
mod reader;
mod reporter;
mod request_id;
mod status;
mod token;
mod transport;
mod upstream;

pub use certificate::{CertificateError, CertificateFiles};
pub use config::{
    ANSWER_MARGIN, CONNECT_TIMEOUT, ClientConfig, ClientOptions, ConfigError, DEFAULT_WAIT,
    MAX_BODY_LIMITS, MAX_BUNDLE_BODY_BYTES, MAX_UPSTREAMS, WAIT_MAX,
};
pub use content::Rejected;
pub use feed::FeedFollower;
pub use follower::{StartError, Stopped};
pub use http::http_client;
pub use keyset::KeysetFollower;
pub use reporter::CheckInReporter;
pub use request_id::{RequestId, X_REQUEST_ID};
pub use status::{Failure, Status};
pub use token::TokenError;
pub use upstream::Upstream;
