//! File descriptors for the connections that a listener may hold. Where the operating system gives
//! fewer, the limit is lowered: else a flood of the interface would leave none for `/healthz`.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use stek_http::Limits;

/// Descriptors for everything else: metrics and health, the database, upstreams, files, and clients
/// that are told that there are too many.
const RESERVED: usize = 512;

/// Limits of the metrics listener: few ask, and none of them may stay long.
pub(crate) fn metrics_limits() -> Limits {
    Limits { max_connections: 128, ..Limits::default() }
}

/// Raises the process's limit as far as it may be, and lowers that of connections below it.
pub(crate) fn make_room(limits: &mut Limits) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "the limit of file descriptors cannot be raised");
    }
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return };
    let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
    let fitting = fitting(descriptors).min(limits.max_connections);
    if fitting < limits.max_connections {
        let asked = limits.max_connections;
        tracing::warn!(asked, fitting, descriptors, "too few file descriptors; fewer connections");
        limits.max_connections = fitting;
    }
}

/// How many connections may have one of so many descriptors each.
fn fitting(descriptors: usize) -> usize {
    descriptors.saturating_sub(RESERVED).max(descriptors / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_for_everything_else() {
        for (descriptors, connections) in
            [(0, 1), (64, 32), (1024, 512), (4096, 3584), (1_048_576, 1_048_064)]
        {
            assert_eq!(fitting(descriptors), connections, "{descriptors}");
        }
    }
}
