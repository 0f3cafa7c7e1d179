//! The commands that do one thing and end.

pub(crate) mod audit;
pub(crate) mod change;
pub(crate) mod confirmation;
pub(crate) mod db;
pub(crate) mod dev_ca;
pub(crate) mod grant;
pub(crate) mod healthcheck;
pub(crate) mod keyset;
pub(crate) mod manager_client;
pub(crate) mod migrate;
pub(crate) mod probe;
pub(crate) mod progress;
pub(crate) mod ratchet;
pub(crate) mod secret;
pub(crate) mod shell;
pub(crate) mod table;
pub(crate) mod terminators;
pub(crate) mod token;
