//! The rules of ticket keys: what a policy may be, when a key seals and opens, what the planner
//! does next, and how a ticket looks on the wire. Pure: no input or output, no clock, no async;
//! time and randomness are arguments.

pub mod access;
pub mod audit;
pub mod bundle;
pub mod check_in;
pub mod derive;
pub mod feed;
pub mod health;
pub mod id;
pub mod keyset;
pub mod name;
pub mod planner;
pub mod policy;
pub mod schedule;
pub mod scope;
pub mod secret;
pub mod snapshot;
pub mod ticket;
pub mod time;
pub mod wrapped;
pub mod xaes;
