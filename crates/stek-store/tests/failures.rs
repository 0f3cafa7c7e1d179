//! What goes wrong around a store, and what only its tables and files show.

#![allow(clippy::unwrap_used, reason = "a broken expectation is a panic")]

mod failures {
    mod corrupt;
    mod files;
    mod managers;
    mod reach;
    mod roles;
    mod schema;
    mod tables;
    mod trail;
}
mod stores;
