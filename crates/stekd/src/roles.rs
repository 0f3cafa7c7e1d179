//! The roles that a process can have: each puts its parts together and runs until it is told to
//! stop.

pub(crate) mod confirmations;
pub(crate) mod database;
mod descriptors;
pub(crate) mod distribution;
mod freshness;
pub(crate) mod interface;
pub(crate) mod listener;
pub(crate) mod manager;
mod peers;
pub(crate) mod reach;
pub mod terminator;
