//! Hands what distribution counts in this process to the manager in it.

use stek_core::name::InstanceName;
use stek_distribution::Distribution;
use stek_manager::Manager;

/// Tells `manager` each count of `distribution`, which counts in the name of `replica`, until that
/// ends.
pub(crate) fn follow(manager: &Manager, distribution: &Distribution, replica: InstanceName) {
    let confirmations = manager.confirmations();
    let mut counts = distribution.census(replica);
    tokio::spawn(async move {
        while counts.changed().await.is_ok() {
            let census = counts.borrow_and_update().clone();
            confirmations.replace(census.as_ref().clone());
        }
    });
}
