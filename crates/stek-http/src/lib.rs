//! The server chassis: listeners, limits, problem documents, health, metrics and drain
//!
//! A server crate brings an [`axum::Router`] or [`Routes`]; this crate brings everything around it. It knows
//! nothing of keys or keysets, and of principals only how one proves to be one.
//!
//! Put a router together in this order, so that every answer is a problem document where it fails
//! and is counted whatever it is:
//!
//! ```
//! # use std::sync::Arc;
//! # use axum::{Router, routing::get};
//! # use stek_http::{health, metrics, problem};
//! # fn build(state: Arc<dyn health::Readiness>) -> Result<stek_http::Routes, metrics::MetricsError> {
//! let registry = prometheus::Registry::new();
//! let http_metrics = metrics::HttpMetrics::register(&registry)?;
//! let routes = Router::new()
//!     .route("/v1/greeting", get(|| async { "hello" }))
//!     .merge(health::router(state))
//!     .merge(metrics::router(registry));
//! let routes = http_metrics.observe("example", problem::with_fallbacks(routes));
//! # Ok(routes)
//! # }
//! ```
//!
//! then [`Server::bind`] and [`Server::serve`].

mod accept;
mod bearer;
mod body;
mod client_certificate;
mod connection;
mod limits;
mod listen;
mod peer;
mod proof;
mod quota;
mod routes;
mod serve;
mod tasks;
mod tls;

pub mod api;
pub mod health;
pub mod metrics;
pub mod prefer;
pub mod problem;
pub mod request_id;
pub mod signals;

pub use client_certificate::ClientCertificate;
pub use limits::{LimitError, Limits};
pub use listen::{BindError, Plaintext, Server, Transport};
pub use peer::{Channel, Origin, Peer};
pub use problem::Problem;
pub use proof::{Proof, Standing};
pub use quota::Waiting;
pub use routes::Routes;
pub use serve::{Drained, TURNED_AWAY_AT_ONCE};
pub use tls::reload::{LOOK_EVERY, TlsMetrics, TlsReload};
pub use tls::{TlsError, TlsFiles, TlsPaths};

#[cfg(test)]
mod testing;
