//! Managers on a real PostgreSQL: several at once, and what they make of an audit trail that
//! somebody has changed.

#![allow(clippy::unwrap_used, reason = "a test fails where it unwraps")]

mod managers {
    mod racing;
    mod site;
    mod stale;
    mod tampering;
    mod trail;
}
