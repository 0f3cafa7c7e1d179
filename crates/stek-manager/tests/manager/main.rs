//! The manager as its neighbours see it: a store below it that fails on demand, a clock that stands
//! still until a test moves it, and the feed and the admin API above it.

#![allow(clippy::unwrap_used, reason = "a broken expectation is a panic")]

mod access;
mod admin;
mod bootstrap;
mod clocks;
mod confirmations;
mod events;
mod failures;
mod fixture;
mod http;
mod listening;
mod operations;
mod page;
mod ratchet;
mod revoke;
mod rotation;
mod store;
