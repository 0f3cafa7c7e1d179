//! Keeps the memory of processes that hold keys out of swap, as far as the system lets us, and says
//! what keeps it out of files.

use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Locks what is in memory and what comes into it, and says whether that succeeded, and that core
/// files are off if the program could turn them off.
///
/// Only without a limit on locked memory: under one, memory that is asked for later could not be
/// had, and the process would end.
pub(crate) fn lock() {
    if getrlimit(Resource::Core).current == Some(0) {
        tracing::info!("core files are off");
    }
    let unlimited = Rlimit { current: None, maximum: None };
    if getrlimit(Resource::Memlock) != unlimited && setrlimit(Resource::Memlock, unlimited).is_err()
    {
        let limit = getrlimit(Resource::Memlock).maximum;
        tracing::warn!(
            limit_bytes = limit,
            "memory is not locked and may be swapped out: the limit on locked memory must be \
             unlimited (LimitMEMLOCK=infinity, ulimit -l unlimited)"
        );
        return;
    }
    // Pages are locked as they are touched: stacks of threads are mostly never touched.
    match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
        Ok(()) => tracing::info!("memory is locked: keys are not swapped out"),
        Err(error) => tracing::warn!(%error, "memory is not locked and may be swapped out"),
    }
}
