//! What a TLS client can find out about the tickets of servers: what they look like, where they
//! resume, how often and for how long. Nothing here knows of keysets: any TLS server will do. How
//! findings are worded is in `report`, which servers are asked is the command's.

pub(crate) mod client;
mod handshake;
pub(crate) mod lifetime;
pub(crate) mod matrix;
mod record;
pub(crate) mod report;
mod secrets;
mod tape;
pub(crate) mod target;
pub(crate) mod trust;
mod wallet;

#[cfg(test)]
mod tests;
