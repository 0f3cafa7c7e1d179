//! The program as an operator runs it: real processes, their files, exit status and words.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod dev;
mod managers;
mod process;
mod refusals;
mod roles;
