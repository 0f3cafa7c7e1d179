//! Custody of ticket keys at rest: the cluster secret, the one-way ratchet, the file that holds its
//! state, and the wrapping of keys so that nobody can unwrap them after their destruction epoch.
//! The only crate that touches key-encryption secrets. Reads no clock: time is an argument.

pub mod clock_rules;
pub mod cluster_secret;
pub mod custody;
pub mod random;
pub mod ratchet;
mod secret;
pub mod share;
pub mod state_file;
pub mod wrap;

#[cfg(test)]
mod testing;
