//! The JSON that manager, distribution, terminator and command line exchange, version 1. Keys leave
//! a process through [`bundle`] and [`feed`] and nowhere else; what a reader may not accept is
//! refused here by field, and never with a secret in the message.

pub mod admin;
pub mod bundle;
pub mod check_ins;
mod cursor;
mod error;
pub mod feed;
pub mod headers;
mod node;
pub mod problem;
#[cfg(feature = "schema")]
pub mod schema;
mod secret_bytes;
pub mod tag;
mod write;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod samples;

pub use error::{DecodeError, Found};
pub use secret_bytes::SecretBytes;

/// The version that this program writes, and the only one that it reads.
///
/// Within a version fields are only added. A reader passes over fields that it does not know, so
/// a change that must not be passed over is a new version.
pub const VERSION: u64 = 1;

/// Media type of every document here but [`problem::MEDIA_TYPE`].
pub const MEDIA_TYPE: &str = "application/json";
