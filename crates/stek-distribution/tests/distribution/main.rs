//! A distribution replica as its clients see it, fed by a channel that the test holds, on a clock
//! that stands still until the test moves it.

#![allow(clippy::unwrap_used, reason = "a broken expectation is a panic")]

mod bundles;
mod check_ins;
mod erasure;
mod feeds;
mod fixture;
mod sockets;
mod waiting;
