//! The program as an operator runs it: real processes, their files, exit status and words.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod alerts;
mod anchor;
mod changes;
mod dev;
mod documents;
mod golang;
mod haproxy;
mod installed;
mod joins;
mod killed;
mod kills;
mod listeners;
mod makes;
mod managers;
mod metrics;
mod mutual;
mod nginx;
mod probe;
mod process;
mod refusals;
mod requests;
mod reseeds;
mod rivals;
mod roles;
mod shell;
mod site;
mod starts;
#[cfg(feature = "otlp")]
mod traces;
